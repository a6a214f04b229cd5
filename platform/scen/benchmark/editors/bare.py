"""No editing at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scen.benchmark.edited import Edited, StepProgress
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.expert import LowRankBank
from scen.model.route import SigmoidNeurons
from scen.records import Edit


@dataclass(frozen=True)
class NoEditor:
    """The base as it is."""

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Nothing is changed and nothing kept."""
        progress(len(edits), len(edits))
        return Edited((plain_model(base),), 0)


def plain_model(base: Base, model: Any = None) -> EditedModel:
    """The base, or another model of its shape, without experts."""
    config = base.model.config
    wide, narrow = config.intermediate_size, config.hidden_size
    device = base.device
    bank = LowRankBank(
        torch.zeros(0, 1, wide, device=device), torch.zeros(0, narrow, 1, device=device)
    )
    nobody = SigmoidNeurons(0, torch.zeros(0, wide, device=device), 1.0)
    return EditedModel(model or base.model, 0, bank, nobody, base.pad_id, base.stop_ids)
