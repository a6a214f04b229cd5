"""The frozen base model: where it comes from, how prompts are put to it, and its fingerprint."""
