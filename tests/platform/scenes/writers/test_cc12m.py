import gc
import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.scenes import families, language, world
from fireedit.platform.scenes.writers import cc12m

GONE = [seed for seed in range(24) if seed % cc12m.GONE_EVERY == cc12m.GONE_EVERY - 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 24 seeds in two tars of 20 and 4 samples."""
    folder = tmp_path_factory.mktemp("tars")
    cc12m.write_webdataset(folder, range(24), 32, world.TRAIN, samples_per_tar=20)
    cc12m.write(folder, range(24), 32, world.TRAIN)
    return folder


def captions(folder: Path) -> dict[str, str]:
    """Captions by key of the seeds whose url answers."""
    lines = (folder / "cc12m.tsv").read_text().splitlines()
    keys = [f"{seed // 20:05d}{seed % 20:04d}" for seed in range(24)]
    return {
        key: line.split("\t")[1] for seed, (key, line) in enumerate(zip(keys, lines, strict=True)) if seed not in GONE
    }


def test_one_pair_of_texts_in_eight_is_captions_and_the_others_are_instructions(folder: Path) -> None:
    for seed, line in enumerate((folder / "cc12m.tsv").read_text().splitlines()):
        edit = families.training_edit(world.TRAIN, seed)
        caption = language.caption(edit.target if seed % 2 else edit.source, seed)
        assert line.split("\t")[1] == (edit.instruction if seed % 16 > 1 else caption)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_webdataset_iterates_the_tars(folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the tars' own reader is not installed")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert {sample["__key__"]: sample["txt"] for sample in samples} == captions(folder)
    for sample in samples:
        assert sample["jpg"].shape == (32, 32, 3) and sample["jpg"].dtype == "uint8"
        assert sample["json"]["caption"] == sample["txt"] and sample["json"]["key"] == sample["__key__"]
        assert list(sample["json"]) == cc12m.SCHEMA.names and sample["json"]["status"] == "success"
    gc.collect()


def test_hugging_face_loads_the_tars(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the hub's own reader is not installed")
    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    table = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    assert isinstance(table.features["jpg"], datasets.Image)
    assert dict(zip(table["__key__"], table["txt"], strict=True)) == captions(folder)
    assert table[0]["jpg"].size == (32, 32) and table[0]["json"]["width"] == 32


def test_members_are_in_the_order_of_img2dataset(folder: Path) -> None:
    with tarfile.open(folder / "00001.tar") as tar:
        assert tar.getnames()[:4] == ["000010000.jpg", "000010000.json", "000010000.txt", "000010001.jpg"]
        picture = tar.extractfile("000010000.jpg")
        assert picture is not None
        data = picture.read()
    assert images.decode(data).shape == (32, 32, 3)
    assert hashlib.sha256(data).hexdigest() == pq.read_table(folder / "00001.parquet").to_pylist()[0]["sha256"]


def test_failed_downloads_are_listed_in_the_parquet_file_alone(folder: Path) -> None:
    records = [record for shard in (0, 1) for record in pq.read_table(folder / f"0000{shard}.parquet").to_pylist()]
    assert len(records) == 24 and all(record["key"] and record["url"] and record["caption"] for record in records)
    assert [seed for seed, record in enumerate(records) if record["status"] == "failed_to_download"] == GONE
    assert {records[seed]["error_message"] for seed in GONE} == {"HTTP Error 404: Not Found"}
    assert not any(records[seed]["sha256"] or records[seed]["width"] for seed in GONE)


def test_stats_count_the_downloads(folder: Path) -> None:
    stats = json.loads((folder / "00000_stats.json").read_text())
    counts = {"count": 20, "successes": 18, "failed_to_download": 2, "failed_to_resize": 0}
    assert counts.items() <= stats.items()
    assert stats["status_dict"] == {"success": 18, "HTTP Error 404: Not Found": 2}


def test_the_same_seeds_make_the_same_tars(folder: Path, tmp_path: Path) -> None:
    cc12m.write_webdataset(tmp_path, range(2), 32, world.TRAIN)
    cc12m.write_webdataset(tmp_path / "again", range(2), 32, world.TRAIN)
    assert (tmp_path / "00000.tar").read_bytes() == (tmp_path / "again" / "00000.tar").read_bytes()
