"""The engine: continuous batching, where each row has its own expert or none."""
