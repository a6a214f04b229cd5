"""Where the work of a run executes (this process or a cluster), and how its progress is reported.

Training and evaluation times are estimated from earlier waves of the store, or from defaults.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

from scen.calibration.calibrate import knows_wordings
from scen.calibration.fit_router import RouterPlan
from scen.calibration.quick import (
    QUICK,
    SAMPLES,
    QuickPlan,
    Sample,
    calibrate_quick,
    estimate,
)
from scen.calibration.transfer import adopt_profile, how_adopted
from scen.config import Config
from scen.data import Validator
from scen.data.read import read_prompts
from scen.errors import ConfigError
from scen.evaluation.probes import edit_probes
from scen.fs import Storage
from scen.model.base import Base
from scen.model.weights import EMBEDDED_NAME
from scen.pipeline.local import LocalParts
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.method import (
    Profile,
    known_profiles,
    making_profile,
    read_cached_profile,
    save_profile,
)
from scen.snapshot.open import OpenStore, ReadElsewhere, Say, create_store
from scen.tracking.client import NullTracker, default_tracking_uri
from scen.tracking.wave_runs import open_tracker

CalibrateElsewhere = Callable[[Storage, Config, Base], Profile | None]
MakeParts = Callable[..., LocalParts]  # called with the fields of `LocalParts` in order


class Steps(Protocol):
    """Receives the progress of each step (train, evaluate) of a wave."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are done."""
        ...

    def start_wave(self, name: str) -> None:
        """A new wave begins."""
        ...


class NoSteps:
    """Ignores progress."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """No-op."""

    def start_wave(self, name: str) -> None:
        """No-op."""


@contextmanager
def no_steps() -> Iterator[Steps]:
    """No progress is shown."""
    yield NoSteps()


@dataclass(frozen=True)
class Runtime:
    """Where waves run and where progress goes; the default is this process, without output.

    `make_parts` creates the steps of waves. `read_elsewhere` reads what a new store needs of the
    base's weights, on a cluster whose driver does not load them, and `calibrate_elsewhere` makes
    the profile of a new base there. `say` receives a line for each slow operation; `steps` is
    entered while waves run."""

    make_parts: MakeParts = LocalParts
    read_elsewhere: ReadElsewhere | None = None
    say: Say = lambda _: None
    steps: Callable[[], AbstractContextManager[Steps]] = no_steps
    calibrate_elsewhere: CalibrateElsewhere | None = None


def make_store(
    storage: Storage, config: Config, runtime: Runtime, base: Base | None = None
) -> OpenStore:
    """Open a store for editing, or create it with the sample of neutral prompts; an unknown base is
    calibrated first. Raises what `create_store` raises."""
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))

    def calibrate(base: Base, given: Profile | None = None) -> Profile | None:
        if given is not None:
            return take_over(base, given, runtime.say, runtime.steps)
        if runtime.calibrate_elsewhere is not None:
            return runtime.calibrate_elsewhere(storage, config, base)
        return calibrate_first(base, runtime.say, runtime.steps)

    return create_store(
        storage, config, neutral, runtime.say, runtime.read_elsewhere, base, calibrate
    )


def calibrate_first(
    base: Base,
    say: Say = lambda _: None,
    steps: Callable[[], AbstractContextManager[Steps]] = no_steps,
    samples: Sequence[Sample] = SAMPLES,
    fit: RouterPlan = QUICK,
) -> Profile | None:
    """Calibrate a base quickly on its first use and keep the profile in the user's cache, one per
    fingerprint; None if the base does not know the language of the samples. If another process is
    calibrating the base, wait for its profile. An interrupted calibration leaves nothing and is
    done again."""
    if not knows_wordings(base):
        say(f"{base.name} has no profile and is not calibrated: it does not know English")
        return None
    with making_profile(base.fingerprint) as path:
        if (profile := read_cached_profile(base.fingerprint)) is not None:
            return profile
        with steps() as bars:
            adopted = adopt_profile(base, known_profiles(), bars)
        if adopted is not None:
            say(f"{base.name} has no profile of its own: {how_adopted(adopted)}")
            save_profile(adopted, path)
            return replace(adopted, source="cache")
        plan = QuickPlan.of(base, samples=samples)
        say(f"{base.name} has no profile: it is calibrated once (`--profile none` goes without)")
        expected = estimate(base, plan)
        say(f"calibrating on {expected.prompts} prompts: about {_duration(expected.seconds)}")
        with steps() as bars:
            profile = calibrate_quick(base, plan, fit, bars).profile
        save_profile(profile, path)
    return replace(profile, source="cache")


def take_over(
    base: Base,
    given: Profile,
    say: Say = lambda _: None,
    steps: Callable[[], AbstractContextManager[Steps]] = no_steps,
) -> Profile:
    """The profile of a file that was made for other weights of the base, after a check. Raises
    ConfigError if it is of another base, or does not hold on this one."""
    with steps() as bars:
        adopted = adopt_profile(base, [given], bars)
    if adopted is None:
        raise ConfigError(
            f"router.profile: the profile was made for {given.base['name']} "
            f"({given.base['template']}), not for {base.name} ({base.template.name}), and its "
            "figures do not hold there; `scen calibrate` makes one"
        )
    say(f"{base.name}: {how_adopted(adopted)}")
    return adopted


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def open_parts(
    store: OpenStore,
    config: Config,
    steps: Steps,
    locality: str | None,
    tracking_uri: str | None,
    make_parts: MakeParts,
) -> LocalParts:
    """The steps of waves, with locality prompts (of a file or the sample) and a tracker."""
    prompts = read_prompts(
        locality or sample_path("nq_locality.jsonl"), config.evaluation.locality_limit
    )
    tracker = open_tracker(tracking_uri) if tracking_uri else NullTracker()
    return make_parts(store, config, prompts, tracker, steps)


def tracking_uri_of(storage: Storage) -> str:
    """Where the waves of a store are tracked: the environment's MLflow, or one in the store."""
    return default_tracking_uri(storage.local_path if storage.is_local else None)


def make_validator(parts: LocalParts, allow_null_text: bool = False) -> Validator:
    """A validator that knows the tokens of the base. `allow_null_text` as in `Validator`."""
    template = copy.deepcopy(parts.store.base.template)  # for the prefetch thread
    may_contradict = parts.config.waves.on_conflict != "quarantine"
    return Validator(
        tokenize=template.tokenize,
        unk_id=template.tokenizer.unk_token_id,
        control_names=template.control_names,
        may_contradict=may_contradict,
        allow_null_text=allow_null_text,
    )


_RECENT = 20  # waves: enough for a median, and few files to read


@dataclass(frozen=True, slots=True)
class WaveSpeed:
    """Training seconds per edit and evaluation seconds per prompt; `is_rough` if they are not
    measured in the store."""

    per_edit: float
    per_probe: float
    is_rough: bool = False


# SmolLM2-135M-Instruct on two CPU cores.
_ROUGH = WaveSpeed(per_edit=0.3, per_probe=0.2, is_rough=True)


def measure_speed(storage: Storage, base_name: str | None) -> WaveSpeed | None:
    """The median speed of the newest waves of a store. Without waves: a guess for the embedded base
    (also if `base_name` is None), None for another base."""
    files = [f for f in storage.files("waves") if f.path.endswith("/evaluated.json")]
    newest = sorted(files, key=lambda file: file.written_at)[-_RECENT:]
    waves = [storage.read_json(file.path) for file in newest]
    train = [wave["seconds"] / wave["report"]["n_edits"] for wave in waves]
    probe = [wave["latency"]["seconds_per_probe"] for wave in waves if wave.get("latency")]
    if train:  # earlier releases did not record evaluation times
        return WaveSpeed(median(train), median(probe or [_ROUGH.per_probe]), is_rough=not probe)
    return _ROUGH if base_name in (None, EMBEDDED_NAME) else None


def count_probes(edits: Sequence[Edit], num_earlier: int, num_locality: int, config: Config) -> int:
    """Number of prompts in the evaluation of a wave, given the number of active edits."""
    earlier = min(num_earlier, config.evaluation.retention_limit)
    return len(edit_probes(edits)) + earlier + num_locality
