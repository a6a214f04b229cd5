"""Every interleaving of two writers, a reader and gc, crashes included, keeps what is promised.

The model is in `concurrency_model`; a rule of it that is broken must show in a counterexample.
"""

import pytest

from unit.ledger.concurrency_model import Rules, explore, find_fault


@pytest.mark.parametrize(
    "programs",
    [
        ("b!", "c!"),  # two lives of the registry, or its zombie
        ("b!", "b!", "gc"),  # which run the same wave
        ("b", "back", "gc"),  # a wave beside a rollback, no epochs
        ("b", "reader", "gc"),
    ],
)
def test_every_interleaving_with_a_crash(programs: tuple[str, ...]) -> None:
    assert explore(programs, Rules(), crashes=1) > 500


@pytest.mark.slow
@pytest.mark.parametrize("programs", [("b!", "c!"), ("b", "b!"), ("b", "back"), ("b", "gc")])
def test_every_interleaving_of_four_processes(programs: tuple[str, ...]) -> None:
    """Two writers (or a writer and a second gc), a reader and gc."""
    assert explore((*programs, "reader", "gc"), Rules(), crashes=0) > 5000


@pytest.mark.slow
def test_four_processes_with_a_crash() -> None:
    assert explore(("b", "back", "reader", "gc"), Rules(), crashes=1) > 50_000


@pytest.mark.parametrize(
    ("rules", "programs", "fault"),
    [
        (Rules(append="overwrite"), ("b!", "c", "gc"), "a commit was changed or taken back"),
        (Rules(append="rebase"), ("b", "c", "gc"), "the log contradicts itself"),
        (Rules(is_fenced=False), ("b!", "c!"), "a writer committed after a later epoch had"),
        (Rules(saves_first=False), ("b", "c"), "has lost its expert"),
        (Rules(gc_notes_first=False), ("b", "back", "gc"), "has lost its expert"),
        (Rules(gc_reads_leases=False), ("b", "reader", "gc"), "a reader lost an expert"),
        (Rules(gc_reads_leases_again=False), ("b", "reader", "gc"), "a reader lost an expert"),
        (Rules(reader_confirms=False), ("b", "reader", "gc"), "a reader lost an expert"),
    ],
)
def test_a_broken_rule_is_found(rules: Rules, programs: tuple[str, ...], fault: str) -> None:
    assert fault in find_fault(programs, rules)
