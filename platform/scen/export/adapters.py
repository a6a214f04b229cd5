"""Edits as LoRA adapters in PEFT's format: one folder per edit, and an index of them.

An expert is `up @ down`, added to the output of one `mlp.down_proj`: a LoRA of scale 1 on one
layer. An adapter does not know which prompts it is for; that is the router's job, and the index
has the prompts. There are two formats:

- `alora`: PEFT applies the adapter from the first token of the last occurrence of
  `alora_invocation_tokens` on (arXiv 2504.12397). These are the last prompt token alone, so the
  adapter acts where the expert does; a longer sequence would act earlier. The token may stand
  elsewhere in the prompt, too: its last occurrence is the end, and `generate` searches the prompt
  only. `forward` over a prompt with an answer that contains the token would find that instead: pass
  `alora_offsets=[n]`, the number of tokens from the last prompt token to the end.
- `peft`: plain LoRA, for tools without aLoRA. It acts on every token, so that logits differ from
  the platform's unless all prompt tokens but the last are prefilled with the adapter off.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from scen.errors import ConfigError
from scen.export.model_card import hub_id, model_card
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger
from scen.model.template import Template
from scen.records import digest_bytes
from scen.report.edits import Answers
from scen.report.waves import measured_rows
from scen.snapshot.load import BundleRows, Place
from scen.snapshot.method import StoreMethod

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
        """One adapter each, then the index; yields each adapter's folder. Raises IntegrityError
        where a file of the store is damaged, NotFoundError where one is missing, ConfigError for a
        folder that is not empty."""
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--out: {folder} is not empty; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        rows = BundleRows(self.storage)
        with (folder / INDEX).open("w", encoding="utf-8") as index:
            for batch in _batches(entries):
                tensors = rows.read([Place(e.bundle, e.row) for e in batch], ("down", "up"))
                answers = Answers()
                answers.add(None, measured_rows(self.storage, batch[0].wave_key))
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
    """What PEFT reads beside the tensors. `lora_alpha` is the rank: the scale is 1. The base is
    given by its hub id where that is known, else by the name that the store has for it."""
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
    """The folder name of an edit: its id where that is a safe name, else a distinct one."""
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
