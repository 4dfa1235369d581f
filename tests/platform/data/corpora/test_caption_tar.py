import io
import json
import tarfile
from pathlib import Path

import pytest

from fireedit.platform.data.corpora import caption_tar
from fireedit.platform.data.corpora.caption_tar import Captioned
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import cc12m as writer


def tar_of(folder: Path, *members: tuple[str, bytes]) -> str:
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(folder / "00000.tar")


def json_of(caption: object) -> bytes:
    return json.dumps({"caption": caption, "url": "u"}).encode()


def test_the_text_is_the_caption_and_without_it_the_json_is(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path,
        ("000.jpg", b"picture"),
        ("000.json", json_of("from json")),
        ("000.txt", b' "from text" '),
        ("001.jpg", b"picture"),
        ("001.json", json_of("from json")),
        ("./002.txt", "café".encode()),
    )
    assert list(caption_tar.read(path)) == [
        Captioned(key="000", caption='"from text"'),
        Captioned(key="001", caption="from json"),
        Captioned(key="002", caption="café"),
    ]


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ([("000.jpg", b"")], "000: found no caption (KeyError('json')); write 000.txt"),
        ([("000.txt", b"\xff")], "000: found no caption (UnicodeDecodeError"),
        ([("000.json", b"{")], "000: found no caption (JSONDecodeError"),
        ([("000.json", b"[]")], "000: found no caption (TypeError"),
        ([("000.json", json_of(5))], "000: found the caption 5; write a text into 000.txt"),
        ([("000.txt", b" ")], "000: found the caption ' '"),
        ([("000.txt", b"a"), ("000.txt", b"b")], "two members of 000 have one name"),
    ],
)
def test_bad_samples_become_bad_rows_between_good_ones(
    tmp_path: Path, members: list[tuple[str, bytes]], found: str
) -> None:
    path = tar_of(tmp_path, ("good.txt", b"before"), *members, ("last.txt", b"after"))
    before, bad, after = caption_tar.read(path)
    assert (before.caption, after.caption) == ("before", "after")
    assert bad.key == "000" and bad.error.startswith(f"00000.tar: {found}")


def test_a_key_that_stands_twice_is_taken_once(tmp_path: Path) -> None:
    path = tar_of(tmp_path, ("000.txt", b"a"), ("001.txt", b"b"), ("000.txt", b"c"), ("000.json", json_of("d")))
    first, second, again = caption_tar.read(path)
    assert (first.caption, second.caption) == ("a", "b")
    assert again == Captioned(key="00000.tar-at-2", error="00000.tar: the key 000 stands twice")


def test_a_tar_cut_anywhere_keeps_what_came_before_and_says_so(tmp_path: Path) -> None:
    members = [(f"{key}.{suffix}", b"x" * 700) for key in ("000", "001", "002") for suffix in ("jpg", "txt")]
    path = Path(tar_of(tmp_path, *members))
    whole = path.read_bytes()
    end = 6 * (512 + 1024)
    for size in range(0, end + 512, 100):
        path.write_bytes(whole[:size])
        *kept, last = caption_tar.read(str(path))
        assert [one.key for one in kept] == ["000", "001", "002"][: len(kept)]
        assert all(one.caption == "x" * 700 for one in kept)
        assert len(kept) >= size // 3072
        assert last.key == "00000.tar" and "cut or damaged in " in last.error and last.error.endswith("fetch it again")
    path.write_bytes(whole[: end + 512])
    assert [one.error for one in caption_tar.read(str(path))] == ["", "", ""]


def test_damage_in_the_midst_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = Path(tar_of(tmp_path, ("000.txt", b"a"), ("001.txt", b"b")))
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"\xff" * 6
    path.write_bytes(data)
    good, last = caption_tar.read(str(path))
    assert good.caption == "a"
    assert last.error == "00000.tar: cut or damaged in 000.txt or behind it (bad checksum); fetch it again"


@pytest.mark.parametrize("data", [b"", b"<html>Not Found</html>", b"\xff" * 20_000])
def test_what_is_no_tar_is_one_bad_row(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "00000.tar").write_bytes(data)
    (only,) = caption_tar.read(str(tmp_path / "00000.tar"))
    assert only.error.startswith("00000.tar: cut or damaged in its first member")


def test_captions_come_before_the_rest_of_the_tar_is_read(tmp_path: Path) -> None:
    writer.write_webdataset(tmp_path, range(8), 64, world.TRAIN)
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes()[:-20_000])
    walk = caption_tar.read(str(path))
    assert not next(walk).error and not next(walk).error
