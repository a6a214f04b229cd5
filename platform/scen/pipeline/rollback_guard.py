"""Back to an earlier version where what is served falls under the bounds of the settings."""

from scen.errors import ConfigError, ScenError
from scen.ledger.actions import About, Rollback
from scen.ledger.ledger import Ledger
from scen.ledger.state import Snapshot


def guard(ledger: Ledger, reasons: list[str], measured: Snapshot, to: int | str) -> None:
    """Roll back to a version, or to the previous one, where a bound is broken and nobody has
    committed since. Raises ScenError that tells of it."""
    if not reasons:
        return
    why = f"version {measured.version}: {'; '.join(reasons)}"
    try:
        target = to if isinstance(to, int) else previous_version(ledger, measured)
    except ConfigError as err:
        raise ScenError(f"{why}; not rolled back: {err}") from err
    done = ledger.act(Rollback(target, About(why)), measured.version)
    how = "already as at" if done.already_committed else "rolled back to"
    raise ScenError(f"{why}; {how} {target} as version {done.version}")


def previous_version(ledger: Ledger, measured: Snapshot) -> int:
    """The version before the newest wave of which an edit is active. Raises ConfigError where there
    is none, or where it would bring back what was taken away since for a reason of its own."""
    newest = max((entry.version for entry in measured.entries), default=0)
    if newest == 0:
        raise ConfigError("no edit is active")
    gone, plan = measured.state.gone, ledger.plan(Rollback(newest - 1))
    back = [event.edit_id for event in plan if event.kind == "restored" and event.edit_id in gone]
    unwanted = [name for name in back if gone[name].status != "superseded"]
    if unwanted:
        raise ConfigError(
            f"version {newest - 1} would bring back {unwanted[:5]}, revoked or expired since; "
            "`scen revoke` the newest edits, or `scen rollback` to a version of your choice"
        )
    return newest - 1
