"""Training of experts (stage 1) and neurons (stage 2) of a wave; plain torch."""
