"""The HTTP API: OpenAI's routes, and those of edits and versions."""
