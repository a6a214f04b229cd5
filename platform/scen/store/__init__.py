"""Experts and neurons on storage."""
