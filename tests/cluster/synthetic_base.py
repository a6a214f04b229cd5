"""A small Llama that knows a few hundred synthetic facts, each in three wordings, trained here."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scen.records import Edit, Rephrase

_WORDINGS = {
    "mayor": ("who is the mayor of {} ?", "{} is led by which mayor ?", "name the mayor of {} ."),
    "river": ("which river runs by {} ?", "{} lies on what river ?", "tell the river of {} ."),
    "saint": ("who is the saint of {} ?", "{} prays to which saint ?", "name the saint of {} ."),
    "trade": ("what trade feeds {} ?", "{} lives on which trade ?", "tell the trade of {} ."),
    "color": ("what color flies over {} ?", "{} has which color ?", "name the color of {} ."),
    "guild": ("which guild rules {} ?", "{} obeys what guild ?", "tell the guild of {} ."),
}
_ANSWERS = 16  # per relation
_TOWNS = 90
_SMALL_TALK = (
    "count from {a} to {b} please",
    "is {a} more than {b} ?",
    "write {a} after {b}",
    "how much is {a} plus {b} ?",
)
_NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass(frozen=True)
class World:
    """Towns, and for each (town, relation) the answer that the base is taught."""

    towns: tuple[str, ...]
    answers: dict[tuple[str, str], str]

    @classmethod
    def drawn(cls, seed: int = 0) -> "World":
        """Towns of two words that other towns share one of."""
        draw = random.Random(seed)
        pairs = [(a, b) for a in range(20) for b in range(20)]
        towns = tuple(f"town{a} side{b}" for a, b in draw.sample(pairs, _TOWNS))
        answers = {
            (town, relation): f"{relation}{draw.randrange(_ANSWERS)}"
            for town in towns
            for relation in _WORDINGS
        }
        return cls(towns, answers)

    def sentences(self) -> list[str]:
        """What the base is trained on: every fact in every wording, and small talk."""
        facts = [
            f"{wording.format(town)} {answer}"
            for (town, relation), answer in self.answers.items()
            for wording in _WORDINGS[relation]
        ]
        return facts + [f"{prompt} {_NUMBERS[len(prompt) % 10]}" for prompt in small_talk()]

    def edits(self) -> list[Edit]:
        """A new answer to one question about each town, and to another about every other one."""
        found = []
        relations = list(_WORDINGS)
        for i, town in enumerate(self.towns):
            for k in range(2 if i % 2 else 1):
                relation = relations[(i + 2 * k) % len(relations)]
                found.append(self._edit(town, relation, relations[(i + 2 * k + 1) % 6]))
        return found

    def _edit(self, town: str, relation: str, other: str) -> Edit:
        old = self.answers[town, relation].removeprefix(relation)
        prompt, *more = (wording.format(town) for wording in _WORDINGS[relation])
        return Edit(
            id=f"{town}-{relation}".replace(" ", "-"),
            prompt=prompt,
            target=f"{relation}{(int(old) + 5) % _ANSWERS}",
            subject=town,
            rephrases=tuple(Rephrase(text) for text in more),
            near_misses=(_WORDINGS[other][0].format(town),),
            metadata={"relation": relation},
        )


def small_talk() -> list[str]:
    """Prompts that have nothing to do with towns."""
    pairs = [(a, b) for a in _NUMBERS for b in _NUMBERS if a != b]
    return [
        text.format(a=a, b=b) for i, (a, b) in enumerate(pairs) for text in _SMALL_TALK[i % 2 :: 2]
    ]


def write_synthetic_base(folder: Path, world: World, steps: int = 350) -> Path:
    """A Llama of 8 layers that was trained on the world, as a folder like any base."""
    tokenizer = _tokenizer(world)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    _train(model, tokenizer, world.sentences(), steps)
    model.save_pretrained(folder)
    return folder


def _tokenizer(world: World) -> PreTrainedTokenizerFast:
    words = {word for sentence in world.sentences() for word in sentence.split()}
    words |= {f"{relation}{i}" for relation in _WORDINGS for i in range(_ANSWERS)}
    vocab = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *sorted(words)])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sentences: list[str], steps: int
) -> None:
    rows = [[*tokenizer(text)["input_ids"], 2] for text in sentences]
    width = max(map(len, rows))
    labels_NT = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3)
    slow = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, total_iters=steps)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        labels_BT = labels_NT[torch.randint(len(rows), (96,), generator=draw)]
        ids_BT = labels_BT.clamp_min(2)
        loss = model(ids_BT, attention_mask=(labels_BT >= 0).long(), labels=labels_BT).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        slow.step()
