"""A base under given routes: no neurons choose."""

import torch

from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.expert import ExpertBank, LowRankBank
from scen.model.route import SigmoidNeurons


def bare_model(base: Base, layer: int = 0, bank: ExpertBank | None = None) -> EditedModel:
    """The base with a bank of experts at a layer, or with none at all."""
    config = base.model.config
    wide, narrow = config.intermediate_size, config.hidden_size
    if bank is None:
        bank = LowRankBank(torch.zeros(0, 1, wide), torch.zeros(0, narrow, 1))
    nobody = SigmoidNeurons(layer, torch.zeros(0, wide), 1.0)
    return EditedModel(base.model, layer, bank, nobody, base.pad_id, base.stop_ids)
