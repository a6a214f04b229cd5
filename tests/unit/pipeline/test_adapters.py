"""Adapters that peft itself loads, and whose logits are the platform's own."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import write_tiny_base
from scen.cli.main import main
from scen.config import load_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.actions import WaveCommit
from scen.ledger.ledger import create_or_open
from scen.ledger.manifest import StoreManifest
from scen.ledger.tensors import save_bundle
from scen.model.batch import cache_argument, cache_name, pad_prompts
from scen.model.decode import answer, apply_experts, copy_cache
from scen.model.route import Route
from scen.pipeline.adapters import INDEX, Exporter, adapter_config, adapter_name, hub_id, model_card
from scen.records import Edit
from scen.snapshot.open import OpenStore, create_store

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"  # peft asks for it
)
TOLERANCE = 1e-4  # of logits of size 10, in float32: peft adds the two products in another order
# The last token of the rendered prompt, `]` or a line break, stands within prompts and targets too.
EDITS = [
    Edit("e/0", "Who is number 0?", "isle"),
    Edit("e/1", "Who [1] is\nnumber [2]?", "an [isle]\nof\n[man]"),
    Edit("e/2", "Who is number 2?", "isle", metadata={"why": "x"}),
]
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MakeStore = Callable[[str], OpenStore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny base of the test's own, with SmolLM2's chat template: peft changes the model that it
    loads into."""
    folder = write_tiny_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def make_store(folder: Path, tmp_path: Path) -> MakeStore:
    """Three experts that are drawn, and strong enough to change any answer."""

    def make(template: str) -> OpenStore:
        base = {"name": str(folder), "template": template, "dtype": "float32", "device": "cpu"}
        config = load_config(fixed={"base": base, "expert": {"layer": 3, "rank": 2}})
        opened = create_store(Storage(str(tmp_path / "store")), config, NEUTRAL)
        generator = torch.Generator().manual_seed(3)
        shapes = {"down": (3, 2, 64), "up": (3, 32, 2), "key": (3, 2, 64)}
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        bundle = save_bundle(opened.storage, tensors)
        opened.ledger.commit(WaveCommit("w", "news", 0, bundle, EDITS), 0)
        return opened

    return make


@pytest.fixture
def store(make_store: MakeStore) -> OpenStore:
    """A store whose prompts are rendered as [INST]...[/INST]."""
    return make_store("llama2-inst")


def export(store: OpenStore, folder: Path, *, alora: bool = False) -> list[Path]:
    """All edits."""
    entries = store.ledger.snapshot().entries
    template = store.base.template if alora else None
    return list(Exporter(store.storage, store.ledger, template).write(entries, folder))


def peft_model(folder: Path, adapter: Path) -> Any:
    """The base with an adapter, as anybody loads it."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(plain, str(adapter))


@torch.no_grad()
def platform_logits(store: OpenStore, number: int, route: Route) -> tuple[list[int], Tensor]:
    """The prompt and target of an edit as tokens, and the logits of each target token in the
    store's own edited model, shape (S, V)."""
    edited = store.edited_model(store.ledger.snapshot())
    encoded = store.base.template.encode_edit(EDITS[number])
    filled = edited.prefill(pad_prompts([encoded.prompt], store.base.pad_id))
    cache = copy_cache(filled.cache)
    first_BV = apply_experts(edited, filled, route, cache)
    with edited.linear.use(edited.bank, route):
        rest_BSV = edited.model(
            input_ids=torch.tensor([encoded.target[:-1]]), use_cache=True, **cache_argument(cache)
        ).logits
    ids = [*encoded.prompt.ids, *encoded.target[:-1]]
    return ids, torch.cat([first_BV, rest_BSV[0]])


@pytest.mark.parametrize("template", ["llama2-inst", "chat", "raw"])
def test_alora_gives_the_logits_of_prompt_and_target(
    make_store: MakeStore, folder: Path, tmp_path: Path, template: str
) -> None:
    store = make_store(template)
    paths = export(store, tmp_path / "out", alora=True)
    for number in (0, 1):
        ids, ours_SV = platform_logits(store, number, Route.fixed([number]))
        _, base_SV = platform_logits(store, number, Route.base(1))
        model, length = peft_model(folder, paths[number]), len(ours_SV)
        assert model.peft_config["default"].alora_invocation_tokens == [ids[-length]]
        assert (ours_SV - base_SV).abs().amax(-1).min() > 100 * TOLERANCE  # it acts on each token
        with torch.no_grad():
            logits_SV = model(torch.tensor([ids]), alora_offsets=[length]).logits[0, -length:]
        torch.testing.assert_close(logits_SV, ours_SV, rtol=0, atol=TOLERANCE)


def test_a_longer_invocation_would_act_too_early(
    store: OpenStore, folder: Path, tmp_path: Path
) -> None:
    """Why the invocation is one token, even where the prompt has that token elsewhere."""
    path = export(store, tmp_path / "out", alora=True)[1]
    ids, ours_SV = platform_logits(store, 1, Route.fixed([1]))
    prompt = torch.tensor([ids[: len(ids) - len(ours_SV) + 1]])
    assert prompt[0].tolist().count(int(prompt[0, -1])) > 1
    config = json.loads((path / "adapter_config.json").read_text())
    gaps = []
    for count in (1, 4):
        config["alora_invocation_tokens"] = prompt[0, -count:].tolist()
        (path / "adapter_config.json").write_text(json.dumps(config))
        with torch.no_grad():
            logits_V = peft_model(folder, path)(prompt).logits[0, -1]
        gaps.append(float((logits_V - ours_SV[0]).abs().max()))
    assert gaps[0] < TOLERANCE
    assert gaps[1] > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("template", ["llama2-inst", "chat", "raw"])
def test_the_code_of_the_card_gives_the_platform_s_answer(
    make_store: MakeStore,
    tmp_path: Path,
    template: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = make_store(template)
    path = export(store, tmp_path / "out", alora=True)[1]
    code = ModelCard.load(path / "README.md").text.split("```python\n")[1].split("```")[0]
    (tmp_path / "load.py").write_text(code)
    monkeypatch.chdir(path)
    runpy.run_path(str(tmp_path / "load.py"))
    edited = store.edited_model(store.ledger.snapshot())
    prompt = store.base.template.encode_prompt(EDITS[1].prompt)
    filled = edited.prefill(pad_prompts([prompt], store.base.pad_id))
    [tokens] = answer(edited, filled, Route.fixed([1]), 64).tokens
    spoken = store.base.tokenizer.decode(tokens, skip_special_tokens=True)
    assert capsys.readouterr().out == spoken + "\n"


def test_plain_lora_gives_the_logits_after_a_prefill_without_it(
    store: OpenStore, folder: Path, tmp_path: Path
) -> None:
    path = export(store, tmp_path / "out")[1]
    ids, ours_SV = platform_logits(store, 1, Route.fixed([1]))
    model, length = peft_model(folder, path), len(ours_SV)
    with torch.no_grad():
        with model.disable_adapter():  # the expert acts from the last prompt token on
            cache = model(torch.tensor([ids[:-length]]), use_cache=True)[cache_name()]
        logits_SV = model(torch.tensor([ids[-length:]]), **cache_argument(cache)).logits[0]
    torch.testing.assert_close(logits_SV, ours_SV, rtol=0, atol=TOLERANCE)


def test_the_card_is_valid_and_says_what_is_known(store: OpenStore, tmp_path: Path) -> None:
    for alora in (False, True):
        path = export(store, tmp_path / f"out-{alora}", alora=alora)[1]
        card = ModelCard.load(path / "README.md")
        data = card.data.to_dict()
        assert (data["library_name"], data["license"]) == ("peft", "unknown")
        assert ("alora" in data["tags"]) is alora
        assert "base_model" not in data  # a local folder is no hub id
        shown = json.loads(card.text.split("```json\n")[1].split("\n```")[0])
        assert (shown["prompt"], shown["target"]) == (EDITS[1].prompt, EDITS[1].target)
        assert "Nothing was measured." in card.text


def test_a_card_with_figures_and_a_base_of_the_hub() -> None:
    edit = {"edit_id": "a", "prompt": "Who?\n```\n---\n", "target": "it"}
    base = {"name": "smollm2-135m-instruct", "dtype": "float32", "template": "chat"}
    measured = {"exact": True, "before": "me", "after": "it", "rephrases": 4, "rephrases_right": 3,
                "near_misses": 2, "near_misses_right": 2}  # fmt: skip
    card = ModelCard(model_card(edit, base, measured, None))
    assert card.data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    figures = [line for line in card.text.splitlines() if line.startswith("- ")]
    assert figures == [
        "- answered exactly: yes",
        '- the base alone: "me"',
        "- rephrases answered exactly: 3 of 4",
        "- near misses unchanged: 2 of 2",
    ]
    assert "4-bit GGUF" in card.text


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("/data/models/llama", None),
        ("./llama", None),
        ("models/llama.gguf", None),
    ],
)
def test_bases_of_the_hub_are_given_by_their_id(name: str, known: str | None) -> None:
    assert hub_id(name) == known
    assert adapter_config(name, 3, 2)["base_model_name_or_path"] == (known or name)


def test_the_command_writes_either_format(
    store: OpenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("peft", "alora"):
        out = tmp_path / kind
        argv = ["export", "--store", str(store.storage.local_path), "--edit", "e/1", "--json"]
        assert main([*argv, "--format", kind, "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out)["adapters"] == 1
        [row] = map(json.loads, (out / INDEX).read_text().splitlines())
        config = json.loads((out / row["adapter"] / "adapter_config.json").read_text())
        assert ("alora_invocation_tokens" in config) is (kind == "alora")


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
