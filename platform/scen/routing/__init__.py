"""Which edit a prompt asks for: compact keys, nearest-key search, the gate and the threshold."""
