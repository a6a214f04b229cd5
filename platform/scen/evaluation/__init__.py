"""Evaluation of an edited model: reliability, generality, locality and routing, free decoding
first."""
