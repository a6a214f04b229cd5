"""Commands for held waves (`candidates`, `promote`, `reject`) and `collisions`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from scen.cli.options import (
    POSITIVE,
    Json,
    NoTracking,
    Store,
    Version,
    Who,
    Why,
    given,
    read_config,
    room,
)
from scen.cli.output import (
    line,
    make_table,
    out,
    shorten,
    show_warnings,
    step_progress,
    write_json,
)

if TYPE_CHECKING:
    from scen.pipeline.gate import Candidate
    from scen.pipeline.near import StoreCollisions

app, _, command = room("Held waves and collisions", 5)
Wave = Annotated[str, Parameter(name="WAVE", help="key of a wave, as listed by `scen candidates`")]


@command
def candidates(*, store: Store, json: Json = False) -> None:
    """list the waves that missed a bound and wait for a decision

    A wave that is trained and evaluated is held, not committed, if it falls below
    a bound of the settings: waves.min_reliability (of its own edits),
    waves.min_locality (unrelated prompts whose answers are unchanged),
    waves.min_retention (earlier edits that are still answered).

    examples:
      scen edit edits.jsonl --store ./my-store --set waves.min_reliability=0.98
      scen candidates --store ./my-store
    """
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.gate import candidates as held_waves

    storage = Storage(store)
    rows = [_held(held) for held in held_waves(storage, open_ledger(storage))]
    if json:
        write_json({"candidates": rows})
    elif rows:
        cells = (
            (row["wave"], str(len(row["edit_ids"])), row["held_at"], "\n".join(row["reasons"]))
            for row in rows
        )
        out.print(make_table(("wave", "edits", "held since", "because"), cells))
    else:
        out.print("no wave is held")


@command
def promote(
    wave: Wave,
    /,
    *,
    store: Store,
    on_conflict: Annotated[
        Literal["quarantine", "supersede"] | None,
        Parameter(help="an edit that contradicts a committed one: fail (default), or replace it"),
    ] = None,
    why: Why,
    who: Who = None,
    no_tracking: NoTracking = False,
    json: Json = False,
) -> None:
    r"""commit a held wave

    The wave is committed as it was trained, unless later commits contradict it.
    `scen candidates` lists the waves that are held.

    example:
      scen promote news-00003-1f2e3d4c5b6a --store ./my-store \
           --why "two spellings, both right"
    """
    from scen.fs import Storage
    from scen.pipeline.apply import promote_wave

    show_warnings()
    rules = read_config(waves=given(on_conflict=on_conflict, why=why, who=who)).waves
    version = promote_wave(Storage(store), wave, rules, is_tracked=not no_tracking)
    if json:
        write_json({"action": "promote", "wave": wave, "version": version})
    else:
        out.print(f"version    {version}")


@command
def reject(wave: Wave, /, *, store: Store, why: Why, who: Who = None, json: Json = False) -> None:
    r"""never commit a held wave

    The wave is never committed; its edits can be submitted again under other
    ids, and `scen gc` deletes its experts.

    example:
      scen reject news-00003-1f2e3d4c5b6a --store ./my-store \
           --why "the source was wrong"
    """
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.gate import reject as reject_wave

    storage = Storage(store)
    reject_wave(
        storage, open_ledger(storage), wave, read_config(waves=given(why=why, who=who)).waves
    )
    if json:
        write_json({"action": "reject", "wave": wave})
    else:
        line(f"rejected   {wave}")


@command
def collisions(
    *,
    store: Store,
    margin: Annotated[
        float,
        Parameter(metavar="M", help="also show pairs whose score is less than M below the "
                  "threshold (default: 0)"),
    ] = 0.0,
    limit: Annotated[int | None, POSITIVE, Parameter(metavar="N", help="only the worst N")] = None,
    version: Version = None,
    json: Json = False,
) -> None:  # fmt: skip
    """list pairs of edits whose prompts the router confuses"""
    from scen.fs import Storage
    from scen.pipeline.near import store_collisions

    with step_progress() as bars:
        result = store_collisions(
            Storage(store), version, margin, limit, lambda done, total: bars("compare", done, total)
        )
    pairs = _pairs(result)
    if json:
        write_json(
            {"threshold": result.threshold, "version": result.snapshot.version, "pairs": pairs}
        )
    elif pairs:
        _show_pairs(pairs, result.threshold)
    else:
        out.print(f"No pair of the {len(result.snapshot.entries)} edits is confused.")


def _held(held: "Candidate") -> dict[str, Any]:
    return {
        "wave": held.wave.key,
        "edit_ids": [edit.id for edit in held.wave.edits],
        "held_at": held.held_at,
        "reasons": list(held.reasons),
        "report": dict(held.report),
    }


def _pairs(collisions: "StoreCollisions") -> list[dict[str, Any]]:
    """The pairs as JSON types."""
    rows = []
    for pair in collisions.pairs:
        first, second = (collisions.snapshot.entries[i].edit for i in (pair.first, pair.second))
        near = {name: round(value, 3) for name, value in pair.similarities.items()}
        rows.append(
            {
                "score": round(pair.score, 4),
                "above": pair.is_above,
                "first": {"edit_id": first.id, "prompt": first.prompt, "target": first.target},
                "second": {"edit_id": second.id, "prompt": second.prompt, "target": second.target},
                "similarities": near,
            }
        )
    return rows


def _show_pairs(pairs: list[dict[str, Any]], threshold: float) -> None:
    """Print pairs, worst first; those above the threshold in red."""
    rows = (
        [
            f"{pair['score']:.2f}",
            *(
                cell
                for side in ("first", "second")
                for cell in (pair[side]["edit_id"], shorten(pair[side]["prompt"], 44))
            ),
        ]
        for pair in pairs
    )
    heads = ("score", "edit", "its prompt", "other edit", "its prompt")
    title = f"Edits that may answer for each other (threshold {threshold:.4g})"
    styles = ["red" if pair["above"] else "" for pair in pairs]
    out.print(make_table(heads, rows, title=title, right=("score",), style=styles))
    out.print(
        "Drop or reword one of a pair; or add each other's question as a near miss, calibrate "
        "again (scen calibrate) and create a new store with that profile."
    )
