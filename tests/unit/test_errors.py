"""Errors: one tree, each its own exit code, and fit to cross process borders."""

import pickle

import pytest

from scen import errors
from scen.errors import ScenError

LEAVES: list[type[ScenError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ScenError) and kind is not ScenError
]


def test_each_kind_has_an_exit_code_of_its_own() -> None:
    kinds: list[type[ScenError]] = [ScenError, *LEAVES]
    codes = [kind.exit_code for kind in kinds]
    assert codes == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kind", [ScenError, *LEAVES])
def test_an_error_survives_pickling(kind: type[ScenError]) -> None:
    error = kind("expert.steps: must be at least 1")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind
    assert (str(found), found.exit_code) == (str(error), error.exit_code)


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_is_caught_as_the_standard_error_that_it_is(kind: type[ScenError]) -> None:
    standard = {"ConfigError": ValueError, "InputError": ValueError, "BaseError": ValueError,
                "NotFoundError": LookupError, "ConflictError": RuntimeError,
                "IntegrityError": RuntimeError}  # fmt: skip
    assert issubclass(kind, standard[kind.__name__])
