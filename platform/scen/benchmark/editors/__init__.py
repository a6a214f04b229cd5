"""The editing methods that are compared."""
