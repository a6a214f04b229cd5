"""The reading of prompts' keys as batches that several ranks share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.keys import KeyPlace
from scen.editor.pace import ALONE, Pace
from scen.fs import Storage
from scen.routing.keys import batch_prompts, read_prompt_keys


@dataclass(frozen=True)
class KeysTask:
    """Prompts to be read at these places. `folder` of the store's storage is for the keys until
    they are collected; it is the task's own, as it is emptied then."""

    places: tuple[KeyPlace, ...]
    prompts: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class KeysWork:
    """The prompts in batches, like beside like; a batch that was read lies in the folder."""

    task: KeysTask
    storage: Storage
    base: Base
    batches: Sequence[list[int]]
    pace: Pace = ALONE

    @classmethod
    def of(cls, task: KeysTask, storage: Storage, base: Base, pace: Pace = ALONE) -> "KeysWork":
        """The work that a task is on a base."""
        encoded = [base.template.encode_prompt(prompt) for prompt in task.prompts]
        return cls(task, storage, base, batch_prompts(encoded), pace)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return len(self.batches)

    def size(self, index: int) -> int:
        """Prompts of a batch."""
        return len(self.batches[index])

    def is_done(self, index: int) -> bool:
        """True where a batch was read, here or elsewhere."""
        return self.storage.exists(self._path(index))

    def run(self, index: int) -> Tensor:
        """Read a batch, and keep nothing."""
        some = [self.task.prompts[i] for i in self.batches[index]]
        return read_prompt_keys(self.base, self.task.places, some, pace=self.pace)

    def keep(self, index: int, found: Any) -> None:
        """Write down the keys of a batch."""
        self.storage.put_new(self._path(index), safetensors.torch.save({"key": found}))

    def collect(self) -> Tensor:
        """key_NKF float16 in the order of the prompts, once; all batches must be done."""
        paths = [self._path(index) for index in range(self.count)]
        parts = [safetensors.torch.load(self.storage.read(path))["key"] for path in paths]
        for path in paths:
            self.storage.delete(path)
        order = torch.tensor([i for batch in self.batches for i in batch])
        return torch.cat(parts)[order.argsort()]

    def _path(self, index: int) -> str:
        return f"{self.task.folder}/{index:05d}.safetensors"
