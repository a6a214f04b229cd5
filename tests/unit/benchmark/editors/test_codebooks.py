"""The codebooks of GRACE and HoReN."""

from dataclasses import replace

import pytest
import torch

from scen.benchmark.editors.codebooks import (
    GraceEditor,
    HorenEditor,
    HorenKeys,
    late_mean,
    lay_out,
)
from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import Decoded, decode
from scen.model.prefill import prefill
from scen.records import Edit


def keys(*places: float) -> torch.Tensor:
    return torch.tensor([[place, 0.0] for place in places])


def test_edits_far_apart_have_keys_of_their_own() -> None:
    assert lay_out(keys(0, 10), ["a", "a"], 1.0) == ([0, 1], [1.0, 1.0])


def test_a_radius_grows_to_a_near_edit_of_the_same_target() -> None:
    assert lay_out(keys(0, 1.5), ["a", "a"], 1.0) == ([0], [1.5])


def test_near_edits_of_other_targets_share_the_distance() -> None:
    kept, radii = lay_out(keys(0, 1.5), ["a", "b"], 1.0)
    assert kept == [0, 1]
    assert radii == pytest.approx([0.75, 0.75], abs=1e-4)
    assert sum(radii) < 1.5


@pytest.mark.slow
def test_a_prompt_is_answered_by_its_key_and_a_rephrase_by_the_base(
    tiny: Base, edits: list[Edit]
) -> None:
    """A value steers one token; here, of a random model, no more than the first is asked for."""
    editor = GraceEditor(layer=1, radius=1e-3, lr=0.1, steps=400)
    edited = editor.edit(tiny, edits, lambda *_: None)
    base = NoEditor().edit(tiny, edits, lambda *_: None)
    for edit in edits:
        own = ask(tiny, edited, edit.prompt)
        assert edited.name(int(own.route.expert_B[0])) == edit.id
        assert own.tokens[0][0] == tiny.template.encode_edit(edit).target[0]
        other = ask(tiny, edited, edit.rephrases[0].text)
        assert edited.name(int(other.route.expert_B[0])) is None
        assert other.tokens == ask(tiny, base, edit.rephrases[0].text).tokens


def ask(base: Base, edited: Edited, prompt: str) -> Decoded:
    batch = pad_prompts([base.template.encode_prompt(prompt)], base.pad_id, base.device)
    return decode(edited.model(0), batch, 8)


def test_a_refined_query_moves_towards_its_key() -> None:
    key_EF = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), dim=1)
    query_NF = torch.tensor([[3.0, 1.0, 1.0]])
    plain = HorenKeys(key_EF, beta=20.0, damping=0.0).match(query_NF)
    refined = HorenKeys(key_EF, beta=20.0, damping=0.5).match(query_NF)
    assert plain[0].tolist() == pytest.approx([3 / 11**0.5, 1 / 11**0.5])
    assert float(refined[0, 0]) > float(plain[0, 0])
    assert float(refined[0, 1]) < float(plain[0, 1])


def test_the_query_is_the_mean_over_the_end_of_the_question(tiny: Base) -> None:
    prompt = tiny.template.encode_prompt("0123456789")
    filled = prefill(tiny.model, pad_prompts([prompt], tiny.pad_id), 2, ())
    begin, end = prompt.own
    assert end - begin == 10
    expected_F = filled.inputs[2][0, end - 6 : end].mean(0)
    torch.testing.assert_close(late_mean(filled, 2, 0.6)[0], expected_F)


def test_edits_are_answered_by_their_entries_and_other_prompts_by_the_base(
    tiny: Base, edits: list[Edit]
) -> None:
    editor = HorenEditor(depth=0.5, threshold=0.999, lr=0.1, steps=300)
    edited = editor.edit(tiny, edits, lambda *_: None)
    base = NoEditor().edit(tiny, edits, lambda *_: None)
    for edit in edits:
        own = ask(tiny, edited, edit.prompt)
        assert edited.name(int(own.route.expert_B[0])) == edit.id
        other = ask(tiny, edited, edit.rephrases[0].text)
        assert int(other.route.expert_B[0]) == -1
        assert other.tokens == ask(tiny, base, edit.rephrases[0].text).tokens
    hits = [
        ask(tiny, edited, edit.prompt).tokens[0][0] == tiny.template.encode_edit(edit).target[0]
        for edit in edits
    ]
    assert sum(hits) >= 5


def test_edits_that_match_and_agree_share_an_entry(tiny: Base, edits: list[Edit]) -> None:
    same = [edits[0], replace(edits[0], id="again"), replace(edits[0], id="other", target="dune")]
    edited = HorenEditor(depth=0.5, steps=1).edit(tiny, same, lambda *_: None)
    assert list(edited.experts) == ["edit-0", "other"]
