"""The frozen base and the SCEN method in plain torch: experts, neurons, routes, decoding.

No Ray. Suffix names in this package: B rows of a batch, R routed rows, T tokens, P prompt tokens,
S tokens that are run, D model width, F inner width of the MLP, K keys of a neuron, E edits,
N positions or spans, V words of the vocabulary.
"""
