"""Statements of pictures are read, and changes of signed ones are noticed."""

import io
from pathlib import Path

import pytest
from PIL import Image

from fireedit.platform import images
from fireedit.platform.provenance import SOURCE_TYPES, Provenance, Signer, SigningError, xmp_packet
from fireedit.platform.statements import find, read_xmp
from tests.certificates import SignerFiles, write_signer
from tests.platform.test_provenance import FORMATS, config, encoded

FACTS = Provenance(weights="sha256:ab", seed=1)
TRAINED = "trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def signed(files: SignerFiles) -> dict[str, bytes]:
    """Pictures of all formats, signed, with XMP."""
    signer = Signer.load(config(files))
    assert signer is not None
    return {each: signer.sign(encoded(each, xmp_packet(FACTS)), FACTS) for each in FORMATS}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("file_format", FORMATS)
def test_one_changed_byte_is_noticed(file_format: str, signed: dict[str, bytes]) -> None:
    data = signed[file_format]
    pixels, chunk = {"PNG": (b"IDAT", b"caBX"), "JPEG": (b"\xff\xda", b"\xff\xeb"), "WEBP": (b"VP8 ", b"C2PA")}[
        file_format
    ]
    outside = [data.index(pixels) + 100, data.index(b"DigitalSourceType")]
    names = (chunk, b"jumdc2pa", b"claim_generator_info", b"A test", b"sha256:ab")
    places = [*outside, *map(data.index, names), data.index(b"c2pa.signature") + 900]
    for at in places:
        manifest = find(flipped(data, at)).manifest
        assert manifest is not None and manifest.state == "altered" and manifest.problems, data[at : at + 20]


def test_other_pixels_under_a_manifest_are_noticed(signed: dict[str, bytes]) -> None:
    data = signed["JPEG"]
    start = data.index(b"\xff\xda")
    other = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(other, "JPEG")
    manifest = find(data[:start] + other.getvalue()[other.getvalue().index(b"\xff\xda") :]).manifest
    assert manifest is not None and manifest.state == "altered"


def test_only_an_issuer_who_is_trusted_makes_a_signer_trusted(
    files: SignerFiles, signed: dict[str, bytes], tmp_path: Path
) -> None:
    other = write_signer(tmp_path)
    for issuer, trusted in ((files.issuer, True), (other.issuer, False)):
        manifest = find(signed["PNG"], Path(issuer).read_bytes()).manifest
        assert manifest is not None and (manifest.state, manifest.trusted) == ("intact", trusted)
    for wrong in (b"", b"hello"):
        with pytest.raises(SigningError, match="trusted certificates cannot be read.*PEM"):
            find(signed["PNG"], wrong)


def test_encoding_anew_removes_the_statements(signed: dict[str, bytes]) -> None:
    assert find(signed["PNG"]) and not find(images.encode_png(images.decode(signed["PNG"])))


@pytest.mark.parametrize(
    "statement",
    [
        f"<rdf:Description><i:DigitalSourceType> {SOURCE_TYPES}{TRAINED}\n</i:DigitalSourceType></rdf:Description>",
        f'<rdf:Description i:DigitalSourceType="{SOURCE_TYPES}{TRAINED}"/>',
        f'<rdf:Description><i:DigitalSourceType rdf:resource="{SOURCE_TYPES}{TRAINED}"/></rdf:Description>',
    ],
)
def test_others_write_xmp_in_other_ways(statement: str) -> None:
    spaces = (
        "xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'"
    )
    packet = f"<rdf:RDF {spaces}>{statement}</rdf:RDF>".encode() + b"  \0"
    assert read_xmp(packet) == ((TRAINED,), {})
    png = encoded("PNG", packet)
    text = png[33 : png.index(b"IDAT") - 4]
    findings = find(png.replace(text, b"")[:-12] + text + png[-12:])
    assert findings.by_ai, "after the pixels too"


def test_damaged_and_hostile_xmp_says_nothing() -> None:
    good = xmp_packet(FACTS)
    entities = "".join(f'<!ENTITY e{each} "{f"&e{each - 1};" * 10}">' for each in range(1, 10))
    laughs = f'<!DOCTYPE x [<!ENTITY e0 "lol">{entities}]><x>&e9;</x>'
    for hostile in (
        *(b"", b"<", b"\xff\xfe", b"<a>" * 30_000, good[:-200], good + b" " * 1_000_000, b"\0" * 99),
        *(laughs.encode(), laughs.encode("utf-16"), b"<!DOCTYPE x>" + good),
        *(b'<?xml version="1.0" encoding="%s"?><a/>' % each for each in (b"utf-7", b"no such", b"idna")),
    ):
        assert read_xmp(hostile) == ((), {}), hostile[:40]
    assert read_xmp(b"<a>" * 50_000 + b"</a>" * 50_000) == ((), {})


def test_damaged_pictures_are_refused_or_read() -> None:
    png = encoded("PNG", xmp_packet(FACTS))
    assert find(png[:-200]).by_ai, "the statement precedes the damage"
    for damaged in (b"", b"hello", png[:20], b"jumd c2pa", flipped(png, png.index(b"iTXt") + 40)):
        with pytest.raises(images.ImageError):
            find(damaged)
