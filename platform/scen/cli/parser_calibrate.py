"""The words of `scen calibrate`."""

import argparse

from scen.cli.options import RAW, base_options, count, json_option, share

_EPILOG = """\
A base needs this once; SmolLM2-135M-Instruct comes with a profile. From edits like those that will
come, with rephrases and near misses where there are any (others are made), each in several ways
of asking, it finds how prompts are compared with edits, the threshold that keeps the bound on false
activation for edits that it never saw, and which layer, learning rate, rank and steps experts need.
Everything is tested on edits and wordings that took no part in the fit. Figures and plots go to
MLflow, experiment calibration/BASE. Several hundred edits of each kind are wanted; a thousand take
most of an hour for SmolLM2 on two cores.

examples:
  scen calibrate --edits my-edits.jsonl --locality questions.jsonl --out smollm2.json
  scen calibrate --base meta-llama/Llama-2-7b-hf --template llama2-inst --dtype bfloat16 \\
       --edits zsre.jsonl --edits counterfact.jsonl --locality nq.jsonl --out llama2-7b.json
  scen edit edits.jsonl --store ./my-store --base meta-llama/Llama-2-7b-hf --profile llama2-7b.json
"""


def add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen calibrate`."""
    text = "find the settings that a base needs: keys, router, experts"
    parser = commands.add_parser(
        "calibrate", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    add = parser.add_argument
    add("--edits", required=True, action="append", metavar="FILE", help="edits to learn from, as "
        "for scen edit; may be repeated")  # fmt: skip
    add("--locality", metavar="FILE", help="unrelated prompts; every other one is kept for the "
        "test (default: a sample)")  # fmt: skip
    add("--out", required=True, metavar="FILE", help="the profile: FILE.json, and FILE.safetensors "
        "beside it")  # fmt: skip
    add("--max-false-activation", type=share, metavar="P", help="share of prompts near an edit, "
        "but not about it, that may reach it (default: the smallest of 0.005 to 0.05 that costs at "
        "most two points of rephrases)")  # fmt: skip
    add("--search-places", action="store_true", help="try where keys are best read, in place of "
        "the usual depths: slower, and with more memory")  # fmt: skip
    add("--skip", type=int, default=0, metavar="N", help="leave out the first N valid edits of "
        "each file, to test with")  # fmt: skip
    add("--limit", type=count, metavar="N", help="take N valid edits of each file at most")
    add("--no-tracking", action="store_true", help="do not write to MLflow")
    base_options(parser)
    json_option(parser)
