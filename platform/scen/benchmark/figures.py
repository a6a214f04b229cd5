"""From what was said to the numbers of a row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scen.benchmark.ask import Said
from scen.evaluation.probes import Probe

DECILES = 10
PUBLISHED = "orig"
"""The source of the rephrases that came with the data set."""
ASKED, ASKED_SAID, LEFT_ALONE = "asked/", "contained/asked/", "unchanged/"
"""Before the names of ways of asking (exact answers; target within the answer) and of tasks."""


@dataclass(frozen=True)
class Asked:
    """A probe, what the base said to it (None for a probe with a target, where it does not matter)
    and what the method did; `age` is the place of its edit in the stream, from 0 (the oldest) to
    1."""

    probe: Probe
    before: Said | None
    after: Said
    age: float = 0.0

    @property
    def is_exact(self) -> bool:
        """True where the answer is the target, letter for letter."""
        return self.after.text == self.probe.target

    @property
    def is_said(self) -> bool:
        """True where the target stands somewhere in the answer, whatever its case."""
        return (self.probe.target or "").casefold() in self.after.text.casefold()

    @property
    def is_unchanged(self) -> bool:
        """True where the answer is the base's."""
        return self.before is not None and self.after.text == self.before.text

    @property
    def is_identical(self) -> bool:
        """True where each logit of the answer is the base's, bit for bit."""
        return self.before is not None and self.after.digest == self.before.digest


def quality(asked: Sequence[Asked]) -> dict[str, float]:
    """All shares of a method, by name.

    `average` is the mean of reliability, published generality and unrelated locality, as the
    paper's (arXiv 2404.02699); of the second only where there are such rephrases.
    """
    told = [a for a in asked if a.probe.kind == "reliability"]
    reworded = [a for a in asked if a.probe.kind == "generality"]
    silent = _by_source([a for a in asked if a.probe.kind in ("near_miss", "locality")])
    found = {"reliability": share(a.is_exact for a in told)}
    for source, group in _by_source(reworded).items():
        found[f"generality/{source}"] = share(a.is_exact for a in group)
    for source, group in silent.items():
        found[f"locality/{source}"] = share(a.is_unchanged for a in group)
    found["logits_identical"] = share(a.is_identical for group in silent.values() for a in group)
    for way, group in _by_source([a for a in asked if a.probe.kind == "asking"]).items():
        found[f"{ASKED}{way}"] = share(a.is_exact for a in group)
        found[f"{ASKED_SAID}{way}"] = share(a.is_said for a in group)
    for task, group in _by_source([a for a in asked if a.probe.kind == "task"]).items():
        found[f"{LEFT_ALONE}{task}"] = share(a.is_unchanged for a in group)
    for name, group in (("reliability", told), ("generality", reworded)):
        if group:
            found[f"teacher_forced/{name}"] = fmean(a.after.forced or 0.0 for a in group)
            found[f"contained/{name}"] = share(a.is_said for a in group)
    heads = ("reliability", f"generality/{PUBLISHED}", "locality/unrelated")
    found["average"] = fmean(found[name] for name in heads if name in found)
    found["extra_tokens"] = fmean(a.after.extra_tokens for a in asked)
    return found


def retention(asked: Sequence[Asked]) -> list[float]:
    """Reliability by tenth of the stream, the oldest edits first."""
    tenths: list[list[bool]] = [[] for _ in range(DECILES)]
    for a in asked:
        if a.probe.kind == "reliability":
            tenths[min(int(a.age * DECILES), DECILES - 1)].append(a.is_exact)
    return [share(tenth) for tenth in tenths if tenth]


def counts(asked: Sequence[Asked]) -> dict[str, int]:
    """How many probes stand behind each share."""
    groups = _by_source([a for a in asked if a.probe.kind == "generality"])
    silent = _by_source([a for a in asked if a.probe.kind in ("near_miss", "locality")])
    ways = _by_source([a for a in asked if a.probe.kind == "asking"])
    tasks = _by_source([a for a in asked if a.probe.kind == "task"])
    return {
        "reliability": sum(a.probe.kind == "reliability" for a in asked),
        **{f"generality/{source}": len(group) for source, group in groups.items()},
        **{f"locality/{source}": len(group) for source, group in silent.items()},
        **{f"{ASKED}{way}": len(group) for way, group in ways.items()},
        **{f"{LEFT_ALONE}{task}": len(group) for task, group in tasks.items()},
    }


def share(hits: Iterable[bool]) -> float:
    """The share of True; 0 of nothing."""
    found = list(hits)
    return sum(found) / len(found) if found else 0.0


def percent(values: Mapping[str, float], name: str) -> str:
    """A share as text, in percent; nothing where it is not there."""
    return f"{100 * values[name]:.1f}" if name in values else ""


def _by_source(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    groups: dict[str, list[Asked]] = {}
    for a in asked:
        groups.setdefault(a.probe.source, []).append(a)
    return groups
