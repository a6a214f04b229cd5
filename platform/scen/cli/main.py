"""`scen`: parse, run the command, report errors in one line with an exit code.

The dependencies of a command (torch, MLflow, Ray) are imported when it runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from cyclopts import (
    App,
    Argument,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
    ValidationError,
)

from scen import __version__
from scen.cli import base, edit, evaluate, gate, jobs, life, ops, serve, view
from scen.cli.output import out, write_error
from scen.errors import ConfigError, ScenError

_HELP = """\
Keep a language model's facts current: one small expert per edit, a base that
never changes.

getting started:
  scen demo                                      real edits on a real model
  scen edit edits.jsonl --store ./my-store       apply a file of edits
  scen ask "Who founded X?" --store ./my-store --base-answer
  scen log --store ./my-store                    what was committed, and why
  scen revoke EDIT_ID --store ./my-store --why "the source was wrong"

exit codes: 0 success, 1 failure, 2 invalid setting, 3 unusable input file,
4 base model, 5 not found, 6 another writer came first, 7 damaged store
"""
ROOMS = [room.app for room in (edit, view, life, evaluate, gate, ops, base, serve, jobs)]
COMMANDS = {name for room in ROOMS for name in room if not name.startswith("-")}
_LAST = Group("Other", sort_key=99)
_INTERRUPTED, _NO_READER = 130, 141  # as in shells: 128 plus the signal number


def build_app() -> App:
    """The application with all commands."""
    parameter = Parameter(
        negative="", allow_repeating=True, show_default=lambda value: value or None
    )
    app = App(
        name="scen",
        help=_HELP,
        help_format="plaintext",
        console=out,
        version=f"scen {__version__}",
        default_parameter=parameter,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for room in ROOMS:
        app.command(room, name="*")
    app.register_install_completion_command(group=_LAST)
    for flag in ("--help", "--version"):
        app[flag].group = (_LAST,)
    return app


def explain(error: CycloptsError) -> str:
    """A one-line message for a parse error, beginning with the argument."""
    if isinstance(error, UnusedCliTokensError):
        return f"{' '.join(error.unused_tokens or [])}: unexpected argument"
    if error.argument is None:
        return str(error).rstrip(". ")
    option = error.argument.name
    name = option if option.startswith("--") else option.upper()
    if isinstance(error, MissingArgumentError):
        return f"{_required(error.argument) if option == '*' else name}: is missing"
    if isinstance(error, ValidationError):
        return f"{name}: {error.exception_message}"
    if isinstance(error, CoercionError) and error.token is not None:
        kind, value = error.target_type, error.token.value
        if error.msg is not None:
            return f"{name}: {error.msg}"
        if get_origin(kind) is Literal:
            return f"{name}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}"
        return f"{name}: {value!r} is not {'a whole number' if kind is int else 'a number'}"
    return f"{name}: {error}".rstrip(". ")


def _required(argument: Argument) -> str:
    """The name of a missing option, or of the first missing one in a group."""
    missing = [child for child in argument.children if child.required and not child.tokens]
    return _required(missing[0]) if missing else argument.name


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scen` with these arguments and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    app = build_app()
    if not words:
        app.help_print([])
        return ConfigError.exit_code
    name = f"scen {words[0]}" if words[0] in COMMANDS else "scen"
    try:
        app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        write_error(f"{name}: {explain(error)} (see {name} --help)")
        return ConfigError.exit_code
    except ScenError as error:
        write_error(f"{name}: {error}")
        return error.exit_code
    except BrokenPipeError:
        # The reader (`| head`) has ended: prevent another flush of the buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NO_READER
    except KeyboardInterrupt:
        write_error("stopped; run the same command again to continue")
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
