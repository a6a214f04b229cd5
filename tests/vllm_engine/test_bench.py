"""The engines side by side, on a tiny base: rows and ratios are there. Values are not judged."""

from pathlib import Path

import pytest
import torch

from bench.small_run import least, run_bench
from scen.model.base import pick_dtype

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_each_engine_has_its_rows_and_ratios(folder: Path) -> None:
    size = ("--clients", 2, "--requests", 4, "--rounds", 1, "--base", folder)
    lines = run_bench("bench_serve.py", "--engines", "own,vllm,plain,lora", *size)
    rows = {(row["engine"], row["load"]): row for row in lines if row["bench"] == "serve_engines"}
    engines = ("own", "vllm", "plain")
    expected = {(name, load) for name in engines for load in ("unedited", "half")}
    assert set(rows) == expected | {("lora", "half")}
    for row in rows.values():
        assert least(row, "tokens_per_second", "first_token_ms_p50") > 0
    assert rows["own", "half"]["edited"] == rows["vllm", "half"]["edited"] > 0
    assert rows["lora", "half"]["edited"] == rows["lora", "half"]["requests"] / 2
    [ratios] = [row for row in lines if row["bench"] == "serve_engines_ratio"]
    names = [
        f"{what}_vllm_vs_{other}" for what in ("tokens", "first") for other in ("plain", "own")
    ]
    assert least(ratios, *(f"{name}_unedited" for name in names)) > 0


def test_routes_are_compared_question_by_question(folder: Path) -> None:
    [row] = run_bench("bench_serve.py", "--routes", 4, "--base", folder)
    assert row["questions"] == 10
    assert row["alike"] == 10
    # In bfloat16 the keys of two engines agree to about two digits.
    is_exact = pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert row["score_apart_max"] < (1e-3 if is_exact else 0.02)
