"""Small versions of all benchmarks: what they print has the rows and figures of
configs/eval/README.md. Values are not judged; kills and losses are."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench.bench_workers import WAYS
from bench.run import scripts
from bench.small_run import figures, least, run_bench
from scen.data.asking import wordings
from scen.model.base import pick_dtype
from scen.snapshot.method import shipped_profiles

pytestmark = pytest.mark.e2e
ROLES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def test_asking_has_a_row_for_each_way_and_compares_the_time() -> None:
    few = ("--zsre", "0,2", "--counterfact", "300,302", "--unrelated", 3, "--timed", 1)
    lines = run_bench("bench_asking.py", *few, "--before", shipped_profiles()[0])
    rows = {(line["kind"], line["source"]): line for line in lines if "kind" in line}
    ways, tasks = wordings("test").ways, wordings("test").tasks
    assert {("asking", way) for way in ways} | {("task", task) for task in tasks} <= rows.keys()
    assert ("asking", "rephrase + greeting + thanks") in rows
    assert rows["reliability", "prompt"]["own"] == 100
    assert rows["locality", "same kind, edit absent"]["asked"] == 4
    times = [line for line in lines if "ratio" in line]
    assert [line["way"] for line in times] == [
        "as edited",
        "greeting",
        "UPPER CASE",
        "prose_before",
    ]
    assert all(line["ms"] > 0 for line in times)


def test_calibrate_has_a_row_for_each_profile(tiny_folder: Path, tmp_path: Path) -> None:
    few = ("--share", 0.05, "--scale", 0.1, "--per-edit", 16)
    kept = ("--keep", tmp_path, "--profiles")
    [quick] = run_bench("bench_calibrate.py", "--base", tiny_folder, *few, *kept, "quick")
    assert least(quick, "seconds", "passes", "edits", "questions") > 0
    kinds = {"rephrases", "rephrases published", "asked", "near misses, given", "unrelated"}
    assert kinds <= quick.keys()
    made = tmp_path / "quick.json"
    [again] = run_bench("bench_calibrate.py", "--base", tiny_folder, *few, "--profiles", made)
    assert {name: again[name] for name in kinds} == {name: quick[name] for name in kinds}


def test_transfer_has_a_row_for_each_set_of_weights() -> None:
    few = ("--edits", 2, "--asked", 4, "--unrelated", 2, "--types", "Q8_0")
    own, other = run_bench("bench_transfer.py", *few)
    assert (own["weights"], own["keys"], other["weights"]) == ("own", 0.0, "Q8_0")
    assert 0 < other["keys"] < 0.5
    for row in (own, other):
        assert {"rephrases", "asked", "near", "absent", "unrelated", "wrong"} <= row.keys()
        assert row["check"]["samples"] == 192


def test_stage_1_has_a_row_for_each_method_and_type(tiny_folder: Path) -> None:
    lines = run_bench("bench_stage1.py", "--base", tiny_folder, "--edits", 2)
    fast = str(pick_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    assert [(line["method"], line["dtype"]) for line in lines] == [
        ("reference", "float32"),
        ("scen", "float32"),
        ("scen-lr", "float32"),
        ("scen-lr", fast),
        ("scen-lr", fast),
    ]
    assert [line.get("other_ways", False) for line in lines] == [False] * 4 + [True]
    for line in lines:
        assert line["edits"] == 2
        assert least(line, "seconds", "edits_per_second", "ratio_vs_reference") > 0


def test_stage_2_has_a_row_for_each_length_of_the_stream(tiny_folder: Path) -> None:
    lines = run_bench("bench_stage2.py", "--base", tiny_folder, "--sizes", "3,4")
    assert [line["T"] for line in lines] == [3, 4]
    for line in lines:
        assert line["reference_is_extrapolated"] is True
        assert line["reference_steps_measured_at_history"][::2] == [0, line["T"] - 1]
        assert least(line, "seconds", "reference_seconds", "ratio_vs_reference") > 0


@pytest.mark.cluster
def test_workers_have_a_row_beside_one_process(tiny_folder: Path) -> None:
    assert list(WAYS.values()) == [("replicate", 1), ("replicate", 2), ("zero3", 2)]
    flags = ("--ways", "zero3-2")  # each costs 20 seconds
    alone, shared = run_bench("bench_workers.py", "--base", tiny_folder, "--edits", 2, *flags)
    assert [(line["strategy"], line["workers"]) for line in (alone, shared)] == [
        ("none", 0),
        ("zero3", 2),
    ]
    for line in (alone, shared):
        assert least(line, "edits_per_second", "edits_per_second_measured") > 0
    assert least(shared, "peak_mb", "shard_mb") > 0
    whole_mb = (tiny_folder / "model.safetensors").stat().st_size / 2**20
    assert shared["shard_mb"] < whole_mb


def test_a_large_stream_has_a_line_per_tenth() -> None:
    lines = run_bench("bench_large_stream.py", "--edits", 40, "--wave-size", 10)
    assert [line["edits"] for line in lines] == [10, 20, 30, 40, 40]
    assert min(least(line, "seconds", "edits_per_second", "peak_mb") for line in lines) > 0
    assert min(least(line, "grown_mb") for line in lines) >= 0


def test_the_ledger_has_a_time_for_each_step() -> None:
    [line] = run_bench("bench_ledger.py", "--edits", 400)
    assert line["edits"] == 400
    read = ("registry_cold_start_s", "cold_snapshot_s", "delta_of_5_commits_s")
    written = ("commit_200_s", "revoke_s", "rollback_s", "verify_s")
    assert least(line, *read, *written) >= 0  # they are rounded
    assert least(line, "ledger_bytes", "late_to_early_commit", "cold_to_warm_snapshot") > 0


def test_routing_has_the_tables_of_the_readme(tiny_folder: Path, tmp_path: Path) -> None:
    strange = tmp_path / "questions.txt"
    strange.write_text("who wrote the first opera?\nwhere does the danube end?\n")
    flags = ("--base", tiny_folder, "--locality", strange, "--tables", "A,B,C,D,E")
    size = ("--limit", 80, "--unseen", 2, "--folds", 2, "--gate-steps", 20)
    lines = run_bench("bench_routing.py", *flags, *size)
    rows = [line for line in lines if line["bench"] == "routing"]
    shown = ("chosen", "theta 0.65", "threshold 0.6")
    assert {(r["table"], r["router"], r["data"]) for r in rows if r["bound"] in shown} == {
        ("A", "fitted on zsre", "zsre"),
        ("B", "fitted on counterfact", "counterfact"),
        ("C", "fitted on both", "zsre"),
        ("C", "fitted on both", "counterfact"),
        ("C", "fitted on zsre", "counterfact"),
        ("C", "fitted on counterfact", "zsre"),
        ("D", "paper", "zsre"),
        ("D", "paper", "counterfact"),
        ("E", "plain", "zsre"),
        ("E", "plain", "counterfact"),
    }
    assert {(row["data"], row["bank"]) for row in rows} == {("zsre", 80), ("counterfact", 40)}
    for row in rows:
        rephrases = ("orig", "template") if row["data"] == "zsre" else ("template",)
        shares = [s for name in rephrases for s in figures(row[name], "right", "wrong")]
        for name in ("near misses given", "near misses made", "unseen", "unrelated"):
            shares += figures(row[name], "false")
        assert 0 <= min(shares) <= max(shares) <= 100


def test_search_has_a_row_for_each_method() -> None:
    keys, *lines = run_bench("bench_search.py", "--max-neurons", 1000, "--edits", 8)
    assert keys["bench"] == "search_keys"
    assert {(line["N"], line["method"]): line["chosen"] for line in lines} == {
        (1000, "float32"): True,
        (1000, "int8"): False,
    }
    for line in lines:
        assert least(line, "ms_batch_1", "ms_batch_32", "bytes", "threads") > 0
        assert 0 <= least(line, "recall_at_1", "stranger_recall_at_1") <= 1


def test_serving_has_a_row_for_each_load_and_number_of_clients(tiny_folder: Path) -> None:
    size = ("--requests", 8, "--clients", "1,3", "--published", 4)
    lines = run_bench("bench_serve.py", "--base", tiny_folder, *size)
    loads = {(r["load"], r["clients"]): r for r in lines if r["bench"] == "serve"}
    ours = [(load, clients) for clients in (1, 3) for load in ("base", "unedited", "half")]
    assert list(loads) == [*ours, ("published", 1), ("cached", 1)]
    times = [f"{what}_ms_{p}" for what in ("latency", "first_token") for p in ("p50", "p95")]
    for row in loads.values():
        assert least(row, "requests_per_second", "tokens_per_second", *times) > 0
    assert [loads["half", n]["edited"] > loads["base", n]["edited"] for n in (1, 3)] == [True] * 2
    overhead = [row for row in lines if row["bench"] == "serve_overhead"]
    assert [row["clients"] for row in overhead] == [1, 3]
    assert min(least(row, "unedited_vs_base", "median_vs_base") for row in overhead) > 0
    ratios = [row for row in lines if row["bench"] == "serve_ratio"]
    for row, name in zip(ratios, ("published", "cached"), strict=True):
        assert least(row, f"half_vs_{name}_at_1", f"half_vs_{name}_at_3") > 0


def test_a_swap_is_timed_with_and_without_requests(tiny_folder: Path) -> None:
    lines = run_bench("bench_swap.py", "--base", tiny_folder, "--commits", 1)
    assert [(line["clients"], line["failures"]) for line in lines] == [(0, 0), (8, 0), (32, 0)]
    for line in lines:
        assert least(line, "served_after_s_median", "served_after_s_max") > 0


def test_a_read_of_a_version_is_timed_at_each_size(tiny_folder: Path) -> None:
    lines = run_bench("bench_swap_sizes.py", "--base", tiny_folder, "--sizes", "20,400")
    assert [(line["edits"], line["new"]) for line in lines] == [(20, 64), (400, 64)]
    for line in lines:
        assert least(line, "same_s", "commit_s", "revoke_s", "full_s", "bank_mb") >= 0


def test_prefixes_have_a_row_with_and_one_without_their_cache(
    tiny_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "chat")
    (base / "chat_template.jinja").write_text(ROLES)
    size = ("--tokens", 60, "--requests", 2)
    *rows, ratio = run_bench("bench_prefix.py", "--base", base, *size)
    assert [(row["cache"], row["hits"] > 0) for row in rows] == [("off", False), ("on", True)]
    for row in rows:
        assert least(row, "prompt_tokens", "asked", "first_token_ms", "first_token_cpu_ms") > 0
    assert ratio["same_answers"] == ratio["asked"] > 0
    assert least(ratio, "off_vs_on", "off_vs_on_cpu") > 0


def test_bytes_have_a_row_for_each_rank_and_number_type(tiny_folder: Path) -> None:
    few = ("--first", 4, "--edits", 6, "--ranks", "2,1")
    lines = run_bench("bench_bytes.py", "--base", tiny_folder, *few)
    assert [(line["rank"], line["bits"]) for line in lines] == [(2, 16), (2, 8), (1, 16), (1, 8)]
    for line in lines:
        assert least(line, "bytes_expert", "of_paper", "exact_prompt", "exact_rephrase") >= 0
        assert line["bytes_expert"] < line["bytes_raw"]
    shapes = run_bench("bench_bytes.py", "--shape", "4096,11008", "--ranks", "2")
    assert [line["bits"] for line in shapes] == [16, 8]
    assert all(line["bytes_compact"] < line["bytes_raw"] for line in shapes)
    assert shapes[1]["of_paper"] > 1000


def test_scale_goes_on_where_it_was_and_fits_exponents(tiny_folder: Path, tmp_path: Path) -> None:
    size = ("--edits", 24, "--wave-size", 8, "--sample", 6, "--sizes", "12,30", "--prompts", 12)
    flags = ("--base", tiny_folder, *size, "--work", tmp_path / "work")
    [applied, *waves] = run_bench("bench_scale.py", *flags, "--stages", "stream")
    assert applied["committed"] == 24
    lines = run_bench("bench_scale.py", *flags)
    by_bench: dict[str, list[dict[str, object]]] = {}
    for line in lines:
        by_bench.setdefault(line["bench"], []).append(line)
    assert [line["known"] for line in by_bench["scale_applied"]] == [24]
    told = [line for line in waves if line["bench"] == "scale_stream"]
    assert by_bench["scale_stream"] == told
    assert [line["edits"] for line in told] == [8, 16, 24]
    kinds = {line["kind"] for line in by_bench["scale_score"]}
    assert kinds == {"age", "reliability", "generality", "near_miss", "locality"}
    assert all(0 <= line["another"] <= 100 for line in by_bench["scale_score"])  # type: ignore[operator]
    assert [line["edits"] for line in by_bench["scale_routing"]] == [1, 3, 6, 12, 24]
    assert [line["edits"] for line in by_bench["scale_neurons"]] == [12, 30]
    for line in by_bench["scale_neurons"]:
        assert least(line, "cold_start_s", "route_ms", "swap_s", "store_bytes_per_edit") > 0
    fits = {(line["stage"], line["figure"]) for line in by_bench["scale_fit"]}
    assert {("stream", "train_seconds_per_edit"), ("neurons", "route_ms")} <= fits
    assert (tmp_path / "work" / "scale.png").stat().st_size > 0


def test_the_steps_of_make_gpu_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    [line] = run_bench("gpu.py", "--device", "cpu", "--small", "--out", out)
    steps = line["steps"]
    assert json.loads(out.read_text())["steps"] == steps
    assert list(steps) == [
        "bits, bfloat16",
        "bits, float16",
        "stage2",
        "base",
        "stage1",
        "routing",
        "serving",
    ]
    assert steps["bits, float16"]["rows_identical"] == 4
    assert least(steps["stage1"], "seconds_per_edit", "ratio") > 0
    assert least(steps["serving"], "base_1_tokens_per_second", "half_2_latency_ms_p50") > 0


def test_killed_drivers_lose_and_double_nothing() -> None:
    [line] = run_bench("chaos_waves.py", "--kills", 1)
    assert line["kills"] == sum(line["by_kind"].values()) == 1
    assert least(line, "streams", "seconds") > 0
    assert figures(line, "lost", "doubled", "unequal_stores") == [0, 0, 0]


def test_make_bench_runs_no_benchmark_that_is_not_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in scripts() if f'run_bench("{path.name}"' not in text] == []
    assert len(scripts()) >= 9
