"""Partial forward passes of the base: below the edited layer, above it, and the head.

The forward methods of transformers are run with some layers left out, so that scales, soft caps,
norms, biases, attention windows and rotary embeddings of every architecture are its own. A base
must have `model.layers[i]` with `self_attn` and a linear `mlp.down_proj`, followed by `model.norm`;
`unsupported_reason` checks this.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from scen.errors import BaseError
from scen.model.batch import cache_argument

TESTED = frozenset(
    (
        *("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma", "gemma2", "gemma3_text"),
        *("granite", "olmo2", "smollm3", "cohere", "cohere2"),
    )
)
"""Values of `model_type` whose partial passes are tested against transformers' full forward."""

SUPPORTED = (
    "dense decoders with self_attn and a linear mlp.down_proj in each of model.layers, such as "
    "Llama, SmolLM, Qwen2, Qwen3, Mistral, Phi-3, Gemma, Granite, OLMo 2 and Cohere"
)

Pair = tuple[Tensor, Tensor]

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class PrefixKV:
    """The keys and values, per layer, of the tokens before those that are run; never modified.

    Stands in for a transformers cache: attention calls only `update`. `fresh` collects the keys and
    values of the run itself.
    """

    def __init__(self, prefix: dict[int, Pair]) -> None:
        self.prefix = prefix
        self.fresh: dict[int, Pair] = {}

    @classmethod
    def of(cls, cache: Any | None, length: int, rows: Tensor | None = None) -> "PrefixKV":
        """The first `length` positions of a cache; of all rows unless `rows` is given."""
        if cache is None or length == 0:
            return cls({})
        pick = slice(None) if rows is None else rows
        layers = enumerate(cache.layers)
        return cls(
            {i: (kv.keys[pick, :, :length], kv.values[pick, :, :length]) for i, kv in layers}
        )

    def take(self, rows: Tensor) -> "PrefixKV":
        """The prefixes of these rows."""
        return PrefixKV({i: (k[rows], v[rows]) for i, (k, v) in self.prefix.items()})

    def update(self, keys: Tensor, values: Tensor, layer: int, **_: object) -> Pair:
        """All keys and values that this layer may attend to."""
        self.fresh[layer] = (keys, values)
        if layer not in self.prefix:
            return keys, values
        before_keys, before_values = self.prefix[layer]
        return torch.cat([before_keys, keys], 2), torch.cat([before_values, values], 2)


@dataclass(frozen=True)
class Span:
    """The tokens of one run, S per row, after a prefix of cached keys and values; T positions.

    `allowed_B1ST` (bool): the positions that each token may attend to. `distance_B1ST` (int64): how
    many positions before the token each of them lies.
    """

    positions_BS: Tensor
    allowed_B1ST: Tensor
    distance_B1ST: Tensor
    prefix: PrefixKV

    def take(self, rows: Tensor) -> "Span":
        """The span of these rows."""
        distance = self.distance_B1ST
        return Span(
            self.positions_BS[rows],
            self.allowed_B1ST[rows],
            distance if len(distance) == 1 else distance[rows],
            self.prefix.take(rows),
        )

    def within(self, window: int | None) -> Tensor:
        """The positions attended to with this attention window (tokens; None: no limit)."""
        if window is None:
            return self.allowed_B1ST
        return self.allowed_B1ST & (self.distance_B1ST < window)


@dataclass(frozen=True)
class LayerInput:
    """The input of a layer (`h_BSD`) and the output of its attention module (`attention_BSD`)."""

    h_BSD: Tensor
    attention_BSD: Tensor

    def take(self, rows: Tensor, start: int = 0) -> "LayerInput":
        """These rows, from position `start` on."""
        return LayerInput(self.h_BSD[rows, start:], self.attention_BSD[rows, start:])


def span_after(mask_BT: Tensor, positions_BT: Tensor, prefix: PrefixKV, length: int) -> Span:
    """The span of all positions from `length` on."""
    order_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    distance_ST = order_T[length:, None] - order_T[None]
    # Every token attends to itself, so that softmax over a row of padding is defined.
    allowed_BST = ((distance_ST >= 0) & mask_BT[:, None]) | (distance_ST == 0)
    return Span(positions_BT[:, length:], allowed_BST[:, None], distance_ST[None, None], prefix)


def run_below(model: Any, stop: int, ids_BS: Tensor, span: Span) -> Tensor:
    """h_BSD after the embedding and layers 0 .. stop-1."""
    layers = list(model.model.layers)
    layers[stop:] = [_identity] * (len(layers) - stop)
    return _run(model, layers, {"input_ids": ids_BS}, span)


def run_above(model: Any, layer: int, layer_input: LayerInput, y_BSD: Tensor, span: Span) -> Tensor:
    """h_BSD after the last layer, with `y_BSD` as the output of the MLP of `layer`."""
    layers = list(model.model.layers)
    block = _copy_with(
        layers[layer],
        self_attn=lambda *_, **__: (layer_input.attention_BSD, None),
        mlp=lambda *_, **__: y_BSD,
    )

    def finish(_h_BSD: Tensor, **options: Any) -> Tensor:
        return _hidden(type(block).forward(block, layer_input.h_BSD, **options))

    layers[: layer + 1] = [*[_identity] * layer, finish]
    return _run(model, layers, {"inputs_embeds": layer_input.h_BSD}, span)


def run_head(model: Any, h_ND: Tensor) -> Tensor:
    """logits_NV from the last layer's output at N positions."""
    return run_lm_head(model, model.model.norm(h_ND.contiguous()))


def run_lm_head(model: Any, normed_ND: Tensor) -> Tensor:
    """logits_NV from the normed output at N positions."""
    # On a strided slice, the head would copy its weights once per row.
    output = BaseModelOutputWithPast(last_hidden_state=normed_ND.contiguous()[:, None])
    head = _copy_with(model, model=lambda **_: output)
    logits_N1V: Tensor = type(model).forward(head, inputs_embeds=normed_ND, use_cache=False).logits
    return logits_N1V[:, 0]


def window_of(config: Any, layer: int) -> int | None:
    """Attention window of a layer in tokens, the token itself included; None for no limit."""
    layer_types = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    return window if layer_types is None or layer_types[layer] == "sliding_attention" else None


def _run(model: Any, layers: list[Any], inputs: dict[str, Tensor], span: Span) -> Tensor:
    """h_BSD: the decoder's forward with `layers` in place of its own and without the final norm."""
    core = model.model
    output = type(core).forward(
        _copy_with(core, layers=layers, norm=_identity),
        **inputs,
        **cache_argument(span.prefix),
        attention_mask=_masks(core, span),
        position_ids=span.positions_BS,
        use_cache=True,
    )
    h_BSD: Tensor = output.last_hidden_state
    return h_BSD


def _masks(core: Any, span: Span) -> Any:
    """The 4-d attention mask that a decoder uses unchanged; one per layer type if they differ."""
    config = core.config

    def mask(window: int | None) -> Tensor:
        allowed = span.within(window)
        if config._attn_implementation != "eager":
            return allowed
        # Eager attention adds its mask to the scores.
        scores = torch.zeros(allowed.shape, dtype=core.dtype, device=allowed.device)
        return scores.masked_fill(~allowed, torch.finfo(core.dtype).min)

    layer_types = getattr(config, "layer_types", None) or ["all"]
    if len(set(layer_types)) == 1:
        return mask(window_of(config, 0))
    return {
        layer_type: mask(window_of(config, layer_types.index(layer_type)))
        for layer_type in set(layer_types)
    }


def _identity(h_BSD: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stands in for a module that is not run."""
    return h_BSD


def _hidden(output: Any) -> Tensor:
    h_BSD: Tensor = output[0] if isinstance(output, tuple) else output
    return h_BSD


def _copy_with(module: Any, **children: Any) -> Any:
    """A shallow copy of a module with some children replaced; the module is not modified."""
    other = object.__new__(type(module))
    # Attribute lookup finds entries of `__dict__` before those of `_modules`.
    other.__dict__.update(module.__dict__, **children)
    return other


def unsupported_reason(model: Any) -> str | None:
    """Why a model cannot be edited, or None if it can.

    Checks its modules, then partial passes over two tokens. A model on the meta device suffices;
    its rotary embedding may be modified.
    """
    core = getattr(model, "model", None)
    if not all(hasattr(core, name) for name in ("layers", "norm", "embed_tokens")):
        return "its layers are not at model.layers, between embed_tokens and norm"
    for index, block in enumerate(model.model.layers):
        mlp = getattr(block, "mlp", None)
        if not hasattr(block, "self_attn"):
            return f"layer {index} has no self_attn"
        if hasattr(mlp, "experts"):
            return f"layer {index} is a mixture of experts: it has no single mlp.down_proj"
        if not isinstance(getattr(mlp, "down_proj", None), nn.Linear):
            return f"layer {index} has no linear mlp.down_proj"
    if unsupported := set(getattr(model.config, "layer_types", None) or ()) - _LAYER_TYPES:
        return f"it has layers of type {', '.join(sorted(unsupported))}"
    try:
        return _reason_in_run(model)
    except Exception as err:  # the code of an unknown architecture may raise anything
        return f"its layers cannot be run alone ({type(err).__name__}: {str(err).splitlines()[0]})"


def _reason_in_run(model: Any) -> str | None:
    count, layer = len(model.model.layers), len(model.model.layers) // 2
    rotary: Any = getattr(model.model, "rotary_emb", None)
    if model.device.type == "meta" and isinstance(getattr(rotary, "rope_type", None), str):
        rotary.rope_type = "default"  # other types read the values of the positions
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    span = span_after(ids.bool(), torch.arange(2, device=ids.device)[None], PrefixKV({}), 0)
    mlp = model.model.layers[layer].mlp
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _module, _args, out, key=key: outputs.update({key: out})
        )
        for key, module in (("mlp", mlp), ("down_proj", mlp.down_proj))
    ]
    try:
        with torch.no_grad(), capture_layer(model, layer) as captured:
            run_below(model, count, ids, span)
            run_head(model, run_above(model, layer, captured.given, captured.y_BSD, span)[:, -1])
    finally:
        for handle in handles:
            handle.remove()
    if outputs["mlp"] is not outputs["down_proj"]:
        return "its MLP transforms the output of down_proj"
    shapes = {tensor.shape for pair in span.prefix.fresh.values() for tensor in pair}
    if len(span.prefix.fresh) != count or len(shapes) != 1:
        return "its layers do not all cache keys and values of the same shape"
    return None


@torch.no_grad()
def check_parts(model: Any) -> None:
    """Compare partial passes with the model's full forward on a few tokens. Raises BaseError if
    they differ by more than rounding."""
    layer = len(model.model.layers) // 2
    ids = torch.arange(3, 11, device=model.device)[None]
    span = span_after(torch.ones_like(ids).bool(), ids - 3, PrefixKV({}), 0)
    with capture_layer(model, layer) as captured:
        run_below(model, layer + 1, ids, span)
    h_1SD = run_above(model, layer, captured.given, captured.y_BSD, span)
    logits_SV, whole_SV = run_head(model, h_1SD[0]), model(input_ids=ids).logits[0]
    difference, scale = (logits_SV - whole_SV).abs().max(), whole_SV.abs().max()
    if not difference <= 0.02 * scale:
        raise BaseError(
            f"base: model_type {model.config.model_type!r} cannot be edited: when run layer by "
            f"layer, its logits differ from a full forward pass by {difference / scale:.0%}"
        )


@contextmanager
def capture_inputs(model: Any, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Within this block, each forward stores the `down_proj` inputs of these layers in the dict."""
    captured: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_module: Any, args: tuple[Tensor, ...]) -> None:
            captured[layer] = args[0].detach()

        return hook

    handles = [
        model.model.layers[i].mlp.down_proj.register_forward_pre_hook(keep(i)) for i in set(layers)
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class CapturedLayer:
    """The layer input and the MLP output of one layer, from the last forward."""

    h_BSD: Tensor | None = None
    attention_BSD: Tensor | None = None
    mlp_BSD: Tensor | None = None

    @property
    def given(self) -> LayerInput:
        """The input and the attention output of the layer."""
        assert self.h_BSD is not None
        assert self.attention_BSD is not None
        return LayerInput(self.h_BSD, self.attention_BSD)

    @property
    def y_BSD(self) -> Tensor:
        """The output of the MLP."""
        assert self.mlp_BSD is not None
        return self.mlp_BSD


@contextmanager
def capture_layer(model: Any, layer: int) -> Iterator[CapturedLayer]:
    """Within this block, each forward stores the intermediate values of a layer in the object."""
    captured = CapturedLayer()
    block = model.model.layers[layer]

    def keep_input(_module: Any, args: tuple[Tensor, ...]) -> None:
        captured.h_BSD = args[0].detach()

    def keep_attention(_module: Any, _args: Any, output: Any) -> None:
        captured.attention_BSD = _hidden(output).detach()

    def keep_output(_module: Any, _args: Any, output: Tensor) -> None:
        captured.mlp_BSD = output.detach()

    handles = [
        block.register_forward_pre_hook(keep_input),
        block.self_attn.register_forward_hook(keep_attention),
        block.mlp.register_forward_hook(keep_output),
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


class RankSync(Protocol):
    """Keeps ranks that share one sharded base in lockstep: all must run its modules together,
    whatever work each has. `NO_SYNC` is for a base that is not sharded."""

    def any_rank(self, needs_pass: bool, /) -> bool:
        """True if any rank needs one more pass of the base. Then all must run it; ranks without
        work run a no-op over no rows, or over rows that are discarded."""
        ...

    def whole(self, weight: Tensor) -> Tensor:
        """A weight of the base, gathered if sharded; all ranks must call it together."""
        ...

    def after_backward(self) -> None:
        """Called after each backward pass, to release gathered weights."""
        ...


class _NoSync:
    """For one process with the whole base."""

    def any_rank(self, needs_pass: bool, /) -> bool:
        return needs_pass

    def whole(self, weight: Tensor) -> Tensor:
        return weight

    def after_backward(self) -> None:
        pass


NO_SYNC: RankSync = _NoSync()
