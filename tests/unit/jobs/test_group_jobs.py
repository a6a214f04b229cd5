"""The driver of a job: whose machine says what `auto` means for the number type of a base, and
whether it has loaded what only the workers need."""

from pathlib import Path

import pytest

from scen.config import ClusterConfig, load_config
from scen.fs import Storage
from scen.ledger.ledger import create_or_open
from scen.ledger.manifest import StoreManifest
from scen.model.base import Base, open_base
from scen.pipeline.job_spec import StreamSpec
from scen.pipeline.run_job import job_config
from scen_jobs.group_jobs import say_driver, settle_dtype

GPU = "cluster.gpus_per_worker=1"
BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "raw", "dtype": "float32"}


def settled(store: Path, *overrides: str) -> str:
    """base.dtype after workers have said that theirs would be bfloat16."""
    spec = StreamSpec(edits="e", store=str(store), settings=load_config(overrides=overrides))
    config = job_config(spec)

    def measure(settings: ClusterConfig, device: str) -> str:
        assert (settings.gpus_per_worker, device) == (1, "auto")
        return "bfloat16"

    found = settle_dtype(config, Storage(str(store)), measure)
    assert found.model_copy(update={"base": config.base}) == config
    return found.base.dtype


def test_workers_with_gpus_say_it(tmp_path: Path) -> None:
    assert settled(tmp_path, GPU) == "bfloat16"
    assert settled(tmp_path, GPU, "base.dtype=auto") == "bfloat16"


def test_what_is_set_holds(tmp_path: Path) -> None:
    assert settled(tmp_path, GPU, "base.dtype=float16") == "float16"


def test_without_gpus_the_driver_says_it(tmp_path: Path) -> None:
    assert settled(tmp_path) == "auto"


def test_a_store_s_own_type_holds_for_its_own_base(tmp_path: Path) -> None:
    method = {"method": "scen-lr"}
    create_or_open(Storage(str(tmp_path)), StoreManifest.new(BASE, method, {}))
    assert settled(tmp_path, GPU) == "auto"
    assert settled(tmp_path, GPU, "base.name=tiny") == "bfloat16"


def test_a_driver_says_whether_it_loaded_weights(
    tiny: Base, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_driver(tiny)
    assert "driver: weights of the base loaded here, at most " in capsys.readouterr().err
    say_driver(open_base(str(tiny_folder), device="cpu"))
    assert "driver: weights of the base not loaded here, at most " in capsys.readouterr().err
