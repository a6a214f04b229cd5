"""The state of a ledger at one version, as a model that can be asked."""
