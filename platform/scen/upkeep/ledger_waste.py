"""Files of a ledger that no version needs. Delta Lake's own vacuum is not used: it would commit
versions that have to do with no edit."""

import re
from collections.abc import Collection

from scen.errors import IntegrityError
from scen.fs import Storage, StoredFile
from scen.registry.table import open_table
from scen.upkeep.ledger_files import (
    LOG_FOLDER,
    cut_off_commits,
    data_files,
    log_paths,
    read_log_file,
)

_CHECKPOINT = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.checkpoint\..*parquet")
_FIRST_LOOK = f"{LOG_FOLDER}/_last_checkpoint"  # names the checkpoint that readers begin with


def stray_files(storage: Storage) -> list[StoredFile]:
    """What writers left behind that were killed amid a commit: data files that no commit names, and
    commits that were not put in their place. Raises IntegrityError where a log file is missing or
    damaged, as nobody knows then which data it names."""
    data, table = data_files(storage), open_table(storage)
    if len(data) <= len(table.file_uris()):  # nothing but what the newest version has
        return cut_off_commits(storage)
    paths = log_paths(storage)
    missing = sorted(set(range(table.version() + 1)) - set(paths))
    if missing:
        raise IntegrityError(
            f"ledger: the log files of versions {missing[:5]} are missing; `scen verify` tells "
            "what to do"
        )
    logs = [read_log_file(storage, version, path) for version, path in paths.items()]
    named = {name for log in logs for name in log.adds}
    return [file for file in data if file.path not in named] + cut_off_commits(storage)


def spare_checkpoints(storage: Storage, kept: Collection[int]) -> list[StoredFile]:
    """The checkpoints (what all commits up to a version come to, so that not all of them need be
    read) that are neither the last before a kept version nor the one that readers begin with.
    Without them each version is read from its commits."""
    found: dict[int, list[StoredFile]] = {}
    for file in storage.files(LOG_FOLDER):
        if match := _CHECKPOINT.fullmatch(file.path):
            found.setdefault(int(match[1]), []).append(file)
    if not found:
        return []
    needed = {max((at for at in found if at <= version), default=0) for version in kept}
    needed.add(max(found))
    if storage.exists(_FIRST_LOOK):
        needed.add(storage.read_json(_FIRST_LOOK)["version"])
    return [file for at, files in found.items() if at not in needed for file in files]
