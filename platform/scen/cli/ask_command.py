"""`scen ask`: the edited model's answer, and which edit gave it."""

import argparse
from dataclasses import dataclass
from typing import Any

from scen.cli.explain import candidate_table, find_candidates, reason
from scen.cli.output import out, say, write_json
from scen.cli.render import facts_table
from scen.cli.settings import read_config
from scen.editor.decode import answer
from scen.editor.route import Route
from scen.errors import ConfigError
from scen.fs import Storage
from scen.snapshot.ask import answer_prompt
from scen.snapshot.open import OpenStore, open_store


@dataclass(frozen=True)
class Question:
    """A prompt, the ledger version it is put to, and what else is wanted besides the answer."""

    prompt: str
    version: int | None = None
    max_new_tokens: int = 64
    is_base_shown: bool = False
    is_explained: bool = False


def run(args: argparse.Namespace) -> None:
    """Answer one prompt."""
    if not args.prompt.strip():
        raise ConfigError("PROMPT: is empty")
    store = open_store(Storage(args.store), read_config(args).base, say)
    question = Question(
        args.prompt, args.version, args.max_new_tokens, args.base_answer, args.explain
    )
    found = ask(store, question)
    if args.json:
        write_json(found)
        return
    candidates = found.pop("candidates", None)
    out.print(facts_table(found))
    if candidates:
        out.print(candidate_table(candidates, found["threshold"]))


def ask(store: OpenStore, question: Question) -> dict[str, Any]:
    """Answer, route, edit id, score and version of one prompt."""
    snapshot = store.ledger.snapshot(question.version)
    edited, template = store.edited_model(snapshot), store.base.template
    filled, told = answer_prompt(store.base, edited, question.prompt, question.max_new_tokens)
    expert, nearest = int(told.route.expert_B[0]), int(told.route.nearest_B[0])
    found: dict[str, Any] = {
        "prompt": question.prompt,
        "answer": template.decode(told.tokens[0]),
        "route": "edit" if expert >= 0 else "base",
        "edit_id": snapshot.ids[expert] if expert >= 0 else None,
        "nearest_edit": snapshot.ids[nearest] if nearest >= 0 else None,
        "score": round(float(told.route.score_B[0]), 4),
        "threshold": round(store.threshold, 4),
        "version": snapshot.version,
    }
    if question.is_base_shown:
        plain = answer(edited, filled, Route.base(1, store.base.device), question.max_new_tokens)
        found["base_answer"] = template.decode(plain.tokens[0])
    if question.is_explained:
        edits = [entry.edit for entry in snapshot.entries]
        found["candidates"] = find_candidates(edited, filled, edits)
        found["reason"] = reason(found["candidates"], store.threshold)
    return found
