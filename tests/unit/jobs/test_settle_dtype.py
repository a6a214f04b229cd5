"""Whose machine says what `auto` means for the number type of a base."""

import argparse
from pathlib import Path

import pytest

from scen.cli.parser import build_parser
from scen.config import ClusterConfig
from scen.fs import Storage
from scen.ledger.ledger import create_or_open
from scen.ledger.manifest import StoreManifest
from scen_jobs.settle_dtype import settle_dtype

GPU = ["--set", "cluster.gpus_per_worker=1"]
BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "raw", "dtype": "float32"}


def settled(store: Path, *words: str) -> str | None:
    """--dtype after workers have said that theirs would be bfloat16."""
    given = ["edit", "e.jsonl", "--store", str(store), *words]
    args: argparse.Namespace = build_parser().parse_args(given)

    def measure(settings: ClusterConfig, device: str) -> str:
        assert (settings.gpus_per_worker, device) == (1, "auto")
        return "bfloat16"

    settle_dtype(args, measure)
    found: str | None = args.dtype
    return found


def test_workers_with_gpus_say_it(tmp_path: Path) -> None:
    assert settled(tmp_path, *GPU) == "bfloat16"
    assert settled(tmp_path, *GPU, "--dtype", "auto") == "bfloat16"


@pytest.mark.parametrize("words", [["--dtype", "float16"], ["--set", "base.dtype=float16"]])
def test_what_is_set_holds(tmp_path: Path, words: list[str]) -> None:
    assert settled(tmp_path, *GPU, *words) in ("float16", None)


def test_without_gpus_the_driver_says_it(tmp_path: Path) -> None:
    assert settled(tmp_path) is None


def test_a_store_s_own_type_holds_for_its_own_base(tmp_path: Path) -> None:
    method = {"method": "scen-lr"}
    create_or_open(Storage(str(tmp_path)), StoreManifest.new(BASE, method, {}))
    assert settled(tmp_path, *GPU) is None
    assert settled(tmp_path, *GPU, "--base", "tiny") == "bfloat16"
