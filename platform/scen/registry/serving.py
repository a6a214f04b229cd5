"""What all servers of a store answer from, where that is not simply the newest version.

A policy is a numbered file under `serving/` in the store, written once; the last one counts.
"""

import json
from dataclasses import asdict, dataclass

from scen.errors import IntegrityError
from scen.fs import Storage

_FOLDER = "serving"


@dataclass(frozen=True, slots=True)
class Policy:
    """`held` is served instead of the newest version. `share` of the requests that name no version
    are answered by version `candidate`. `who` set it."""

    held: int | None = None
    candidate: int | None = None
    share: float = 0.0
    who: str = ""

    @property
    def versions(self) -> set[int]:
        """The versions that it names."""
        return {version for version in (self.held, self.candidate) if version is not None}


def read_policy(storage: Storage) -> Policy:
    """The policy that counts. Raises IntegrityError where its file is damaged."""
    names = storage.names(_FOLDER)
    if not names:
        return Policy()
    try:
        return Policy(**json.loads(storage.read(names[-1])))
    except (ValueError, TypeError) as err:
        raise IntegrityError(f"{storage.child_uri(names[-1])} is damaged ({err})") from err


def write_policy(storage: Storage, policy: Policy) -> None:
    """Make this the policy that counts."""
    number = len(storage.names(_FOLDER))
    while not storage.put_json(f"{_FOLDER}/{number:09d}.json", asdict(policy)):
        number += 1
