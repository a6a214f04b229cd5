"""Ranks of one process group share each base by ZeRO-3, train unequal edits and answer: two on
CPUs, or one on a GPU with the weights in main memory. Run as a script with a file for the results
of rank 0, by the bases' folders, the device, and these folders."""

import copy
import json
import os
import sys
from functools import partial
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


def load(folder: str, device: str) -> Base:
    return load_base(folder, template="llama2-inst", dtype="float32", device=device)


def share(base: Base, rank: int, sync: RankSync = NO_SYNC) -> dict[str, Any]:
    """Rank 0 trains two edits to the end and routes none; rank 1 one for a while, and routes it."""
    prompts = [f"Who founded amber {i}?" for i in range(3)]
    edits = [base.template.encode_edit(Edit(p, p, "dune" * (1 + len(p) % 2))) for p in prompts]
    mine = edits[:1] if rank else edits[1:]
    plan = ExpertPlan("scen-lr", LAYER, 6, 5e-2, stop_loss=4.0 if rank else 0.0)
    fitted = fit_experts(base.model, plan, mine, base.pad_id, sync=sync)
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, 64, device=base.device), 1.0)
    edited = EditedModel(base.model, LAYER, fitted.bank, nobody, base.pad_id, frozenset(), sync)
    batch = pad_prompts([edit.prompt for edit in mine], base.pad_id, base.device)
    filled = edited.prefill(batch)
    route = Route.fixed([0], base.device) if rank else Route.base(2, base.device)
    tokens = answer(edited, filled, route, 5 if rank else 3).tokens
    return {"losses": fitted.losses, "tokens": tokens, "bytes": held_bytes(base)}


def held_bytes(base: Base) -> int:
    """Bytes of the base that this rank holds; on a GPU those that are not offloaded."""
    if base.device.type == "cpu":
        return shard_bytes(base)
    held = [getattr(weight, "ds_tensor", weight) for weight in base.model.parameters()]
    return sum(t.numel() * t.element_size() for t in held if t.device.type == "cuda")


def run(rank: int, out: str, device: str, *folders: str) -> None:
    world = 2 if device == "cpu" else 1
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in names.items()})
    backend, place = "gloo" if device == "cpu" else "nccl", f"file://{out}.group"
    dist.init_process_group(backend, init_method=place, rank=rank, world_size=world)
    config = copy.deepcopy(read_deepspeed(None))
    if device != "cpu":
        config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    results = {}
    for folder in folders:
        whole = share(load(folder, device), rank)
        base, sync = load_sharded(partial(load, folder, device), config)
        results[folder] = {"whole": whole, "sharded": share(base, rank, sync)}
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(run, tuple(sys.argv[1:]), nprocs=2 if sys.argv[2] == "cpu" else 1)
