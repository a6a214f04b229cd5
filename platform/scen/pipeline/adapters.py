"""Edits as LoRA and aLoRA adapters in PEFT's format, with an index and a model card each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger
from scen.model.template import Template
from scen.model.weights import EMBEDDED_NAME
from scen.pipeline.wave_facts import Answers, measured_outcomes
from scen.records import digest_bytes
from scen.snapshot.load import BundleRows, Place
from scen.snapshot.method import StoreMethod

_EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WHERE = {
    True: "PEFT applies this adapter from the last prompt token on (aLoRA), as the platform does. "
    "`forward` over a prompt with an answer needs `alora_offsets=[tokens of the answer + 1]`.",
    False: "PEFT applies this adapter to every token. The platform applies it from the last "
    "prompt token on: for the same logits, prefill the tokens before it with the adapter off.",
}
_QUANTIZED = (
    "The edit was made on a 4-bit GGUF file of the base. With the original weights, answers may "
    "differ."
)


def hub_id(base: str) -> str | None:
    """The Hugging Face hub id of a base by its name in a store; None for a local folder or file."""
    if base == EMBEDDED_NAME:
        return _EMBEDDED_HUB_ID
    return base if _HUB_ID.fullmatch(base) and not base.endswith(".gguf") else None


def model_card(
    edit: Mapping[str, Any],
    base: Mapping[str, Any],
    measured: Mapping[str, Any],
    rendered: str | None,
) -> str:
    """README.md of an adapter, with YAML front matter for the hub.

    `edit` is shown as JSON, `base` is that of the store's manifest, `measured` the last answer (see
    `scen.pipeline.wave_facts`), `rendered` the prompt in the base's template (aLoRA only).
    """
    is_alora = rendered is not None
    known = hub_id(str(base["name"]))
    front = {
        **({"base_model": known} if known else {}),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "tags": ["lora", *(["alora"] if is_alora else []), "model-editing", "scen"],
    }
    notes = [_WHERE[is_alora]] + ([_QUANTIZED] if base["name"] == EMBEDDED_NAME else [])
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        "# One edit of a language model",
        f"```json\n{json.dumps(dict(edit), ensure_ascii=False, indent=1)}\n```",
        f"Base: `{known or base['name']}`, {base['dtype']}, template `{base['template']}`.",
        f"## Measured\n\n{_figures(measured)}",
        "## Load",
        f"```python\n{_code(str(edit['prompt']), base, rendered)}\n```",
        *notes,
        "## Licence",
        "The licence of the edit's text is not recorded. The base has its own.",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(measured: Mapping[str, Any]) -> str:
    lines = []
    if "exact" in measured:
        answer = json.dumps(measured["after"], ensure_ascii=False)
        lines.append(f"- answered exactly: {'yes' if measured['exact'] else f'no, but {answer}'}")
        lines.append(f"- the base alone: {json.dumps(measured['before'], ensure_ascii=False)}")
    for name, what in (("rephrases", "answered exactly"), ("near_misses", "unchanged")):
        if name in measured:
            count = f"{measured[f'{name}_right']} of {measured[name]}"
            lines.append(f"- {name.replace('_', ' ')} {what}: {count}")
    if not lines:
        return "Nothing was measured."
    return "\n".join(["With the router of the store, when the edit was made:", "", *lines])


def _code(prompt: str, base: Mapping[str, Any], rendered: str | None) -> str:
    """Python that loads the adapter from this folder and answers the prompt."""
    name = hub_id(str(base["name"])) or base["name"]
    is_chat = base["template"] == "chat"
    if rendered is not None:
        text = repr(rendered)
    elif is_chat:
        messages = repr([{"role": "user", "content": prompt}])
        text = (
            f"tokenizer.apply_chat_template({messages}, tokenize=False, add_generation_prompt=True)"
        )
    else:
        text = repr(f"[INST]{prompt}[/INST]" if base["template"] == "llama2-inst" else prompt)
    return f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {name!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype={str(base["dtype"])!r})
model = PeftModel.from_pretrained(model, ".")
text = {text}
inputs = tokenizer(text, add_special_tokens={not is_chat}, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1]:], skip_special_tokens=True))"""


INDEX = "index.jsonl"
_BATCH = 256


@dataclass(frozen=True)
class Exporter:
    """Writes edits of a store as adapters: aLoRA with `template`, that of the store's base, else
    plain LoRA.

    Raises ConfigError for a store whose experts are whole matrices (method scen): no LoRA can hold
    them.
    """

    storage: Storage
    ledger: Ledger
    template: Template | None = None

    def __post_init__(self) -> None:
        if not self._method.kind.is_low_rank:
            raise ConfigError(
                "--format: experts of method scen are whole matrices, which peft's LoRA cannot "
                "hold; a store of method scen-lr can be exported"
            )

    def write(self, entries: Sequence[LedgerEntry], folder: Path) -> Iterator[Path]:
        """Write an adapter per edit and the index; yields each adapter's folder. Raises
        IntegrityError if a file of the store is damaged, NotFoundError if one is missing,
        ConfigError for a folder that is not empty."""
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--out: {folder} is not empty; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        rows = BundleRows(self.storage)
        with (folder / INDEX).open("w", encoding="utf-8") as index:
            for batch in _batches(entries):
                tensors = rows.read([Place(e.bundle, e.row) for e in batch], ("down", "up"))
                answers = Answers()
                answers.add(None, measured_outcomes(self.storage, batch[0].wave_key))
                for entry, down_rF, up_Dr in zip(
                    batch, tensors["down"], tensors["up"], strict=True
                ):
                    path = folder / adapter_name(entry.edit_id)
                    path.mkdir()
                    self._write_tensors(path, down_rF, up_Dr)
                    self._write_texts(path, entry, len(down_rF), answers.of(entry.edit_id))
                    row = {"adapter": path.name, **describe(entry)}
                    index.write(json.dumps(row, ensure_ascii=False) + "\n")
                    yield path

    def _write_tensors(self, path: Path, down_rF: Tensor, up_Dr: Tensor) -> None:
        stem = f"base_model.model.model.layers.{self._method.layer}.mlp.down_proj"
        tensors = {f"{stem}.lora_A.weight": down_rF, f"{stem}.lora_B.weight": up_Dr}
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            path / "adapter_model.safetensors",
            {"format": "pt", "base_fingerprint": str(self.ledger.manifest.base["fingerprint"])},
        )

    def _write_texts(
        self, path: Path, entry: LedgerEntry, rank: int, measured: Mapping[str, Any]
    ) -> None:
        """The configuration and the model card."""
        base, prompt = self.ledger.manifest.base, entry.edit.prompt
        config = adapter_config(str(base["name"]), self._method.layer, rank)
        rendered = None
        if self.template is not None:
            rendered = self.template.render(prompt)
            last = self.template.encode_prompt(prompt).ids[-1]
            config["alora_invocation_tokens"] = [last]
        (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        card = model_card(describe(entry), base, measured, rendered)
        (path / "README.md").write_text(card, encoding="utf-8")

    @property
    def _method(self) -> StoreMethod:
        return StoreMethod.from_dict(self.ledger.manifest.method)


def adapter_config(base: str, layer: int, rank: int) -> dict[str, Any]:
    """The adapter configuration of PEFT. `lora_alpha` is the rank, so the scale is 1. The base is
    given by its hub id if known, else by its name in the store."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hub_id(base) or base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["down_proj"],
        "layers_to_transform": [layer],
        "layers_pattern": "layers",
        "inference_mode": True,
    }


def adapter_name(edit_id: str) -> str:
    """The folder name of an edit: its id if that is a safe name, else a distinct one."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in edit_id)[:64]
    return plain if plain == edit_id else f"{plain}-{digest_bytes(edit_id.encode())[:8]}"


def describe(entry: LedgerEntry) -> dict[str, Any]:
    """An edit and its place in the ledger, as JSON types."""
    edit = entry.edit
    return {
        "edit_id": entry.edit_id,
        "prompt": edit.prompt,
        "target": edit.target,
        "stream": entry.stream,
        "version": entry.version,
    }


def _batches(entries: Sequence[LedgerEntry]) -> Iterator[list[LedgerEntry]]:
    """Consecutive edits of one wave, at most 256 at a time."""
    for _, group in groupby(entries, key=lambda entry: entry.wave_key):
        wave = list(group)
        yield from (wave[begin : begin + _BATCH] for begin in range(0, len(wave), _BATCH))
