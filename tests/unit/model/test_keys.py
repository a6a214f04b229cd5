"""Keys of whole prompts and of their parts."""

from dataclasses import replace

import pytest
import torch

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.keys import KeyPlace, SpanKeys, read_keys, read_span_keys
from scen.model.prefill import Prefill, prefill
from scen.records import EncodedEdit, EncodedPrompt

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


def test_padding_does_not_move_a_key(tiny: Base, encoded: list[EncodedEdit]) -> None:
    together = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    key_BKF = read_keys(prefill(tiny.model, together, 3, (1, 4)), PLACES)
    for i, edit in enumerate(encoded):
        alone = prefill(tiny.model, pad_prompts([edit.prompt], tiny.pad_id), 3, (1, 4))
        torch.testing.assert_close(read_keys(alone, PLACES)[0], key_BKF[i], rtol=0, atol=1e-4)


def test_keys_come_in_the_order_of_their_places(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([e.prompt for e in encoded], tiny.pad_id), 3, (1, 4))
    key_BKF = read_keys(filled, PLACES)
    assert (key_BKF.shape, key_BKF.dtype) == ((len(encoded), 2, 64), torch.float32)
    assert torch.equal(key_BKF[:, 0], filled.mean(1).float())
    assert torch.equal(key_BKF[:, 1], filled.last(4).float())
    assert torch.equal(read_keys(filled, PLACES[::-1]), key_BKF.flip(1))


def test_a_place_has_a_name() -> None:
    assert [place.name for place in PLACES] == ["mean@1", "last@4"]


SPAN, LAST, MEAN = KeyPlace(1, "span"), KeyPlace(4, "last"), KeyPlace(1, "mean")


def fill(base: Base, prompts: list[EncodedPrompt]) -> Prefill:
    return prefill(base.model, pad_prompts(prompts, base.pad_id), 3, (1, 4))


def keys_of(base: Base, *texts: str) -> SpanKeys:
    encoded = [base.template.encode_prompt(text) for text in texts]
    return read_span_keys(fill(base, encoded), (SPAN, LAST))


def test_a_span_is_the_mean_over_its_own_tokens(tiny: Base) -> None:
    prompt = tiny.template.encode_prompt("Good day to you! Who founded the town?")
    filled = fill(tiny, [prompt])
    found = read_span_keys(filled, (SPAN, LAST))
    x_PF = filled.inputs[1][0].float()
    parts = ("Good day to you", "Who founded the town")
    assert found.texts == ("! ".join(parts), *parts)
    for key_KF, (begin, end), share in zip(
        found.key_MKF, prompt.spans, found.share_M.tolist(), strict=True
    ):
        torch.testing.assert_close(key_KF[0], x_PF[begin:end].mean(0))
        assert torch.equal(key_KF[1], filled.inputs[4][0, -1].float())
        whole = prompt.spans[0]
        assert share == pytest.approx((end - begin) / (whole[1] - whole[0]))


def test_spans_stand_prompt_by_prompt_whatever_the_batch(tiny: Base) -> None:
    texts = ("Who is it?", "Hello there! WHO IS IT NOW?", "Stop it. Who, then, is it?")
    together = keys_of(tiny, *texts)
    alone = [keys_of(tiny, text) for text in texts]
    assert together.texts == tuple(text for one in alone for text in one.texts)
    assert together.row_M.tolist() == [i for i, one in enumerate(alone) for _ in one.texts]
    assert together.span_M.tolist() == [n for one in alone for n in range(len(one.texts))]
    key_MKF = torch.cat([one.key_MKF for one in alone])
    torch.testing.assert_close(together.key_MKF, key_MKF, rtol=1e-4, atol=1e-5)


def test_an_unusual_form_has_the_keys_of_ordinary_text(tiny: Base) -> None:
    plain = keys_of(tiny, "who founded the town?")
    unusual = ("who\u00a0founded  the\ttown?", "who foun\u200bded the town?")
    for text in (*unusual, "WHO FOUNDED THE TOWN?"):
        found = keys_of(tiny, text)
        assert found.texts == plain.texts
        torch.testing.assert_close(found.key_MKF, plain.key_MKF, rtol=1e-4, atol=1e-5)


def test_the_form_that_is_routed_changes_nothing_of_what_the_base_says(tiny: Base) -> None:
    encoded = [tiny.template.encode_prompt(text) for text in ("WHO FOUNDED IT?", "Who is it?")]
    assert encoded[0].routed is not None
    assert encoded[1].routed is None
    bare = [replace(prompt, routed=None) for prompt in encoded]
    with_copy, without = fill(tiny, encoded), fill(tiny, bare)
    assert with_copy.copies is not None
    assert without.copies is None
    assert torch.equal(with_copy.logits_BV, without.logits_BV)
    for ours, theirs in zip(with_copy.cache.layers, without.cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_a_router_that_knows_no_spans_reads_the_users_own_form(tiny: Base) -> None:
    encoded = [tiny.template.encode_prompt("WHO FOUNDED THE TOWN?  Say it!")]
    filled = fill(tiny, encoded)
    found = read_span_keys(filled, (MEAN, LAST))
    assert len(found.row_M) == 1
    assert torch.equal(found.key_MKF, read_keys(filled, (MEAN, LAST)))
    begin, end = encoded[0].own
    torch.testing.assert_close(found.key_MKF[0, 0], filled.inputs[1][0, begin:end].float().mean(0))
