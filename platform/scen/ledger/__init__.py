"""The ledger and the files of a store: what is edited, since when, by whom; checked and collected.

Plain Python without torch (but for `tensors`) and without Ray, which stands in front of it.
"""
