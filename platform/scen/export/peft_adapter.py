"""Edits as LoRA adapters in PEFT's format: one folder per edit, and an index of them.

An expert is `up @ down`, added to the output of one `mlp.down_proj`: a LoRA of scale 1 on one
layer. Two things are not in an adapter: which prompts it is for (the router's business), and that
the expert acts from the last prompt token on. Tools that put an adapter on all positions of a
request answer nearly, not exactly, as the platform does.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from scen.errors import ConfigError
from scen.fs import Storage
from scen.records import digest_bytes
from scen.registry.entry import LedgerEntry
from scen.registry.ledger import Ledger
from scen.snapshot.method import StoreMethod
from scen.snapshot.rows import BundleRows, Place

_BATCH = 256
INDEX = "index.jsonl"


@dataclass(frozen=True)
class Exporter:
    """Writes the edits of a store into a folder. Raises ConfigError for a store whose experts are
    whole matrices (method scen): no LoRA can say what they do."""

    storage: Storage
    ledger: Ledger

    def __post_init__(self) -> None:
        if not self._method.kind.is_low_rank:
            raise ConfigError(
                "--format: experts of method scen are whole matrices, which peft's LoRA cannot "
                "hold; a store of method scen-lr can be exported"
            )

    def write(self, entries: Sequence[LedgerEntry], folder: Path) -> Iterator[Path]:
        """One adapter each, then the index; yields each adapter's folder. Raises IntegrityError
        where a bundle is damaged, NotFoundError where it is missing, ConfigError for a folder that
        is not empty."""
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--out: {folder} is not empty; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        rows = BundleRows(self.storage)
        with (folder / INDEX).open("w", encoding="utf-8") as index:
            for begin in range(0, len(entries), _BATCH):
                some = entries[begin : begin + _BATCH]
                places = [Place(e.bundle, e.row) for e in some]
                tensors = rows.read(places, self._method.kind.expert_tensors)
                for i, entry in enumerate(some):
                    path = folder / adapter_name(entry.edit_id)
                    self._write_one(path, tensors["down"][i], tensors["up"][i])
                    index.write(json.dumps(_told(entry, path.name), ensure_ascii=False) + "\n")
                    yield path

    def _write_one(self, path: Path, down_rF: Tensor, up_Dr: Tensor) -> None:
        path.mkdir()
        layer = self._method.layer
        stem = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        tensors = {f"{stem}.lora_A.weight": down_rF, f"{stem}.lora_B.weight": up_Dr}
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            path / "adapter_model.safetensors",
            {"format": "pt", "base_fingerprint": str(self.ledger.manifest.base["fingerprint"])},
        )
        config = adapter_config(str(self.ledger.manifest.base["name"]), layer, len(down_rF))
        (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")

    @property
    def _method(self) -> StoreMethod:
        return StoreMethod.from_dict(self.ledger.manifest.method)


def adapter_config(base: str, layer: int, rank: int) -> dict[str, Any]:
    """What PEFT reads beside the tensors. `lora_alpha` is the rank: the scale is 1."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
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
    """A folder's name for an edit: its id where that may be one, and never that of another."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in edit_id)[:64]
    return plain if plain == edit_id else f"{plain}-{digest_bytes(edit_id.encode())[:8]}"


def _told(entry: LedgerEntry, folder: str) -> dict[str, Any]:
    edit = entry.edit
    return {
        "adapter": folder,
        "edit_id": entry.edit_id,
        "prompt": edit.prompt,
        "target": edit.target,
        "stream": entry.stream,
        "version": entry.version,
    }
