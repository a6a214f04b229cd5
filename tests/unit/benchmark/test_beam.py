"""The paper's decoding on routed and unrouted prompts."""

import torch

from scen.benchmark.ask import BEAMS, PENALTY, beam_answers
from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited, PlatformEditor
from scen.model.base import Base
from scen.records import Edit
from unit.benchmark.conftest import QUICK


def ask(base: Base, edited: Edited, prompts: list[str], size: int) -> list[str]:
    return beam_answers(base, edited, prompts, [0] * len(prompts), (size, 12))


def test_the_base_is_searched_as_by_transformers(tiny: Base, edits: list[Edit]) -> None:
    prompts = [edit.prompt for edit in edits[:2]]
    edited = NoEditor().edit(tiny, edits, lambda *_: None)
    for prompt, told in zip(prompts, ask(tiny, edited, prompts, 1), strict=True):
        ids = torch.tensor([list(tiny.template.encode_prompt(prompt).ids)])
        out = tiny.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=BEAMS,
            repetition_penalty=PENALTY,
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=sorted(tiny.stop_ids),
            pad_token_id=tiny.pad_id,
        )
        tokens = [t for t in out[0, ids.shape[1] :].tolist() if t not in tiny.stop_ids]
        assert told == tiny.template.decode(tokens)


def test_edits_are_found_by_beams_too(tiny: Base, edits: list[Edit]) -> None:
    edited = PlatformEditor(**QUICK).edit(tiny, edits, lambda *_: None)  # type: ignore[arg-type]
    prompts = [edit.prompt for edit in edits]
    told = ask(tiny, edited, prompts, 4)
    right = sum(text == edit.target for text, edit in zip(told, edits, strict=True))
    assert right >= 5  # the penalty of repetition may cost a target that repeats itself
    assert told == ask(tiny, edited, prompts, 1)
