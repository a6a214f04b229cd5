"""`scen`: parse, run the command, turn errors into one clear line and an exit code."""

import importlib
import sys
from collections.abc import Sequence

from scen.cli.parser import build_parser
from scen.errors import ScenError

_COMMANDS = {
    "base": "scen.cli.base_command",
    "edit": "scen.cli.edit_command",
    "ask": "scen.cli.ask_command",
    "eval": "scen.cli.eval_command",
    "calibrate": "scen.cli.calibrate_command",
    "benchmark": "scen.cli.benchmark_command",
    "collisions": "scen.cli.collisions_command",
    "report": "scen.cli.report_command",
    "revoke": "scen.cli.revoke_command",
    "expire": "scen.cli.expire_command",
    "rollback": "scen.cli.rollback_command",
    "diff": "scen.cli.diff_command",
    "log": "scen.cli.log_command",
    "show": "scen.cli.show_command",
    "publish": "scen.cli.publish_command",
    "unpublish": "scen.cli.publish_command",
    "verify": "scen.cli.verify_command",
    "gc": "scen.cli.gc_command",
    "candidates": "scen.cli.candidates_command",
    "promote": "scen.cli.promote_command",
    "reject": "scen.cli.reject_command",
    "sign": "scen.cli.trust_command",
    "register": "scen.cli.register_command",
    "rebase": "scen.cli.rebase_command",
    "export": "scen.cli.export_command",
    "drain": "scen.cli.drain_command",
    "submit": "scen.cli.submit_command",
    "jobs": "scen.cli.jobs_command",
    "stop": "scen.cli.stop_command",
    "serve": "scen.cli.serve_command",
    "demo": "scen.cli.demo_command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scen` with these arguments and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        # A command's machinery (torch, MLflow) is loaded only when that command runs.
        importlib.import_module(_COMMANDS[args.command]).run(args)
    except ScenError as error:
        sys.stderr.write(f"scen {args.command}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to go on\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
