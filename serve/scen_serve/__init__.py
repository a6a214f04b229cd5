"""The Ray Serve application: the edited model behind an OpenAI-compatible API."""
