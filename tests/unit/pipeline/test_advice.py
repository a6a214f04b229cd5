"""`scen eval` says when fitting a store's router on its own edits is worth it."""

from dataclasses import replace

import pytest

from scen.evaluation.metrics import EvalReport
from scen.ledger.actions import Recalibrate, WaveCommit
from scen.pipeline.evaluate import advise
from scen.pipeline.local import LocalParts
from scen.records import Edit, Rephrase
from unit.pipeline.conftest import MakeParts

FIGURES = EvalReport(
    n_edits=60,
    reliability=1.0,
    reliability_before=0.0,
    generality={"given": 0.9},
    generality_before={"given": 0.0},
    routing={"rephrase_to_own_edit": 0.9, "false_activation_near_miss": 0.1},
    locality_unchanged=1.0,
    logits_identical=1.0,
    near_miss_unchanged=0.9,
    teacher_forced={},
    counts={"generality_given": 60, "near_miss": 60},
)


def fill(parts: LocalParts, count: int, *, rephrases: bool = True) -> None:
    """Commit edits; no expert of them is ever read."""
    given = (Rephrase("in other words", "given"),) if rephrases else ()
    edits = [Edit(f"e{i}", f"Who is {i}?", "x", rephrases=given) for i in range(count)]
    ledger = parts.store.ledger
    ledger.commit(WaveCommit("w", "s", 0, "a" * 64, edits), ledger.version())


def calibrated(parts: LocalParts, edits: int) -> None:
    """As if the router had been fitted on so many edits."""
    about = '{"how": "quick", "edits": %d, "figures": {"rephrases": 0.9, "near_misses": 0.9}}'
    parts.store.ledger.settle(Recalibrate("b" * 64, about % edits))


def advice(parts: LocalParts, figures: EvalReport = FIGURES) -> str | None:
    return advise(parts.store, parts.store.ledger.snapshot(), figures)


def test_a_router_that_was_never_calibrated(parts: LocalParts) -> None:
    assert advice(parts) is None
    fill(parts, 60)
    text = advice(parts)
    assert text is not None
    assert text.startswith("its router was never calibrated; the store has 60 edits with rephrases")
    assert text.endswith(f"`scen calibrate --store {parts.store.storage.uri} --dry-run`")
    assert "\n" not in text


@pytest.mark.parametrize(("fitted", "advised"), [(20, True), (21, False), (600, False)])
def test_a_store_that_has_grown(parts: LocalParts, fitted: int, advised: bool) -> None:
    fill(parts, 60)
    calibrated(parts, fitted)
    assert (advice(parts) is not None) is advised


def test_edits_without_rephrases_do_not_count(parts: LocalParts) -> None:
    fill(parts, 60, rephrases=False)
    calibrated(parts, 20)
    assert advice(parts) is None


@pytest.mark.parametrize(
    ("routing", "reason"),
    [
        ({"rephrase_to_own_edit": 0.8}, "80.0 % of rephrases are routed rightly, 90.0 % were"),
        ({"false_activation_near_miss": 0.3}, "70.0 % of near misses are routed rightly, 90.0 %"),
    ],
)
def test_figures_that_are_clearly_worse(
    parts: LocalParts, routing: dict[str, float], reason: str
) -> None:
    fill(parts, 60)
    calibrated(parts, 600)
    assert advice(parts) is None
    worse = replace(FIGURES, routing=FIGURES.routing | routing)
    text = advice(parts, worse)
    assert text is not None
    assert text.startswith(reason)
    few = {"generality_given": 10, "near_miss": 10}
    assert advice(parts, replace(worse, counts=few)) is None


def test_method_scen_has_no_router_to_fit(make_parts: MakeParts) -> None:
    parts = make_parts("scen")
    fill(parts, 60)
    assert advice(parts) is None
