"""The history of waves, calibrations and benchmarks for people, in MLflow.

The ledger is the source of truth. Importing this package or any of its modules does not import
MLflow: that happens when a store of runs is first opened.
"""
