"""Every error that the platform raises on purpose.

Each leaf also derives from the matching standard-library error, has one message that names the
field and the fix, and can be pickled (errors cross process boundaries).
"""

from typing import ClassVar


class ScenError(Exception):
    """Base class of all of them. `exit_code` is the exit code of the command line."""

    exit_code: ClassVar[int] = 1


class ConfigError(ScenError, ValueError):
    """A setting or an argument is wrong."""

    exit_code = 2


class InputError(ScenError, ValueError):
    """A file of edits or prompts cannot be used at all."""

    exit_code = 3


class BaseError(ScenError, ValueError):
    """The base model cannot be found, is not supported, or does not match the ledger."""

    exit_code = 4


class NotFoundError(ScenError, LookupError):
    """A requested edit, version or store does not exist."""

    exit_code = 5


class ConflictError(ScenError, RuntimeError):
    """Another commit came first: reload, check again and retry."""

    exit_code = 6


class IntegrityError(ScenError, RuntimeError):
    """Stored bytes do not match their digest."""

    exit_code = 7
