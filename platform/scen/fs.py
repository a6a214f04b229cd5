"""Files of a store by URI: a local path, or s3://, gs://, az:// through obstore.

Writes are atomic: `put_new` is create-if-absent on every backend, and nothing here renames. Paths
are relative to the root, with forward slashes.
"""

import contextlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import LocalStore, from_url

from scen.errors import ConfigError, NotFoundError


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file under a root: its path, its size in bytes, and when it was written (UTC)."""

    path: str
    size: int
    written_at: datetime


class Storage:
    """A root folder or URI, with the few operations that the platform needs."""

    def __init__(self, uri: str, options: dict[str, str] | None = None) -> None:
        self.uri = _full_uri(uri)
        self.options = dict(options or {})
        self._store: Any = _open(self.uri, self.options)

    @property
    def is_local(self) -> bool:
        """True if the root is a folder on this machine."""
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def local_path(self) -> Path:
        """The root as a folder. Raises ConfigError unless storage is local."""
        if not self.is_local:
            raise ConfigError(f"store: {self.uri} is not a folder on this machine")
        return Path(self.uri.removeprefix("file://"))

    def child_uri(self, path: str) -> str:
        """The URI of a path under the root, for libraries that open URIs themselves."""
        return f"{self.uri}/{path}"

    def put_new(self, path: str, data: bytes) -> bool:
        """Create a file; False if it exists already (it is left unchanged)."""
        try:
            obstore.put(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def put_json(self, path: str, value: object) -> bool:
        """`put_new` of a value as JSON, keys sorted."""
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
        return self.put_new(path, text.encode())

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises NotFoundError."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError as err:
            raise NotFoundError(f"{self.child_uri(path)} does not exist") from err

    def read_json(self, path: str) -> Any:
        """The value that `put_json` wrote. Raises NotFoundError."""
        return json.loads(self.read(path))

    def exists(self, path: str) -> bool:
        """True if the file exists."""
        with contextlib.suppress(FileNotFoundError):
            obstore.head(self._store, path)
            return True
        return False

    def names(self, prefix: str) -> list[str]:
        """Sorted paths of all files under a prefix."""
        return [file.path for file in self.files(prefix)]

    def files(self, prefix: str) -> list[StoredFile]:
        """All files under a prefix, sorted by path."""
        pages = obstore.list(self._store, prefix=prefix)
        files = [
            StoredFile(str(item["path"]), item["size"], item["last_modified"])
            for page in pages
            for item in page
        ]
        return sorted(files, key=lambda file: file.path)

    def delete(self, path: str) -> None:
        """Delete a file; a no-op if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, path)


def _full_uri(uri: str) -> str:
    """A URI without trailing slashes, or an absolute path. Raises ConfigError for a bare scheme."""
    if "://" not in uri:
        return str(Path(uri).expanduser().resolve())
    if not uri.partition("://")[2].strip("/"):
        raise ConfigError(
            f"store: {uri!r} has no bucket or folder; give one, such as s3://bucket/folder"
        )
    return uri.rstrip("/")


def _open(uri: str, options: dict[str, str]) -> Any:
    try:
        if "://" not in uri or uri.startswith("file://"):
            return LocalStore(uri.removeprefix("file://"), mkdir=True)
        return from_url(uri, **options)  # type: ignore[call-overload]
    except (ValueError, OSError, ObstoreError) as err:
        cause = str(err).splitlines()[0]
        raise ConfigError(f"store: cannot open {uri!r} ({cause}); name a folder or a URI") from err
