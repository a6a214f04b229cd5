"""The SCEN method in plain torch: experts, neurons, routes, and a model that uses them.

No files, no Ray. Suffix names in this package: B rows of a batch, R routed rows, T tokens,
P prompt tokens, D model width, F inner width of the MLP, K keys of a neuron, E edits, V words.
"""
