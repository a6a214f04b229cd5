"""Stage 1: edits per second of the published procedure and of ours, same edits, same run.

The reference trains in float32 as published (bfloat16 loses its small steps), ours is shown in
float32 and in the type that `dtype: auto` picks here.
"""

from bench.report import emit, sample_edits, timed
from scen.base.embedded import EMBEDDED_NAME
from scen.base.load import Base, load_base
from scen.config import load_config
from scen.editor import reference
from scen.records import EncodedEdit
from scen.training.fit_experts import ExpertPlan, Method, fit_experts

NUM_EDITS = 16
LAYER = 20


def plan_of(method: Method) -> tuple[ExpertPlan, int]:
    """The default settings of a method, and its batch size."""
    expert = load_config(fixed={"method": method}).expert
    plan = ExpertPlan(method, LAYER, expert.steps, expert.lr, expert.rank, expert.stop_loss)
    return plan, expert.batch_size


def fit_all(base: Base, method: Method, edits: list[EncodedEdit]) -> float:
    """Train all edits; the mean number of steps that an edit took."""
    plan, size = plan_of(method)
    steps = 0
    for begin in range(0, len(edits), size):
        fitted = fit_experts(base.model, plan, edits[begin : begin + size], base.pad_id)
        steps += sum(len(curve) for curve in fitted.losses)
    return steps / len(edits)


def run_reference(base: Base, edits: list[EncodedEdit]) -> None:
    """The published procedure, one edit at a time."""
    for edit in edits:
        reference.train_expert(base.model, LAYER, edit)


def main() -> None:
    """Print a line per method and number type."""
    exact = load_base(EMBEDDED_NAME, dtype="float32")
    edits = sample_edits(exact, NUM_EDITS)
    run_reference(exact, edits[:1])  # warm up
    _, slow = timed(lambda: run_reference(exact, edits))
    emit(bench="stage1", method="reference", dtype="float32", edits=NUM_EDITS, seconds=slow,
         edits_per_second=NUM_EDITS / slow, ratio_vs_reference=1.0)  # fmt: skip
    auto = load_base(EMBEDDED_NAME)
    runs: list[tuple[Method, Base]] = [("scen", exact), ("scen-lr", exact), ("scen-lr", auto)]
    for method, base in runs:
        fit_all(base, method, edits[:4])  # warm up
        steps, fast = timed(lambda base=base, method=method: fit_all(base, method, edits))  # type: ignore[misc]
        emit(bench="stage1", method=method, dtype=str(base.dtype).removeprefix("torch."),
             edits=NUM_EDITS, seconds=fast, mean_steps=steps,
             edits_per_second=NUM_EDITS / fast, ratio_vs_reference=slow / fast)  # fmt: skip


if __name__ == "__main__":
    main()
