"""Every error that the platform raises on purpose.

Each leaf is also the standard-library error a caller would expect, carries one message that names
the field and the fix, and survives pickling (errors cross process borders).
"""

from typing import ClassVar


class ScenError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class ConfigError(ScenError, ValueError):
    """A setting or an argument is wrong."""

    exit_code = 2


class InputError(ScenError, ValueError):
    """A file of edits or prompts cannot be used as a whole."""

    exit_code = 3


class BaseError(ScenError, ValueError):
    """The base model cannot be found, is not supported, or does not fit the ledger."""

    exit_code = 4


class NotFoundError(ScenError, LookupError):
    """An edit, a version or a store that was asked for does not exist."""

    exit_code = 5


class ConflictError(ScenError, RuntimeError):
    """Another commit came first: reload, check again, retry."""

    exit_code = 6


class IntegrityError(ScenError, RuntimeError):
    """Stored bytes are not what their digest says."""

    exit_code = 7
