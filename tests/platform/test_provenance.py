"""Edited pictures say that an AI edited them, and with which weights; with a key, they are signed."""

import io
import json
import logging
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fireedit.platform import provenance, storage
from fireedit.platform.provenance import Provenance, Signer, SigningConfig, SigningError, fingerprint, xmp_packet
from fireedit.platform.statements import find, read_xmp
from tests.certificates import SignerFiles, write_signer

FORMATS = ("PNG", "JPEG", "WEBP")
FACTS = Provenance(
    request_id="req-1", weights="sha256:ab", seed=7, settings={"guidance_scale": 7.5, "num_inference_steps": 20}
)


def encoded(file_format: str = "PNG", packet: bytes = b"") -> bytes:
    """Encode a small picture with an XMP packet."""
    image, buffer = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)), io.BytesIO()
    if file_format == "PNG":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", packet.decode())
        image.save(buffer, "PNG", pnginfo=texts if packet else None)
    else:
        image.save(buffer, file_format, xmp=packet)
    return buffer.getvalue()


def config(files: SignerFiles) -> SigningConfig:
    return SigningConfig(certificate=files.certificate, key=files.key)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def signer(files: SignerFiles) -> Signer:
    loaded = Signer.load(config(files))
    assert loaded is not None
    return loaded


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_unsigned_statement_comes_back(file_format: str) -> None:
    findings = find(encoded(file_format, xmp_packet(FACTS)))
    assert findings.by_ai and findings.source_types == ("compositeWithTrainedAlgorithmicMedia",)
    facts = dict(findings.facts)
    assert json.loads(facts.pop("settings")) == FACTS.settings and facts.pop("software").startswith("FireEdit ")
    assert facts == {"request_id": "req-1", "weights": "sha256:ab", "seed": "7"} and findings.manifest is None


def test_texts_of_the_client_are_not_written() -> None:
    facts = replace(FACTS, settings={"negative_prompt": "my secret", "guidance_scale": 3})
    assert b"secret" not in xmp_packet(facts) and facts.facts()["settings"] == {"guidance_scale": 3}


def test_hostile_text_stays_text(signer: Signer) -> None:
    hostile = '</fireedit:request_id><a b="&x;">]]>\0\x1b\ud800\ufffe"' + "&" * 100_000
    packet = xmp_packet(Provenance(request_id=hostile))
    ElementTree.fromstring(packet)
    written = read_xmp(packet)[1]["request_id"]
    assert written.startswith(hostile[:36]) and len(written) == 1000 and len(packet) < 10_000
    manifest = find(signer.sign(encoded(), Provenance(request_id=hostile))).manifest
    assert manifest is not None and manifest.facts["request_id"] == written


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_signed_picture_is_intact_and_its_pixels_are_the_same(file_format: str, signer: Signer) -> None:
    picture = encoded(file_format, xmp_packet(FACTS))
    signed = signer.sign(picture, FACTS)
    findings = find(signed)
    manifest = findings.manifest
    assert manifest is not None and (manifest.state, manifest.trusted) == ("intact", False)
    assert manifest.signer == "A test, Tests" and manifest.facts == FACTS.facts() and not manifest.problems
    assert manifest.source_types == ("compositeWithTrainedAlgorithmicMedia",) and findings.facts["seed"] == "7"
    with Image.open(io.BytesIO(picture)) as before, Image.open(io.BytesIO(signed)) as after:
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_one_signer_serves_many_threads(signer: Signer) -> None:
    with ThreadPoolExecutor(4) as threads:
        signed = [*threads.map(lambda seed: signer.sign(encoded(), replace(FACTS, seed=seed)), range(16))]
    manifests = [find(each).manifest for each in signed]
    assert [each.facts["seed"] for each in manifests if each and each.state == "intact"] == [*range(16)]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_sources_own_manifest_becomes_history(file_format: str, signer: Signer, tmp_path: Path) -> None:
    other = Signer.load(config(write_signer(tmp_path, "A camera")))
    assert other is not None
    source = other.sign(encoded(file_format), Provenance())
    manifest = find(signer.sign(encoded(), FACTS, source)).manifest
    assert manifest is not None and manifest.state == "intact"
    assert manifest.signer == "A test, Tests" and manifest.history == ("A camera, Tests",)


def test_a_damaged_or_huge_history_is_left_out(
    signer: Signer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = signer.sign(encoded(), FACTS)
    with caplog.at_level(logging.WARNING):
        for damaged in (source.replace(b"c2pa.claim.v2", b"c2pa.claim.v9"), source[:-900]):
            manifest = find(signer.sign(encoded(), FACTS, damaged)).manifest
            assert manifest is not None and (manifest.state, manifest.history) == ("intact", ())
        assert len(caplog.records) == 2
    monkeypatch.setattr(provenance, "MAX_HISTORY_BYTES", 4000)
    manifest = find(signer.sign(encoded(), FACTS, source)).manifest
    assert manifest is not None and (manifest.state, manifest.history) == ("intact", ())


def test_addresses_in_a_source_are_not_called(signer: Signer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest"
        named = f'xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{address}"'
        packet = xmp_packet(FACTS).replace(b'rdf:about=""', f'rdf:about="" {named}'.encode())
        source = encoded("JPEG", packet) + b"jumdc2pa\0\x11\0\x10"  # looks as if it held a manifest
        assert find(signer.sign(encoded(), FACTS, source)).manifest and find(source).by_ai
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": ""}, "provenance.key: found none.*neither"),
        ({"certificate": ""}, "provenance.certificate: found none.*neither"),
        ({"key": "nowhere.pem"}, "provenance.key: cannot read 'nowhere.pem' .No such file.*PEM file"),
        ({"timestamp_url": "ftp://x"}, "timestamp_url: found 'ftp://x'; write an http"),
        ({"algorithm": "ps256"}, "key.pem.*unsupported private key algorithm.*algorithm ps256"),
    ],
)
def test_a_wrong_config_says_what_to_write(changes: Mapping[str, str], message: str, files: SignerFiles) -> None:
    with pytest.raises(SigningError, match=message):
        Signer.load(replace(config(files), **changes))  # type: ignore[arg-type]


def test_wrong_files_are_named_and_keys_are_not_shown(files: SignerFiles, tmp_path: Path) -> None:
    key = Path(files.key).read_text()
    (tmp_path / "both.pem").write_text(Path(files.certificate).read_text() + key)
    (tmp_path / "hurt.pem").write_text(key.replace("-----BEGIN PRIVATE KEY", "-----BEGIN SECRET"))
    (tmp_path / "expired").mkdir(), (tmp_path / "other").mkdir()
    expired, other = write_signer(tmp_path / "expired", days=0), write_signer(tmp_path / "other")
    for wrong, message in (
        (SigningConfig(certificate=str(tmp_path / "both.pem"), key=files.key), "both.pem.*holds a private key"),
        (SigningConfig(certificate=files.certificate, key=str(tmp_path / "hurt.pem")), "hurt.pem.*PKCS#8"),
        (SigningConfig(certificate=files.certificate, key=other.key), "does not match.*docs/provenance.md"),
        (SigningConfig(certificate=files.issuer, key=files.key), "self-signed.*before those that issued it"),
        (config(expired), "expired"),
    ):
        with pytest.raises(SigningError, match=message) as raised:
            Signer.load(wrong)
        assert not any(line in str(raised.value) for line in key.splitlines()[1:-1])


def test_nothing_is_signed_without_a_key_nor_without_the_library(
    files: SignerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Signer.load(SigningConfig()) is None
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(SigningError, match=r"pip install 'fireedit\[c2pa\]'"):
        Signer.load(config(files))


def test_a_silent_timestamp_service_is_an_error(files: SignerFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    signer = Signer.load(replace(config(files), timestamp_url=closed))
    assert signer is not None
    with pytest.raises(SigningError, match="cannot sign"):
        signer.sign(encoded(), FACTS)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_fingerprint_changes_with_names_and_bytes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path) if kind == "local" else storage.join(request.getfixturevalue("s3"), tmp_path.name)
    folder = storage.join(root, "weights")
    monkeypatch.setattr(provenance, "WHOLE_BYTES", 100)
    monkeypatch.setattr(provenance, "END_BYTES", 10)

    def changed(name: str, data: bytes) -> str:
        storage.write_bytes(storage.join(folder, *name.split("/")), data)
        return fingerprint(folder)

    large = bytes(150)
    first = [changed("config.yaml", b"a"), changed("unet/weights", b"b" * 100), changed("unet/large", large)]
    assert len({*first}) == 3 and all(each.startswith("sha256:") and len(each) == 71 for each in first)
    assert changed(".lock", b"") == first[-1] == fingerprint(folder)
    assert changed("unet/large", b"\1" + large[1:]) != first[-1] != changed("unet/large", large[1:] + b"\1")
    assert changed("unet/large", large[:75] + b"\1" + large[76:]) == first[-1], "the middle is not read"
    assert changed("unet/weights", b"b" * 99 + b"c") != first[-1]
    with pytest.raises(FileNotFoundError):
        fingerprint(storage.join(root, "nowhere"))


def test_a_copy_of_the_weights_has_the_same_fingerprint(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        storage.write_bytes(storage.join(str(tmp_path), copy, "x", "y"), b"z")
    assert fingerprint(str(tmp_path / "a")) == fingerprint(f"{tmp_path / 'b'}/")
