"""How long edits take to train and to measure: from the waves that a store has seen, or roughly."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scen.config import Config
from scen.evaluation.probes import edit_probes
from scen.fs import Storage
from scen.model.fetch import EMBEDDED_NAME
from scen.records import Edit

_RECENT = 20  # waves: enough for a median, and few files to read


@dataclass(frozen=True, slots=True)
class WavePace:
    """Seconds that an edit takes to be trained, and a prompt to be measured; `is_rough` where the
    store has told nothing of it."""

    per_edit: float
    per_probe: float
    is_rough: bool = False


# SmolLM2-135M-Instruct on two CPU cores.
_ROUGH = WavePace(per_edit=0.3, per_probe=0.2, is_rough=True)


def find_pace(storage: Storage, base_name: str | None) -> WavePace | None:
    """The pace of the newest waves of a store, median. In a store without waves: a guess for the
    embedded base (which no name means, too), and None for another."""
    files = [f for f in storage.files("waves") if f.path.endswith("/evaluated.json")]
    newest = sorted(files, key=lambda file: file.written_at)[-_RECENT:]
    found = [storage.read_json(file.path) for file in newest]
    train = [wave["seconds"] / wave["report"]["n_edits"] for wave in found]
    probe = [wave["latency"]["seconds_per_probe"] for wave in found if wave.get("latency")]
    if train:  # waves of earlier releases have not kept how long they were measured
        return WavePace(median(train), median(probe or [_ROUGH.per_probe]), is_rough=not probe)
    return _ROUGH if base_name in (None, EMBEDDED_NAME) else None


def count_probes(edits: Sequence[Edit], num_earlier: int, num_locality: int, config: Config) -> int:
    """The prompts that a wave of edits is measured with, after so many that are active."""
    earlier = min(num_earlier, config.evaluation.retention_limit)
    return len(edit_probes(edits)) + earlier + num_locality
