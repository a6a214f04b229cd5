"""Six trained edits on the tiny base, with neurons that know the edits' own prompts."""

from collections.abc import Callable

import pytest

from scen.method import MethodName
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.keys import KeyPlace
from scen.records import Edit, EncodedEdit
from scen.routing.keys import read_prompt_keys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import plain_router
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 3
PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]

MakeEdited = Callable[..., EditedModel]


@pytest.fixture
def make_edited(tiny: Base, edits: list[Edit], encoded: list[EncodedEdit]) -> MakeEdited:
    """The tiny base with an expert and a key for each of the edits."""

    def make(method: MethodName = "scen-lr", threshold: float = 0.9) -> EditedModel:
        plan = ExpertPlan(method, LAYER, 20, 5e-2 if method == "scen-lr" else 2e-2)
        bank = fit_experts(tiny.model, plan, encoded, tiny.pad_id).bank
        router = plain_router(PLACES, read_prompt_keys(tiny, PLACES, NEUTRAL), 0.1, threshold)
        key_EKF = read_prompt_keys(tiny, PLACES, [edit.prompt for edit in edits])
        neurons = KeyNeurons.build(router, key_EKF)
        return EditedModel(tiny.model, LAYER, bank, neurons, tiny.pad_id, tiny.stop_ids)

    return make
