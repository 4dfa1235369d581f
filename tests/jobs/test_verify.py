"""The job says where pictures come from, in words, in JSON and by its exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs import verify
from fireedit.platform import images
from fireedit.platform.provenance import Provenance, Signer, xmp_packet
from tests.certificates import SignerFiles, write_signer
from tests.platform.test_provenance import config, encoded

FACTS = Provenance(request_id="r", weights="sha256:ab", seed=7)
HOSTILE = Provenance(request_id="\x9b31m\u202egnp" + "x" * 900)
"""Text that colors a terminal, and turns around what follows."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def folder(files: SignerFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one picture of each kind."""
    folder, signer = tmp_path_factory.mktemp("pictures"), Signer.load(config(files))
    assert signer is not None
    signed = signer.sign(encoded("PNG", xmp_packet(FACTS)), FACTS)
    at = signed.rindex(b"IDAT") + 100
    pictures = {
        "signed.png": signed,
        "altered.png": signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :],
        "edited.png": signer.sign(encoded(), FACTS, source=signed),
        "unsigned.jpg": encoded("JPEG", xmp_packet(HOSTILE)),
        "silent.webp": encoded("WEBP"),
        "text.png": b"hello",
    }
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the job; returns its exit status, its report on each picture, and its lines on stderr."""
    status = verify.main([str(each) for each in arguments])
    output = capsys.readouterr()
    return status, json.loads(output.out)["pictures"] if output.out else [], output.err


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("signed.png", 0, "signed by A test, Tests (UNTRUSTED"),
        ("altered.png", 1, "ALTERED after it was signed by A test, Tests\n  problem: assertion.dataHash.mismatch"),
        ("edited.png", 0, "made from a picture signed by A test, Tests"),
        ("unsigned.jpg", 0, "not signed: this proves nothing"),
        ("silent.webp", 3, "says nothing of its origin"),
        ("text.png", 2, "send a PNG, JPEG or WebP"),
        ("nowhere.png", 2, "No such file"),
    ],
)
def test_each_finding_has_its_words_and_status(
    name: str, status: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, lines = run(capsys, folder / name)
    assert found == status and words in lines


def test_the_report_has_the_facts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (report,), lines = run(capsys, folder / "signed.png")
    assert report["ai"] and report["source_types"] == ["compositeWithTrainedAlgorithmicMedia"]
    assert report["facts"]["weights"] == report["c2pa"]["facts"]["weights"] == "sha256:ab"
    assert (report["c2pa"]["state"], report["c2pa"]["trusted"]) == ("intact", False)
    assert "edited or made by an AI" in lines and "signed seed: 7" in lines


def test_with_trust_only_trusted_signers_pass(
    folder: Path, files: SignerFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pem").write_bytes(b"")
    status, (report,), lines = run(capsys, folder / "signed.png", "--trust", files.issuer)
    assert status == 0 and report["c2pa"]["trusted"] and "(trusted), intact" in lines
    assert run(capsys, folder / "signed.png", "--trust", write_signer(tmp_path).issuer)[0] == 1
    assert run(capsys, folder / "unsigned.jpg", "--trust", files.issuer)[0] == 1
    for wrong in ("empty.pem", "nowhere.pem"):
        assert run(capsys, folder / "signed.png", "--trust", tmp_path / wrong)[0] == 2


def test_the_worst_of_several_pictures_decides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["signed.png", "silent.webp", "text.png", "altered.png"]
    for count, status in ((1, 0), (2, 3), (3, 2), (4, 1)):
        found, reports, _ = run(capsys, *(folder / name for name in names[:count]))
        assert found == status and len(reports) == count


def test_texts_of_others_do_not_reach_the_terminal_raw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (report,), lines = run(capsys, folder / "unsigned.jpg")
    assert "\\x9b31m\\u202egnpx" in lines and lines.count("x") < 300 and "\u202e" not in lines
    assert report["facts"]["request_id"] == HOSTILE.request_id


def test_a_picture_that_was_encoded_anew_says_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "anew.png").write_bytes(images.encode_png(images.decode((folder / "signed.png").read_bytes())))
    assert run(capsys, tmp_path / "anew.png")[0] == 3
