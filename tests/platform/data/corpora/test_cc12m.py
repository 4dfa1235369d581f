from pathlib import Path

import pytest

from fireedit.platform.data.corpora import cc12m, rows
from fireedit.platform.data.scenes import world
from fireedit.platform.data.writers import cc12m as writer


def write(folder: Path, data: bytes) -> str:
    (folder / "cc12m.tsv").write_bytes(data)
    return str(folder / "cc12m.tsv")


def test_our_writer_is_read_back_line_by_line(tmp_path: Path) -> None:
    writer.write(tmp_path, range(20), 64, world.TRAIN)
    lines = (tmp_path / "cc12m.tsv").read_text().splitlines()
    samples = list(cc12m.read_chunk(str(tmp_path / "cc12m.tsv"), 0))
    assert [sample.instruction for sample in samples] == [line.split("\t")[1] for line in lines]
    assert {sample.task for sample in samples} == {"caption"} and not any(sample.error for sample in samples)


def test_quotes_mean_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, b'u\t"a caption that begins with a quote\nu\tand "another"\n')
    assert [sample.instruction for sample in cc12m.read_chunk(path, 0)] == [
        '"a caption that begins with a quote',
        'and "another"',
    ]


def test_a_header_is_skipped_only_as_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"url\tcaption\r\nu\tone\r\nurl\tcaption\r\n")
    assert [sample.instruction for sample in cc12m.read_chunk(path, 0)] == ["one", "caption"]


def test_ids_are_where_lines_begin(tmp_path: Path) -> None:
    path = write(tmp_path, b"u\tone\nu\ttwo")
    assert [sample.id for sample in cc12m.read_chunk(path, 0)] == [
        "cc12m/train/000000000000",
        "cc12m/train/000000000006",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_chunks_of_any_size_hold_every_line_once(tmp_path: Path, size: int) -> None:
    data = b"url\tcaption\n" + b"".join(b"u%d\tcaption %d\n" % (n, n * n) for n in range(30))
    path = write(tmp_path, data)
    pieces = [sample for start in range(0, len(data), size) for sample in cc12m.read_chunk(path, start, size)]
    assert pieces == list(cc12m.read_chunk(path, 0)) and len(pieces) == 30


def test_bad_lines_become_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, b"no tab here\nu\t  \nu\tgood\nu\t\xff\xfe\n\n")
    no_tab, blank, good, not_text = cc12m.read_chunk(path, 0)
    assert no_tab.error == "cc12m.tsv, byte 0: found b'no tab here'; a line is `url<tab>caption`"
    assert blank.error and not good.error and good.instruction == "good"
    assert "not UTF-8" in not_text.error


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").touch()
    with pytest.raises(rows.CorpusError, match=r"cc12m.tsv is missing: .*`url<tab>caption` a line; found .*00000.tar"):
        cc12m.read(str(tmp_path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, b"")
    with pytest.raises(rows.CorpusError, match="cc12m.tsv is empty"):
        cc12m.read(str(tmp_path))


@pytest.mark.ray
def test_ray_reads_the_same_rows(tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cc12m, "CHUNK_BYTES", 1 << 20)
    writer.write(tmp_path, range(30), 64, world.TRAIN)
    expected = [sample.row() for sample in cc12m.read_chunk(str(tmp_path / "cc12m.tsv"), 0)]
    assert sorted(cc12m.read(str(tmp_path)).take_all(), key=lambda row: row["id"]) == expected
