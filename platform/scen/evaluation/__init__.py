"""Does the edited model say what it should, and nothing else? Free decoding first."""
