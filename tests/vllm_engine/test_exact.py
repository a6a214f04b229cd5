"""Rows without an expert are plain vLLM's bit for bit, and expert rows are right, in one batch."""

import random
from typing import Any

import pytest
import torch

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, decode
from scen.model.expert import LowRankBank
from scen.model.keys import read_span_keys
from scen.model.prefill import prefill
from scen.model.route import Route, SigmoidNeurons
from scen.records import EncodedPrompt
from vllm_engine.conftest import EXPERTS, LAYER, PLACES, RANK, SIZES, RunLlm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
NEW = 40
WAYS: dict[str, dict[str, Any]] = {
    "two processes": {"processes": True},
    "whole prompts": {"args": {"max_num_batched_tokens": 1024}},
    # All answers together need more blocks than there are. Without a prefix cache, as prompts that
    # are read take less from it, and batches would differ.
    "preemption": {"args": {"num_gpu_blocks_override": 24, "enable_prefix_caching": False}},
    "no prefix cache": {"args": {"enable_prefix_caching": False}},
    "compiled": {"args": {"enforce_eager": False}},
}


def prompts_of(count: int, seed: int) -> list[EncodedPrompt]:
    """Random prompts of 20 to 90 tokens with two spans."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        length = draw.randint(20, 90)
        ids = tuple(draw.randint(3, 250) for _ in range(length))
        own = (6, length - 4)
        prompts.append(EncodedPrompt(ids, own, (own, (8, 14)), ("", "")))
    return prompts


def expert_wish(row: int, prompt: EncodedPrompt) -> dict[str, Any]:
    """The wish for an expert from the last prompt token on."""
    return {"expert": f"expert:{row}", "slot": row, "start": len(prompt.ids) - 1}


def read_wish(name: str, prompt: EncodedPrompt) -> dict[str, Any]:
    """The wish for the keys of a prompt."""
    ranges = [list(span) for span in (prompt.own, *prompt.spans)]
    return {"key": name, "spans": ranges, "last": len(prompt.ids) - 1}


def stages() -> list[dict[str, Any]]:
    """Experts mixed with readers and others; then later turns of the base, with a warm cache."""
    edited, others = prompts_of(EXPERTS, 1), prompts_of(8, 2)
    mixed = [p for pair in zip(edited, others[:EXPERTS], strict=True) for p in pair]
    mixed += others[EXPERTS:]
    wishes: list[Any] = []
    for i in range(EXPERTS):
        wishes += [expert_wish(i, edited[i]), read_wish(f"key-{i}", others[i])]
    wishes += [None] * (len(mixed) - len(wishes))
    ids = [list(prompt.ids) for prompt in mixed]
    return [{"prompts": ids, "wishes": wishes, "max_tokens": NEW, "reset": True}]


def of_base(rows: list[Any]) -> list[Any]:
    """The rows of the first stage on which no expert acts."""
    return [row for i, row in enumerate(rows) if i % 2 or i >= 2 * EXPERTS]


@pytest.fixture(scope="module")
def expected(base: Base) -> dict[str, Any]:
    """Answers and keys of the platform's own decoder."""
    draw = torch.Generator().manual_seed(3)
    down = torch.randn(EXPERTS, RANK, SIZES["intermediate_size"], generator=draw)
    bank = LowRankBank(down, torch.randn(EXPERTS, SIZES["hidden_size"], RANK, generator=draw))
    neurons = SigmoidNeurons(LAYER, torch.zeros(0, SIZES["intermediate_size"]), 1.0)
    edited = EditedModel(base.model, LAYER, bank, neurons, base.pad_id, frozenset())
    answers, keys = [], []
    for row, prompt in enumerate(prompts_of(EXPERTS, 1)):
        told = decode(edited, pad_prompts([prompt], base.pad_id), NEW, Route.fixed([row]))
        answers.append(told.tokens[0])
    for prompt in prompts_of(8, 2)[:EXPERTS]:
        batch = pad_prompts([prompt], base.pad_id)
        filled = prefill(base.model, batch, LAYER, [place.layer for place in PLACES])
        keys.append(read_span_keys(filled, PLACES).key_MKF)
    return {"answers": answers, "keys": keys}


@pytest.fixture(scope="module")
def conversation(expected: dict[str, Any]) -> list[dict[str, Any]]:
    """Experts answer; then the base continues, from a warm cache and from an empty one."""
    prompts = prompts_of(EXPERTS, 1)
    asked = {
        "prompts": [list(prompt.ids) for prompt in prompts],
        "wishes": [expert_wish(i, prompt) for i, prompt in enumerate(prompts)],
        "max_tokens": NEW,
        "reset": True,
    }
    turns = [
        [*prompt.ids, *answer, *range(10, 30)]
        for prompt, answer in zip(prompts, expected["answers"], strict=True)
    ]
    wishes: list[dict[str, Any]] = []
    for i, (prompt, turn) in enumerate(zip(prompts, turns, strict=True)):
        own = [len(prompt.ids) + 2, len(turn) - 2]
        wishes.append({"key": f"turn-{i}", "spans": [own, own], "last": len(turn) - 1})
    stage: dict[str, Any] = {"prompts": turns, "max_tokens": 8}
    none = [None] * EXPERTS
    return [
        asked,
        stage | {"wishes": none, "reset": False},
        stage | {"wishes": none, "reset": True},
        asked,
        stage | {"wishes": [w | {"key": f"warm-{w['key']}"} for w in wishes], "reset": False},
        stage | {"wishes": wishes, "reset": True},
    ]


OWN_TURN = 1 + 6  # the stage after `stages` and `conversation`


@pytest.fixture(scope="module")
def eager(run_llm: RunLlm, conversation: list[dict[str, Any]]) -> dict[str, Any]:
    """One run of all stages: those of `stages`, `conversation`, and a turn of experts' own."""
    prompt = prompts_of(EXPERTS, 1)[0]
    longer = [[*prompt.ids, *range(10, 80)]]
    turn: dict[str, Any] = {"prompts": longer, "max_tokens": 4}
    wish, other = expert_wish(0, prompt), expert_wish(1, prompt)
    return run_llm(
        [
            *stages(),
            *conversation,
            turn | {"wishes": [wish], "reset": True},
            turn | {"wishes": [wish], "reset": False},
            turn | {"wishes": [other], "reset": False},
        ]
    )


def check_rows(mixed: dict[str, Any], plain: dict[str, Any], expected: dict[str, Any]) -> None:
    """The first stage of a run, against plain vLLM and the platform's own decoder."""
    stage, rows = mixed["stages"][0], mixed["stages"][0]["rows"]
    for ours, theirs in zip(of_base(rows), of_base(plain["stages"][0]["rows"]), strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["logprobs"] == theirs["logprobs"]  # as hexadecimal floats: bit for bit
    assert [row["tokens"] for row in rows[: 2 * EXPERTS : 2]] == expected["answers"]
    for i, key_MKF in enumerate(expected["keys"]):
        read = torch.tensor(stage["keys"][f"key-{i}"])  # mean, two spans, last
        own = torch.stack([key_MKF[0, 0], *key_MKF[:, 1], key_MKF[0, 2]])
        assert ((read - own).norm(dim=1) < 3e-5 * own.norm(dim=1)).all()  # float32
    assert mixed["state"]["reading"] == 0


def test_rows_of_one_batch(
    run_llm: RunLlm, eager: dict[str, Any], expected: dict[str, Any]
) -> None:
    check_rows(eager, run_llm(stages(), plain=True), expected)


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_one_batch_in_other_ways(
    run_llm: RunLlm, expected: dict[str, Any], way: str
) -> None:
    plain = run_llm(stages(), plain=True, **WAYS[way])
    mixed = run_llm(stages(), **WAYS[way])
    check_rows(mixed, plain, expected)
    if way == "preemption":
        assert mixed["stages"][0]["preempted"] > 0
        assert plain["stages"][0]["preempted"] > 0


def logprobs_of(row: dict[str, Any]) -> torch.Tensor:
    """The log-probabilities of a row's tokens."""
    return torch.tensor([float.fromhex(value) for value in row["logprobs"]])


def close(rows: list[Any], others: list[Any]) -> bool:
    """Equal tokens, and log-probabilities that differ by rounding at most."""
    return all(
        row["tokens"] == other["tokens"]
        and torch.allclose(logprobs_of(row), logprobs_of(other), atol=1e-4)
        for row, other in zip(rows, others, strict=True)
    )


def same_keys(stages: list[dict[str, Any]]) -> bool:
    """True if the keys of later turns do not depend on what the cache held."""
    warm, cold = stages[4]["keys"], stages[5]["keys"]
    return all(
        torch.allclose(torch.tensor(warm["warm-" + name]), torch.tensor(key), atol=1e-4)
        for name, key in cold.items()
    )


def test_the_base_never_continues_from_an_expert_s_keys_and_values(eager: dict[str, Any]) -> None:
    turns = eager["stages"][1:OWN_TURN]
    assert any(row["cached"] for row in turns[1]["rows"])  # of the prompts
    for row, prompt in zip(turns[1]["rows"], prompts_of(EXPERTS, 1), strict=True):
        assert row["cached"] < len(prompt.ids)
    assert close(turns[1]["rows"], turns[2]["rows"])
    assert same_keys(turns)


def test_without_the_hooks_of_the_prefix_cache_it_does(
    run_llm: RunLlm, conversation: list[dict[str, Any]]
) -> None:
    """The control: it shows that the test above can fail."""
    turns = run_llm(conversation[:3], without_hash=True)["stages"]
    assert not close(turns[1]["rows"], turns[2]["rows"])


def test_an_expert_continues_from_its_own_keys_and_values_only(eager: dict[str, Any]) -> None:
    prompt = prompts_of(EXPERTS, 1)[0]
    cold, same, other = (stage["rows"][0] for stage in eager["stages"][OWN_TURN:])
    assert same["cached"] > len(prompt.ids) > other["cached"]
    assert cold["tokens"] == same["tokens"]
