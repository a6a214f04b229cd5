"""MEMIT and AlphaEdit: the closed forms, and edits of a tiny random base."""

from dataclasses import replace

import pytest
import torch

from scen.benchmark.editors.locate import (
    AlphaEditEditor,
    LeastSquares,
    MemitEditor,
    NullSpace,
    Rows,
    null_projection,
    read_states,
    second_moments,
    subject_end,
    target_losses,
)
from scen.model.base import Base
from scen.model.decoder import capture_inputs
from scen.records import Edit

EDITORS = [
    MemitEditor(first=0.2, last=0.5, steps=60, clamp=3.0, weight=1e-3),
    AlphaEditEditor(first=0.2, last=0.5, steps=60, clamp=3.0, threshold=10.0, ridge=1e-3),
]


def quiet(*_: int) -> None:
    pass


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_update_of_memit_is_the_least_squares_solution() -> None:
    key_EF, value_ED = normal(3, 8), normal(3, 5, seed=1)
    moment_FF = normal(20, 8, seed=2)
    ridge_FF = moment_FF.T @ moment_FF / 20
    update_DF = LeastSquares(ridge_FF).update(key_EF, value_ED)
    root_FF = torch.linalg.cholesky(ridge_FF).T
    left, right = torch.cat([key_EF, root_FF]), torch.cat([value_ED, torch.zeros(8, 5)])
    expected_FD = torch.linalg.lstsq(left, right.double()).solution
    torch.testing.assert_close(update_DF.T, expected_FD)


def test_the_update_of_alphaedit_leaves_preserved_keys_alone() -> None:
    """Preserved keys span 4 of 8 dimensions."""
    preserved_NF = normal(50, 4) @ normal(4, 8, seed=1)
    projection_FF = null_projection(preserved_NF.T @ preserved_NF / 50, 1e-6)
    assert round(float(projection_FF.trace())) == 4
    key_EF, value_ED = normal(2, 8, seed=2), normal(2, 5, seed=3)
    update_DF = NullSpace(projection_FF, 1e-6).update(key_EF, value_ED)
    assert float((preserved_NF @ update_DF.T).abs().max()) < 1e-8
    torch.testing.assert_close(key_EF @ update_DF.T, value_ED, atol=1e-3, rtol=1e-3)


def test_alphaedit_protects_the_keys_of_earlier_edits() -> None:
    solver = NullSpace(torch.eye(8, dtype=torch.float64), 0.01)
    first_EF, later_EF, value_ED = normal(2, 8), normal(2, 8, seed=1), normal(2, 5, seed=2)
    unprotected = (first_EF @ solver.update(later_EF, value_ED).T).norm()
    solver.remember(first_EF)
    protected = (first_EF @ solver.update(later_EF, value_ED).T).norm()
    assert float(protected) < 0.1 * float(unprotected)


def test_the_last_token_of_the_subject_is_found(tiny: Base, edits: list[Edit]) -> None:
    for edit in edits:
        prompt = tiny.template.encode_prompt(edit.prompt)
        end = subject_end(tiny, prompt, edit.subject)
        begin = prompt.own[0]
        read = tiny.tokenizer.decode(list(prompt.ids[begin : end + 1]))
        assert read.endswith(str(edit.subject))
    unnamed = tiny.template.encode_prompt("Who is it?")
    assert (
        subject_end(tiny, unnamed, "nobody")
        == unnamed.own[1] - 1
        == subject_end(tiny, unnamed, None)
    )


def test_second_moments_are_a_mean_over_all_tokens(
    tiny: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Amber and birch.", "A dune."]
    monkeypatch.setattr("scen.benchmark.editors.locate.read_prompts", lambda *_: texts)
    moment_FF = second_moments(tiny, (2,))[2]
    total_FF, count = torch.zeros_like(moment_FF), 0
    for text in texts:
        chat = tiny.template.encode_prompt(text).ids
        for ids in (tiny.template.tokenize(text), list(chat)):
            with torch.no_grad(), capture_inputs(tiny.model, [2]) as inputs:
                tiny.model(input_ids=torch.tensor([ids]))
            total_FF += inputs[2][0].T @ inputs[2][0]
            count += len(ids)
    torch.testing.assert_close(moment_FF, total_FF / count, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("editor", EDITORS, ids=["memit", "alphaedit"])
def test_hidden_states_are_moved_to_their_targets_by_some_matrices(
    tiny: Base, edits: list[Edit], editor: MemitEditor
) -> None:
    """The shifts are trained once, then written: the state of each subject becomes its target."""
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    rows = Rows.of(tiny, edits, [])
    target_ED = editor.target(tiny, tiny.model, 3, rows)
    edited = replace(editor, contexts=0).edit(tiny, edits, quiet)
    assert all(torch.equal(before[name], p) for name, p in tiny.model.named_parameters())
    model = edited.models[0].model
    changed = [hasattr(block.mlp.down_proj, "weight_OI") for block in model.model.layers]
    assert changed == [False, True, True, True, False, False]
    assert edited.num_bytes == 3 * 32 * 64 * 4
    away = [
        (read_states(each, tiny, rows, 3, 3)[1] - target_ED).norm(dim=1).mean()
        for each in (tiny.model, model)
    ]
    assert float(away[1]) < 0.4 * float(away[0])


def test_a_trained_shift_makes_the_target_likelier(tiny: Base, edits: list[Edit]) -> None:
    rows = Rows.of(tiny, edits[:2], ["A word before it. "])
    editor = MemitEditor(steps=8, clamp=5.0)
    _, state_ED = read_states(tiny.model, tiny, rows, 2, 2)
    shift_ED = editor.target(tiny, tiny.model, 2, rows) - state_ED
    before_E, after_E = (
        losses(tiny, editor, rows, shift) for shift in (torch.zeros_like(shift_ED), shift_ED)
    )
    assert bool((after_E < before_E).all())
    assert bool((shift_ED.norm(dim=1) <= 5.0 * state_ED.norm(dim=1) + 1e-4).all())


def losses(base: Base, editor: MemitEditor, rows: Rows, shift_ED: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return target_losses(base.model, 2, editor.task(base, base.model, 2, rows), shift_ED)[0]
