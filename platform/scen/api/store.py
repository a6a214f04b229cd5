"""A store of edits."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload

from scen.api.snapshot import Edits, Prompts, Snapshot, as_source
from scen.config import Config, OnConflict, load_config
from scen.fs import Storage
from scen.ledger.actions import About, Action, Expire, Revoke, Rollback, os_user
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.manifest import stored_method
from scen.ledger.view import LogEntry
from scen.pipeline.apply import EditJob, EditReport, run_edits
from scen.pipeline.change import Change, change
from scen.pipeline.evaluate import Evaluation
from scen.pipeline.forecast import Forecast, Look, forecast
from scen.pipeline.inspect_ledger import find_commits
from scen.pipeline.runtime import Runtime, make_store
from scen.snapshot.ask import MAX_NEW_TOKENS, Answer
from scen.snapshot.open import OpenStore, open_store

log = logging.getLogger("scen.api")
_RUNTIME = Runtime(say=log.info)

Settings = str | Path | Mapping[str, Any]


def open(  # noqa: A001
    uri: str | Path,
    base: str | None = None,
    *,
    settings: Settings | None = None,
    tracking: bool = True,
) -> "Store":
    """Open a store of edits by folder or URI (s3://, gs://, az://). If it does not exist, the first
    `edit` creates it and binds it to its base.

    `base` is smollm2-135m-instruct, a hub id, a local folder or a .gguf file; None means the
    store's own base, or smollm2-135m-instruct for a new store. `settings` is a YAML file (see
    configs/) or the same as a dict, such as `{"base": {"device": "cuda"}, "waves": {"size": 50}}`.
    With `tracking`, waves are tracked in MLflow, at `MLFLOW_TRACKING_URI` or else in the store.

    The base is loaded when it is first needed; `log`, `revoke`, `expire` and `rollback` never need
    it. Raises ConfigError for invalid settings or a location that cannot be opened.
    """
    return Store(Storage(str(uri)), base, settings, tracking)


class Store:
    """The edits of one base model, in all versions. Created by `scen.open`.

    Every method sees the commits of other processes. Methods that ask or evaluate raise
    NotFoundError before the first edit, and BaseError if the base is not the store's.
    """

    def __init__(
        self, storage: Storage, base: str | None, settings: Settings | None, tracking: bool
    ) -> None:
        self._storage, self._tracking = storage, tracking
        self._path = settings if isinstance(settings, str | Path) else None
        self._fixed = dict(settings) if isinstance(settings, Mapping) else {}
        if base is not None:
            self._fixed["base"] = {**self._fixed.get("base", {}), "name": base}
        self._opened: OpenStore | None = None
        self._is_editable = False  # opened, and checked against the settings
        self._newest: Snapshot | None = None
        self._config()

    def __repr__(self) -> str:
        return f"scen.open({self.uri!r})"

    @property
    def uri(self) -> str:
        """The full path or URI."""
        return self._storage.uri

    @property
    def version(self) -> int:
        """The newest version: 0 without edits, incremented by each commit. Raises NotFoundError if
        the store does not exist yet."""
        return self._ledger.version()

    @property
    def profile(self) -> dict[str, Any]:
        """How the router of the newest version was made (see `StoreManifest.profile`). Raises
        NotFoundError if the store does not exist yet."""
        ledger = self._ledger
        return dict(ledger.profile(ledger.snapshot()))

    def edit(  # noqa: PLR0913 (options, by name only)
        self,
        edits: Edits,
        *,
        stream: str | None = None,
        wave_size: int | None = None,
        on_conflict: OnConflict | None = None,
        strict: bool = False,
        limit: int | None = None,
        data_format: str = "auto",
        locality: str | Path | None = None,
        allow_null_text: bool = False,
        why: str | None = None,
        who: str | None = None,
    ) -> EditReport:
        """Train, evaluate, gate and commit edits in waves.

        `edits` are dicts with the fields of a row of an edits file (`prompt` and `target` at
        least), `Edit` objects, or the path or URI of such a file. A row that cannot be used is
        reported with its reason, and the others proceed; with `strict`, one such row raises
        InputError before anything is trained. The call is idempotent: edits that are committed
        already, also by a run that crashed, are counted as known and not committed again.

        `stream` names their origin (default: the file's name, or a digest of the rows). `wave_size`
        (edits per commit), `on_conflict` ("quarantine", "supersede" or "refuse"), `why` and `who`
        (for the log) default to `waves.*` of the settings. `limit` takes the first N valid edits.
        `data_format` "auto" detects the format. `locality` is a file of prompts that no edit may
        change (default: a sample). Words such as "nan", "None" and "N/A" are treated as missing
        values and rejected, except with `allow_null_text`.

        Raises InputError for a file that cannot be used, ConfigError for options that are invalid
        or do not match the store, BaseError for a base that cannot be loaded or is not the store's.
        """
        config = self._config(size=wave_size, on_conflict=on_conflict, why=why, who=who)
        job = self._job(edits, stream, strict, limit, data_format, locality)
        job = replace(job, allow_null_text=allow_null_text)
        job.check()
        report = run_edits(job, self._editable(config), config, _RUNTIME)
        log.info("%d edits committed to %s", report.committed, self.uri)
        return report

    def forecast(  # noqa: PLR0913 (options, by name only)
        self,
        edits: Edits,
        *,
        wave_size: int | None = None,
        on_conflict: OnConflict | None = None,
        limit: int | None = None,
        data_format: str = "auto",
        allow_null_text: bool = False,
        num_answers: int = 0,
    ) -> Forecast:
        """What `edit` with the same options would commit, replace and reject, which prompts the
        router would confuse, and the expected run time. Nothing is trained or written. Includes the
        current answers to the first `num_answers` edits. Raises what `edit` raises."""
        config = self._config(size=wave_size, on_conflict=on_conflict)
        job = self._job(edits, None, False, limit, data_format, None)
        job = replace(job, allow_null_text=allow_null_text)
        job.check()
        look = Look(answers=num_answers)
        return forecast(job, self._storage, config, look, log.info, self._opened)

    @overload
    def ask(
        self,
        prompt: str,
        *,
        max_new_tokens: int = ...,
        base_answer: bool = ...,
        explain: bool = ...,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        prompt: Prompts,
        *,
        max_new_tokens: int = ...,
        base_answer: bool = ...,
        explain: bool = ...,
    ) -> list[Answer]: ...

    def ask(
        self,
        prompt: str | Prompts,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        base_answer: bool = False,
        explain: bool = False,
    ) -> Answer | list[Answer]:
        """The newest version's answer to a prompt, or a list of answers to several. See
        `Snapshot.ask`."""
        return self.snapshot().ask(
            prompt, max_new_tokens=max_new_tokens, base_answer=base_answer, explain=explain
        )

    def evaluate(
        self,
        edits: Edits | None = None,
        *,
        limit: int | None = None,
        data_format: str = "auto",
        locality: str | Path | None = None,
        asking: bool = False,
        allow_null_text: bool = False,
    ) -> Evaluation:
        """Evaluate the newest version. See `Snapshot.evaluate`."""
        return self.snapshot().evaluate(
            edits,
            limit=limit,
            data_format=data_format,
            locality=locality,
            asking=asking,
            allow_null_text=allow_null_text,
        )

    def snapshot(self, version: int | None = None) -> Snapshot:
        """An immutable view of a version (None: the newest). Raises NotFoundError."""
        at_version = self._ledger.snapshot(version)
        if self._newest is None or self._newest.version != at_version.version:
            snapshot = Snapshot(at_version, self._open, self._config(), _RUNTIME)
            if version is not None:
                return snapshot
            self._newest = snapshot  # cached with its model
        return self._newest

    def revoke(
        self,
        edit_ids: str | Iterable[str],
        *,
        why: str = "",
        who: str | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Revoke edits, so that the base answers their prompts again. All of them or none: raises
        NotFoundError for an unknown id."""
        ids = [edit_ids] if isinstance(edit_ids, str) else list(edit_ids)
        return self._change(Revoke(ids, _about(why, who)), dry_run)

    def expire(
        self,
        at: datetime | None = None,
        *,
        why: str = "valid_from or valid_until is reached",
        who: str | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Apply the validity of edits as of a moment (None: now; UTC unless it has a time zone):
        deactivate those past their `valid_until`, activate those past their `valid_from`."""
        moment = at or datetime.now(UTC)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return self._change(Expire(moment, _about(why, who)), dry_run)

    def rollback(
        self, version: int, *, why: str = "", who: str | None = None, dry_run: bool = False
    ) -> Change:
        """Activate exactly the edits that were active at a version, as a new version. Raises
        NotFoundError for an unknown version, ConfigError if an expert was deleted since."""
        return self._change(Rollback(version, _about(why, who)), dry_run)

    def log(
        self,
        *,
        edit_id: str | None = None,
        stream: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        last: int | None = None,
    ) -> list[LogEntry]:
        """The commits, oldest first, filtered by edit, stream, action ("commit", "revoke",
        "expire", "rollback", "gc") and time (with time zone); of these the `last` N. Raises
        NotFoundError for an unknown edit."""
        return find_commits(
            self._ledger, edit_id=edit_id, stream=stream, action=action, since=since, last=last
        )

    def _config(self, **waves: Any) -> Config:
        """The settings of the store, overridden by the `waves` settings that are not None."""
        given = {name: value for name, value in waves.items() if value is not None}
        fixed = {**self._fixed, "waves": {**self._fixed.get("waves", {}), **given}}
        method = self._fixed.get("method") or stored_method(self._storage)
        return load_config(self._path, fixed=fixed | ({"method": method} if method else {}))

    def _job(
        self,
        edits: Edits,
        stream: str | None,
        strict: bool,
        limit: int | None,
        data_format: str,
        locality: str | Path | None,
    ) -> EditJob:
        path = None if locality is None else str(locality)
        return EditJob(as_source(edits), stream, data_format, limit, strict, path, self._tracking)

    def _editable(self, config: Config) -> OpenStore:
        """The store, open for editing; created if it does not exist."""
        if self._opened is None or not self._is_editable:
            base = None if self._opened is None else self._opened.base
            self._opened = make_store(self._storage, config, _RUNTIME, base)
            self._is_editable, self._newest = True, None
        return self._opened

    def _open(self) -> OpenStore:
        """The store, open for asking."""
        if self._opened is None:
            self._opened = open_store(self._storage, self._config().base, log.info)
        return self._opened

    @property
    def _ledger(self) -> Ledger:
        return open_ledger(self._storage) if self._opened is None else self._opened.ledger

    def _change(self, action: Action, dry_run: bool) -> Change:
        return change(self._ledger, action, dry_run=dry_run)


def _about(why: str, who: str | None) -> About:
    return About(why.strip(), who or os_user())
