"""Which edit a prompt asks for: compact keys, search among them, the gate, the threshold."""
