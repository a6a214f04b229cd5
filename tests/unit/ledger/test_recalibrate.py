"""The router of a version follows the version: through rollbacks, pointers, signatures and gc."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from scen.errors import NotFoundError
from scen.ledger.actions import About, Recalibrate, Rollback
from scen.ledger.bundles import bundle_path, router_bundles
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.ledger import open_ledger
from scen.ledger.manifest import MANIFEST_PATH, point_at
from scen.ledger.sign import signed_files
from scen.ledger.tensors import save_bundle
from scen.ledger.verify import verify_store
from scen.pipeline.change import change
from scen.pipeline.inspect_ledger import write_audit
from unit.ledger.conftest import Shop, add_wave

PROFILE = {"how": "store", "source": "store", "edits": 6}


@pytest.fixture
def second(shop: Shop) -> str:
    """A second router of the shop, not in use yet."""
    return save_bundle(shop.storage, {"mean": torch.zeros(3), "gate": torch.zeros(2, 2)})


def recalibrate(shop: Shop, router: str) -> int:
    action = Recalibrate(router, json.dumps(PROFILE), About("it grew", "ann"))
    return shop.ledger.settle(action).version


def test_it_is_a_commit_of_its_own(shop: Shop, second: str) -> None:
    manifest = shop.storage.read(MANIFEST_PATH)
    assert recalibrate(shop, second) == 4
    before, after = shop.ledger.snapshot(3), shop.ledger.snapshot(4)
    assert (before.state.router, after.state.router) == (None, second)
    assert before.ids == after.ids
    entry = shop.ledger.log()[-1]
    assert (entry.action, entry.who, entry.why, entry.num_edits) == (
        "calibrate", "ann", "it grew", 0,
    )  # fmt: skip
    assert (entry.counts, entry.stream) == ({"recalibrated": 1}, "")
    assert shop.ledger.profile(after) == PROFILE
    assert shop.ledger.profile(before) == {}
    assert shop.storage.read(MANIFEST_PATH) == manifest
    again = shop.ledger.settle(Recalibrate(second, "{}"))
    assert (again.version, again.already_committed) == (4, True)


def test_a_rollback_brings_back_the_router_of_the_version(shop: Shop, second: str) -> None:
    recalibrate(shop, second)
    add_wave(shop, "d", 3)
    done = change(shop.ledger, Rollback(3))
    assert dict(done.changed) == {
        "revoked": ["d-0", "d-1"],
        "recalibrated": ["the router of the start"],
    }
    assert shop.ledger.snapshot().state.router is None
    assert shop.ledger.profile(shop.ledger.snapshot()) == {}
    assert shop.ledger.settle(Rollback(4)).version == 7
    reread = open_ledger(shop.storage)
    assert reread.snapshot().state.router == second
    assert [reread.snapshot(v).state.router for v in (3, 4, 5, 6)] == [None, second, second, None]
    assert reread.profile(reread.snapshot()) == PROFILE


def test_a_pointer_is_to_the_model_with_its_router(shop: Shop, second: str) -> None:
    manifest = shop.ledger.manifest
    digests = [point_at("s", manifest, shop.ledger.snapshot(3)).digest]
    recalibrate(shop, second)
    digests.append(point_at("s", manifest, shop.ledger.snapshot(4)).digest)
    shop.ledger.settle(Rollback(3))
    digests.append(point_at("s", manifest, shop.ledger.snapshot(5)).digest)
    assert digests[0] == digests[2] != digests[1]


def test_signatures_cover_the_router_of_the_version(shop: Shop, second: str) -> None:
    recalibrate(shop, second)
    first, last = (signed_files(shop.storage, shop.ledger, version) for version in (3, 4))
    assert bundle_path(shop.router) in first
    assert bundle_path(shop.router) not in last
    assert bundle_path(second) in last


def test_no_router_of_a_version_is_collected(shop: Shop, second: str) -> None:
    spare = save_bundle(shop.storage, {"mean": torch.full((3,), 2.0)})
    recalibrate(shop, second)
    shop.ledger.settle(Rollback(3))
    assert router_bundles(shop.ledger) == {shop.router, second}
    later = datetime.now(UTC) + timedelta(days=40)
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(later, 30))
    assert [file.path for file in plan.files] == [bundle_path(spare)]
    collect(shop.storage, shop.ledger, plan, About())
    assert list(verify_store(shop.storage)) == []


def test_a_missing_router_shows(shop: Shop, second: str) -> None:
    recalibrate(shop, second)
    shop.ledger.settle(Rollback(3))
    shop.file(bundle_path(second)).unlink()
    [found] = verify_store(shop.storage)
    assert (found.kind, found.where) == ("missing", bundle_path(second))


def test_an_audit_has_the_event(shop: Shop, second: str, tmp_path: Path) -> None:
    recalibrate(shop, second)
    ledger = shop.ledger
    path = tmp_path / "audit.parquet"
    assert write_audit(str(path), ledger.events(), ledger.log()) == 7
    with pytest.raises(NotFoundError):
        ledger.history("")
