"""Runs in this process, shown on stderr."""

from scen.cli.output import say, step_progress
from scen.pipeline.runtime import Runtime

RUNTIME = Runtime(say=say, steps=step_progress)
