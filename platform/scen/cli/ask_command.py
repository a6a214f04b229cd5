"""`scen ask`: the edited model's answer, and which edit gave it."""

import argparse
from typing import Any

from scen.cli.output import out, say, write_json
from scen.cli.render import facts_table
from scen.cli.settings import read_config
from scen.editor.batch import pad_prompts
from scen.editor.decode import EditedModel, decode
from scen.editor.route import Route
from scen.errors import ConfigError
from scen.fs import Storage
from scen.snapshot.open import OpenStore, open_store


def run(args: argparse.Namespace) -> None:
    """Answer one prompt."""
    if not args.prompt.strip():
        raise ConfigError("PROMPT: is empty")
    store = open_store(Storage(args.store), read_config(args).base, say)
    found = ask(store, args.prompt, args.version, args.max_new_tokens, args.base_answer)
    if args.json:
        write_json(found)
    else:
        out.print(facts_table(found))


def ask(
    store: OpenStore, prompt: str, version: int | None, max_new_tokens: int, is_base_shown: bool
) -> dict[str, Any]:
    """Answer, route, edit id, score and version of one prompt."""
    snapshot = store.ledger.snapshot(version)
    edited = store.edited_model(snapshot)
    encoded = store.base.template.encode_prompt(prompt.strip())
    batch = pad_prompts([encoded], store.base.pad_id, store.base.device)
    told = decode(edited, batch, max_new_tokens)
    expert, nearest = int(told.route.expert_B[0]), int(told.route.nearest_B[0])
    found: dict[str, Any] = {
        "prompt": prompt,
        "answer": store.base.template.decode(told.tokens[0]),
        "route": "edit" if expert >= 0 else "base",
        "edit_id": snapshot.ids[expert] if expert >= 0 else None,
        "nearest_edit": snapshot.ids[nearest] if nearest >= 0 else None,
        "score": round(float(told.route.score_B[0]), 4),
        "threshold": store.method.gate,
        "version": snapshot.version,
    }
    if is_base_shown:
        found["base_answer"] = _base_answer(edited, store, batch, max_new_tokens)
    return found


def _base_answer(edited: EditedModel, store: OpenStore, batch: Any, max_new_tokens: int) -> str:
    plain = decode(edited, batch, max_new_tokens, Route.base(1, store.base.device))
    return store.base.template.decode(plain.tokens[0])
