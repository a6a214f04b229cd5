"""Orchestration of a wave as plain Python: ingest, train, evaluate, commit, track."""
