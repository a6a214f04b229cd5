"""What each paper claims of a single edit, on the real base: the edited prompt has its new answer.

The settings are those of `configs/eval/zsre-1000.yaml`.
"""

from pathlib import Path

import pytest

from scen.benchmark.settings import load_benchmark
from scen.data import Validator, ingest
from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.records import Edit
from scen.samples import sample_path

FILE = Path(__file__).parents[4] / "configs" / "eval" / "zsre-1000.yaml"
METHODS = ["GRACE", "HoReN", "UltraEdit", "WISE", "MEMIT", "AlphaEdit"]


@pytest.fixture(scope="module")
def real() -> Base:
    return load_base("smollm2-135m-instruct", device="cpu")


@pytest.fixture(scope="module")
def edit() -> Edit:
    """An edit that is neither applied nor used for tuning in the benchmarks."""
    *_, batch = ingest(str(sample_path("zsre_edits.jsonl")), Validator(), limit=1100)
    return batch.edits[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_single_edit_is_answered(real: Base, edit: Edit, name: str) -> None:
    [method] = [m for m in load_benchmark(FILE).methods if m.name == name]
    edited = method.build().edit(real, [edit], lambda *_: None)
    prompt = real.template.encode_prompt(edited.rewrite(edit.prompt))
    decoded = decode(edited.model(0), pad_prompts([prompt], real.pad_id), 16)
    assert real.template.decode(decoded.tokens[0]) == edit.target
