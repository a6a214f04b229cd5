"""Certificates of revocation: what an auditor needs to know about a revoked edit.

A certificate says who revoked the edit, when and why; which bundles held its expert, and whether
they are deleted; how its prompts are answered now, compared bit for bit with the base; and which
files of the store still contain its text. It has the sha256 of the text, not the text itself.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from scen.calibration.choose_expert import bare_model
from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.bundles import bundle_path, log_paths
from scen.ledger.events import Dropped, LedgerEntry
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.manifest import store_id
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.route import Route
from scen.pipeline.inspect_ledger import edit_history
from scen.records import Edit, digest_bytes
from scen.snapshot.open import OpenStore

TOKENS = 8  # number of answer tokens whose logits are compared
_OUTSIDE = ("MLflow", "reports", "logs of servers", "backups", "exported adapters")


def certify(
    storage: Storage,
    edit_ids: Sequence[str],
    store: OpenStore | None = None,
    *,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The certificate of edits that are not active, as JSON types. Prompts are run only if `store`
    is given, opened with its base. Reads every file of the store.

    `is_erased`: all of their bundles are deleted, and the logits of each prompt equal the base's
    bit for bit; None if no prompt was run. Raises NotFoundError for an unknown edit, ConfigError
    for one that is active or scheduled.
    """
    ledger = open_ledger(storage)
    snapshot = ledger.snapshot()
    histories = [_history(ledger, edit_id) for edit_id in edit_ids]
    state = snapshot.state
    for edit_id in edit_ids:
        if state.is_active(edit_id) or state.gone[edit_id].is_scheduled:
            raise ConfigError(f"edit: {edit_id!r} is {state.describe(edit_id)}; revoke it first")
    entries = [state.entries[edit_id] for edit_id in edit_ids]
    bundles = list(_bundles(storage, ledger, entries))
    answers = None if store is None else [_compare(store, entry) for entry in entries]
    head = log_paths(storage)[snapshot.version]
    are_base = None if answers is None else all(a["is_base"] for rows in answers for a in rows)
    is_deleted = all(bundle["is_deleted"] for bundle in bundles)
    return {
        "made_at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "store": {"id": store_id(ledger.manifest), "version": snapshot.version},
        "head_sha256": digest_bytes(storage.read(head)),
        "base": dict(ledger.manifest.base),
        "is_erased": None if are_base is None else are_base and is_deleted,
        "edits": [
            history | {"answers": None if answers is None else answers[index]}
            for index, history in enumerate(histories)
        ],
        "bundles": bundles,
        "text_remains_in": list(text_remains(storage, [entry.edit for entry in entries])),
        "text_not_looked_for_in": list(_OUTSIDE),
    }


def _history(ledger: Ledger, edit_id: str) -> dict[str, Any]:
    """The id of an edit, its sha256 and its history."""
    history = edit_history(ledger, edit_id)  # raises NotFoundError
    digest = ledger.snapshot().state.entries[edit_id].digest
    return {"id": edit_id, "edit_sha256": digest, "history": history}


def _bundles(
    storage: Storage, ledger: Ledger, entries: Iterable[LedgerEntry]
) -> Iterator[dict[str, Any]]:
    """The bundles that held the experts, and the version that recorded their deletion."""
    dropped = {e.edit_id: e.version for e in ledger.events() if isinstance(e, Dropped)}
    for digest in dict.fromkeys(entry.bundle for entry in entries):
        held = [entry.edit_id for entry in entries if entry.bundle == digest]
        recorded = [dropped[edit_id] for edit_id in held if edit_id in dropped]
        yield {
            "sha256": digest,
            "is_deleted": not storage.exists(bundle_path(digest)),
            "noted_in_version": max(recorded, default=None),
            "edits": held,
        }


def _compare(store: OpenStore, entry: LedgerEntry) -> list[dict[str, Any]]:
    """How the prompt of an edit and its rephrases are answered: sha256 of the logits of the first
    tokens, by the base, by the newest version, and by the version before the revocation if its
    experts still exist. Prompts are run without batching."""
    after = store.ledger.snapshot()
    gone = after.state.gone[entry.edit_id]
    try:
        before = store.edited_model(store.ledger.snapshot(gone.version - 1))
    except (NotFoundError, IntegrityError):
        before = None
    now, base = store.edited_model(after), bare_model(store.base)
    edit = entry.edit
    rows = []
    for prompt in [edit.prompt, *(rephrase.text for rephrase in edit.rephrases)]:
        expected, _ = _logits(store, base, prompt)
        actual, expert = _logits(store, now, prompt)
        rows.append(
            {
                "prompt_sha256": digest_bytes(prompt.encode()),
                "tokens": actual.shape[0],
                "base_sha256": _digest(expected),
                "before_sha256": before and _digest(_logits(store, before, prompt)[0]),
                "after_sha256": _digest(actual),
                "answered_by": None if expert < 0 else after.ids[expert],
                "is_base": torch.equal(expected, actual),
            }
        )
    return rows


@torch.no_grad()
def _logits(store: OpenStore, edited: EditedModel, prompt: str) -> tuple[Tensor, int]:
    """logits_SV of the first tokens of an answer, and the index of the expert (-1: the base)."""
    base = store.base
    encoded = base.template.encode_prompt(prompt.strip())
    filled = edited.prefill(pad_prompts([encoded], base.pad_id, base.device))
    route: Route = edited.route(filled)
    logits_BSV = answer(edited, filled, route, TOKENS, keep_logits=True).logits_BSV
    assert logits_BSV is not None
    return logits_BSV[0], int(route.expert_B[0])


def _digest(logits_SV: Tensor) -> str:
    return hashlib.sha256(logits_SV.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def text_remains(storage: Storage, edits: Sequence[Edit]) -> Iterator[dict[str, Any]]:
    """The files of a store that contain the prompt or a rephrase of an edit, verbatim or escaped as
    JSON, with the ids of those edits. Parquet files are decoded, all others searched as bytes."""
    spellings_by_id = {edit.id: _spellings(edit) for edit in edits}
    for file in storage.files(""):
        data = _searchable(file.path, storage.read(file.path))
        edit_ids = [
            edit_id
            for edit_id, spellings in spellings_by_id.items()
            if any(spelling in data for spelling in spellings)
        ]
        if edit_ids:
            yield {"path": file.path, "edits": edit_ids}


def _spellings(edit: Edit) -> set[bytes]:
    texts = [edit.prompt, *(rephrase.text for rephrase in edit.rephrases)]
    plain = {json.dumps(text, ensure_ascii=False)[1:-1].encode() for text in texts}
    escaped = {json.dumps(text)[1:-1].encode() for text in texts}
    return {text.encode() for text in texts} | plain | escaped


def _searchable(path: str, data: bytes) -> bytes:
    if not path.endswith(".parquet"):
        return data
    try:
        rows = pq.read_table(BytesIO(data)).to_pylist()
    except (OSError, ValueError, pa.ArrowException):
        return data  # damaged: `scen verify` reports it
    return json.dumps(rows, ensure_ascii=False, default=str).encode()
