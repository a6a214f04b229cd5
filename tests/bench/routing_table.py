"""The figures of the benchmark of routing as Markdown tables."""

from collections.abc import Mapping, Sequence

from bench.routing_folds import Row

_LABELS = ("data", "router", "bound", "over", "threshold", "bytes_per_edit")
_TAIL = ("auc", "chosen_bound", "fitted_on", "hard_negatives", "bank", "routers", "fit_seconds")


def markdown(title: str, rows: Sequence[Row]) -> str:
    """A table of rows. Percentages; of prompts with an answer `right / wrong edit`, of the others
    false activation, each with the number of answers behind it, where that is known."""
    labels = [name for name in _LABELS if any(name in row for row in rows)]
    groups = list(dict.fromkeys(n for row in rows for n in row if isinstance(row[n], Mapping)))
    tail = [name for name in _TAIL if any(name in row for row in rows)]
    columns = [*labels, *groups, *tail]
    lines = [f"### {title}", "", _line(columns), _line(["---"] * len(columns))]
    lines += [_line([_cell(row.get(name)) for name in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        count = f" ({value['n']})" if "n" in value else ""
        if "false" in value:
            return f"{value['false']:.2f}{count}"
        return f"{value['right']:.1f} / {value['wrong']:.2f}{count}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
