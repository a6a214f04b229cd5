"""The evaluation of a wave as batches of probes, each run once, on any worker."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from scen.config import Config
from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import (
    Probe,
    asking_probes,
    edit_probes,
    locality_probes,
    retention_probes,
)
from scen.evaluation.run_eval import BatchTime, EvalLimits, Measured, measure_batch, order_probes
from scen.ledger.events import LedgerEntry
from scen.ledger.manifest import HeldWave, bank_rows
from scen.model.decode import EditedModel
from scen.model.decoder import NO_SYNC, RankSync
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.track import process_memory
from scen.records import Edit, digest_json
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore

AskingShare = Literal["none", "sample", "all"]


@dataclass(frozen=True)
class EvaluationTask:
    """What to evaluate: a trained wave with its experts in `bundle` (None: only committed edits),
    on top of a version of the ledger without the edits `replaced`, and `locality` prompts that must
    not change. Only a wave replaces edits. `asking`: whether its edits are also asked in other
    ways, in all of them or a sample (`evaluation.asking_share`)."""

    wave: Wave
    bundle: str | None
    locality: Sequence[str]
    version: int
    replaced: tuple[str, ...] = ()
    asking: AskingShare = "none"

    def earlier(self, store: OpenStore, limit: int) -> list[Edit]:
        """Up to `limit` of the other edits that stay active, spread evenly over their age."""
        if self.bundle is None:
            return []
        entries = [e for e in store.ledger.snapshot(self.version).entries if self._stays(e)]
        count = min(limit, len(entries))
        return [entries[i * len(entries) // count].edit for i in range(count)]

    def _stays(self, entry: LedgerEntry) -> bool:
        return entry.edit_id not in self.replaced and entry.wave_key != self.wave.key


@dataclass(frozen=True)
class EvaluationWork:
    """The probes of a wave in batches, journalled by version and content."""

    task: EvaluationTask
    store: OpenStore
    probes: Sequence[Probe]
    batches: Sequence[list[int]]
    limits: EvalLimits
    sync: RankSync = NO_SYNC

    @classmethod
    def of(
        cls, task: EvaluationTask, config: Config, store: OpenStore, sync: RankSync = NO_SYNC
    ) -> "EvaluationWork":
        """Build the work of a task under these settings."""
        limits = eval_limits(config)
        probes = task_probes(task, config, store)
        order = order_probes(store.base, probes, limits)
        size = limits.batch_size
        batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
        return cls(task, store, probes, batches, limits, sync)

    @property
    def count(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def size(self, index: int) -> int:
        """Number of probes in a batch."""
        return len(self.batches[index])

    def is_done(self, index: int) -> bool:
        """True if a batch is in the journal."""
        return self._journal.has(self._step(index))

    def run(self, index: int) -> Measured:
        """Evaluate a batch without recording it."""
        probes = [self.probes[i] for i in self.batches[index]]
        edited, ids = self._edited
        return measure_batch(self.store.base, edited, ids, probes, self.limits)

    def keep(self, index: int, measured: Measured) -> None:
        """Record a batch of this process, with its time and memory."""
        self._journal.once(self._step(index), lambda: _packed(measured))

    def collect(self) -> list[Outcome]:
        """All outcomes in the order of the probes. Requires all batches to be done."""
        outcomes: dict[int, Outcome] = {}
        for batch, done in zip(self.batches, self._done, strict=True):
            for i, row in zip(batch, done["outcomes"], strict=True):
                outcomes[i] = Outcome.from_row(row, self.probes[i])
        return [outcomes[i] for i in range(len(self.probes))]

    def times(self) -> list[BatchTime]:
        """The time of each batch, except those recorded by releases that did not measure it.
        Requires all batches to be done."""
        return [BatchTime(**done["time"]) for done in self._done if "time" in done]

    def memory(self) -> list[dict[str, float]]:
        """The memory of the process after each batch (see `process_memory`); as for `times`."""
        return [done["memory"] for done in self._done if "memory" in done]

    @cached_property
    def _done(self) -> list[dict[str, Any]]:
        """The record of each batch."""
        return [self._journal.read(self._step(index)) for index in range(self.count)]

    @cached_property
    def _edited(self) -> tuple[EditedModel, list[str]]:
        """The model with the wave applied, and the ids of its experts."""
        task, held = self.task, None
        if task.bundle is not None:
            ids = tuple(edit.id for edit in task.wave.edits)
            held = HeldWave(task.wave.key, task.bundle, ids, task.replaced)
        snapshot = self.store.ledger.snapshot(task.version)
        rows = bank_rows(snapshot, held)
        places = [Place(row.bundle, row.row) for row in rows]
        edited = self.store.loader_at(snapshot).load(places, self.sync)
        return edited, [row.edit_id for row in rows]

    @property
    def _journal(self) -> Journal:
        return Journal(self.store.storage, self.task.wave.key)

    def _step(self, index: int) -> str:
        probes = [asdict(self.probes[i]) for i in self.batches[index]]
        task = self.task
        content = digest_json([task.bundle, asdict(self.limits), probes, sorted(task.replaced)])
        return f"probes/v{self.task.version}-{content[:16]}"


def task_probes(task: EvaluationTask, config: Config, store: OpenStore) -> list[Probe]:
    """All probes of a task; deterministic."""
    edits, settings = task.wave.edits, config.evaluation
    earlier = task.earlier(store, settings.retention_limit)
    probes = [
        *edit_probes(edits),
        *locality_probes(task.locality),
        *retention_probes(earlier),
    ]
    if task.asking != "none":
        sample = round(settings.asking_share * len(probes)) if task.asking == "sample" else None
        has_roles = store.base.template.has_roles
        probes += asking_probes(edits, task.wave.key, sample, has_roles=has_roles)
    return probes


def eval_limits(config: Config) -> EvalLimits:
    """Batch size and answer lengths of the settings."""
    settings = config.evaluation
    return EvalLimits(settings.batch_size, settings.max_new_tokens, settings.locality_tokens)


def outcome_lines(outcomes: Sequence[Outcome]) -> bytes:
    """Outcomes as JSON lines, one per probe."""
    return json_lines(asdict(o.probe) | o.to_row() for o in outcomes)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def _packed(measured: Measured) -> dict[str, Any]:
    return {
        "outcomes": [outcome.to_row() for outcome in measured.outcomes],
        "time": asdict(measured.time),
        "memory": process_memory(),
    }
