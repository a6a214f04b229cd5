"""A stream of edits as waves, one after the other; a killed stream is simply run again."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from scen.config import Config
from scen.errors import ConfigError, InputError
from scen.fs import Storage
from scen.records import Edit
from scen.registry.snapshot import Snapshot
from scen.snapshot.open import OpenStore
from scen.waves.admit import Admission, admit
from scen.waves.journal import Journal
from scen.waves.near import NearFinder, require_keys, set_aside
from scen.waves.plan import Wave, cut_waves
from scen.waves.ports import WaveParts
from scen.waves.run_wave import WaveReport, run_wave

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StreamStep:
    """What became of one wave's worth of edits. `report` is None where nothing was new."""

    admission: Admission
    report: WaveReport | None


def run_stream(
    stream: str,
    batches: Iterable[list[Edit]],
    store: OpenStore,
    config: Config,
    parts: WaveParts,
    starting: Callable[[Wave], None] = lambda _: None,
) -> Iterator[StreamStep]:
    """Cut, admit and run the waves of a stream.

    The cut depends on the edits alone, so that a rerun meets the same waves: see `run_waves`.
    """
    size, most = config.waves.size, config.waves.max_bytes
    waves = cut_waves(check_name(stream), batches, size, settings(config, store), most)
    yield from run_waves(waves, store, config, parts, starting)


def run_waves(
    waves: Iterable[Wave],
    store: OpenStore,
    config: Config,
    parts: WaveParts,
    starting: Callable[[Wave], None] = lambda _: None,
) -> Iterator[StreamStep]:
    """Admit and run waves, one after the other.

    Those that are committed are passed by, and edits that are committed letter for letter are not
    trained again. A wave that an earlier run committed but did not track has a step of its own.
    Raises InputError before a wave is begun whose edits contradict others, where the settings
    refuse that; ConfigError where they ask for what the store has no keys for.
    """
    if config.waves.on_collision == "quarantine":
        require_keys(store)
    for wave in waves:
        if store.ledger.is_committed(wave.key) is not None:
            nothing = Admission((), wave.edits, ())
            yield StreamStep(nothing, run_wave(wave, parts, store.storage))
            continue
        snapshot = store.ledger.snapshot()
        admission = admit(wave.edits, snapshot, config.waves.on_conflict)
        if config.waves.on_conflict == "refuse":
            _require_agreement(wave, admission)
        if config.waves.on_collision == "quarantine":
            finder = NearFinder(store, parts.read_keys)
            admission = set_aside(admission, finder.find(admission, snapshot))
        for late in _untracked(wave, admission.known, snapshot, store.storage):
            yield StreamStep(Admission((), (), ()), run_wave(late, parts, store.storage))
        if not admission.fresh:
            yield StreamStep(admission, None)
            continue
        fresh = Wave(wave.stream, wave.index, admission.fresh, wave.settings)
        starting(fresh)
        yield StreamStep(admission, run_wave(fresh, parts, store.storage))


def _untracked(
    wave: Wave, known: Iterable[Edit], snapshot: Snapshot, storage: Storage
) -> Iterator[Wave]:
    """The committed waves behind known edits that no tracker was told of, as they were run."""
    ids = {edit.id for edit in known}
    committed = snapshot.state.entries.values()
    for key in dict.fromkeys(e.wave_key for e in committed if e.edit_id in ids):
        if not Journal(storage, key).has("tracked"):
            held = [entry for entry in committed if entry.wave_key == key]
            edits = tuple(entry.edit for entry in held)
            late = Wave(held[0].stream, held[0].wave, edits, wave.settings)
            if late.key == key:  # else it was run under other settings
                yield late


def _require_agreement(wave: Wave, admission: Admission) -> None:
    """Raises InputError for edits that contradict others."""
    found = admission.contradictions
    if found:
        first = found[0]
        raise InputError(
            f"wave {wave.index} of {wave.stream}: {len(found)} of {len(wave.edits)} edits "
            f"contradict others, and --on-conflict refuse takes none of the wave; the first is "
            f"{first.edit.id}: {first.field}: {first.reason}"
        )


def check_name(stream: str) -> str:
    """The stream's name where it may be one. Raises ConfigError."""
    if not _NAME.fullmatch(stream):
        raise ConfigError(
            f"--stream: {stream!r} must be lower-case letters, digits and ._- (64 at most), "
            "such as zsre-2026"
        )
    return stream


def name_stream(uri: str) -> str:
    """A stream's name from the name of its file."""
    stem = re.sub(r"\..*$", "", uri.rstrip("/").rsplit("/", 1)[-1]).lower()
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")
    return cleaned[:64] or "stream"


def settings(config: Config, store: OpenStore) -> dict[str, Any]:
    """What decides the experts of a wave; part of its key."""
    kind = store.method.kind
    names = {"steps", "lr", "stop_loss"} | ({"other_ways"} if kind.is_low_rank else set())
    expert = store.method.fill(config.expert).model_dump(include=names)
    neurons = config.router.model_dump(include={"neuron_steps", "neuron_lr", "neuron_optimizer"})
    trained = {} if kind.has_router else {"neurons": neurons}
    method = store.method.to_dict()
    return {"base": store.base.fingerprint, "method": method, "expert": expert} | trained
