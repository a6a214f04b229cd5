"""Edits in the forms of other tools."""
