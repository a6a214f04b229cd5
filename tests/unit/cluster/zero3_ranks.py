"""Two ranks of one process group share each base by ZeRO-3, train unequal edits and answer. Run as
a script with a file for the results of rank 0, by the bases' folders, and these folders."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from scen.cluster.sharding import load_sharded, read_deepspeed, shard_bytes
from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.route import Route, SigmoidNeurons
from scen.records import Edit
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 3


def load(folder: str) -> Base:
    return load_base(folder, template="llama2-inst", dtype="float32", device="cpu")


def share(base: Base, rank: int, sync: RankSync = NO_SYNC) -> dict[str, Any]:
    """Rank 0 trains two edits to the end and routes none; rank 1 one for a while, and routes it."""
    prompts = [f"Who founded amber {i}?" for i in range(3)]
    edits = [base.template.encode_edit(Edit(p, p, "dune" * (1 + len(p) % 2))) for p in prompts]
    mine = edits[:1] if rank else edits[1:]
    plan = ExpertPlan("scen-lr", LAYER, 6, 5e-2, stop_loss=4.0 if rank else 0.0)
    fitted = fit_experts(base.model, plan, mine, base.pad_id, sync=sync)
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, 64), 1.0)
    edited = EditedModel(base.model, LAYER, fitted.bank, nobody, base.pad_id, frozenset(), sync)
    filled = edited.prefill(pad_prompts([edit.prompt for edit in mine], base.pad_id))
    route = Route.fixed([0]) if rank else Route.base(2)
    tokens = answer(edited, filled, route, 5 if rank else 3).tokens
    return {"losses": fitted.losses, "tokens": tokens, "bytes": shard_bytes(base)}


def run(rank: int, out: str, *folders: str) -> None:
    names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(names)
    dist.init_process_group("gloo", init_method=f"file://{out}.group", rank=rank, world_size=2)
    results = {}
    for folder in folders:
        whole = share(load(folder), rank)
        base, sync = load_sharded(lambda folder=folder: load(folder), read_deepspeed(None))  # type: ignore[misc]
        results[folder] = {"whole": whole, "sharded": share(base, rank, sync)}
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(run, tuple(sys.argv[1:]), nprocs=2)
