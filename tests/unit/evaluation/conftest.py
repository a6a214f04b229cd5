"""Six trained edits on the tiny base, with neurons that know the edits' own prompts."""

from collections.abc import Callable

import pytest

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.decode import EditedModel
from scen.editor.neurons import KeyNeurons, KeyPlace, read_keys
from scen.editor.prefill import prefill
from scen.editor.whitening import Whitening
from scen.records import EncodedEdit
from scen.training.fit_experts import ExpertPlan, Method, fit_experts

LAYER = 3
PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]

MakeEdited = Callable[..., EditedModel]


@pytest.fixture
def make_edited(tiny: Base, encoded: list[EncodedEdit]) -> MakeEdited:
    """The tiny base with an expert and a key for each of the edits."""

    def make(method: Method = "scen-lr", threshold: float = 0.9) -> EditedModel:
        plan = ExpertPlan(method, LAYER, 20, 5e-2 if method == "scen-lr" else 2e-2)
        bank = fit_experts(tiny.model, plan, encoded, tiny.pad_id).bank
        keys = {}
        for name, prompts in (
            ("neutral", [tiny.template.encode_prompt(text) for text in NEUTRAL]),
            ("edits", [edit.prompt for edit in encoded]),
        ):
            batch = pad_prompts(prompts, tiny.pad_id)
            filled = prefill(tiny.model, batch, LAYER, (place.layer for place in PLACES))
            keys[name] = read_keys(filled, PLACES)
        whitening = Whitening.fit(keys["neutral"], 0.1)
        neurons = KeyNeurons.build(PLACES, keys["edits"], whitening, threshold)
        return EditedModel(tiny.model, LAYER, bank, neurons, tiny.pad_id, tiny.stop_ids)

    return make
