"""Too little data is refused before anything is read; missing rephrases are written.

The whole of a calibration is tested in tests/e2e.
"""

from dataclasses import replace

import pytest
import torch

from scen.calibration.calibrate import calibrate, complete_edits, is_other_wording
from scen.calibration.choose_expert import bare_model
from scen.errors import InputError
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.route import Route
from scen.records import Edit
from scen.text import normalise


def test_few_edits_or_prompts_are_refused(tiny: Base, edits: list[Edit]) -> None:
    with pytest.raises(InputError, match=r"^--edits: 6 usable edits; .* at least 20"):
        calibrate(tiny, [edits], ["x"] * 50, {})
    with pytest.raises(InputError, match=r"^--locality: 3 prompts; at least 20"):
        calibrate(tiny, [edits, edits, edits, edits], ["x"] * 3, {})


def test_a_given_rephrase_stays_alone(tiny: Base, edits: list[Edit]) -> None:
    assert complete_edits(tiny, edits) == edits


def test_the_others_get_different_wordings(tiny: Base, edits: list[Edit]) -> None:
    bare = [replace(edit, rephrases=()) if i < 4 else edit for i, edit in enumerate(edits)]
    told: list[int] = []
    found = complete_edits(tiny, bare, told.append)
    assert sum(told) == 4
    assert found[4:] == edits[4:]
    for edit in found[:4]:
        assert len(edit.rephrases) >= 2
        assert {r.source for r in edit.rephrases} <= {"base", "made"}
        assert all(normalise(r.text) != normalise(edit.prompt) for r in edit.rephrases)


def test_what_the_base_wrote_must_name_the_subject_and_differ() -> None:
    edit = Edit("a", "Who founded Oslo?", "x", "Oslo")
    assert is_other_wording("By whom was Oslo founded?", edit)
    assert not is_other_wording("who founded oslo", edit)
    assert not is_other_wording("By whom was Bergen founded?", edit)
    assert not is_other_wording("Oslo was founded " + "long ago " * 9, edit)
    assert not is_other_wording("", edit)


def test_a_bare_model_answers_as_its_base(tiny: Base) -> None:
    encoded = [tiny.template.encode_prompt("Who founded Oslo?")]
    batch = pad_prompts(encoded, tiny.pad_id)
    told = decode(bare_model(tiny), batch, 5, Route.base(1))
    with torch.no_grad():
        expected = tiny.model.generate(
            batch.ids_BP,
            attention_mask=batch.mask_BP.long(),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=sorted(tiny.stop_ids),
            pad_token_id=tiny.pad_id,
        )[0, batch.ids_BP.shape[1] :]
    ends = [i for i, token in enumerate(expected.tolist()) if token in tiny.stop_ids]
    assert told.tokens[0] == expected.tolist()[: ends[0] if ends else None]
