"""Files of edits in, checked `Edit`s out: read, recognise the format, check, quarantine."""

from scen.ingest.quarantine import QuarantineFile
from scen.ingest.rows import Rejection
from scen.ingest.schema import EDIT_SCHEMA, edits_to_table, table_to_edits
from scen.ingest.stream import IngestBatch, ingest
from scen.ingest.validate import Limits, Validator

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
