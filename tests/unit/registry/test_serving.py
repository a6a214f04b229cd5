"""What all servers of a store were told to answer from."""

from pathlib import Path

import pytest

from scen.errors import IntegrityError
from scen.fs import Storage
from scen.registry.serving import Policy, read_policy, write_policy


def test_the_last_policy_counts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_policy(storage) == Policy()
    for policy in (Policy(7, who="ann"), Policy(0, 9, 0.5), Policy()):
        write_policy(storage, policy)
        assert read_policy(storage) == policy
    assert [policy.versions for policy in (Policy(0, 9, 0.5), Policy(7), Policy())] == [
        {0, 9},
        {7},
        set(),
    ]
    assert len(storage.names("serving")) == 3


def test_a_damaged_policy_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_policy(storage, Policy(7))
    (tmp_path / "serving/000000000.json").write_text('{"hold": 7}')
    with pytest.raises(IntegrityError, match=r"serving/000000000\.json is damaged"):
        read_policy(storage)
