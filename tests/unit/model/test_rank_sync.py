"""Ranks that keep step make the same passes of the base, and come to the same results."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.route import Route, SigmoidNeurons
from scen.records import EncodedEdit
from scen.training.experts import ExpertPlan, FittedExperts, fit_experts

LAYER = 3


class TwoRanks:
    """Two threads that both say whether they want to go on, and hear the same."""

    def __init__(self) -> None:
        self._wants: list[bool] = []
        self._said = threading.Barrier(2, timeout=20)
        self._heard = threading.Barrier(2, action=self._wants.clear, timeout=20)

    def any_rank(self, wants: bool) -> bool:
        self._wants.append(wants)
        self._said.wait()
        answer = any(self._wants)
        self._heard.wait()
        return answer

    def whole(self, weight: Tensor) -> Tensor:
        return weight

    def after_backward(self) -> None:
        pass


def in_step(base: Base, works: list[Callable[[Any, TwoRanks], Any]]) -> tuple[list[Any], list[Any]]:
    """The results of two works in two threads, each on its own copy of the base, and which
    modules each of them called, in order."""
    sync, called = TwoRanks(), [[], []]  # type: ignore[var-annotated]

    def run(rank: int) -> Any:
        model = deepcopy(base.model)
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda _m, _args, _out, name=name: called[rank].append(name)
                )
        return works[rank](model, sync)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1))), called


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_ranks_with_unequal_edits_train_in_step(
    tiny: Base, encoded: list[EncodedEdit], method: Any
) -> None:
    """One rank's edits are done after a few steps, the other's run to the end."""
    lr = 5e-2 if method == "scen-lr" else 2e-2
    quick = ExpertPlan(method, LAYER, 20, lr, stop_loss=4.0)
    slow = ExpertPlan(method, LAYER, 20, lr)
    shares = [(quick, encoded[:2]), (slow, encoded[2:])]

    def work(rank: int) -> Callable[[Any, TwoRanks], FittedExperts]:
        plan, edits = shares[rank]
        return lambda model, sync: fit_experts(model, plan, edits, tiny.pad_id, sync=sync)

    found, called = in_step(tiny, [work(0), work(1)])
    assert called[0] == called[1]
    for (plan, edits), fitted in zip(shares, found, strict=True):
        alone = fit_experts(tiny.model, plan, edits, tiny.pad_id)
        assert fitted.losses == alone.losses
        for name, tensor in alone.bank.tensors().items():
            torch.testing.assert_close(fitted.bank.tensors()[name], tensor)
    assert max(len(curve) for curve in found[0].losses) < 20


@pytest.mark.slow
def test_ranks_of_which_one_trains_on_other_ways_keep_in_step(
    tiny: Base, encoded: list[EncodedEdit]
) -> None:
    """The edits of one rank are told in every way already, the other's are not."""
    far = tiny.template.encode_prompt("red green blue one two three four five six")
    plan = ExpertPlan("scen-lr", LAYER, 60, 5e-2, stop_loss=0.05, other_ways=True)
    shares = [
        [replace(edit, ways=(edit.prompt,)) for edit in encoded[:2]],
        [replace(edit, ways=(far,)) for edit in encoded[2:]],
    ]

    def work(rank: int) -> Callable[[Any, TwoRanks], FittedExperts]:
        return lambda model, sync: fit_experts(model, plan, shares[rank], tiny.pad_id, sync=sync)

    found, called = in_step(tiny, [work(0), work(1)])
    assert called[0] == called[1]
    for edits, fitted in zip(shares, found, strict=True):
        alone = fit_experts(tiny.model, plan, edits, tiny.pad_id)
        assert fitted.losses == alone.losses
        for name, tensor in alone.bank.tensors().items():
            torch.testing.assert_close(fitted.bank.tensors()[name], tensor)
    few = fit_experts(tiny.model, replace(plan, other_ways=False), shares[1], tiny.pad_id)
    assert sum(map(len, found[1].losses)) > sum(map(len, few.losses))


def test_ranks_with_unequal_answers_decode_in_step(tiny: Base, encoded: list[EncodedEdit]) -> None:
    """One rank has no routed row and a short limit, the other routes all and speaks long."""
    bank = fit_experts(tiny.model, ExpertPlan("scen-lr", LAYER, 5, 5e-2), encoded, tiny.pad_id).bank
    neurons = SigmoidNeurons(LAYER, torch.zeros(6, 64), 0.5)
    shares = [(encoded[:1], Route.base(1), 3), (encoded, Route.fixed(list(range(6))), 9)]

    def speak(model: Any, share: Any, **more: Any) -> Any:
        edits, route, limit = share
        edited = EditedModel(model, LAYER, bank, neurons, tiny.pad_id, tiny.stop_ids, **more)
        filled = edited.prefill(pad_prompts([edit.prompt for edit in edits], tiny.pad_id))
        return answer(edited, filled, route, limit, keep_logits=True)

    def work(rank: int) -> Callable[[Any, TwoRanks], Any]:
        return lambda model, sync: speak(model, shares[rank], sync=sync)

    found, called = in_step(tiny, [work(0), work(1)])
    assert called[0] == called[1]
    for share, told in zip(shares, found, strict=True):
        alone = speak(deepcopy(tiny.model), share)
        assert (told.tokens, told.stopped) == (alone.tokens, alone.stopped)
        spoken = alone.logits_BSV.shape[1]
        assert torch.equal(told.logits_BSV[:, :spoken], alone.logits_BSV)
