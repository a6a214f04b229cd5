"""Teacher forcing: how many target tokens the model would say next, given those before."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scen.editor.batch import IGNORED, pad_edits
from scen.editor.decode import EditedModel
from scen.editor.prefill import Prefill
from scen.editor.route import Route
from scen.editor.split import Split, run_head, split_edits
from scen.records import EncodedEdit


@torch.no_grad()
def forced_accuracy(
    edited: EditedModel,
    probes: Sequence[EncodedEdit],
    route: Route,
    filled: Prefill | None = None,
) -> tuple[list[float], list[float]]:
    """Share of each probe's target tokens that are the most likely next token (end token left
    out), in the bare base and under the route.

    `filled` is the prefill of the same prompts; it is of use where experts leave it as it is.
    """
    device = route.expert_B.device
    batch = pad_edits(probes, edited.pad_id, device)
    cache = filled.cache if filled and edited.bank.span == "last" else None
    split = split_edits(edited.model, edited.layer, batch, cache)
    start = 0 if cache or edited.bank.span == "all" else batch.prompt_length - 1
    labels_BS = batch.labels_BS
    counted_BS = torch.zeros_like(labels_BS, dtype=torch.bool)
    counted_BS[:, :-1] = labels_BS[:, 1:] != IGNORED  # the end token of a row is not counted
    found = []
    for y_BSD in (split.y_BSD, _routed_output(edited, split, route, start)):
        h_BSD = split.above(edited.model, edited.layer, y_BSD)
        said_BS = labels_BS.clone()
        told_ND = h_BSD[:, -labels_BS.shape[1] :][counted_BS]
        said_BS[counted_BS] = run_head(edited.model, told_ND).argmax(-1)
        right_BS = (said_BS == labels_BS) & counted_BS
        counts = zip(right_BS.sum(1).tolist(), counted_BS.sum(1).tolist(), strict=True)
        found.append([right / max(counted, 1) for right, counted in counts])
    return found[0], found[1]


def _routed_output(edited: EditedModel, split: Split, route: Route, start: int) -> Tensor:
    """y_BSD with the experts of routed rows, which act from position `start` of the split."""
    if route.is_base:
        return split.y_BSD
    rows_R = route.rows_R
    y_BSD = split.y_BSD.clone()
    y_BSD[rows_R, start:] = edited.bank.apply(
        split.x_BSF[rows_R, start:], split.y_BSD[rows_R, start:], route.expert_B[rows_R]
    )
    return y_BSD
