"""The plugin's step on batches of chunked prompts, without vLLM."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from scen.model.expert import FullBank, LowRankBank
from scen_vllm.step import Bank, Step, Work
from scen_vllm.wish import Settings, Wish

LAYER, F, D, SLOTS = 2, 16, 8, 5
PLACES = ((1, "mean"), (2, "span"), (2, "last"), (4, "last"))
CPU = torch.device("cpu")


def new_step(rank: int = 3) -> Step:
    """A step with random experts in all slots."""
    settings = Settings(LAYER, PLACES, rank, SLOTS)  # type: ignore[arg-type]
    bank = Bank(settings, (D, F), CPU)
    draw = torch.Generator().manual_seed(1)
    for tensor in bank.tensors.values():
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    bank.names = [f"expert:{slot}" for slot in range(SLOTS)]
    return Step(settings, [1, 2, 4], bank, CPU)


def key_of(number: int, length: int) -> Wish:
    """The wish for the keys of a prompt: own words, the message, and a part of it."""
    own = [2, length - 2]
    return {"key": f"key-{number}", "spans": [own, own, [3, 5]], "last": length - 1}


def expert_of(slot: int, start: int) -> Wish:
    """The wish for the expert of a slot."""
    return {"expert": f"expert:{slot}", "slot": slot, "start": start}


def run(step: Step, works: Sequence[Work], x_LTF: dict[int, Tensor], y: Tensor) -> Tensor:
    """The op at each tapped layer; the output at the edited one."""
    out = y.clone()
    for layer, x_TF in x_LTF.items():
        step.run(x_TF, out if layer == LAYER else y.clone(), layer)
    return out


def inputs_of(length: int, seed: int) -> dict[int, Tensor]:
    """x_TF at the tapped layers for a whole prompt."""
    draw = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(length, F, generator=draw) for layer in (1, 2, 4)}


def expected_key(x_LTF: dict[int, Tensor], length: int) -> Tensor:
    """What a whole pass reads at PLACES."""
    own = slice(2, length - 2)
    rows = [
        x_LTF[1][own].mean(0),
        x_LTF[2][own].mean(0),
        x_LTF[2][3:5].mean(0),
        x_LTF[2][-1],
        x_LTF[4][-1],
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(8))
def test_keys_do_not_depend_on_how_prompts_are_cut_and_mixed(seed: int) -> None:
    draw = random.Random(seed)
    step = new_step()
    lengths = [draw.randint(8, 20) for _ in range(6)]
    prompts = [inputs_of(length, 100 * seed + i) for i, length in enumerate(lengths)]
    done = [0] * 6
    found: dict[str, Tensor] = {}
    restarted = False
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        works, parts = [], []
        for i in draw.sample(range(6), 4):
            count = min(draw.randint(1, 7), lengths[i] - done[i])
            if count > 0:
                works.append(Work(f"request-{i}", key_of(i, lengths[i]), done[i], count))
                parts.append({n: x[done[i] : done[i] + count] for n, x in prompts[i].items()})
                done[i] += count
        if not works:
            continue
        step.plan(works, [f"request-{i}" for i in range(6)])
        x_LTF = {layer: torch.cat([part[layer] for part in parts]) for layer in (1, 2, 4)}
        y = torch.zeros(len(x_LTF[1]), D)
        assert torch.equal(run(step, works, x_LTF, y), y)  # no expert acts
        found.update(step.finish())
        if not restarted and done[0] > 4:  # preempted: computed again from its beginning
            restarted, done[0] = True, 0
    assert len(found) == 6
    assert step.num_carried == 0
    for i, x_LTF in enumerate(prompts):
        torch.testing.assert_close(found[f"key-{i}"], expected_key(x_LTF, lengths[i]))


def test_partial_keys_of_requests_that_ended_are_dropped() -> None:
    step = new_step()
    x_LTF = inputs_of(6, 0)
    work = Work("request", key_of(0, 12), 0, 6)
    step.plan([work], ["request"])
    run(step, [work], x_LTF, torch.zeros(6, D))
    assert step.finish() == []
    assert step.num_carried == 1
    step.plan([], ["other"])
    assert step.num_carried == 0


def test_a_prompt_that_was_not_read_from_its_beginning_is_an_error() -> None:
    step = new_step()
    work = Work("request", key_of(0, 12), 6, 6)
    step.plan([work], ["request"])
    run(step, [work], inputs_of(6, 0), torch.zeros(6, D))
    with pytest.raises(RuntimeError, match="beginning of request"):
        step.finish()


@pytest.mark.parametrize("rank", [0, 3])
def test_experts_act_from_their_start_on_as_in_the_own_engine(rank: int) -> None:
    step = new_step(rank)
    works = [
        Work("a", expert_of(4, 5), 3, 6),  # from its third token of this batch
        Work("b", {}, 0, 4),
        Work("c", expert_of(1, 2), 9, 1),  # a token of its answer
        Work("d", expert_of(4, 9), 0, 3),  # not yet
    ]
    step.plan(works, "abcd")
    x_TF, y_TD = torch.randn(14, F), torch.randn(14, D)
    out_TD = run(step, works, {LAYER: x_TF}, y_TD)
    tensors = step.bank.tensors
    own = LowRankBank(tensors["down"], tensors["up"]) if rank else FullBank(tensors["weight"])
    slot = torch.tensor([-1, -1, 4, 4, 4, 4, -1, -1, -1, -1, 1, -1, -1, -1])
    at = (slot >= 0).nonzero()[:, 0]
    expected = own.apply(x_TF[at][:, None], y_TD[at][:, None], slot[at])[:, 0]
    torch.testing.assert_close(out_TD[at], expected)
    others = (slot < 0).nonzero()[:, 0]
    assert torch.equal(out_TD[others], y_TD[others])


def test_an_expert_that_is_not_in_its_slot_is_never_applied() -> None:
    step = new_step()
    wish = expert_of(2, 0)
    step.bank.names[2] = "expert:of another edit"
    with pytest.raises(RuntimeError, match="expert:2 is not in slot 2"):
        step.plan([Work("a", wish, 0, 1)], ["a"])


def test_what_a_graph_records_equals_the_op_outside_of_graphs() -> None:
    """The recorded operations read static buffers only: they are run here as a replay would."""
    eager, static = new_step(), new_step()
    static.make_static(32, F, torch.float32)
    works = [
        Work("a", expert_of(4, 5), 3, 6),
        Work("b", key_of(0, 9), 0, 9),
        Work("c", expert_of(1, 2), 9, 1),
        Work("d", {}, 4, 1),
    ]
    for seed in range(3):  # what one step leaves behind does not reach the next
        batch = works[: 4 - seed]
        count = sum(work.count for work in batch)
        draw = torch.Generator().manual_seed(seed)
        x_LTF = {layer: torch.randn(20, F, generator=draw) for layer in (1, 2, 4)}
        y_TD = torch.randn(20, D, generator=draw)
        eager.plan(batch, "abcd")
        static.plan(batch, "abcd")
        expected = run(eager, batch, {n: x[:count] for n, x in x_LTF.items()}, y_TD[:count])
        replayed = y_TD.clone()
        for layer, x_TF in x_LTF.items():  # padded to the size of the graph
            static.record(x_TF, replayed if layer == LAYER else y_TD.clone(), layer)
        torch.testing.assert_close(replayed[:count], expected)
        untouched = (expected == y_TD[:count]).all(1)
        assert torch.equal(replayed[:count][untouched], y_TD[:count][untouched])
        assert torch.equal(replayed[count:], y_TD[count:])
        [(name, key)] = eager.finish() or [("", torch.zeros(0))]
        [(other, copy)] = static.finish() or [("", torch.zeros(0))]
        assert name == other
        torch.testing.assert_close(copy, key)
