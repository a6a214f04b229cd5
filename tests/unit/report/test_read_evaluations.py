"""Which evaluations a report reads."""

from pathlib import Path

from scen.fs import Storage
from scen.report.read_evaluations import newest_evaluations


def test_the_newest_up_to_a_version_the_oldest_first(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for version in range(25):
        storage.put_new(f"evaluations/v{version}-ab.jsonl", b"")
    storage.put_new("evaluations/notes.txt", b"")
    assert [file.version for file in newest_evaluations(storage, 11)] == list(range(12))
    assert [file.version for file in newest_evaluations(storage, 24)] == list(range(5, 25))
