"""A quick calibration stays within its budget; a store is calibrated on its own edits, by a commit
that can be rolled back."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from scen.calibration.fit_encoder import EncoderPlan
from scen.calibration.fit_router import RouterPlan
from scen.calibration.places import default_places
from scen.calibration.quick import (
    PASSES,
    SAMPLES,
    QuickPlan,
    Sample,
    calibrate_quick,
    check_expert,
)
from scen.config import Config, load_config
from scen.data import Validator, ingest
from scen.fs import Storage
from scen.ledger.manifest import read_manifest
from scen.model.base import Base, load_base
from scen.pipeline.runtime import calibrate_first
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.method import describe_profile, read_cached_profile
from scen.snapshot.open import create_store

FEW = (Sample("zsre_edits.jsonl", 400, 900, 24), Sample("nq_questions.jsonl", 0, 275, 24))
FIT = RouterPlan(EncoderPlan(8, 8, 4, 4), bound=0.2, gate_steps=20, num_gates=1, hidden=8)
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user; new bases are calibrated."""
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCEN_PROFILE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def config(tiny_folder: Path) -> Config:
    base = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
    return load_config(fixed={"base": base | {"device": "cpu"}})


def rows(name: str) -> list[Edit]:
    batches = ingest(str(sample_path(name)), Validator())
    return [edit for batch in batches for edit in batch.edits]


def test_the_budget(tiny: Base) -> None:
    plan = QuickPlan.of(tiny)
    assert len(plan.edits) == sum(sample.count for sample in SAMPLES)
    assert plan.passes <= PASSES * len(plan.edits)
    kinds = Counter(question.kind for question in plan.questions.about.questions)
    assert kinds["prompt"] == len(plan.edits)
    near = {"near_miss", "made_near_miss", "namesake"}
    rest = {"rephrase", "asked", *near, "task", "subject_task", "unrelated"}
    assert kinds.keys() == {"prompt"} | rest
    per_edit = Counter(q.edit for q in plan.questions.about.questions if q.edit >= 0)
    assert max(per_edit.values()) - min(per_edit.values()) <= 1


def test_the_rows_of_the_benchmarks_take_no_part(tiny: Base) -> None:
    zsre, counterfact = rows("zsre_edits.jsonl"), rows("counterfact_edits.jsonl")
    tested = [*zsre[:400], *zsre[900:], *counterfact[:100], *counterfact[300:]]
    fitted = {edit.id for edit in QuickPlan.of(tiny).edits}
    assert fitted & {edit.id for edit in tested} == set()


def test_places_by_depth() -> None:
    assert [p.name for p in default_places(30)] == [
        "span@6", "span@9", "last@9", "last@15", "span@18", "last@24",
    ]  # fmt: skip
    for layers in (2, 3, 4, 12, 80):
        places = default_places(layers)
        assert all(0 < place.layer < layers for place in places)
        assert {place.kind for place in places} == {"span", "last"}


def test_own_edits_count_if_they_have_rephrases(tiny: Base, edits: list[Edit]) -> None:
    bare = [Edit("bare", "Who?", "x")]
    plan = QuickPlan.of(tiny, [*edits, *bare], FEW)
    assert [edit.id for edit in plan.sources[0]] == [edit.id for edit in edits]


@pytest.mark.slow
def test_a_profile_of_a_base(tiny: Base) -> None:
    done: Counter[str] = Counter()

    def progress(step: str, count: int, total: int) -> None:
        done[step] += count
        assert done[step] <= total

    plan = QuickPlan.of(tiny, samples=FEW)
    profile = calibrate_quick(tiny, plan, FIT, progress).profile
    assert profile.base["fingerprint"] == tiny.fingerprint
    assert profile.router.encoder.places == plan.places
    assert (profile.calibration["how"], profile.describe()["edits"]) == ("quick", 48)
    assert set(profile.describe()["figures"]) == {"rephrases", "near_misses", "same_kind"}
    assert 0 <= profile.expert["layer"] < tiny.num_layers - 1
    assert done["keys"] == len(plan.questions)


def test_other_settings_are_tried_while_edits_are_missed(tiny: Base, edits: list[Edit]) -> None:
    seen: list[tuple[int, int]] = []
    best, trials = check_expert(tiny, edits, lambda _, done, total: seen.append((done, total)))
    assert best in trials
    assert all(trial.reliability < 0.95 for trial in trials[:-1])
    assert trials[-1].reliability >= 0.95 or len(trials) == 3  # both depths are layer 4
    assert len({(trial.layer, trial.lr) for trial in trials}) == len(trials)
    assert sum(done for done, _ in seen) <= seen[-1][1]
    assert best.score == max(trial.score for trial in trials)


@pytest.mark.slow
def test_a_base_is_calibrated_once(cache: Path, tiny: Base) -> None:
    said: list[str] = []
    first = calibrate_first(tiny, said.append, samples=FEW, fit=FIT)
    assert any("--profile none" in line for line in said)
    assert any(line.startswith("calibrating on ") for line in said)
    said.clear()
    second = calibrate_first(tiny, said.append, samples=FEW, fit=FIT)
    assert first is not None
    assert second is not None
    assert said == []
    assert (first.source, second.source, second.calibration["how"]) == ("cache", "cache", "quick")
    ours, theirs = first.router.tensors(), second.router.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_damaged_profile_is_made_again(cache: Path, tiny: Base) -> None:
    make = partial(calibrate_first, tiny, samples=FEW, fit=FIT)
    assert make() is not None
    [file] = (cache / "profiles" / tiny.fingerprint).glob("*.json")
    file.write_text(file.read_text()[:-9])
    assert read_cached_profile(tiny.fingerprint) is None
    assert make() is not None
    assert read_cached_profile(tiny.fingerprint) is not None


@pytest.mark.slow
def test_a_new_store_says_how_its_router_was_made(
    cache: Path, tiny: Base, config: Config, tmp_path: Path
) -> None:
    calibrate = partial(calibrate_first, samples=FEW, fit=FIT)

    def create(name: str, **router: object) -> dict[str, object]:
        storage = Storage(str(tmp_path / name))
        settings = config.model_dump(exclude_unset=True) | {"router": router}
        create_store(storage, load_config(fixed=settings), NEUTRAL, base=tiny, calibrate=calibrate)
        return dict(read_manifest(storage).profile)

    made = create("auto")
    assert (made["how"], made["source"], made["edits"]) == ("quick", "cache", 48)
    assert describe_profile(made).startswith("calibrated (quick) on 48 edits on 20")
    file = next((cache / "profiles" / tiny.fingerprint).glob("*.json"))
    assert create("file", profile=str(file))["source"] == "file"
    assert create("none", profile="none") == {"how": "none", "source": "none"}
    assert create("shipped", profile="shipped")["how"] == "none"


def test_none_goes_without(
    cache: Path, tiny: Base, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(base: Base) -> None:
        raise AssertionError(f"{base.name} was calibrated")

    monkeypatch.setenv("SCEN_PROFILE", "none")
    storage = Storage(str(tmp_path / "store"))
    create_store(storage, config, NEUTRAL, base=tiny, calibrate=refuse)
    assert read_manifest(storage).profile["how"] == "none"
    assert not (cache / "profiles").exists()


_RACE = """
import sys
from scen.model.base import load_base
from scen.pipeline.runtime import calibrate_first
sys.path.insert(0, {tests!r})
from test_quick import FEW, FIT
base = load_base({folder!r}, template="llama2-inst", dtype="float32", device="cpu")
profile = calibrate_first(base, lambda line: print(line), samples=FEW, fit=FIT)
print("threshold", profile.router.threshold)
"""


@pytest.mark.slow
def test_two_processes_calibrate_once(cache: Path, tiny_folder: Path) -> None:
    code = _RACE.format(tests=str(Path(__file__).parent), folder=str(tiny_folder))
    command: Sequence[str] = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("calibrating on" in text for text in told) == 1
    assert len({text.splitlines()[-1] for text in told}) == 1
    base = load_base(str(tiny_folder), template="llama2-inst", dtype="float32", device="cpu")
    assert read_cached_profile(base.fingerprint) is not None
