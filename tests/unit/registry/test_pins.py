"""Pins keep the oldest version of each owner, and are forgotten when told so."""

import pytest

from scen.errors import ConfigError
from scen.fs import Storage
from scen.registry.pins import pin, read_pins, unpin


def test_an_owner_has_one_pin(storage: Storage) -> None:
    assert read_pins(storage) == {}
    pin(storage, "server-1", 12)
    pin(storage, "server-10", 3)
    pin(storage, "server-1", 9)
    pin(storage, "server-1", 9)
    assert read_pins(storage) == {"server-1": 9, "server-10": 3}
    unpin(storage, "server-1")
    unpin(storage, "nobody")
    assert read_pins(storage) == {"server-10": 3}


def test_killed_between_two_pins_the_older_holds(storage: Storage) -> None:
    pin(storage, "a", 100)
    storage.put_new(f"pins/a/{2:020d}", b"")
    assert read_pins(storage) == {"a": 2}


@pytest.mark.parametrize("owner", ["", "a/b", "A", ".."])
def test_an_owner_has_a_name(storage: Storage, owner: str) -> None:
    with pytest.raises(ConfigError, match="owner"):
        pin(storage, owner, 1)
    assert storage.names("") == []
