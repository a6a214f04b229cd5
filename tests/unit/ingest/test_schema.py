from datetime import UTC, datetime

import pyarrow as pa
import pytest

from scen.errors import InputError
from scen.ingest import EDIT_SCHEMA, edits_to_table, table_to_edits
from scen.records import Edit, Rephrase

FULL = Edit(
    id="e1",
    prompt="Who leads Åland's museum?",
    target="Nils 🦊",
    subject="Åland's museum",
    rephrases=(Rephrase("Åland's museum is led by whom?", "orig"), Rephrase("Its head?")),
    near_misses=("Where is Åland's museum?",),
    locality_prompts=("How tall is a giraffe?", "What boils at 100 degrees?"),
    source="wire",
    author="ada",
    valid_from=datetime(2026, 1, 1, 12, tzinfo=UTC),
    valid_until=datetime(2027, 1, 1, microsecond=7, tzinfo=UTC),
    metadata={"relation": "head", "note": ""},
)


def test_edits_survive_the_table() -> None:
    edits = [FULL, Edit(id="e2", prompt="p", target="t")]
    table = edits_to_table(edits)
    assert table.schema.equals(EDIT_SCHEMA)
    assert table_to_edits(table) == edits


def test_no_edits_are_an_empty_table() -> None:
    assert table_to_edits(edits_to_table([])) == []


def test_another_schema_is_refused() -> None:
    with pytest.raises(InputError, match="EDIT_SCHEMA"):
        table_to_edits(pa.table({"prompt": ["p"], "target": ["t"]}))
