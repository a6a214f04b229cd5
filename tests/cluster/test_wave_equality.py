"""A wave over two Ray Train workers makes the experts of the one-process run."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from cluster.wave_case import EDITS, Ran, case_config, run_case
from conftest import write_tiny_base
from scen.cluster.sharding import base_bytes
from scen.cluster.worker_group import WorkerGroup

pytestmark = pytest.mark.cluster
TOLERANCE = 3e-3  # of numbers kept as float16, after Adam has been at them


def largest_difference(one: Ran, other: Ran) -> float:
    """Over all numbers of the two bundles, relative to 1 + the number."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = [(one.tensors[name].float(), other.tensors[name].float()) for name in one.tensors]
    return max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The wave in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have it: sums keep their order
    ran = run_case(tmp_path_factory.mktemp("alone"), case_config(tiny_folder))
    torch.set_num_threads(before)
    return ran


def ids(ran: Ran) -> list[str]:
    """What the ledger holds."""
    return ran.store.ledger.snapshot().ids


@pytest.mark.usefixtures("ray")
def test_replicated_workers_make_the_same_bundle(
    alone: Ran, tiny_folder: Path, tmp_path: Path
) -> None:
    with WorkerGroup() as group:
        spread = run_case(tmp_path, case_config(tiny_folder), group)
    assert group.figures["world"] == 2
    assert group.figures["shard_bytes"] == base_bytes(spread.store.base)
    assert spread.store.ledger.manifest.artifacts == alone.store.ledger.manifest.artifacts
    assert spread.bundle == alone.bundle
    assert (spread.store.base.is_loaded, alone.store.base.is_loaded) == (False, True)
    assert spread.report.evaluated["report"] == alone.report.evaluated["report"]
    assert ids(spread) == [edit.id for edit in EDITS]
    assert [spread.store.storage.names(f) for f in ("ray-train", "keys")] == [[], []]
    assert [commit.epoch for commit in spread.store.ledger.log()] == [1]  # by the registry


@pytest.mark.usefixtures("ray")
def test_an_elastic_group_begins_with_the_workers_that_fit(
    alone: Ran, tiny_folder: Path, tmp_path: Path
) -> None:
    wanted = {"workers": 2, "min_workers": 1, "cpus_per_worker": 3}  # of the head's 4
    with WorkerGroup() as group:
        small = run_case(tmp_path, case_config(tiny_folder, cluster=wanted), group)
    assert group.figures["world"] == 1
    assert small.bundle == alone.bundle
    assert ids(small) == [edit.id for edit in EDITS]


@pytest.mark.usefixtures("ray")
def test_a_base_in_two_halves_makes_the_same_experts(
    alone: Ran, tiny_folder: Path, tmp_path: Path
) -> None:
    config = case_config(tiny_folder, cluster={"strategy": "zero3", "workers": 2})
    with WorkerGroup() as group:
        halved = run_case(tmp_path, config, group)
    assert group.figures["world"] == 2
    half = base_bytes(halved.store.base) / 2
    assert half <= group.figures["shard_bytes"] <= 1.01 * half  # a tensor is padded to be halved
    assert largest_difference(halved, alone) <= TOLERANCE
    assert ids(halved) == [edit.id for edit in EDITS]
    assert not halved.store.base.is_loaded
    before, after = (r.report.evaluated["report"]["reliability"] for r in (alone, halved))
    assert after == pytest.approx(before, abs=1.1 / len(EDITS))  # one edit


def test_a_base_that_is_hardly_another_makes_other_experts(alone: Ran, tmp_path: Path) -> None:
    """The control of the tolerance: one row of one matrix moved by a thousandth."""
    folder = write_tiny_base(tmp_path / "base")
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["model.layers.4.mlp.down_proj.weight"][0] += 1e-3
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    other = run_case(tmp_path / "store", case_config(folder))
    assert largest_difference(other, alone) > 10 * TOLERANCE
