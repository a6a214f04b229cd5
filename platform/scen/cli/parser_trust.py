"""The words of signatures and certificates."""

import argparse
from pathlib import Path

from scen.cli.options import RAW, base_options, json_option, store_option

PASSWORD = "SCEN_KEY_PASSWORD"
_SIGN = f"""\
Signs `store.json`, the ledger and the bundles of a version, in the format of OpenSSF model signing.
The signature stays valid while the store grows, until `scen gc` deletes a bundle that it covers.
The password of an encrypted key is read from {PASSWORD}. `pip install 'scen-platform[sign]'`.

examples:
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem
  openssl ec -in key.pem -pubout -out key.pub
  scen sign key.pem --store ./my-store --out v12.sig
  scen verify --store ./my-store --signature v12.sig --key key.pub
"""


def add_sign(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen sign`."""
    text = "sign a version of a store with a key from a file"
    sign = commands.add_parser(
        "sign", help=text, description=text, epilog=_SIGN, formatter_class=RAW
    )
    sign.add_argument("key", metavar="PRIVATE_KEY", type=Path, help="PEM, ECDSA")
    store_option(sign)
    sign.add_argument("--out", required=True, metavar="FILE", type=Path, help="the signature")
    sign.add_argument("--version", type=int, metavar="N", help="default: the newest")
    json_option(sign)


def signature_options(parser: argparse.ArgumentParser) -> None:
    """The options of `scen verify` for a signature."""
    parser.add_argument(
        "--signature", metavar="FILE", type=Path, help="check this one, with the key of --key"
    )
    parser.add_argument("--key", metavar="PUBLIC_KEY", type=Path, help="of the signer, PEM")


def certificate_options(parser: argparse.ArgumentParser) -> None:
    """The options of `scen revoke` for a certificate."""
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="write what an auditor wants to know, as JSON; also of edits that are revoked already",
    )
    parser.add_argument(
        "--no-base", action="store_true", help="the certificate: do not run the prompts"
    )
    base_options(parser)
