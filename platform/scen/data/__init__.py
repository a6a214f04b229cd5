"""Reading edits: files or rows in, validated `Edit`s and rejections out."""

from scen.data.rows import EDIT_SCHEMA, Rejection, edits_to_table, table_to_edits
from scen.data.stream import IngestBatch, QuarantineFile, ingest
from scen.data.validate import Limits, Validator

__all__ = [
    "EDIT_SCHEMA",
    "IngestBatch",
    "Limits",
    "QuarantineFile",
    "Rejection",
    "Validator",
    "edits_to_table",
    "ingest",
    "table_to_edits",
]
