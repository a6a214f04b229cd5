"""`scen ask`: the edited model's answer, and which edit gave it."""

import argparse
from typing import Any

from scen.cli.explain import candidate_table, reason
from scen.cli.output import out, say, write_json
from scen.cli.render import facts_table
from scen.cli.settings import read_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.state import Snapshot
from scen.snapshot.ask import Answer, LikelyEdit
from scen.snapshot.open import open_store

_NUM_LIKELY = 5


def run(args: argparse.Namespace) -> None:
    """Answer one prompt."""
    if not args.prompt.strip():
        raise ConfigError("PROMPT: is empty")
    store = open_store(Storage(args.store), read_config(args).base, say)
    snapshot = store.ledger.snapshot(args.version)
    answer = store.at(snapshot).ask(
        args.prompt,
        args.max_new_tokens,
        base_answer=args.base_answer,
        num_likely=_NUM_LIKELY if args.explain else 0,
    )
    facts = _facts(answer)
    candidates = [_candidate(one, snapshot) for one in answer.likely_edits]
    if args.explain:
        why = reason(candidates, answer.threshold)
        facts |= {"candidates": candidates, "reason": why} if args.json else {"reason": why}
    if args.json:
        write_json(facts)
        return
    out.print(facts_table(facts))
    if candidates:
        out.print(candidate_table(candidates, facts["threshold"]))


def _facts(answer: Answer) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "prompt": answer.prompt,
        "answer": answer.answer,
        "route": "base" if answer.edit_id is None else "edit",
        "edit_id": answer.edit_id,
        "nearest_edit": answer.nearest_edit,
        "score": round(answer.score or 0.0, 4),
        "threshold": round(answer.threshold, 4),
        "version": answer.version,
    }
    if answer.base_answer is not None:
        facts["base_answer"] = answer.base_answer
    return facts


def _candidate(likely: LikelyEdit, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "edit_id": likely.edit_id,
        "prompt": snapshot.state.entries[likely.edit_id].edit.prompt,
        "score": round(likely.score, 4),
        "span": likely.span,
        "similarities": {name: round(value, 3) for name, value in likely.similarities.items()},
    }
