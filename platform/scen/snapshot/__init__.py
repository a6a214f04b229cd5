"""Stores and their versions as models: opening, loading and answering prompts."""
