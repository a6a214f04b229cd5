"""Waves on a Ray cluster: Ray Train workers, a base sharded by DeepSpeed where it must be."""
