"""Edits on vLLM: a plugin that reads keys and applies experts, and an engine that uses it."""
