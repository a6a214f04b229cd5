"""The interface of a method (`Editor`, `Edited`), and the platform's two methods, without a
store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import RouterPlan, fit_router
from scen.calibration.router_set import Asking, build_router_set
from scen.config import Config, load_config
from scen.data.asking import wordings
from scen.data.read import read_prompts
from scen.evaluation.probes import subject_aliases
from scen.ledger.tensors import read_tensor
from scen.method import MethodName
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.expert import build_bank
from scen.model.prefill import Prefill
from scen.model.route import NeuronBank, Route, SigmoidNeurons
from scen.model.user_text import vocabulary
from scen.pipeline.work import wave_plan
from scen.records import Edit
from scen.routing.keys import pack_texts, read_prompt_keys, read_prompt_spans, unpack_texts
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router
from scen.samples import sample_path
from scen.snapshot.load import choose_profile, make_router, stored_form
from scen.snapshot.method import StoreMethod, resolve_method
from scen.training.experts import encode_edits
from scen.training.parts import Fitted, add_neurons, cut_parts, fit_part, join_parts

Progress = Callable[[int], None]
StepProgress = Callable[[int, int], None]
"""Called with the steps done since the last call, and the total."""


def unchanged(prompt: str) -> str:
    """The prompt itself."""
    return prompt


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The items in runs of `size`, in order."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


@dataclass(frozen=True)
class Edited:
    """An edited base.

    `models` is one model, or n of which model f answers questions about edits f, f + n, ... (see
    `PlatformEditor.folds`). `experts` are edit ids by expert index, for methods with an expert per
    edit. `rewrite` is applied to each prompt. `num_bytes` is the storage needed besides the base;
    `spare_seconds` is the part of the editing time not to be charged to the method. `has_beams` is
    False if beam search would not decode as the method prescribes.
    """

    models: tuple[EditedModel, ...]
    num_bytes: int
    experts: Sequence[str] = ()
    rewrite: Callable[[str], str] = unchanged
    spare_seconds: float = 0.0
    has_beams: bool = True

    def model(self, fold: int) -> EditedModel:
        """The model that answers questions of a fold."""
        return self.models[fold % len(self.models)]

    def name(self, expert: int) -> str | None:
        """The edit id of an expert; None for the base, and for experts that are not edits."""
        return self.experts[expert] if 0 <= expert < len(self.experts) else None


class Editor(Protocol):
    """An editing method. Its fields are its settings."""

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """The base with these edits applied in order. The base itself is not modified.

        A step of `progress` is one edit in one pass of the method over the edits.
        """
        ...


@dataclass(frozen=True)
class PlatformEditor:
    """Methods `scen-lr` and `scen`, by their settings (`method`, `expert`, `router`).

    With `folds` the profile's router is not used: the edits are split into that many folds, and
    questions about the edits of a fold are answered with a router fitted on the other folds. Each
    model holds all edits. For streams on which the packaged profile was fitted, or of another kind
    than its data.

    With `aliases` (scen-lr only) each edit also has neurons for its prompt with other names of its
    subject, which share its expert.
    """

    method: MethodName = "scen-lr"
    expert: dict[str, Any] = field(default_factory=dict)
    router: dict[str, Any] = field(default_factory=dict)
    folds: int = 0
    aliases: bool = False

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Run both training stages. Raises ConfigError if the settings do not fit the base."""
        config = load_config(
            fixed={"method": self.method, "expert": self.expert, "router": self.router}
        )
        profile = choose_profile(config, base)
        method = resolve_method(config, base.num_layers, profile)
        fitted = _fit(base, config, method, edits, progress)
        began = time.perf_counter()
        kept = {name: t for name, t in fitted.tensors.items() if name != "h"}
        if not method.kind.has_router:
            assert method.theta is not None
            weight_EF = kept["neuron"].to(base.device)
            neurons: list[NeuronBank] = [SigmoidNeurons(method.layer, weight_EF, method.theta)]
            stored = kept
        else:
            routers = self._routers(base, config, method, edits)
            index = {name: kept[name] for name in ("key", "text")}
            owners = list(range(len(edits)))
            if self.aliases:
                index, owners = _with_aliases(base, method, edits, index)
            texts = unpack_texts(index["text"])
            owner_A = torch.tensor(owners, device=base.device)
            neurons = [
                SharedNeurons(KeyNeurons.build(r, index["key"].float(), texts), owner_A)
                for r in routers
            ]
            stored = stored_form(kept | index, method, routers[0])
        spare = time.perf_counter() - began if self.folds else 0.0
        names = method.kind.expert_tensors
        bank = build_bank({name: read_tensor(stored, name).to(base.device) for name in names})
        return Edited(
            tuple(
                EditedModel(base.model, method.layer, bank, n, base.pad_id, base.stop_ids)
                for n in neurons
            ),
            sum(t.nbytes for t in stored.values()),
            experts=[edit.id for edit in edits],
            spare_seconds=spare,
        )

    def _routers(
        self, base: Base, config: Config, method: StoreMethod, edits: Sequence[Edit]
    ) -> list[Router]:
        neutral = read_prompts(sample_path("nq_neutral.jsonl"))

        def read_neutral() -> Tensor:
            return read_prompt_keys(base, method.places, neutral)

        if not self.folds:
            profile = choose_profile(config, base)
            return [make_router(config, base, profile, method.places, read_neutral)]
        plan = RouterPlan(bound=config.router.max_false_activation)
        routers = []
        for fold in range(self.folds):
            others = [edit for i, edit in enumerate(edits) if i % self.folds != fold]
            asking = Asking(wordings("fit"), has_roles=base.template.has_roles)
            about = build_router_set(others, neutral, asking=asking)
            encoded = [base.template.encode_chat(q.messages) for q in about.questions]
            spans = read_prompt_spans(base, method.places, encoded)
            whole_NKF = spans.key_MKF[spans.span_M == 0]
            words = vocabulary(base.tokenizer)
            keys = RouterKeys(about, method.places, whole_NKF, spans, words)
            routers.append(fit_router(keys, plan)[0])
        return routers


@dataclass(frozen=True)
class SharedNeurons:
    """Neurons that may share edits: neuron a belongs to edit `owner_A[a]`."""

    neurons: NeuronBank
    owner_A: Tensor

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose inputs routing reads."""
        return self.neurons.layers

    def __len__(self) -> int:
        return len(self.owner_A)

    def route(self, filled: Prefill) -> Route:
        """The route to edits instead of neurons."""
        route = self.neurons.route(filled)

        def owner(index_B: Tensor) -> Tensor:
            return self.owner_A[index_B.clamp(min=0)].masked_fill(index_B < 0, -1)

        indices = (owner(i) for i in (route.expert_B, route.nearest_B, route.runner_up_B))
        expert_B, nearest_B, runner_up_B = indices
        return Route(expert_B, route.score_B, nearest_B, runner_up_B, route.span_B)


def _with_aliases(
    base: Base, method: StoreMethod, edits: Sequence[Edit], index: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[int]]:
    """Keys and texts with those of the prompts with other names of their subjects appended, and the
    index of the edit of each."""
    pairs = [
        (edit.prompt.replace(edit.subject or "", name), number)
        for number, edit in enumerate(edits)
        for name in subject_aliases(edit)
    ]
    owners = [*range(len(edits)), *(number for _, number in pairs)]
    if not pairs:
        return index, owners
    encoded = [base.template.encode_prompt(prompt) for prompt, _ in pairs]
    spans = read_prompt_spans(base, method.places, encoded)
    whole = spans.take((spans.span_M == 0).nonzero()[:, 0])
    key_AKF = torch.cat([index["key"], whole.key_MKF.half().cpu()])
    texts = [*unpack_texts(index["text"]), *whole.texts]
    return {"key": key_AKF, "text": pack_texts(texts)}, owners


def _fit(
    base: Base, config: Config, method: StoreMethod, edits: Sequence[Edit], progress: StepProgress
) -> Fitted:
    plan = wave_plan(config, method)
    encoded = encode_edits(base.template, edits, other_ways=config.expert.other_ways)
    parts = cut_parts(encoded, config.expert.batch_size)
    fitted = []
    for part in parts:
        fitted.append(fit_part(base.model, plan, [encoded[i] for i in part], base.pad_id))
        progress(len(part), len(edits))
    return add_neurons(join_parts(parts, fitted), plan, [edit.seed for edit in edits], None)
