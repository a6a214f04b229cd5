"""How long answers took in an evaluation, as a few numbers. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class BatchTime:
    """A batch of prompts that were answered together. `seconds` is its whole measuring: the answers
    of the base and of the edited model, and the teacher-forced figures; `answer_seconds` is what
    the edited model took from the prompts to the last answer's end."""

    prompts: int
    seconds: float
    answer_seconds: float


def latency_metrics(batches: Sequence[BatchTime]) -> dict[str, float]:
    """Median and p95 over all prompts of the time to their answer, in seconds: a prompt waits for
    the whole of its batch, of `prompts_per_batch` on average. `seconds_per_probe` is the whole
    measuring over the number of prompts. Nothing where nothing was timed."""
    waits = sorted(batch.answer_seconds for batch in batches for _ in range(batch.prompts))
    if not waits:
        return {}
    return {
        "answer_seconds_median": median(waits),
        "answer_seconds_p95": waits[math.ceil(0.95 * len(waits)) - 1],
        "prompts_per_batch": len(waits) / len(batches),
        "seconds_per_probe": sum(batch.seconds for batch in batches) / len(waits),
    }
