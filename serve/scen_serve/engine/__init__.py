"""The engine: many answers at a time, each with its own expert or none."""
