"""The steps of a wave on a real, tiny base: what they leave behind, and who may come between."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from scen.evaluation.metrics import EvalReport
from scen.evaluation.probes import asking_probes, edit_probes, locality_probes
from scen.ledger.tensors import load_bundle
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.run_wave import run_wave
from scen.pipeline.stream import settings
from scen.records import Edit
from scen.training.parts import NeuronPlan, fit_neurons

MakeParts = Callable[..., LocalParts]

PROMISED = {
    "n_edits",
    "reliability",
    "generality",
    "locality_unchanged",
    "logits_identical",
    "teacher_forced",
}


def wave_of(parts: LocalParts, edits: list[Edit], index: int = 0) -> Wave:
    """A wave of the stream `news`."""
    return Wave("news", index, tuple(edits), settings(parts.config, parts.store))


def lines_of(parts: LocalParts, evaluated: dict[str, Any]) -> list[dict[str, Any]]:
    """The file of single outcomes."""
    text = parts.store.storage.read(evaluated["per_edit_path"]).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_a_wave_from_edits_to_a_commit(
    make_parts: MakeParts, facts: list[Edit], method: str
) -> None:
    parts = make_parts(method)
    wave = wave_of(parts, facts)
    done = run_wave(wave, parts, parts.store.storage)
    assert (done.key, done.num_edits, done.version, done.tracked) == (
        wave.key,
        6,
        1,
        {"run_id": None},
    )
    report = done.evaluated["report"]
    assert set(report) == {field.name for field in fields(EvalReport)} >= PROMISED
    assert (report["n_edits"], report["reliability"], report["reliability_before"]) == (6, 1.0, 0.0)
    assert report["routing"]["prompt_to_own_edit"] == 1.0
    assert report["teacher_forced"]["reliability_after"] == 1.0
    assert set(report["generality"]) == {"orig"}
    is_any_unrouted = report["counts"]["locality_routed"] < report["counts"]["locality"]
    assert report["logits_identical"] == (1.0 if is_any_unrouted else None)
    if method == "scen-lr":
        assert (report["locality_unchanged"], report["near_miss_unchanged"]) == (1.0, 1.0)
    rows = lines_of(parts, done.evaluated)
    sampled = round(parts.config.evaluation.asking_share * 20)
    asked = asking_probes(facts, wave.key, sampled, has_roles=False)
    assert len(asked) == sampled == 1
    probes = [*edit_probes(facts), *locality_probes(parts.locality), *asked]
    assert [(row["kind"], row["prompt"], row["target"]) for row in rows] == [
        (probe.kind, probe.prompt, probe.target) for probe in probes
    ]
    told = [row for row in rows if row["kind"] == "reliability"]
    assert [row["after"] for row in told] == [edit.target for edit in facts]
    assert [row["routed_to"] for row in told] == [edit.id for edit in facts]


def test_what_a_wave_leaves_in_the_store(parts: LocalParts, facts: list[Edit]) -> None:
    wave = wave_of(parts, facts[:3])
    trained = parts.train(wave)
    run_wave(wave, parts, parts.store.storage)
    storage, snapshot = parts.store.storage, parts.store.ledger.snapshot()
    assert snapshot.ids == ["edit-0", "edit-1", "edit-2"]
    assert {(e.wave_key, e.stream, e.wave) for e in snapshot.entries} == {(wave.key, "news", 0)}
    assert [(e.bundle, e.row) for e in snapshot.entries] == [
        (trained["bundle"], i) for i in (0, 1, 2)
    ]
    steps = {
        name.removeprefix(f"waves/{wave.key}/").removesuffix(".json")
        for name in storage.names(f"waves/{wave.key}")
        if name.endswith(".json")
    }
    pieces = {step for step in steps if "/" in step}
    assert sorted(piece.partition("/")[0] for piece in pieces) == ["parts", *["probes"] * 3]
    assert steps - pieces == {"planned", "trained", "evaluated", "tracked"}
    plan = storage.read_json(f"waves/{wave.key}/planned.json")
    assert (plan["edit_ids"], plan["digest"]) == (snapshot.ids, wave.digest)
    bundle = load_bundle(storage, trained["bundle"])
    assert {name: tuple(tensor.shape) for name, tensor in bundle.items()} == {
        "down": (3, 4, 64),
        "up": (3, 32, 4),
        "key": (3, 2, 64),
        "text": (3, 256),
    }
    assert trained["bytes_per_edit"] == 2 * (4 * 64 + 32 * 4 + 2 * 64) + 256  # half precision
    # Every step of the edit's own prompt, then of all its ways of asking where it was lost in one.
    assert [len(curve) in (20, 40) for curve in trained["losses"]] == [True] * 3
    assert all(curve[-1] < curve[0] for curve in trained["losses"])


def test_progress_counts_edits_and_probes(parts: LocalParts, facts: list[Edit]) -> None:
    told: list[tuple[str, int, int]] = []
    parts = replace(parts, progress=lambda *step: told.append(step))
    run_wave(wave_of(parts, facts), parts, parts.store.storage)
    for step, total in (("train", 6), ("evaluate", 6 * 3 + 2 + 1)):
        mine = [(done, of) for name, done, of in told if name == step]
        assert sum(done for done, _ in mine) == total
        assert {of for _, of in mine} == {total}
        assert max(done for done, _ in mine) == 4  # the batch size


def test_edits_in_the_smallest_form_are_learned_and_reached(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    parts = make_parts(expert={"bits": 8}, router={"raw_keys": False})
    done = run_wave(wave_of(parts, facts[:3]), parts, parts.store.storage)
    report = done.evaluated["report"]
    assert (report["reliability"], report["routing"]["prompt_to_own_edit"]) == (1.0, 1.0)
    bundle = load_bundle(parts.store.storage, parts.store.ledger.snapshot().entries[0].bundle)
    assert {name for name, tensor in bundle.items() if tensor.dtype == torch.int8} == {
        "down",
        "up",
        "code",
    }
    assert "key" not in bundle


def test_a_wave_is_measured_on_top_of_what_is_committed(
    parts: LocalParts, facts: list[Edit]
) -> None:
    first = run_wave(wave_of(parts, facts[:3]), parts, parts.store.storage)
    near = replace(facts[0], id="near", prompt=facts[0].rephrases[0].text, rephrases=())
    wave = wave_of(parts, [near, *facts[4:]], 1)
    evaluated = parts.evaluate(wave, parts.train(wave))
    asked = replace(wave, edits=tuple(facts[:3]))  # edits that are committed already
    again = parts.evaluate(asked, {**parts.train(asked), "bundle": "0" * 64})
    assert evaluated["report"]["reliability"] == 1.0
    assert again["report"]["reliability"] == first.evaluated["report"]["reliability"] == 1.0
    assert again["report"]["n_edits"] == 3


def test_a_repeated_evaluation_has_its_own_lines(parts: LocalParts, facts: list[Edit]) -> None:
    """The step was cut off after its lines were written, and is done again with other prompts."""
    wave = wave_of(parts, facts[:2])
    trained = parts.train(wave)
    parts.evaluate(wave, trained)
    more = replace(parts, locality=["Who is it?", "Who was it?", "Who will it be?"])
    evaluated = more.evaluate(wave, trained)
    assert evaluated["report"]["counts"]["locality"] == 3
    assert len(lines_of(more, evaluated)) == 2 * 3 + 3


def test_answers_are_as_long_as_the_settings_say(make_parts: MakeParts, facts: list[Edit]) -> None:
    parts = make_parts(evaluation={"max_new_tokens": 3, "locality_tokens": 1})
    wave = wave_of(parts, facts[:1])
    for row in lines_of(parts, parts.evaluate(wave, parts.train(wave))):
        if row["kind"] == "reliability":
            assert row["after"] == facts[0].target[:3]
        if row["target"] is None:
            assert len(row["before"]) <= 1  # a token of the tiny base is a byte


def test_neurons_of_the_paper_know_all_earlier_edits(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    parts = make_parts("scen")
    bundles = []
    for index in range(2):
        wave = wave_of(parts, facts[3 * index : 3 * index + 3], index)
        run_wave(wave, parts, parts.store.storage)
        entry = parts.store.ledger.snapshot().entries[-1]
        bundles.append(load_bundle(parts.store.storage, entry.bundle))
    plan, seeds = NeuronPlan(20, 0.05), [edit.seed for edit in facts]
    first, second = bundles
    alone = fit_neurons(second["h"], seeds[3:], plan)
    assert torch.equal(first["neuron"], fit_neurons(first["h"], seeds[:3], plan))
    assert torch.equal(second["neuron"], fit_neurons(second["h"], seeds[3:], plan, first["h"]))
    assert (second["neuron"] - alone).abs().max() > 1e-3
