"""Perplexities of passages on the tiny base."""

from pathlib import Path

from scen.benchmark.run import run_benchmark
from scen.benchmark.settings import RowStore
from scen.model.base import load_base
from unit.benchmark.conftest import QUICK, MakeBenchmark, write_lines

FTL = {"layer": 3, "lr": 0.05, "epochs": 20, "distance": 1.0}


def test_edited_sentences_become_likely_and_others_stay(
    tiny_folder: Path, make_benchmark: MakeBenchmark, rows: RowStore, tmp_path: Path
) -> None:
    base_model = load_base(str(tiny_folder), template="raw", dtype="float32", device="cpu")
    near = write_lines(
        tmp_path / "near.jsonl", [{"id": "n", "prompt": "Amber is a tree. It", "target": "grows."}]
    )
    prose = write_lines(
        tmp_path / "prose.jsonl", [{"text": "Four score and seven years ago our fathers"}]
    )
    methods = [
        {"name": "base", "editor": "base"},
        {"name": "ft-l", "editor": "ft-l", "settings": FTL},
        {"name": "platform", "editor": "platform", "settings": QUICK},
    ]
    settings = make_benchmark(
        kind="passages", near=near, unrelated=prose, same_kind=None, methods=methods
    )
    base, tuned, platform = run_benchmark(base_model, settings, rows, lambda *_: None)
    assert base.figures["identical/near"] == base.figures["identical/unrelated"] == 1
    assert tuned.figures["identical/unrelated"] == 0  # one matrix for everything
    for edited in (tuned, platform):
        assert edited.figures["perplexity/edited"] < base.figures["perplexity/edited"] / 2
    assert platform.counts == {"edited": 6, "near": 1, "unrelated": 1}
