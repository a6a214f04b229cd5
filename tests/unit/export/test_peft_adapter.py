"""Adapters that peft itself loads, and whose logits are the engine's."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import write_tiny_base
from scen.config import load_config
from scen.errors import ConfigError
from scen.export.peft_adapter import INDEX, Exporter, adapter_name
from scen.fs import Storage
from scen.ledger.actions import WaveCommit
from scen.ledger.ledger import create_or_open
from scen.ledger.manifest import StoreManifest
from scen.ledger.tensors import save_bundle
from scen.model.batch import pad_prompts
from scen.model.decode import answer
from scen.model.route import Route
from scen.records import Edit
from scen.snapshot.open import OpenStore, create_store

TOLERANCE = 2e-4  # of logits of size 10, in float32: peft adds the two products in another order
EDITS = [Edit(f"e/{i}", f"Who is number {i}?", "isle") for i in range(3)]
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny base of the test's own: peft changes the model that it loads into."""
    return write_tiny_base(tmp_path / "base")


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> OpenStore:
    """Three experts that are drawn, and strong enough to change any answer."""
    base = {"name": str(folder), "template": "llama2-inst", "dtype": "float32", "device": "cpu"}
    config = load_config(fixed={"base": base, "expert": {"layer": 3, "rank": 2}})
    opened = create_store(Storage(str(tmp_path / "store")), config, NEUTRAL)
    draw = torch.Generator().manual_seed(3)
    shapes = {"down": (3, 2, 64), "up": (3, 32, 2), "key": (3, 2, 64)}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    bundle = save_bundle(opened.storage, tensors)
    opened.ledger.commit(WaveCommit("w", "news", 0, bundle, EDITS), 0)
    return opened


def export(store: OpenStore, folder: Path) -> list[Path]:
    """All edits."""
    entries = store.ledger.snapshot().entries
    return list(Exporter(store.storage, store.ledger).write(entries, folder))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_peft_gives_the_logits_of_the_engine(
    store: OpenStore, folder: Path, tmp_path: Path
) -> None:
    paths = export(store, tmp_path / "out")
    edited = store.edited_model(store.ledger.snapshot())
    prompt = store.base.template.encode_prompt(EDITS[1].prompt)
    filled = edited.prefill(pad_prompts([prompt], store.base.pad_id))
    ours = answer(edited, filled, Route.fixed([1]), 6, keep_logits=True)
    unedited = answer(edited, filled, Route.base(1), 6, keep_logits=True)
    assert ours.logits_BSV is not None
    assert unedited.logits_BSV is not None

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(paths[1]))
    ids = torch.tensor([list(prompt.ids)])
    with torch.no_grad():
        with loaded.disable_adapter():  # the expert acts from the last prompt token on
            cache = loaded(ids[:, :-1], use_cache=True).cache
        rest = torch.tensor([[prompt.ids[-1], *ours.tokens[0][:-1]]])
        theirs_SV = loaded(rest, cache=cache).logits[0]
    ours_SV = ours.logits_BSV[0, : len(theirs_SV)]
    assert len(ours_SV) >= 1
    torch.testing.assert_close(theirs_SV, ours_SV, rtol=0, atol=TOLERANCE)
    first = (ours_SV[0] - unedited.logits_BSV[0, 0]).abs().max()
    assert first > 100 * TOLERANCE  # the expert does something


def test_the_index_names_every_adapter(store: OpenStore, tmp_path: Path) -> None:
    paths = export(store, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text().splitlines()]
    assert [tmp_path / "out" / row["adapter"] for row in rows] == paths
    assert [row["edit_id"] for row in rows] == [edit.id for edit in EDITS]
    assert rows[2]["prompt"] == EDITS[2].prompt
    with pytest.raises(ConfigError, match=r"--out: .* is not empty"):
        export(store, tmp_path / "out")


@pytest.mark.parametrize("edit_id", ["a/b", "..", "é", "x" * 200, "a b", ""])
def test_names_of_folders_are_safe_and_distinct(edit_id: str) -> None:
    name = adapter_name(edit_id)
    assert Path(name).name == name
    assert name not in (".", "..")
    assert len(name) < 80
    assert name != adapter_name(edit_id + "!")
    assert adapter_name("mayor-paris_2") == "mayor-paris_2"


def test_whole_matrices_are_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    method = {"method": "scen", "layer": 3, "rank": 0, "places": [], "theta": 0.5, "training": {}}
    base = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
    ledger = create_or_open(storage, StoreManifest.new(base, method, {}))
    with pytest.raises(ConfigError, match="whole matrices"):
        Exporter(storage, ledger)
