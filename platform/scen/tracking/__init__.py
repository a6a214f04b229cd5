"""What happened in each wave, for people: the Tracker protocol, and MLflow behind it.

The ledger is the truth; a tracker only tells its story. Nothing here is imported with the package,
so that a caller without tracking never pays for MLflow.
"""
