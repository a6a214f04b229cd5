"""Serving: the edited model behind an OpenAI-compatible API, on one machine or on Ray Serve."""
