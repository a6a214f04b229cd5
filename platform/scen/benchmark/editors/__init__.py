"""The methods that are compared, by name."""
