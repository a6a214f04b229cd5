"""Fine-tuning as something to compare with: it learns, and the base stays what it was."""

import pytest
import torch

from scen.benchmark.editors.fine_tuning import FtlEditor, LoraEditor
from scen.benchmark.editors.scen_methods import Editor
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.records import Edit

# peft asks transformers by the name that it had before.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
EDITORS = [
    LoraEditor(rank=8, lr=0.005, epochs=120, batch_size=3),
    FtlEditor(layer=3, lr=0.05, epochs=60, distance=5.0),
]


def answers(base: Base, editor: Editor, edits: list[Edit]) -> list[str]:
    model = editor.edit(base, edits, lambda *_: None).model(0)
    encoded = [base.template.encode_prompt(edit.prompt) for edit in edits]
    told = decode(model, pad_prompts(encoded, base.pad_id, base.device), 32)
    return [base.template.decode(tokens) for tokens in told.tokens]


def weights(base: Base) -> dict[str, torch.Tensor]:
    """Copies of all weights; a linear that an expert may stand beside has one more word."""
    named = base.model.named_parameters()
    return {name.replace(".linear.", "."): p.detach().clone() for name, p in named}


@pytest.mark.slow
@pytest.mark.parametrize("editor", EDITORS, ids=["lora", "ft-l"])
def test_edits_are_learnt_and_the_base_is_left_alone(
    tiny: Base, edits: list[Edit], editor: Editor
) -> None:
    before = weights(tiny)
    told = answers(tiny, editor, edits)
    right = sum(text == edit.target for text, edit in zip(told, edits, strict=True))
    assert right >= 5
    after = weights(tiny)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], p) for name, p in before.items())


def test_no_weight_goes_further_than_the_distance(tiny: Base, edits: list[Edit]) -> None:
    edited = FtlEditor(layer=3, lr=0.5, epochs=5, distance=0.01).edit(tiny, edits, lambda *_: None)
    linear = tiny.model.model.layers[3].mlp.down_proj
    before_DF = getattr(linear, "linear", linear).weight.float()
    moved = (edited.model(0).bank.tensors()["weight"][0] - before_DF).abs().max()
    assert 0.009 < float(moved) <= 0.01 + 1e-6
