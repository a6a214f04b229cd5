"""The two losses of SCEN (arXiv 2404.02699, as released in TAL-auroraX/SCEN)."""

import torch
from torch import Tensor
from torch.nn import functional

from scen.editor.batch import IGNORED


def expert_loss(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """loss_B: cross-entropy (nats) on target and end tokens, mean within a row."""
    nll_BS = functional.cross_entropy(
        logits_BSV.transpose(1, 2).float()
        if logits_BSV.dtype in (torch.bfloat16, torch.float16)
        else logits_BSV.transpose(1, 2),
        labels_BS,
        reduction="none",
        ignore_index=IGNORED,
    )
    return nll_BS.sum(1) / (labels_BS != IGNORED).sum(1)


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
