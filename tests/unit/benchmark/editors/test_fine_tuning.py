"""Fine-tuning as something to compare with: it learns, and the base stays what it was."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from scen.benchmark.editors.fine_tuning import FtlEditor, LoraEditor, RunningMoments, UltraEditor
from scen.benchmark.editors.scen_methods import Editor
from scen.model.base import Base
from scen.model.batch import pad_edits, pad_prompts
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


def test_ultraedit_solves_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NI, slope_NO = (torch.randn(7, width, generator=generator) for width in (4, 3))
    update_OI = UltraEditor(lr=0.5).update(RunningMoments(), x_NI, slope_NO)
    features = torch.cat([x_NI, slope_NO], 1)
    normed = (features - features.mean(0)) / features.std(0)
    value_NO = -0.5 * (normed[:, :4] ** 2).sum(1, keepdim=True) * normed[:, 4:]
    left = torch.cat([x_NI, torch.eye(4)])
    right = torch.cat([value_NO, torch.zeros(4, 3)])
    expected_IO = torch.linalg.lstsq(left, right).solution
    torch.testing.assert_close(update_OI.T, expected_IO, atol=1e-4, rtol=1e-3)


def test_running_moments_are_those_of_all_batches() -> None:
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    moments = RunningMoments()
    for part in (values[:1], values[1:25], values[25:]):
        moments.add(part)
    expected = (values - values.mean(0)) / values.std(0)
    torch.testing.assert_close(moments.normalise(values), expected, atol=1e-4, rtol=1e-4)


def test_ultraedit_makes_targets_likelier_and_leaves_the_base_alone(
    tiny: Base, edits: list[Edit]
) -> None:
    before = weights(tiny)
    edited = UltraEditor(first=0.2, last=0.9, lr=0.003).edit(tiny, edits, lambda *_: None)
    assert all(torch.equal(weights(tiny)[name], p) for name, p in before.items())
    train = pad_edits([tiny.template.encode_edit(edit) for edit in edits], tiny.pad_id)

    def loss(model: Any) -> float:
        logits = model(input_ids=train.ids_BT, attention_mask=train.mask_BT.long()).logits
        logits_BSV = logits[:, train.prompt_length - 1 :]
        return float(cross_entropy(logits_BSV.flatten(0, 1), train.labels_BS.flatten()))

    with torch.no_grad():
        assert loss(edited.model(0).model) < 0.95 * loss(tiny.model)
