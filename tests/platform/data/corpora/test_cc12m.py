from pathlib import Path

import pytest

from fireedit.platform.data.corpora import cc12m, rows
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import cc12m as writer


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
    (tmp_path / "cc12m.csv").touch()
    with pytest.raises(rows.CorpusError, match=r"neither cc12m.tsv, .* nor img2dataset's \*.tar; found cc12m.csv"):
        cc12m.read(str(tmp_path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, b"")
    with pytest.raises(rows.CorpusError, match="cc12m.tsv is empty"):
        cc12m.read(str(tmp_path))


def test_a_corpus_reads_every_line_in_parts(tmp_path: Path) -> None:
    with (tmp_path / "cc12m.tsv").open("wb") as file:
        file.truncate(cc12m.CHUNK_BYTES - 5)
        file.seek(0, 2)
        file.write(b"\nu\tacross the border\nu\tlast\n")
    corpus = cc12m.read(f"file://{tmp_path}")
    assert len(corpus.parts) == 2
    assert [sample.instruction for sample in corpus.read_part(corpus.parts[1])] == ["last"]
    assert [sample.instruction for sample in corpus][1:] == ["across the border", "last"]


def test_tars_hold_the_captions_that_the_tsv_would(tmp_path: Path) -> None:
    writer.write_webdataset(tmp_path, range(12), 16, world.TRAIN)
    captions = [sample.instruction for sample in cc12m.read(f"file://{tmp_path}")]
    assert [sample.id for sample in cc12m.read(str(tmp_path))][:2] == ["cc12m/train/000000000", "cc12m/train/000000001"]
    writer.write(tmp_path, range(12), 16, world.TRAIN)
    lines = list(cc12m.read(str(tmp_path)))
    assert lines[0].id == "cc12m/train/000000000000", "where both lie, the tsv is read"
    gone = writer.GONE_EVERY - 1
    assert captions == [sample.instruction for index, sample in enumerate(lines) if index != gone]


def test_a_tar_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SAMPLES_PER_TAR", 4)
    writer.write_webdataset(tmp_path, range(9), 16, world.TRAIN)
    corpus = cc12m.read(str(tmp_path))
    ids = [[sample.id for sample in corpus.read_part(part)] for part in corpus.parts]
    assert [len(of_part) for of_part in ids] == [4, 4, 1] and ids[2] == ["cc12m/train/000020000"]


def test_a_cut_tar_keeps_its_rows_until_the_cut_and_tells_of_it(tmp_path: Path) -> None:
    writer.write_webdataset(tmp_path, range(6), 16, world.TRAIN)
    tar = tmp_path / "00000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    *kept, last = cc12m.read(str(tmp_path))
    assert kept and all(sample.instruction and not sample.error for sample in kept)
    assert last.id == "cc12m/train/00000.tar"
    assert last.error.startswith("00000.tar: cut or damaged in 00000000") and last.error.endswith("; fetch it again")
