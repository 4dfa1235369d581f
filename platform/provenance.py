"""Provenance of edited pictures: an unsigned statement in XMP, and a signed one in a C2PA manifest.

Neither holds the instruction, nor any other text or pixel of the client's: they say which weights made the edit, and
how. A manifest that the source already carries is kept.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import io
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from xml.sax.saxutils import escape

import numpy as np
from pyarrow import fs

from fireedit.platform import images, storage

logger = logging.getLogger(__name__)

SOFTWARE = "FireEdit"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
AI_EDITED = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source type of a picture that a trained model edited."""

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
FACTS = "https://arxiv.org/abs/2503.19839#"
"""Namespace of the facts in XMP."""
FACTS_LABEL = "org.arxiv.fireedit"
"""Label of the facts in a C2PA manifest."""

MAX_TEXT = 1000
"""Characters of a text that is written; JPEG holds 65,502 bytes of XMP."""
MAX_HISTORY_BYTES = 1_000_000
"""Bytes by which signing may make a picture larger; manifests of the source that need more are left out."""
WHOLE_BYTES, END_BYTES = 16_000_000, 1_000_000
"""Largest file of which a fingerprint reads everything, and the bytes that it reads at both ends of larger ones."""

_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, escaped or not."""
_BOX = re.compile(rb"jumdc2(pa|ma|cl)\0\x11\0\x10")
"""Description box of a manifest store, of a manifest or of a claim (C2PA, JUMBF)."""
OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
"""Settings of c2pa that keep it from calling addresses which a picture names."""


class SigningError(ValueError):
    """Signing or checking of signatures that is not possible; the message says what to write or install."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Facts of one edit, which its picture carries."""

    request_id: str = ""
    weights: str = ""
    """Fingerprint of the weights' folder."""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Sampler settings by name. Texts among them, such as a negative prompt, are the client's and not written."""

    def facts(self) -> dict[str, Any]:
        """List what is written, as JSON holds it."""
        numbers = {name: value for name, value in self.settings.items() if isinstance(value, int | float)}
        facts = {
            "request_id": _writable(self.request_id),
            "weights": _writable(self.weights),
            "seed": self.seed,
            "settings": numbers,
            "software": f"{SOFTWARE} {_version()}",
        }
        return {name: value for name, value in facts.items() if value not in ("", None)}


@dataclass(frozen=True, kw_only=True)
class SigningConfig:
    """Certificate and key that sign edited pictures (C2PA). Without them pictures carry the unsigned statement only."""

    certificate: str = ""
    """Local PEM file of the certificate, then of those that issued it; a self-signed one is refused."""
    key: str = ""
    """Local PEM file of the certificate's private key: PKCS#8, not encrypted."""
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """Signature algorithm of the key."""
    timestamp_url: str = ""
    """Address of a timestamp service (RFC 3161), called for each picture; its timestamps keep signatures valid after
    the certificate has expired. Empty: none."""


def xmp_packet(provenance: Provenance) -> bytes:
    """Write the unsigned statement as the XMP packet of a PNG, JPEG or WebP picture."""
    own = "".join(f"<fireedit:{name}>{_xml(value)}</fireedit:{name}>" for name, value in provenance.facts().items())
    packet = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{IPTC}" xmlns:xmp="{XMP}" xmlns:fireedit="{FACTS}">
<Iptc4xmpExt:DigitalSourceType>{AI_EDITED}</Iptc4xmpExt:DigitalSourceType>
<Iptc4xmpExt:AISystemUsed>{SOFTWARE}</Iptc4xmpExt:AISystemUsed>
<Iptc4xmpExt:AISystemVersionUsed>{_xml(_version())}</Iptc4xmpExt:AISystemVersionUsed>
<xmp:CreatorTool>{_xml(f"{SOFTWARE} {_version()}")}</xmp:CreatorTool>
{own}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
    return packet.encode()


class Signer:
    """Signer of edited pictures; several threads may share it. Signing blocks: call it off the event loop."""

    def __init__(self, native: Any):
        self._c2pa, self._native = library(), native
        settings = {"verify": OFFLINE, "builder": {"thumbnail": {"enabled": False}}}  # a thumbnail shows the source
        self._context = self._c2pa.Context.from_dict(settings)

    @classmethod
    def load(cls, config: SigningConfig) -> Self | None:
        """Read certificate and key and sign a picture for a trial; None without them.

        Raises:
            SigningError: a file is missing or wrong, or c2pa-python is not installed.
        """
        if not config.certificate and not config.key:
            return None
        if not config.certificate or not config.key:
            missing = "key" if config.certificate else "certificate"
            raise SigningError(f"provenance.{missing}: found none; write the paths of both PEM files, or neither")
        if not re.match(r"https?://|$", config.timestamp_url):
            raise SigningError(f"provenance.timestamp_url: found {config.timestamp_url!r}; write an http(s):// address")
        certificate, key = _read_file("certificate", config.certificate), _read_file("key", config.key)
        if b"PRIVATE KEY" in certificate:  # the library would publish it in every picture
            raise SigningError(
                f"provenance.certificate: {config.certificate!r} holds a private key; write it to a file alone"
            )
        c2pa = library()
        try:
            trial = cls(c2pa.Signer.from_info(c2pa.C2paSignerInfo(config.algorithm, certificate, key, None)))
            trial.sign(images.encode_png(np.zeros((1, 1, 3), np.uint8)), Provenance())
            timestamped = c2pa.C2paSignerInfo(config.algorithm, certificate, key, config.timestamp_url or None)
            return cls(c2pa.Signer.from_info(timestamped))
        except (c2pa.C2paError, SigningError) as error:
            raise SigningError(
                f"provenance: cannot sign with certificate {config.certificate!r} and key {config.key!r} ({error}); "
                "write a PEM certificate issued for signing, before those that issued it, and its private key of "
                f"algorithm {config.algorithm}, unencrypted PKCS#8; docs/provenance.md says how to make them"
            ) from None

    def sign(self, picture: bytes, provenance: Provenance, source: bytes | None = None) -> bytes:
        """Add a signed manifest to an encoded PNG, JPEG or WebP picture.

        Args:
            source: encoded picture that was edited; its own manifest, if any, is kept as the picture's history, unless
                it is damaged or larger than MAX_HISTORY_BYTES.
        Raises:
            SigningError: the certificate has expired, or the timestamp service did not answer.
        """
        if source is not None and may_hold_manifest(source):
            with suppress(SigningError, images.ImageError):
                signed = self._sign(picture, provenance, source)
                if len(signed) - len(picture) <= MAX_HISTORY_BYTES:
                    return signed
            logger.warning("request %s: the manifest of the source is not kept", _writable(provenance.request_id))
        return self._sign(picture, provenance, None)

    def _sign(self, picture: bytes, provenance: Provenance, source: bytes | None) -> bytes:
        parent, signed = {"relationship": "parentOf"}, io.BytesIO()
        definition = _manifest(provenance) | ({} if source else {"ingredients": [parent]})
        try:
            with self._c2pa.Builder(definition, self._context) as builder:
                builder.set_intent(self._c2pa.C2paBuilderIntent.EDIT)  # adds the action c2pa.opened of the parent
                if source:
                    builder.add_ingredient(parent, _media_type(source), io.BytesIO(source))
                builder.sign(self._native, _media_type(picture), io.BytesIO(picture), signed)
        except self._c2pa.C2paError as error:
            raise SigningError(f"cannot sign: {error}") from None
        return signed.getvalue()


def may_hold_manifest(picture: bytes) -> bool:
    """Look for C2PA's boxes; a manifest has one of each kind, so that no single damaged byte hides it."""
    return _BOX.search(picture) is not None


def library() -> Any:
    """Import c2pa, which is optional and takes a while.

    Raises:
        SigningError: it is not installed.
    """
    try:
        return importlib.import_module("c2pa")
    except ImportError as error:
        raise SigningError(f"signatures need c2pa-python ({error}); run pip install 'fireedit[c2pa]'") from None


def fingerprint(folder: str) -> str:
    """Identify the weights in a folder, local or `s3://`, as `sha256:<hex>`.

    The digest is over names, sizes and contents of all files but hidden ones; of files above WHOLE_BYTES it covers the
    first and last END_BYTES only, so that 13 GB in a bucket take seconds. It tells weights apart, and proves nothing of
    the bytes between.

    Raises:
        FileNotFoundError: no such folder, or no file in it.
    """
    files, inner = storage.filesystem(storage.absolute(folder))
    inner, digest = inner.rstrip("/"), hashlib.sha256()
    found = files.get_file_info(fs.FileSelector(inner, recursive=True))
    sizes = {each.path[len(inner) + 1 :]: each.size for each in found if each.is_file}
    sizes = {name: size for name, size in sizes.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not sizes:
        raise FileNotFoundError(f"{folder}: no weights there")
    for name, size in sorted(sizes.items()):
        digest.update(f"{name}\0{size}\0".encode())
        with files.open_input_file(f"{inner}/{name}") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read_at(END_BYTES, 0))
                digest.update(file.read_at(END_BYTES, size - END_BYTES))
    return f"sha256:{digest.hexdigest()}"


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("fireedit")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text[:MAX_TEXT])


def _xml(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value))


def _media_type(picture: bytes) -> str:
    return f"image/{images.header(picture).format.lower()}"


def _read_file(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SigningError(
            f"provenance.{name}: cannot read {path!r} ({error.strerror}); write a PEM file's path"
        ) from None


def _manifest(provenance: Provenance) -> dict[str, Any]:
    agent = {"name": SOFTWARE, "version": _version()}
    edited = {"action": "c2pa.edited", "digitalSourceType": AI_EDITED, "softwareAgent": agent}
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": [edited]}},
        {"label": FACTS_LABEL, "data": provenance.facts()},
    ]
    return {"claim_generator_info": [agent], "assertions": assertions}
