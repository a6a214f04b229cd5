"""The history of waves, calibrations and benchmarks in MLflow.

The ledger is the source of truth. Importing this package or its modules does not import MLflow,
which is imported when a tracking store is first opened.
"""
