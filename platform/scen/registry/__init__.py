"""The ledger: the durable log of what is edited. Plain Python; Ray stands in front of it later."""
