"""Reader of what pictures say about their origin: digital source types and facts in XMP, and C2PA manifests.

It reads pictures of this software and of others.
"""

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

from PIL import Image

from fireedit.platform import images, provenance
from fireedit.platform.provenance import FACTS, FACTS_LABEL, IPTC, OFFLINE, RDF, SigningError

AI_TYPES = ("compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia", "compositeSynthetic")
"""Digital source types of pictures that a trained model edited, made, or made a part of."""
MAX_XMP_BYTES = 1_000_000


@dataclass(frozen=True)
class Manifest:
    """Signed statement that was found in a picture."""

    state: Literal["intact", "altered", "invalid"]
    """Altered: the picture or the manifest has changed since. Invalid: neither, but it breaks a rule of C2PA, as an
    expired certificate does."""
    trusted: bool = False
    """Truth of an intact manifest whose certificate was issued by one of the trusted ones."""
    signer: str = "unknown"
    history: tuple[str, ...] = ()
    """Signers of the pictures that this one was made from."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    source_types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """C2PA's codes of what is wrong, or the reader's message."""


@dataclass(frozen=True)
class Findings:
    """Statements that were found in a picture."""

    source_types: tuple[str, ...]
    """IPTC's digital source types in XMP and in the manifest, without the vocabulary's address."""
    facts: Mapping[str, str]
    """Unsigned facts of this software."""
    manifest: Manifest | None

    @property
    def by_ai(self) -> bool:
        """Truth of a statement that a trained model edited the picture or made it."""
        return not {*AI_TYPES}.isdisjoint(self.source_types)

    def __bool__(self) -> bool:
        return bool(self.source_types or self.facts or self.manifest)


def find(picture: bytes, trusted: bytes | None = None) -> Findings:
    """Read the statements of a picture, this software's or others'; nothing is fetched.

    Args:
        trusted: PEM certificates of those who are trusted to issue certificates.
    Raises:
        images.ImageError: not a PNG, JPEG or WebP picture, or damaged, unless it holds a signed manifest.
        SigningError: it holds one, and c2pa-python is not installed; or `trusted` is wrong.
    """
    manifest = _find_manifest(picture, trusted) if provenance.may_hold_manifest(picture) else None
    try:
        packet = _find_xmp(picture)
    except images.ImageError:
        if manifest is None:
            raise
        packet = b""
    source_types, facts = read_xmp(packet)
    both = dict.fromkeys((*source_types, *(manifest.source_types if manifest else ())))
    return Findings(tuple(both), facts, manifest)


def read_xmp(packet: bytes) -> tuple[tuple[str, ...], dict[str, str]]:
    """Read digital source types and facts from XMP; of what is damaged, too large or declares entities, nothing."""
    if not packet or len(packet) > MAX_XMP_BYTES:
        return (), {}
    try:
        root = ElementTree.fromstring(packet.strip(b"\0"), ElementTree.XMLParser(target=_WithoutDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError):  # of the syntax, of a doctype, of the encoding
        return (), {}
    kind, types, facts = f"{{{IPTC}}}DigitalSourceType", dict[str, None](), dict[str, str]()
    for element in root.iter():
        if element.tag == kind:
            types[element.text or element.get(f"{{{RDF}}}resource") or ""] = None
        types |= {value: None for name, value in element.items() if name == kind}
        if element.tag.startswith(f"{{{FACTS}}}"):
            facts[element.tag.partition("}")[2]] = element.text or ""
    return _without_address(types), facts


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Builder of XML trees that refuses declarations, by which a small document can grow to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("found a DOCTYPE")


def _find_manifest(picture: bytes, trusted: bytes | None) -> Manifest:
    c2pa = provenance.library()
    anchors = {"trust": {"user_anchors": trusted.decode("ascii", "replace")}} if trusted is not None else {}
    try:
        context = c2pa.Context.from_dict({"verify": OFFLINE} | anchors)
    except c2pa.C2paError as error:
        raise SigningError(
            f"the trusted certificates cannot be read ({error}); give a file of PEM certificates"
        ) from None
    try:
        with c2pa.Reader("", io.BytesIO(picture), context=context) as reader:
            return _read_manifest(json.loads(reader.json()))
    except c2pa.C2paError as error:  # as damage is reported, of its boxes or of the chunk that holds them
        return Manifest("altered", problems=(str(error),))


def _read_manifest(store: dict[str, Any]) -> Manifest:
    manifests = store.get("manifests", {})
    if (active := manifests.get(store.get("active_manifest"))) is None:
        return Manifest("altered", problems=("no manifest of the name that is the last one's",))
    assertions = [each for manifest in manifests.values() for each in manifest.get("assertions", [])]
    actions = [action for each in assertions for action in _items(each.get("data"), "actions")]
    types = {str(action["digitalSourceType"]): None for action in actions if "digitalSourceType" in action}
    own = [each.get("data") for each in active.get("assertions", []) if each.get("label") == FACTS_LABEL]
    codes = {str(each.get("code")) for each in store.get("validation_status", [])} - {"signingCredential.untrusted"}
    state: Literal["intact", "altered", "invalid"] = "intact"
    if store.get("validation_state") not in ("Valid", "Trusted"):
        changed = any(word in code.lower() for code in codes for word in ("mismatch", "missing"))
        state = "altered" if changed else "invalid"
    return Manifest(
        state,
        trusted=store.get("validation_state") == "Trusted",
        signer=_signer(active),
        history=tuple(_signer(each) for each in manifests.values() if each is not active),
        facts=own[0] if own and isinstance(own[0], dict) else {},
        source_types=_without_address(types),
        problems=tuple(sorted(codes)),
    )


def _signer(manifest: dict[str, Any]) -> str:
    signature = manifest.get("signature_info") or {}
    return ", ".join(str(signature[each]) for each in ("common_name", "issuer") if signature.get(each)) or "unknown"


def _items(data: Any, name: str) -> list[dict[str, Any]]:
    """List the mappings under a name of an assertion that somebody else wrote."""
    items = data.get(name) if isinstance(data, dict) else None
    return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []


def _find_xmp(picture: bytes) -> bytes:
    """Return the XMP packet, or nothing; in a PNG it may follow the pixels.

    Raises:
        images.ImageError: no picture, or a damaged header.
    """
    images.header(picture)
    with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG", "WEBP")) as image:
        if "xmp" not in image.info and image.format == "PNG":
            with suppress(SyntaxError, OSError, ValueError):  # damaged pixels
                image.load()
        packet = image.info.get("xmp", b"")
    return packet if isinstance(packet, bytes) else b""


def _without_address(types: Mapping[str, None]) -> tuple[str, ...]:
    return tuple(name for each in types if (name := each.strip().rstrip("/").rpartition("/")[2]))
