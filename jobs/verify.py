"""Say where pictures come from: `python jobs/verify.py edited.png`.

Reads the statement that an AI edited or made a picture (IPTC's digital source type in XMP), the facts that this
software adds, and C2PA manifests of anybody. Only a signature proves something: everybody can write and remove XMP.

exit status:
  0  each picture has a statement, intact if it is signed; with --trust: is signed and intact, by a trusted signer
  1  a signed picture was altered or breaks a rule of C2PA, or with --trust has no signature of a trusted signer
  2  a picture, CERTS.pem or the command line cannot be read
  3  a picture says nothing of its origin
The first that applies, in the order 1, 2, 3.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fireedit.platform.console import say
from fireedit.platform.images import ImageError
from fireedit.platform.provenance import SigningError
from fireedit.platform.statements import Findings, find

SOUND, UNSOUND, UNREADABLE, SILENT = 0, 1, 2, 3
"""Exit statuses."""
MAX_SHOWN = 200
"""Characters of a text of somebody else that are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        trusted = args.trust.read_bytes() if args.trust else None
    except OSError as error:
        say(f"verify.py: {args.trust}: {error.strerror}")
        return UNREADABLE
    statuses, pictures = set(), []
    for path in args.pictures:
        try:
            findings = find(path.read_bytes(), trusted)
        except (OSError, ImageError, SigningError) as error:
            say(f"{path}: {error}")
            pictures.append({"picture": str(path), "error": str(error)})
            statuses.add(UNREADABLE)
            continue
        say("\n  ".join((f"{path}:", *lines(findings))))
        pictures.append({"picture": str(path)} | report(findings))
        statuses.add(status(findings, needs_trust=trusted is not None))
    print(json.dumps({"pictures": pictures}))
    return next((each for each in (UNSOUND, UNREADABLE, SILENT) if each in statuses), SOUND)


def status(findings: Findings, needs_trust: bool) -> int:
    """Judge one picture by its statements, as an exit status."""
    manifest = findings.manifest
    if not findings:
        return SILENT
    if (manifest and manifest.state != "intact") or (needs_trust and not (manifest and manifest.trusted)):
        return UNSOUND
    return SOUND


def report(findings: Findings) -> dict[str, Any]:
    """List what was found, as JSON holds it."""
    manifest = asdict(findings.manifest) if findings.manifest else None
    return {"ai": findings.by_ai, "source_types": findings.source_types, "facts": findings.facts, "c2pa": manifest}


def lines(findings: Findings) -> list[str]:
    """Format what was found for a person; texts of others are escaped, since terminals obey some."""
    if not findings:
        return ["says nothing of its origin"]
    kinds = ", ".join(_shown(each) for each in findings.source_types) or "no digital source type"
    shown = [f"{'edited or made by an AI, as it says' if findings.by_ai else 'no statement of an AI'} ({kinds})"]
    shown += [f"unsigned {_shown(name)}: {_shown(value)}" for name, value in findings.facts.items()]
    manifest = findings.manifest
    if manifest is None:
        return [*shown, "not signed: this proves nothing"]
    signer = _shown(manifest.signer)
    if manifest.state == "intact":
        trust = "trusted" if manifest.trusted else "UNTRUSTED: anybody can make a certificate of this name; see --trust"
        shown.append(f"signed by {signer} ({trust}), intact")
    elif manifest.state == "altered":
        shown.append(f"ALTERED after it was signed by {signer}")
    else:
        shown.append(f"signed by {signer}, not altered, but INVALID")
    shown += [f"problem: {_shown(each)}" for each in manifest.problems]
    shown += [f"made from a picture signed by {_shown(each)}" for each in manifest.history]
    return shown + [f"signed {_shown(name)}: {_shown(value)}" for name, value in manifest.facts.items()]


def _shown(value: object) -> str:
    text = str(value)
    escaped = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:MAX_SHOWN])
    return escaped + ("..." if len(text) > MAX_SHOWN else "")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="PNG, JPEG or WebP")
    trust = "PEM certificates whose holders are trusted to issue the signers' certificates"
    parser.add_argument("--trust", type=Path, metavar="CERTS.pem", help=trust)
    return parser


if __name__ == "__main__":
    sys.exit(main())
