"""What servers answer from is not collected, and is once they have gone on."""

from datetime import UTC, datetime, timedelta

import pytest

from scen.errors import IntegrityError
from scen.registry.actions import About, Revoke
from scen.registry.leases import Lease
from scen.registry.serving import Policy, write_policy
from scen.upkeep.collect import Keep, collect, plan_collection
from unit.upkeep.conftest import Shop

KEEP = Keep.for_days(datetime.now(UTC) + timedelta(days=365), 30)


def gc(shop: Shop) -> set[str]:
    """Collect; the waves whose experts are still there."""
    collect(shop.storage, shop.ledger, plan_collection(shop.storage, shop.ledger, KEEP), About())
    return {name for name in shop.bundles if shop.bundle(name).exists()}


@pytest.fixture
def emptied(shop: Shop) -> Shop:
    """Versions 1 to 3 have brought a, b and c; version 4 revokes all."""
    shop.ledger.settle(Revoke(shop.ledger.snapshot().ids))
    return shop


def test_what_the_policy_holds_or_tries_stays_until_it_names_it_no_more(emptied: Shop) -> None:
    write_policy(emptied.storage, Policy(held=1, candidate=2, share=0.1))
    assert gc(emptied) == {"a", "b"}
    write_policy(emptied.storage, Policy(held=1))
    assert gc(emptied) == {"a"}
    write_policy(emptied.storage, Policy())
    assert gc(emptied) == set()


def test_what_a_running_server_answers_from_stays_until_it_goes_on(emptied: Shop) -> None:
    lease = Lease(emptied.storage)
    lease.hold(2)
    assert gc(emptied) == {"a", "b"}
    lease.hold(emptied.ledger.version())
    assert gc(emptied) == set()


def test_versions_that_never_were_keep_nothing(emptied: Shop) -> None:
    """As where a ledger was restored from an old backup."""
    write_policy(emptied.storage, Policy(held=99))
    assert gc(emptied) == set()


def test_nothing_goes_where_nobody_knows_what_is_served(emptied: Shop) -> None:
    write_policy(emptied.storage, Policy(held=1))
    emptied.file("serving/000000000.json").write_text("{")
    with pytest.raises(IntegrityError, match="serving/000000000"):
        gc(emptied)
    assert emptied.bundle("a").exists()
