"""From ledger entries to a model: read bundles, check them, join their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.decode import EditedModel
from scen.editor.expert import build_bank
from scen.editor.neurons import NeuronBank, SigmoidNeurons
from scen.editor.pace import ALONE, Pace
from scen.routing.keys import WIDTH, unpack_texts
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router
from scen.snapshot.method import StoreMethod
from scen.snapshot.rows import BundleRows, Place


@dataclass(frozen=True)
class SnapshotLoader:
    """Builds edited models of one store on one base; bundles are read once."""

    base: Base
    method: StoreMethod
    router: Router | None  # None for method scen
    rows: BundleRows

    def load(self, places: Sequence[Place], pace: Pace = ALONE) -> EditedModel:
        """The base with the experts and neurons at these places, in this order.

        Raises IntegrityError where a bundle is damaged, NotFoundError where it is missing.
        """
        kind = self.method.kind
        neuron_names = (n for n in kind.neuron_tensors if n != "text" or self.reads_words)
        tensors = self.tensors(places, (*kind.expert_tensors, *neuron_names))
        neurons = self._neurons(tensors)
        bank = build_bank({name: tensors[name] for name in kind.expert_tensors})
        base = self.base
        return EditedModel(
            base.model, self.method.layer, bank, neurons, base.pad_id, base.stop_ids, pace
        )

    def tensors(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named rows of the bundles as tensors on the base's device, float32 at least."""
        if not places:
            return {name: self._empty(name) for name in names}
        rows = self.rows.read(places, names)
        return {name: tensor.to(self.base.device) for name, tensor in rows.items()}

    @property
    def reads_words(self) -> bool:
        """True where the router compares words as well; bundles that were made for routers which
        do not may have none."""
        return self.router is not None and self.router.evidence is not None

    def _empty(self, name: str) -> Tensor:
        config = self.base.config
        wide, narrow, rank = config.intermediate_size, config.hidden_size, self.method.rank
        shapes = {
            "down": (0, rank, wide),
            "up": (0, narrow, rank),
            "weight": (0, narrow, wide),
            "key": (0, len(self.method.places), wide),
            "text": (0, WIDTH),
        }
        return torch.zeros(shapes.get(name, (0, wide)), device=self.base.device)

    def _neurons(self, tensors: dict[str, Tensor]) -> NeuronBank:
        if self.router is None:
            assert self.method.theta is not None
            return SigmoidNeurons(self.method.layer, tensors["neuron"], self.method.theta)
        texts = unpack_texts(tensors["text"].cpu()) if self.reads_words else None
        return KeyNeurons.build(self.router, tensors["key"].cpu(), texts)
