"""Several neurons for one edit."""

import torch

from scen.benchmark.editors.scen_methods import PlatformEditor, SharedNeurons
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.prefill import prefill
from scen.model.route import SigmoidNeurons
from scen.records import Edit
from unit.benchmark.conftest import QUICK

PROMPTS = ["Who founded amber?", "Where is dune?", "Why?"]


def test_neurons_lead_to_the_edits_that_they_belong_to(tiny: Base) -> None:
    batch = pad_prompts([tiny.template.encode_prompt(text) for text in PROMPTS], tiny.pad_id)
    filled = prefill(tiny.model, batch, 2, (2,))
    h_BF = filled.last(2)
    neurons = SigmoidNeurons(2, h_BF / h_BF.norm(dim=1, keepdim=True), 0.5)
    shared = SharedNeurons(neurons, torch.tensor([0, 1, 0]))
    plain, mapped = neurons.route(filled), shared.route(filled)
    assert plain.expert_B.tolist() == [0, 1, 2]
    assert mapped.expert_B.tolist() == [0, 1, 0]
    assert (shared.layers, len(shared)) == (frozenset({2}), 3)
    closed = SharedNeurons(SigmoidNeurons(2, neurons.weight_EF, 1.0), shared.owner_A)
    assert closed.route(filled).expert_B.tolist() == [-1, -1, -1]


def test_another_name_is_a_further_key_of_the_same_edit(tiny: Base) -> None:
    edit = Edit("ship", "What class is USS Kete (SS-369)?", "amber", "USS Kete (SS-369)")
    other = Edit("town", "Where is Heath?", "dune", "Heath")
    plain, more = (
        PlatformEditor(**QUICK, aliases=aliases).edit(tiny, [edit, other], lambda *_: None)  # type: ignore[arg-type]
        for aliases in (False, True)
    )
    assert more.num_bytes > plain.num_bytes
    assert (len(plain.models[0].neurons), len(more.models[0].neurons)) == (2, 3)
    batch = pad_prompts([tiny.template.encode_prompt("What class is USS Kete?")], tiny.pad_id)
    model = more.model(0)
    route = model.route(model.prefill(batch))
    assert more.name(int(route.expert_B[0])) == "ship"
