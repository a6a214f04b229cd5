"""The frozen base and the SCEN method in plain torch (no Ray): experts, neurons, routes, decoding.

Tensor suffixes in this package: B rows of a batch, R routed rows, T tokens, P prompt tokens,
S tokens that are run, D model width, F inner width of the MLP, K keys of a neuron, E edits,
N positions or spans, V vocabulary.
"""
