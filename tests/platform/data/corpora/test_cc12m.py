import io
import json
import tarfile
from pathlib import Path

import pytest

from fireedit.platform.data.corpora import cc12m, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import cc12m as writer


def write(folder: Path, data: bytes) -> str:
    (folder / "cc12m.tsv").write_bytes(data)
    return str(folder / "cc12m.tsv")


def captions(folder: Path) -> list[str]:
    samples = list(cc12m.read(str(folder)))
    assert not [sample.error for sample in samples if sample.error]
    return [sample.instruction for sample in samples]


def tar_of(folder: Path, *members: tuple[str, bytes]) -> str:
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(folder / "00000.tar")


def json_of(caption: object) -> bytes:
    return json.dumps({"caption": caption, "url": "u"}).encode()


def read_tar(path: str) -> tuple[list[Sample], dict[str, int]]:
    """Samples of a tar, and its skipped entries by reason."""
    items = list(cc12m.read_tar(path))
    skipped = {item.reason: item.count for item in items if isinstance(item, rows.Skip)}
    return [item for item in items if isinstance(item, Sample)], skipped


def keys(samples: list[Sample]) -> list[str]:
    return [sample.id.removeprefix("cc12m/train/") for sample in samples]


def test_a_written_tsv_is_read_back_line_by_line(tmp_path: Path) -> None:
    writer.write(tmp_path, range(20), 64, world.TRAIN)
    lines = (tmp_path / "cc12m.tsv").read_text().splitlines()
    samples = list(cc12m.read_chunk(str(tmp_path / "cc12m.tsv"), 0))
    assert [sample.instruction for sample in samples] == [line.split("\t")[1] for line in lines]
    assert {sample.task for sample in samples} == {"caption"} and not any(sample.error for sample in samples)


def test_quotes_have_no_meaning(tmp_path: Path) -> None:
    write(tmp_path, b'http://u\t"a caption that begins with a quote\nhttp://u\tand "another"\n')
    assert captions(tmp_path) == ['"a caption that begins with a quote', 'and "another"']


@pytest.mark.parametrize(
    "lines",
    [
        b"http://u\tone\nhttp://u\ttwo\n",
        b"url\tcaption\r\nhttp://u\tone\r\nhttp://u\ttwo\r\n",
        b"\xef\xbb\xbfhttp://u\tone\nhttp://u\ttwo",
        b"\xef\xbb\xbfURL\tCaption\nhttp://u\tone\nhttp://u\ttwo\n",
        b"caption\turl\none\thttp://u\ntwo\thttp://u\n",
        b"\xef\xbb\xbfcaption\thash\turl\none\ta\thttp://u\ntwo\tb\thttp://u\n",
    ],
    ids=["none", "img2dataset's", "mark", "mark and header", "turned round", "three columns"],
)
def test_a_header_decides_the_columns(tmp_path: Path, lines: bytes) -> None:
    write(tmp_path, lines)
    assert captions(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("line", [b"image\ttext\n", b"caption\n", b"a cat\thttp://u\n", b"caption\tlink\n", b""])
def test_a_first_line_that_is_neither_sample_nor_header_is_refused(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, line + (b"http://u\tone\n" if line else b""))
    with pytest.raises(rows.CorpusError, match=r"cc12m.tsv: found .*write lines `url<tab>caption`"):
        cc12m.read(str(tmp_path))


def test_lines_that_contradict_the_header_are_bad_rows(tmp_path: Path) -> None:
    write(tmp_path, b"caption\turl\nhttp://u\ta cat\none\thttp://u\n")
    bad, good = cc12m.read(str(tmp_path))
    assert "a line is `caption<tab>url`" in bad.error and not good.error


def test_a_header_is_skipped_only_as_the_first_line(tmp_path: Path) -> None:
    write(tmp_path, b"url\tcaption\nhttp://u\tone\nurl\tcaption\n")
    one, second_header = cc12m.read(str(tmp_path))
    assert one.instruction == "one" and "byte 25: found b'url" in second_header.error


def test_ids_are_where_lines_begin(tmp_path: Path) -> None:
    path = write(tmp_path, b"a://u\tone\na://u\ttwo")
    assert keys(list(cc12m.read_chunk(path, 0))) == ["000000000000", "000000000010"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_chunks_of_any_size_hold_every_line_once(tmp_path: Path, size: int) -> None:
    data = b"url\tcaption\n" + b"".join(b"a://u%d\tcaption %d\n" % (n, n * n) for n in range(30))
    path = write(tmp_path, data)
    pieces = [sample for start in range(0, len(data), size) for sample in cc12m.read_chunk(path, start, size)]
    assert pieces == list(cc12m.read_chunk(path, 0)) and len(pieces) == 30


def test_bad_lines_become_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, b"no tab here\na://u\t  \na://u\tgood\na://u\t\xff\xfe\n\n")
    no_tab, blank, good, not_text = cc12m.read_chunk(path, 0)
    assert no_tab.error == "cc12m.tsv, byte 0: found b'no tab here'; a line is `url<tab>caption`"
    assert blank.error and not good.error and good.instruction == "good"
    assert "not UTF-8" in not_text.error


def test_a_corpus_reads_every_line_in_parts(tmp_path: Path) -> None:
    first = b"a://u\t" + b"x" * (cc12m.CHUNK_BYTES - 11)
    write(tmp_path, first + b"\na://u\tacross the border\na://u\tlast\n")
    corpus = cc12m.read(f"file://{tmp_path}")
    assert len(corpus.parts) == 2
    assert [sample.instruction for sample in corpus.read_part(corpus.parts[1])] == ["last"]
    assert [sample.instruction for sample in corpus][1:] == ["across the border", "last"]


def test_tars_hold_the_captions_that_the_tsv_would(tmp_path: Path) -> None:
    writer.write_webdataset(tmp_path, range(12), 16, world.TRAIN)
    in_tars = captions(tmp_path)
    assert keys(list(cc12m.read(str(tmp_path))))[:2] == ["000000000", "000000001"]
    writer.write(tmp_path, range(12), 16, world.TRAIN)
    lines = captions(tmp_path)
    assert keys(list(cc12m.read(str(tmp_path))))[0] == "000000000000", "a folder with both is read from the tsv"
    gone = writer.GONE_EVERY - 1
    assert in_tars == [caption for index, caption in enumerate(lines) if index != gone]


def test_a_tar_is_a_part(tmp_path: Path) -> None:
    writer.write_webdataset(tmp_path, range(9), 16, world.TRAIN, samples_per_tar=4)
    (tmp_path / "._00000.tar").write_bytes(b"Mac OS X")
    corpus = cc12m.read(str(tmp_path))
    ids = [[sample.id for sample in corpus.read_part(part)] for part in corpus.parts]
    assert [len(of_part) for of_part in ids] == [4, 4, 1] and ids[2] == ["cc12m/train/000020000"]
    assert corpus.skipped == {rows.CLUTTER_REASON: 1}


def test_the_text_is_the_caption_and_without_it_the_json_is(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path,
        ("000.jpg", b"picture"),
        ("000.json", json_of("from json")),
        ("000.txt", b' "from text" '),
        ("001.jpg", b"picture"),
        ("001.json", json_of("from json")),
        ("./002.txt", "\ufeffcafé".encode()),
    )
    samples, skipped = read_tar(path)
    assert keys(samples) == ["000", "001", "002"] and not skipped
    assert [sample.instruction for sample in samples] == ['"from text"', "from json", "café"]


def test_a_dot_in_a_folder_does_not_split_the_keys(tmp_path: Path) -> None:
    path = tar_of(tmp_path, *((f"cc12m.v1/{key}.txt", b"a cat") for key in ("000", "001")), ("cc12m.v2/000.txt", b"b"))
    samples, _ = read_tar(path)
    assert keys(samples) == ["cc12m.v1/000", "cc12m.v1/001", "cc12m.v2/000"]
    assert not [sample.error for sample in samples if sample.error]


def test_clutter_and_empty_captions_in_a_tar_are_counted_apart(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path,
        ("._000.txt", b"\0\x05\x16\x07"),
        ("000.txt", b"a cat"),
        ("__MACOSX/._001.txt", b"\0"),
        (".DS_Store", b"\0"),
        ("README", b"read me"),
        ("001.txt", b" "),
        ("002.json", json_of(None)),
        ("003.txt", b"a dog"),
    )
    samples, skipped = read_tar(path)
    assert [sample.instruction for sample in samples] == ["a cat", "a dog"] and keys(samples) == ["000", "003"]
    assert skipped == {rows.CLUTTER_REASON: 3, cc12m.NO_SAMPLE: 1, cc12m.NO_CAPTION: 2}


def test_a_linked_member_is_read_or_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        first = tarfile.TarInfo("a/000.txt")
        first.size = 5
        tar.addfile(first, io.BytesIO(b"a cat"))
        for key, kind, target in (("1", tarfile.LNKTYPE, "a/000.txt"), ("2", tarfile.SYMTYPE, "000.txt")):
            link = tarfile.TarInfo(f"a/00{key}.txt")
            link.type, link.linkname = kind, target
            tar.addfile(link)
        lost = tarfile.TarInfo("a/003.txt")
        lost.type, lost.linkname = tarfile.SYMTYPE, "../nowhere.txt"
        tar.addfile(lost)
    samples, _ = read_tar(str(tmp_path / "00000.tar"))
    assert [sample.instruction for sample in samples] == ["a cat"] * 3 + [""]
    assert samples[3].error.startswith("00000.tar: a/003.txt links to ../nowhere.txt")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("000.jpg", b"")], "000: found no caption (KeyError('caption'))"),
        ([("000.txt", b"\xff")], "000: found no caption (UnicodeDecodeError"),
        ([("000.json", b"{")], "000: found no caption (JSONDecodeError"),
        ([("000.json", b"[]")], "000: found no caption (TypeError"),
        ([("000.json", json_of(5))], "000: found the caption 5"),
        ([("000.txt", b"a"), ("000.txt", b"b")], "two members of 000 have one name"),
    ],
)
def test_bad_samples_become_bad_rows_between_good_ones(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    (before, bad, after), _ = read_tar(tar_of(tmp_path, ("good.txt", b"before"), *members, ("last.txt", b"after")))
    assert (before.instruction, after.instruction) == ("before", "after")
    assert bad.id == "cc12m/train/000" and bad.error.startswith(f"00000.tar: {message}")


def test_a_key_that_stands_twice_is_taken_once(tmp_path: Path) -> None:
    path = tar_of(tmp_path, ("000.txt", b"a"), ("001.txt", b"b"), ("000.txt", b"c"), ("000.json", json_of("d")))
    (first, second, repeated), _ = read_tar(path)
    assert (first.instruction, second.instruction) == ("a", "b")
    assert repeated.id == "cc12m/train/00000.tar-at-2" and repeated.error == "00000.tar: the key 000 stands twice"


def test_a_tar_cut_anywhere_keeps_the_samples_before_the_cut(tmp_path: Path) -> None:
    members = [(f"{key}.{suffix}", b"x" * 700) for key in ("000", "001", "002") for suffix in ("jpg", "txt")]
    path = Path(tar_of(tmp_path, *members))
    whole = path.read_bytes()
    end = 6 * (512 + 1024)
    for size in range(0, end + 512, 100):
        path.write_bytes(whole[:size])
        (*kept, last), _ = read_tar(str(path))
        assert keys(kept) == ["000", "001", "002"][: len(kept)]
        assert all(sample.instruction == "x" * 700 for sample in kept)
        assert len(kept) >= size // 3072
        assert last.id == "cc12m/train/00000.tar" and "cut or damaged in " in last.error
    path.write_bytes(whole[: end + 512])
    assert [sample.error for sample in read_tar(str(path))[0]] == ["", "", ""]


def test_damage_inside_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = Path(tar_of(tmp_path, ("000.txt", b"a"), ("001.txt", b"b")))
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"\xff" * 6
    path.write_bytes(data)
    (good, last), _ = read_tar(str(path))
    assert good.instruction == "a"
    assert last.error == "00000.tar: cut or damaged in 000.txt or behind it (bad checksum); fetch it again"
