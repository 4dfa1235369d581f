"""Corpora become checked shards: no good row is lost, no bad one kept, nothing is done twice, and all is reported."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.cluster import ResourcesError
from fireedit.platform.data import catalog, conversion, shards
from fireedit.platform.data.conversion import (
    AspectError,
    ConversionConfig,
    TooManyBadRowsError,
    UnreadablePartError,
    convert,
    scale_pictures,
)
from fireedit.platform.data.corpora import cc12m
from fireedit.platform.data.corpora.rows import CLUTTER_REASON
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes.world import TRAIN
from tests.factories import picture

CONFIG = ConversionConfig(size=32, cpus_per_task=0.25)
CORPUS = "instructpix2pix"
Pair = tuple[bytes, str, bytes]


def pair(seed: int) -> Pair:
    """Make a row of InstructPix2Pix with pictures of 40 x 30."""
    source, target = (images.encode_jpeg(picture(seed + more, 40, 30)) for more in (0, 1))
    return source, f"make it {seed}", target


def bad_pair(seed: int) -> Pair:
    source, instruction, target = pair(seed)
    return source, instruction, target[:100]


def write_pairs(corpora: Path, *parts: Sequence[Pair]) -> None:
    """Write InstructPix2Pix as its parquet files, each of which is a part."""
    folder = corpora / CORPUS / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(parts):
        sources, instructions, targets = zip(*rows, strict=True)
        columns = {"original_image": sources, "edit_prompt": instructions, "edited_image": targets}
        table = {
            name: list(values) if name == "edit_prompt" else [{"bytes": data, "path": None} for data in values]
            for name, values in columns.items()
        }
        pq.write_table(pa.table(table), folder / f"train-{number:05d}-of-00262.parquet")


def converted(tmp_path: Path, config: ConversionConfig = CONFIG) -> dict[str, Any]:
    return convert(catalog.CORPORA[CORPUS], str(tmp_path / "corpora" / CORPUS), str(tmp_path / "shards"), config=config)


def samples_of(root: Path) -> list[Sample]:
    index = shards.read_index(str(root))
    return [sample for shard in index.shards for sample in shards.iter_samples(str(root), shard.name)]


def instructions_of(root: Path) -> list[str]:
    return [sample.instruction for sample in samples_of(root)]


def quarantine_of(root: Path) -> list[dict[str, str]]:
    return pq.read_table(root / conversion.QUARANTINE).to_pylist()


def float32(box: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.array(box, np.float32).tolist())


def changed_at(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / shards.ROWS).iterdir()}


def edit(source: np.ndarray | bytes, target: np.ndarray | bytes) -> Sample:
    encoded = [images.EncodedImage(x) if isinstance(x, bytes) else images.encode_png(x) for x in (source, target)]
    return Sample(id="a/1", corpus="a", task="edit", instruction="paint", source=encoded[0], target=encoded[1])


def scaled(source: np.ndarray | bytes, target: np.ndarray | bytes) -> tuple[images.EncodedImage, images.EncodedImage]:
    sample = scale_pictures(edit(source, target), CONFIG)
    return sample.source, sample.target


@pytest.mark.ray
@pytest.mark.parametrize("name", catalog.TRAINING_CORPORA)
def test_every_row_of_every_training_corpus_is_kept_as_its_reader_gives_it(
    ray_session: None, name: str, tmp_path: Path
) -> None:
    """Ray's workers read it in other processes than this one, which must give the same ids."""
    folder, root = tmp_path / "corpora" / name, tmp_path / "shards"
    folder.mkdir(parents=True)
    catalog.SCENE_FORMS[name].write(folder, iter(range(8)), 32, TRAIN)
    report = convert(catalog.CORPORA[name], str(folder), str(root), config=CONFIG)
    samples = list(catalog.open_corpus(name, str(folder)))
    assert report["read"] == report["kept"] == len(samples) >= 8 and report["set_aside"] == 0
    for stored, sample in zip(samples_of(root), samples, strict=True):
        boxes: Any = tuple(map(float32, sample.boxes))
        assert stored == dataclasses.replace(scale_pictures(sample, CONFIG), boxes=boxes)
    assert len({sample.id for sample in samples}) == len(samples)
    assert shards.read_index(str(root)).corpus == name


@pytest.mark.ray
def test_ids_and_order_do_not_depend_on_the_files_of_a_corpus(ray_session: None, tmp_path: Path) -> None:
    pairs, ids = [pair(seed) for seed in range(12)], []
    for number, parts in enumerate([[pairs], [pairs[:5], pairs[5:6], pairs[6:]]]):
        write_pairs(tmp_path / str(number) / "corpora", *parts)
        converted(tmp_path / str(number))
        ids.append([sample.id for sample in samples_of(tmp_path / str(number) / "shards")])
    assert ids[0] == ids[1] and len(set(ids[0])) == 12
    index = shards.read_index(str(tmp_path / "1" / "shards"))
    assert [shard.rows for shard in index.shards] == [5, 1, 6]


@pytest.mark.ray
def test_a_part_fills_as_many_shards_as_it_needs(ray_session: None, tmp_path: Path) -> None:
    """Shards and row groups of captions hold many rows; 9000 are more than one shard's."""
    (tmp_path / "corpora" / "cc12m").mkdir(parents=True)
    lines = "".join(f"https://example.invalid/{number}.jpg\tcaption {number}\n" for number in range(9000))
    (tmp_path / "corpora" / "cc12m" / "cc12m.tsv").write_text(lines)
    convert(catalog.CORPORA["cc12m"], str(tmp_path / "corpora" / "cc12m"), str(tmp_path / "shards"), config=CONFIG)
    index = shards.read_index(str(tmp_path / "shards"))
    assert [shard.rows for shard in index.shards] == [8192, 9000 - 8192]
    assert [rows for _, _, rows in index.groups()] == [1024] * 8 + [808]
    assert instructions_of(tmp_path / "shards") == [f"caption {n}" for n in range(9000)]


@pytest.mark.parametrize(
    ("width", "height", "size"), [(100, 60, (53, 32)), (60, 100, (32, 53)), (400, 400, (32, 32)), (20, 30, (20, 30))]
)
def test_pictures_shrink_to_the_shorter_side_and_never_grow(width: int, height: int, size: tuple[int, int]) -> None:
    for encode in (images.encode_png, images.encode_jpeg):
        source, target = scaled(encode(picture(0, width, height)), encode(picture(1, width, height)))
        assert images.plain_jpeg_size(source) == images.plain_jpeg_size(target) == size


def test_targets_become_as_large_as_their_source() -> None:
    for other in (picture(1, 25, 20), picture(1, 300, 240)):
        source, target = scaled(picture(0, 50, 40), other)
        assert images.plain_jpeg_size(source) == images.plain_jpeg_size(target) == (40, 32)


@pytest.mark.parametrize(("source", "target"), [((64, 64), (128, 96)), ((40, 30), (30, 40)), ((100, 60), (100, 63))])
def test_a_target_of_another_aspect_is_refused_unless_its_corpus_has_them(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    sample = edit(picture(0, *source), picture(1, *target))
    sizes = f"target of {target[0]} x {target[1]} pixels for a source of {source[0]} x {source[1]}; crop one"
    with pytest.raises(AspectError, match=sizes):
        scale_pictures(sample, CONFIG)
    squashed = scale_pictures(sample, CONFIG, any_aspect=True)
    assert images.plain_jpeg_size(squashed.source) == images.plain_jpeg_size(squashed.target) != target


@pytest.mark.parametrize(
    ("source", "target"),
    [((512, 341), (64, 43)), ((64, 43), (512, 341)), ((90, 10), (190, 22)), ((512, 341), (512, 336))],
)
def test_a_target_whose_aspect_is_rounded_is_kept(source: tuple[int, int], target: tuple[int, int]) -> None:
    kept, scaled_target = scaled(picture(0, *source), picture(1, *target))
    assert images.plain_jpeg_size(kept) == images.plain_jpeg_size(scaled_target)


def test_only_corpora_whose_publishers_load_each_picture_by_itself_have_targets_of_any_aspect() -> None:
    assert {name for name, entry in catalog.CORPORA.items() if entry.any_aspect} == {"magicbrush", "reasonedit"}


def test_a_jpeg_that_is_small_enough_keeps_its_bytes() -> None:
    source, target = (images.encode_jpeg(picture(seed, 40, 30), quality=60) for seed in (0, 1))
    assert scale_pictures(edit(source, target), CONFIG) == edit(source, target)


def test_a_target_that_is_its_source_stays_so() -> None:
    large = images.encode_jpeg(picture(0, 100, 60))
    source, target = scaled(large, large)
    assert source == target != large


def test_a_stored_picture_looks_as_its_scaled_pixels() -> None:
    for width, height, size in ((40, 30, (40, 30)), (100, 60, (53, 32))):
        before = picture(0, width, height)
        for data, wanted in zip(scaled(before, before[::-1]), (before, before[::-1]), strict=True):
            difference = np.abs(images.decode(data).astype(int) - images.resize(wanted, *size))
            assert difference.mean() < 1.5 and difference.max() <= 8


@pytest.mark.ray
def test_bad_rows_are_set_aside_with_their_file_number_and_error(ray_session: None, tmp_path: Path) -> None:
    wide = (*pair(4)[:2], images.encode_jpeg(picture(4, 60, 30)))
    write_pairs(tmp_path / "corpora", [pair(0), bad_pair(1), pair(2)], [pair(3), wide])
    report = converted(tmp_path, ConversionConfig(size=32, cpus_per_task=0.25, max_bad_fraction=0.5))
    assert (report["read"], report["kept"], report["set_aside"]) == (5, 3, 2)
    assert instructions_of(tmp_path / "shards") == ["make it 0", "make it 2", "make it 3"]
    quarantine = quarantine_of(tmp_path / "shards")
    files = [str(tmp_path / "corpora" / CORPUS / "data" / f"train-0000{part}-of-00262.parquet") for part in (0, 1)]
    assert [(row["file"], row["number"]) for row in quarantine] == list(zip(files, (2, 2), strict=True))
    assert all(row["row"].startswith(f"{CORPUS}/train/") for row in quarantine)
    assert "damaged JPEG" in quarantine[0]["error"] and "60 x 30 pixels for a source of 40" in quarantine[1]["error"]


@pytest.mark.ray
def test_skipped_entries_are_counted_by_reason_and_are_no_bad_rows(ray_session: None, tmp_path: Path) -> None:
    """The report sums up entries skipped when the corpus is opened and those skipped in its parts."""
    folder = tmp_path / "corpora" / "cc12m"
    folder.mkdir(parents=True)
    (folder / ".00000.tar.lock").touch()
    for number, captions in enumerate([("a hat", ""), ("", "a cat")]):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for key, caption in enumerate(captions):
                member = tarfile.TarInfo(f"{number}{key}.txt")
                member.size = len(caption)
                tar.addfile(member, io.BytesIO(caption.encode()))
    report = convert(catalog.CORPORA["cc12m"], str(folder), str(tmp_path / "shards"), config=CONFIG)
    assert (report["read"], report["kept"], report["set_aside"]) == (2, 2, 0)
    assert report["skipped"] == {CLUTTER_REASON: 1, cc12m.NO_CAPTION: 2}
    assert json.loads((tmp_path / "shards" / conversion.REPORT).read_text())["skipped"] == report["skipped"]


@pytest.mark.ray
def test_a_corpus_with_too_many_bad_rows_is_given_up_and_its_report_written(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0), bad_pair(1)], [pair(2), pair(3)])
    root = tmp_path / "shards"
    with pytest.raises(TooManyBadRowsError, match="1 of 4 rows .* max_bad_fraction 0.01"):
        converted(tmp_path)
    assert not (root / shards.INDEX).exists()
    assert json.loads((root / conversion.REPORT).read_text())["set_aside"] == 1
    assert len(quarantine_of(root)) == 1

    before = changed_at(root)
    converted(tmp_path, ConversionConfig(size=32, cpus_per_task=0.25, max_bad_fraction=0.25))
    assert shards.read_index(str(root)).rows == 3 and changed_at(root) == before, "nothing is done again"


@pytest.mark.ray
def test_a_large_corpus_is_given_up_before_its_end(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "corpora", *([bad_pair(2 * part), pair(2 * part + 1)] for part in range(6)))
    with pytest.raises(TooManyBadRowsError, match="1 of 2 rows"):
        converted(tmp_path, ConversionConfig(size=32, cpus_per_task=0.25, judge_after=2))
    assert capsys.readouterr().err.count(f"{CORPUS}  part ") == 1


@pytest.mark.ray
def test_an_interrupted_conversion_redoes_no_finished_part(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "corpora", *([pair(3 * part + row) for row in range(3)] for part in range(4)))
    root = tmp_path / "shards"
    first, progress = converted(tmp_path), capsys.readouterr().err
    assert progress.count("part ") == 4 and "instructpix2pix  part    4/4        12 rows, 0 set aside" in progress
    index, before = (root / shards.INDEX).read_bytes(), changed_at(root)
    for missing in (root / shards.INDEX, root / shards.PARTS / "000001.json", root / shards.PARTS / "000003.json"):
        missing.unlink()
    (root / shards.ROWS / "000003-000.parquet").write_bytes(b"half a shard")

    again, progress = converted(tmp_path), capsys.readouterr().err
    assert progress.count("part ") == 2 and (root / shards.INDEX).read_bytes() == index
    after = changed_at(root)
    assert {name for name in after if after[name] != before[name]} == {"000001-000.parquet", "000003-000.parquet"}
    assert instructions_of(root) == [f"make it {seed}" for seed in range(12)]
    assert all(first[key] == again[key] for key in ("read", "kept", "set_aside", "shards", "bytes", "licence"))


@pytest.mark.ray
def test_a_task_that_fits_no_node_is_an_error_at_once(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0)])
    with pytest.raises(ResourcesError, match="64 CPUs.*cpus_per_task"):
        converted(tmp_path, ConversionConfig(size=32, cpus_per_task=64))


@pytest.mark.ray
def test_shards_of_other_settings_are_never_mixed(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0)])
    converted(tmp_path)
    with pytest.raises(shards.ShardsError, match="size 32, not 64"):
        converted(tmp_path, ConversionConfig(size=64))
    with pytest.raises(shards.ShardsError, match="quality 95, not 80"):
        converted(tmp_path, ConversionConfig(size=32, quality=80))
    write_pairs(tmp_path / "corpora", [pair(0)], [pair(1)])
    with pytest.raises(shards.ShardsError, match="parts 1, not 2"):
        converted(tmp_path)


@pytest.mark.ray
def test_a_repeated_id_is_set_aside(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0), pair(1), pair(1)], [pair(2), pair(0), pair(3)], [pair(2)])
    root, config = tmp_path / "shards", ConversionConfig(size=32, cpus_per_task=0.25, max_bad_fraction=0.9)
    for _ in range(2):
        report = converted(tmp_path, config)
        assert (report["read"], report["kept"], report["set_aside"]) == (7, 4, 3)
        assert instructions_of(root) == [f"make it {seed}" for seed in range(4)]
    quarantine = quarantine_of(root)
    assert [Path(row["file"]).stem for row in quarantine] == ["000000-000", "000001-000", "000002-000"]
    assert all(row["error"] == "this id came before" for row in quarantine)


@pytest.mark.ray
def test_the_report_counts_rows_bytes_time_and_memory(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0), pair(1)], [pair(2)])
    report = converted(tmp_path)
    assert report == json.loads((tmp_path / "shards" / conversion.REPORT).read_text())
    assert (report["corpus"], report["licence"]) == (CORPUS, catalog.CORPORA[CORPUS].license)
    assert (report["read"], report["kept"], report["set_aside"], report["shards"]) == (3, 3, 0, 2)
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "shards" / shards.ROWS).iterdir())
    assert 0 <= report["core_seconds"] <= 2 * report["seconds"] and report["rows_per_s_per_core"] > 0
    assert 10_000_000 < report["peak_worker_bytes"] < 4_000_000_000


@pytest.mark.ray
def test_shards_record_their_world_split_and_encodings(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0)])
    (tmp_path / "corpora" / CORPUS / catalog.MANIFEST).write_text(json.dumps({"world": "unseen_pairs"}))
    converted(tmp_path)
    root = str(tmp_path / "shards")
    index = shards.read_index(root)
    assert (index.corpus, index.split, index.world, index.encodings) == (CORPUS, "train", "unseen_pairs", {})
    encodings = {"text": shards.Encoding("text-1a", {"states": (2, 3)}, "1a")}
    shards.write_index(root, shards.Index(CORPUS, "train", "unseen_pairs", index.shards, encodings))
    converted(tmp_path)
    assert shards.read_index(root).encodings == encodings, "a repeated conversion keeps them"


@pytest.mark.ray
def test_a_file_that_is_damaged_in_the_middle_stops_only_its_own_part(ray_session: None, tmp_path: Path) -> None:
    write_pairs(tmp_path / "corpora", [pair(0)], [pair(seed) for seed in range(1, 9)])
    broken = tmp_path / "corpora" / CORPUS / "data" / "train-00001-of-00262.parquet"
    whole = broken.read_bytes()
    middle = len(whole) // 3
    broken.write_bytes(whole[:middle] + bytes(2000) + whole[middle + 2000 :])
    with pytest.raises(UnreadablePartError, match="1 of 2 parts .*train-00001-of-00262.parq"):
        converted(tmp_path)
    before = changed_at(tmp_path / "shards")
    assert len(before) == 1
    broken.write_bytes(whole)
    assert converted(tmp_path)["kept"] == 9
    assert before.items() <= changed_at(tmp_path / "shards").items(), "the other part is not done again"
