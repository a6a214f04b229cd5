"""Waves on a Ray cluster: Ray Train workers, and a base sharded by DeepSpeed if it needs to be."""
