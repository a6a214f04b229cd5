"""The public contract of `import scen`: its names, what they give back, and their errors."""

import inspect
import json
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import scen

ROOT = Path(__file__).parents[2]
NAMES = {
    "open", "submit", "Submitted", "StreamSpec", "DrainSpec", "EvalSpec", "CalibrateSpec",
    "BenchmarkSpec", "Store", "Snapshot", "Edit", "Rephrase", "Answer", "EditReport", "Rejection",
    "EvalReport", "Evaluation", "Forecast", "Change", "LogEntry", "ScenError", "BaseError",
    "ConfigError", "ConflictError", "InputError", "IntegrityError", "NotFoundError",
}  # fmt: skip
SIGNATURES = {
    "open": "uri base settings tracking",
    "submit": "spec address again python sends_code driver_cpus",
    "Submitted.follow": "self say",
    "Submitted.stop": "self",
    "Store.edit": "self edits stream wave_size on_conflict strict limit data_format locality "
    "allow_null_text why who",
    "Store.forecast": "self edits wave_size on_conflict limit data_format allow_null_text "
    "num_answers",
    "Store.ask": "self prompt max_new_tokens base_answer explain",
    "Store.evaluate": "self edits limit data_format locality asking allow_null_text",
    "Store.snapshot": "self version",
    "Store.revoke": "self edit_ids why who dry_run",
    "Store.expire": "self at why who dry_run",
    "Store.rollback": "self version why who dry_run",
    "Store.log": "self edit_id stream action since last",
    "Snapshot.ask": "self prompt max_new_tokens base_answer explain",
    "Snapshot.evaluate": "self edits limit data_format locality asking allow_null_text",
}
ROWS: list[dict[str, Any]] = [
    {"id": f"e{i}", "prompt": f"Who founded place number {i}?", "target": f"name {i}",
     "rephrases": [f"By whom was place number {i} founded?"]}
    for i in range(3)
]  # fmt: skip
UNRELATED = "9999 zzz 31 - 4 qqq %"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """A few steps on the tiny base, and a router that is not for it."""
    return {
        "base": {"template": "llama2-inst", "dtype": "float32"},
        "expert": {"steps": 6},
        "evaluation": {"locality_limit": 4, "locality_tokens": 4},
    }


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, settings: dict[str, Any]
) -> scen.Store:
    """A store of three edits, which tests only read."""
    uri = tmp_path_factory.mktemp("api") / "store"
    store = scen.open(uri, base=str(tiny_folder), settings=settings, tracking=False)
    report = store.edit(ROWS, wave_size=2, why="the first")
    assert report.versions == [1, 2]
    return store


@pytest.fixture
def store(tmp_path: Path, tiny_folder: Path, settings: dict[str, Any]) -> scen.Store:
    """A store that is not made yet."""
    return scen.open(tmp_path / "store", base=str(tiny_folder), settings=settings, tracking=False)


def members(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_names_are_these() -> None:
    assert set(scen.__all__) == NAMES
    assert {*NAMES, "__version__"} == set(dir(scen))
    assert all(getattr(scen, name).__doc__ for name in NAMES)
    assert members(scen.Store) == {
        "uri", "version", "profile", "edit", "forecast", "ask", "evaluate", "snapshot", "revoke",
        "expire", "rollback", "log",
    }  # fmt: skip
    assert members(scen.Snapshot) == {"version", "edits", "ask", "evaluate"}
    with pytest.raises(AttributeError, match="no attribute 'oepn'"):
        _ = scen.oepn  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_parameters_are_these(name: str) -> None:
    owner, _, method = name.rpartition(".")
    function = getattr(getattr(scen, owner) if owner else scen, method)
    assert list(inspect.signature(function).parameters) == SIGNATURES[name].split()


def test_the_fields_of_results_are_these() -> None:
    fields = {
        "Answer": "prompt answer edit_id nearest_edit score threshold version base_answer "
        "likely_edits",
        "EditReport": "stream store version committed known superseded rejected quarantine held "
        "remarks tracking_uri model seconds waves edit_ids rejections",
        "Rejection": "row id field reason raw",
        "Evaluation": "version figures outcomes per_edit_path rejections advice",
        "Change": "action version dry_run changed",
    }
    for name, wanted in fields.items():
        assert list(inspect.signature(getattr(scen, name)).parameters) == wanted.split(), name


def test_a_job_is_a_spec_that_python_and_the_command_line_share() -> None:
    spec = scen.StreamSpec(edits="e.jsonl", store="s")
    assert json.loads(spec.to_json()) == {"kind": "stream", "edits": "e.jsonl", "store": "s"}
    with pytest.raises(scen.ConfigError, match="spec: store: is missing"):
        scen.submit({"kind": "stream", "edits": "e.jsonl"}, address="http://127.0.0.1:9")


def test_importing_it_loads_no_machinery() -> None:
    code = (
        "import sys, scen; scen.ScenError, scen.Edit; print([m for m in {!r} if m in sys.modules])"
    )
    heavy = ["torch", "transformers", "mlflow", "pyarrow", "deltalake", "pydantic"]
    command = [sys.executable, "-P", "-c", code.format(heavy)]
    assert subprocess.run(command, check=True, capture_output=True).stdout.strip() == b"[]"


def test_errors_are_those_of_the_standard_library_too() -> None:
    assert issubclass(scen.NotFoundError, scen.ScenError)
    assert issubclass(scen.NotFoundError, LookupError)
    assert issubclass(scen.ConfigError, ValueError)


def test_an_edit_is_answered_by_its_edit_and_everything_else_by_the_base(
    opened: scen.Store,
) -> None:
    told = opened.ask(ROWS[1]["prompt"], max_new_tokens=16, base_answer=True)
    assert (told.edit_id, told.nearest_edit, told.version) == ("e1", "e1", 2)
    assert told.score is not None
    assert told.score > told.threshold
    assert told.answer != told.base_answer
    assert opened.snapshot(0).ask(ROWS[1]["prompt"], max_new_tokens=16).answer == told.base_answer
    other = opened.ask(UNRELATED, max_new_tokens=16, base_answer=True)
    assert (other.edit_id, other.answer) == (None, other.base_answer)


def test_several_prompts_are_answered_in_their_order(opened: scen.Store) -> None:
    prompts = [UNRELATED, *(row["prompt"] for row in ROWS), "Who?"] * 8  # more than a batch
    told = opened.ask(prompts, max_new_tokens=4)
    assert [one.prompt for one in told] == prompts
    alone = {prompt: opened.ask(prompt, max_new_tokens=4) for prompt in prompts[:5]}
    assert [one.edit_id for one in told] == [alone[prompt].edit_id for prompt in prompts]
    assert [one.answer for one in told] == [alone[prompt].answer for prompt in prompts]
    assert opened.ask([]) == []


def test_an_answer_explains_itself_alone_and_in_a_batch(opened: scen.Store) -> None:
    prompts = [ROWS[2]["prompt"], UNRELATED, ROWS[0]["prompt"]]
    batch = opened.ask(prompts, max_new_tokens=1, explain=True)
    assert [one.likely_edits[0].edit_id for one in batch][::2] == ["e2", "e0"]
    for one in batch:
        assert one.likely_edits[0].score == pytest.approx(one.score, abs=1e-4)
        alone = opened.ask(one.prompt, max_new_tokens=1, explain=True)
        assert [likely.edit_id for likely in alone.likely_edits] == [
            likely.edit_id for likely in one.likely_edits
        ]
    assert opened.ask(prompts[0], max_new_tokens=1).likely_edits == ()


def test_wrong_questions_are_refused(opened: scen.Store) -> None:
    with pytest.raises(scen.ConfigError, match="has no tokens"):
        opened.ask(" ")
    with pytest.raises(scen.ConfigError, match="max_new_tokens: 0"):
        opened.ask("Who?", max_new_tokens=0)
    with pytest.raises(scen.NotFoundError):
        opened.snapshot(7)


def test_a_version_is_measured(opened: scen.Store) -> None:
    found = opened.evaluate()
    assert (found.version, found.figures.n_edits) == (2, 3)
    assert found.figures.logits_identical == 1.0
    assert 0 <= (found.figures.reliability or 0) <= 1
    assert len(found.outcomes) == 3 + 3 + 4
    assert len(Path(found.per_edit_path).read_text().splitlines()) == len(found.outcomes)
    some = opened.snapshot(1).evaluate([ROWS[0], {"prompt": "Who?"}])
    assert (some.version, some.figures.n_edits) == (1, 1)
    assert [(row.row, row.field) for row in some.rejections] == [(2, "target")]


def test_a_file_is_evaluated_with_its_format_and_null_words(
    opened: scen.Store, tmp_path: Path
) -> None:
    path = tmp_path / "edits.jsonl"
    rows = [ROWS[0], ROWS[1] | {"target": "nan"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = opened.evaluate(path, data_format="scen")
    assert (found.figures.n_edits, [row.field for row in found.rejections]) == (1, ["target"])
    found = opened.evaluate(path, data_format="scen", allow_null_text=True)
    assert (found.figures.n_edits, found.rejections) == (2, [])
    with pytest.raises(scen.InputError, match=r"2 rows of .* cannot be used"):
        opened.evaluate(path, data_format="hallucination")


def test_the_log_has_who_did_what_and_why(opened: scen.Store) -> None:
    commits = opened.log()
    assert [(c.version, c.action, c.why, c.num_edits) for c in commits] == [
        (1, "commit", "the first", 2),
        (2, "commit", "the first", 1),
    ]
    assert [c.version for c in opened.log(edit_id="e2")] == [2]
    assert [c.version for c in opened.log(last=1)] == [2]
    assert [edit.id for edit in opened.snapshot(1).edits] == ["e0", "e1"]


def test_every_row_is_reported_and_the_bad_ones_are_in_quarantine(store: scen.Store) -> None:
    rows = [
        scen.Edit("own", "Who is own?", "Ann", rephrases=(scen.Rephrase("Own is who?"),)),
        {"prompt": "Who?", "target": ""},
        {"id": "timed", "prompt": "Who is timed?", "target": "Bob",
         "valid_until": datetime(2999, 1, 1, tzinfo=UTC), "near_misses": ("Where is it?",)},
        {"id": "other", "prompt": "Who is own?", "target": "Cid"},
        7,
    ]  # fmt: skip
    report = store.edit(rows)  # type: ignore[arg-type]
    assert (report.committed, report.edit_ids, report.rejected) == (2, ["own", "timed"], 3)
    assert [(row.row, row.field) for row in report.rejections] == [
        (2, "target"), (4, "target"), (5, "row"),
    ]  # fmt: skip
    assert "contradicts row 1" in report.rejections[1].reason
    assert report.quarantine is not None
    kept = pq.read_table(report.quarantine).to_pylist()
    assert [row["reason"] for row in kept] == [row.reason for row in report.rejections]
    assert report.figures is not None
    assert report.figures.n_edits == 2
    assert store.snapshot().edits[0] == rows[0]
    assert store.snapshot().edits[1].near_misses == ("Where is it?",)


def test_the_same_rows_again_are_known(store: scen.Store) -> None:
    first = store.edit(ROWS[:2])
    again = store.edit(row for row in ROWS[:2])
    assert (first.committed, again.committed, again.known) == (2, 0, 2)
    assert first.stream == again.stream
    assert re.fullmatch("rows-[0-9a-f]{12}", first.stream)
    more = store.edit(ROWS)
    assert (more.committed, more.known, store.version) == (1, 2, 2)
    assert more.stream != first.stream


def test_a_file_gives_what_its_rows_give(store: scen.Store, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    report = store.edit(file)
    assert (report.stream, report.committed) == ("mine", 2)
    assert store.edit(ROWS[:2]).known == 2


def test_where_no_row_can_be_used_the_report_says_why(store: scen.Store) -> None:
    report = store.edit([{"prompt": "Who?"}])
    assert (report.committed, report.version, report.figures) == (0, 0, None)
    assert report.rejections[0].reason.startswith("is missing")
    with pytest.raises(scen.InputError, match="1 of 1 rows are bad"):
        store.edit([{"prompt": "Who?"}], strict=True)


def test_a_newer_edit_may_take_the_place_of_an_older(store: scen.Store) -> None:
    store.edit(ROWS[:1])
    newer = ROWS[0] | {"id": "new", "target": "somebody else"}
    refused = store.edit([newer])
    assert (refused.committed, refused.rejections[0].id) == (0, "new")
    report = store.edit([newer], on_conflict="supersede", who="ann")
    assert (report.committed, report.superseded) == (1, 1)
    assert store.log(last=1)[0].who == "ann"
    assert [edit.id for edit in store.snapshot().edits] == ["new"]


def test_a_forecast_writes_nothing(opened: scen.Store) -> None:
    newer = ROWS[0] | {"id": "new", "target": "somebody else"}
    found = opened.forecast([newer, {"prompt": "Who?"}], on_conflict="supersede", num_answers=1)
    assert [(edit.id, edit.replaces) for edit in found.admitted] == [("new", ["e0"])]
    assert found.admitted[0].answer == opened.ask(ROWS[0]["prompt"]).answer
    assert [row.row for row in found.rejections] == [2]
    assert opened.version == 2


def test_edits_are_revoked_expired_and_brought_back(store: scen.Store) -> None:
    timed = ROWS[2] | {"valid_until": "2999-01-01"}
    store.edit([*ROWS[:2], timed])
    prompt = ROWS[0]["prompt"]
    before = store.ask(prompt, max_new_tokens=8)
    assert store.revoke("e0", why="wrong", dry_run=True).version == 1
    assert store.revoke("e0", why="wrong") == scen.Change("revoke", 2, False, {"revoked": ["e0"]})
    assert store.ask(prompt, max_new_tokens=8).edit_id != "e0"
    gone = store.expire(datetime(3000, 1, 1, tzinfo=UTC))
    assert (gone.version, gone.changed) == (3, {"expired": ["e2"]})
    assert store.snapshot(1).ask(prompt, max_new_tokens=8) == before
    back = store.rollback(1, why="again")
    assert (back.version, sorted(back.changed["restored"])) == (4, ["e0", "e2"])
    assert store.ask(prompt, max_new_tokens=8).edit_id == "e0"
    with pytest.raises(scen.NotFoundError):
        store.revoke(["e1", "e77"])
    assert [c.action for c in store.log()] == ["commit", "revoke", "expire", "rollback"]


def test_commits_of_others_are_seen(store: scen.Store) -> None:
    store.edit(ROWS[:1])
    other = scen.open(store.uri)  # whose base is the store's own
    assert other.ask(ROWS[0]["prompt"], max_new_tokens=2).edit_id == "e0"
    store.revoke("e0")
    assert other.version == 2
    assert other.ask(ROWS[0]["prompt"], max_new_tokens=2).edit_id is None


def test_before_the_first_edit_there_is_no_store(store: scen.Store) -> None:
    for call in (store.log, lambda: store.version, lambda: store.ask("Who?"), store.evaluate):
        with pytest.raises(scen.NotFoundError, match="there is no ledger"):
            call()


def test_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(scen.ConfigError, match=r"waves\.size"):
        scen.open(tmp_path, settings={"waves": {"size": 0}})
    with pytest.raises(scen.ConfigError, match="cannot read"):
        scen.open(tmp_path, settings=tmp_path / "none.yaml")
    store = scen.open(tmp_path, base="no/such/base")
    with pytest.raises(scen.ConfigError, match="on_conflict"):
        store.edit(ROWS, on_conflict="never")  # type: ignore[arg-type]
    wrongs: list[tuple[Any, str]] = [
        ([], "list is empty"), (ROWS[0], "give a list"), ("none.csv", "exist"),
    ]  # fmt: skip
    for wrong, words in wrongs:
        with pytest.raises(scen.InputError, match=words):
            store.edit(wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_method_of_a_store_need_not_be_named_again(
    tmp_path: Path, tiny_folder: Path, settings: dict[str, Any]
) -> None:
    paper = settings | {"method": "scen", "expert": {"steps": 2}}
    store = scen.open(tmp_path / "s", base=str(tiny_folder), settings=paper, tracking=False)
    assert store.edit(ROWS[:1]).committed == 1
    unnamed = {"expert": {"steps": 2}, "evaluation": settings["evaluation"]}
    again = scen.open(tmp_path / "s", settings=unnamed, tracking=False)
    assert again.edit(ROWS[1:2]).committed == 1
    told = again.ask([row["prompt"] for row in ROWS[:2]], max_new_tokens=2, explain=True)
    assert all(len(one.likely_edits) == 2 for one in told)
    with pytest.raises(scen.ConfigError, match="method"):
        scen.open(tmp_path / "s", settings={"method": "scen-lr"}, tracking=False).edit(ROWS)


@pytest.fixture(params=["README.md", "platform/README.md"])
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The Python example of a README, to be run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    readme = (ROOT / request.param).read_text(encoding="utf-8")
    block = re.search(r"^```python\n(import scen\n.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1]


@pytest.mark.slow
def test_the_examples_of_the_readme_files_run(
    example: str, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = "smollm2-135m-instruct"
    assert base in example
    caplog.set_level(logging.INFO, logger="scen.api")
    names: dict[str, Any] = {}
    exec(example.replace(base, str(tiny_folder)), names)
    assert names["report"].model.startswith("scen-")
    assert names["report"].tracking_uri.startswith("sqlite:///")
    actions = ["commit", "revoke"] + ["rollback"] * ("rollback" in example)
    assert [c.action for c in names["store"].log()] == actions
    assert any("loading base" in line for line in caplog.messages)
