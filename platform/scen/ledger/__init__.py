"""The ledger and the files of a store: commits of edits, verification, garbage collection.

Plain Python: no torch (except in `tensors`) and no Ray, which is a layer above.
"""
