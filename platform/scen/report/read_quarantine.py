"""The rows of files of edits that were set aside, and why."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import IntegrityError
from scen.fs import Storage

# What is different in reasons of one kind: quoted words, names of edits, numbers.
_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|\b(?:edit|row|wave) \S+|\d+""")


def read_quarantine(storage: Storage, stream: str | None) -> list[dict[str, Any]]:
    """The rows that the newest run of each file set aside: file, row, id, field, reason, raw. Of
    one stream, or of all. Raises IntegrityError where a file is damaged."""
    found = []
    for name in storage.names("quarantine"):
        file = name.rpartition("/")[2]
        if not file.endswith(".parquet") or not _is_of(file, stream):
            continue
        try:
            rows = pq.read_table(BytesIO(storage.read(name))).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as err:
            raise IntegrityError(
                f"{storage.child_uri(name)} cannot be read ({str(err).splitlines()[0][:200]}): run "
                "its file of edits again, or delete it"
            ) from err
        found += [{"file": file} | row for row in rows]
    return found


def group_reasons(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kinds of reasons, the most frequent first: how many rows, and the first of them."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        kind = (row["field"], _PARTICULAR.sub("", row["reason"]))
        counts[kind] += 1
        first.setdefault(kind, row)
    return [{"rows": count, **first[kind]} for kind, count in counts.most_common()]


def count_refused(storage: Storage, streams: Sequence[str]) -> int:
    """Edits of these streams that were handed in one by one and came into no wave."""
    return sum(len(storage.names(f"inbox/{stream}/rejected")) for stream in streams)


def _is_of(file: str, stream: str | None) -> bool:
    return (
        stream is None
        or re.fullmatch(rf"{re.escape(stream)}-[0-9a-f]{{8}}\.parquet", file) is not None
    )
