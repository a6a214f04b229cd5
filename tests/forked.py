"""Lives of a process that may end by SIGKILL, forked from a server that has done the imports."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

# Installed modules only: the server does not see the folder of tests.
_IMPORTS = ["scen.pipeline.stream", "scen.pipeline.local", "scen.cluster.parts", "ray.train.torch"]


def live(log: Path, function: Callable[..., None], *args: object, on_ray: bool = False) -> int:
    """Call a function in a process of its own, with stdout and stderr in `log`; the exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS if on_ray else _IMPORTS[:2])  # by the first life
    process = context.Process(target=_call, args=(log, function, args))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _call(log: Path, function: Callable[..., None], args: tuple[object, ...]) -> None:
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    function(*args)
