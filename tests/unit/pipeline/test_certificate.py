"""Certificates of revocation, on a real store with a base that is run."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scen.errors import ConfigError, NotFoundError
from scen.ledger.actions import About, Revoke
from scen.ledger.collect import Keep, collect, plan_collection
from scen.pipeline.certificate import certify
from scen.pipeline.local import LocalParts
from scen.pipeline.stream import run_stream
from scen.records import Edit, Rephrase

pytestmark = pytest.mark.slow
MakeParts = Callable[..., LocalParts]
LATER = datetime.now(UTC) + timedelta(days=365)


def run(parts: LocalParts, edits: list[Edit]) -> None:
    """Commit them in waves of three."""
    list(run_stream("news", [edits], parts.store, parts.config, parts))


def test_only_erased_edits_are_certified_as_erased(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    """Beside other edits that stay, of a router that does not take these prompts to them."""
    parts = make_parts(router={"threshold": 0.97})
    store, storage = parts.store, parts.store.storage
    facts[0] = replace(facts[0], rephrases=(Rephrase("Say who “it” is, please"),))
    run(parts, facts)
    ids = [edit.id for edit in facts[:3]]
    with pytest.raises(ConfigError, match="'edit-0' is active; revoke it first"):
        certify(storage, ids, store)
    store.ledger.settle(Revoke(ids, About("the source was wrong", "ann")))
    found = certify(storage, ids, store, now=datetime(2026, 6, 1, tzinfo=UTC))
    assert (found["made_at"], found["store"]["version"]) == ("2026-06-01T00:00:00+00:00", 3)
    assert [row["why"] for row in found["edits"][0]["history"]] == ["", "the source was wrong"]
    answers = found["edits"][0]["answers"]
    assert len(answers) == 2  # the prompt and its rephrase
    for row in answers:
        assert row["is_base"], row
        assert (row["answered_by"], row["after_sha256"]) == (None, row["base_sha256"])
    assert answers[0]["before_sha256"] != answers[0]["base_sha256"]
    [bundle] = found["bundles"]
    assert (bundle["is_deleted"], bundle["noted_in_version"], bundle["edits"]) == (False, None, ids)
    assert found["is_erased"] is False

    plan = plan_collection(storage, store.ledger, Keep.for_days(LATER, 0))
    collect(storage, store.ledger, plan, About())
    found = certify(storage, ids, store)
    [bundle] = found["bundles"]
    assert (bundle["is_deleted"], bundle["noted_in_version"], found["is_erased"]) == (True, 4, True)
    assert bundle["sha256"] not in json.dumps(storage.names("bundles"))


def test_the_files_that_still_have_the_text_are_named_and_the_certificate_has_it_not(
    parts: LocalParts, facts: list[Edit]
) -> None:
    storage = parts.store.storage
    run(parts, facts[:3])
    storage.put_new("inbox/x/waiting/e.jsonl", json.dumps({"prompt": facts[0].prompt}).encode())
    parts.store.ledger.settle(Revoke([facts[0].id]))
    found = certify(storage, [facts[0].id])
    assert (found["is_erased"], found["edits"][0]["answers"]) == (None, None)  # nothing was run
    paths = [row["path"] for row in found["text_remains_in"]]
    assert "inbox/x/waiting/e.jsonl" in paths
    assert any(path.startswith("ledger/") and path.endswith(".parquet") for path in paths)
    assert any(path.startswith("waves/") for path in paths)
    assert "store.json" not in paths
    assert facts[0].prompt not in json.dumps(found)
    assert "MLflow" in found["text_not_looked_for_in"]


def test_an_edit_that_another_answers_for_is_not_erased(
    parts: LocalParts, facts: list[Edit]
) -> None:
    """Its prompt does not give the base's answer."""
    run(parts, facts[:3])
    newer = replace(facts[0], id="newer", target=facts[1].target)
    rules = parts.config.waves.model_copy(update={"on_conflict": "supersede"})
    run(replace(parts, config=parts.config.model_copy(update={"waves": rules})), [newer])
    found = certify(parts.store.storage, [facts[0].id], parts.store)
    row, *_ = found["edits"][0]["answers"]
    assert (row["is_base"], row["answered_by"]) == (False, "newer")
    assert row["after_sha256"] != row["base_sha256"]
    assert found["is_erased"] is False
    with pytest.raises(NotFoundError, match="'nobody' is not in the ledger"):
        certify(parts.store.storage, ["nobody"])
