"""What a driver says of itself at its end: it should have stayed small."""

import resource

from scen.cli.output import say
from scen.model.base import Base

_KILO = 1024


def say_driver(base: Base) -> None:
    """Tell whether this process loaded the base's weights, which are the workers' to load, and the
    most memory that it had."""
    held = "loaded" if base.is_loaded else "not loaded"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KILO
    say(f"driver: weights of the base {held} here, at most {peak:.0f} MiB of memory")
