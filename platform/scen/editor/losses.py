"""The two losses of SCEN (arXiv 2404.02699, as released in TAL-auroraX/SCEN)."""

import torch
from torch import Tensor
from torch.nn import functional

from scen.editor.batch import IGNORED


def expert_loss(logits_NV: Tensor, labels_BS: Tensor) -> Tensor:
    """loss_B: cross-entropy (nats) on target and end tokens, mean within a row.

    `logits_NV` are those of the N positions whose label is not IGNORED, row by row.
    """
    real_BS = labels_BS != IGNORED
    kind = torch.promote_types(logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(logits_NV.to(kind), labels_BS[real_BS], reduction="none")
    nll_BS = torch.zeros(labels_BS.shape, dtype=kind, device=nll_N.device)
    return nll_BS.masked_scatter(real_BS, nll_N).sum(1) / real_BS.sum(1)


def neuron_loss(score_pos: Tensor, score_N: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """Activation, suppression and margin terms of one neuron, or of many along a first axis.

    With s the sigmoid scores: exp(-s_pos) + mean_N(exp(s_neg) + 0.7)
    + mean_N(exp(s_neg) - s_pos + 0.3); without negatives exp(-s_pos). The constants have no
    gradient; they are kept because this is the reference. `mask_N` marks real negatives.
    """
    real_N = torch.ones_like(score_N) if mask_N is None else mask_N.to(score_N.dtype)
    count = real_N.sum(-1)
    grown_N = score_N.exp()
    disable = ((grown_N + 0.7) * real_N).sum(-1) / count.clamp(min=1)
    margin = ((grown_N - score_pos[..., None] + 0.3) * real_N).sum(-1) / count.clamp(min=1)
    return torch.exp(-score_pos) + disable + margin
