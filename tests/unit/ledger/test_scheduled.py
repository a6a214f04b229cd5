"""Edits that are not valid yet: committed, not active, and activated by the timer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scen.errors import ConfigError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Expire, Revoke, Rollback, WaveCommit
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.ledger import Ledger, open_ledger
from scen.pipeline.inspect_ledger import write_audit
from scen.records import Edit
from unit.ledger.conftest import Shop

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def year(number: int) -> datetime:
    """Its first moment."""
    return datetime(number, 1, 1, tzinfo=UTC)


def edit(
    name: str, start: int | None = None, end: int | None = None, prompt: str = "Who is mayor?"
) -> Edit:
    """An edit whose id and target are the name, valid for some years."""
    first, last = (None if y is None else year(y) for y in (start, end))
    return Edit(name, prompt, name, valid_from=first, valid_until=last)


def commit(ledger: Ledger, *edits: Edit) -> None:
    """A wave of its own, judged at `NOW`."""
    version = ledger.version()
    wave = WaveCommit(f"w{version}", "s", version, f"{version:064x}", edits, as_of=NOW)
    ledger.commit(wave, version)


def tick(ledger: Ledger, moment: datetime) -> list[str]:
    """The timer runs at a moment; what is active after that, for a reader that opens the store."""
    ledger.settle(Expire(moment))
    return open_ledger(ledger._storage).snapshot().ids


def test_an_edit_of_a_later_year_takes_its_place_then(ledger: Ledger) -> None:
    commit(ledger, edit("ann"))
    commit(ledger, edit("bob", 2031))
    snapshot = ledger.snapshot()
    assert (snapshot.ids, [e.edit_id for e in snapshot.state.scheduled]) == (["ann"], ["bob"])
    assert snapshot.state.describe("bob") == "scheduled in version 2"
    with pytest.raises(NotFoundError, match=r"valid from 2031-01-01T00:00:00\+00:00 on, scheduled"):
        ledger.find("bob")
    assert ledger.log()[-1].metadata["scheduled_from"] == "2031-01-01 00:00:00+00:00"
    assert tick(ledger, year(2031) - timedelta(microseconds=1)) == ["ann"]
    assert ledger.version() == 2
    assert tick(ledger, year(2031)) == ["bob"]
    assert ledger.log()[-1].counts == {"activated": 1, "superseded": 1}
    assert ledger.snapshot().state.describe("ann") == "superseded by bob in version 3"
    assert [event.kind for event, _ in ledger.history("bob")] == [
        "committed",
        "scheduled",
        "activated",
    ]


def test_what_has_waited_too_long_comes_in_the_order_of_time(ledger: Ledger) -> None:
    """Nobody ran the timer for years: the one that is valid now answers, and all is in the log."""
    commit(ledger, edit("ann"))
    commit(ledger, edit("dan", 2034), edit("cid", 2032, 2033), edit("bob", 2031))
    assert tick(ledger, year(2032)) == ["cid"]
    assert ledger.snapshot().state.describe("bob") == "superseded by cid in version 3"
    assert tick(ledger, year(2033)) == []
    assert tick(ledger, year(2040)) == ["dan"]
    commit(ledger, edit("eve", 2050, 2051, prompt="Who is king?"))
    assert tick(ledger, year(2060)) == ["dan"]
    assert ledger.snapshot().state.describe("eve").startswith("expired")


def test_only_what_it_contradicts_gives_way(ledger: Ledger) -> None:
    """The same fact in other words with another target does, with the same target it does not."""
    of_paris = replace(edit("ann"), subject="Paris", metadata={"relation": "mayor"})
    commit(
        ledger,
        edit("king", prompt="Who is king?"),
        replace(of_paris, prompt="Who leads Paris?"),
        replace(of_paris, id="bob", prompt="Who heads Paris?", target="bob"),
        replace(of_paris, id="later", target="bob", valid_from=year(2031)),
    )
    assert tick(ledger, year(2031)) == ["king", "bob", "later"]


@pytest.mark.parametrize("moment", [year(2030), year(2032)])
def test_a_scheduled_edit_may_be_revoked(ledger: Ledger, moment: datetime) -> None:
    commit(ledger, edit("bob", 2031))
    ledger.settle(Revoke(["bob"]))
    assert tick(ledger, moment) == []
    assert ledger.snapshot().state.scheduled == ()


def test_a_rollback_restores_what_waited(ledger: Ledger) -> None:
    commit(ledger, edit("ann"))
    commit(ledger, edit("bob", 2031))
    tick(ledger, year(2031))
    ledger.settle(Rollback(1))  # bob was not there
    assert ledger.snapshot().ids == ["ann"]
    assert tick(ledger, year(2040)) == ["ann"]
    ledger.settle(Rollback(2))  # bob was scheduled
    assert [e.edit_id for e in ledger.snapshot().state.scheduled] == ["bob"]
    assert tick(ledger, year(2040)) == ["bob"]


def test_gc_keeps_the_expert_of_a_scheduled_edit(shop: Shop) -> None:
    """Until it is revoked."""
    later = Edit("later", "Who is next?", "t", valid_from=year(2999))
    version = shop.ledger.version()
    wave = WaveCommit("d", "news", 3, shop.bundles.pop("a"), [later])
    shop.ledger.settle(Revoke(["a-0", "a-1"]))
    shop.ledger.commit(wave, version + 1)
    keep = Keep.for_days(datetime.now(UTC) + timedelta(days=365), 0)
    plan = plan_collection(shop.storage, shop.ledger, keep)
    assert plan.edit_ids == ()
    shop.ledger.settle(Revoke(["later"]))
    plan = plan_collection(shop.storage, shop.ledger, keep)
    assert set(plan.edit_ids) == {"a-0", "a-1", "later"}
    shop.ledger.settle(Rollback(version + 2))
    with pytest.raises(ConfigError, match=r"is scheduled in version \d+, so it cannot be dropped"):
        collect(shop.storage, shop.ledger, plan, About())


def test_auditors_see_since_when_and_until_when(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger, edit("bob", 2031, 2035))
    assert write_audit(str(tmp_path / "audit.parquet"), ledger.events(), ledger.log()) == 2
    first, second = pq.read_table(tmp_path / "audit.parquet").to_pylist()
    assert (first["valid_from"], first["valid_until"]) == (year(2031), year(2035))
    assert (second["event"], second["valid_from"]) == ("scheduled", None)


def test_a_store_without_scheduled_edits_is_read_as_before(
    storage: Storage, ledger: Ledger
) -> None:
    """Stores of earlier releases are read and written as they are."""
    commit(ledger, edit("ann"))
    before = [name for name in storage.names("ledger") if name.endswith(".parquet")]
    commit(ledger, edit("bob", 2031))
    [added] = (
        set(storage.names("ledger"))
        - set(before)
        - {name for name in storage.names("ledger") if "_delta_log" in name}
    )
    schemas = [pq.read_schema(storage.local_path / name) for name in (before[0], added)]
    assert schemas[0] == schemas[1]
