"""The HTTP API: OpenAI's routes, and routes for edits and versions."""
