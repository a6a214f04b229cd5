"""The codebook of GRACE."""

import pytest
import torch

from scen.benchmark.editors.grace import GraceEditor, lay_out
from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import Decoded, decode
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
