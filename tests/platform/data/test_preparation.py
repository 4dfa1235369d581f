import json
from pathlib import Path

import pytest

from fireedit.platform import storage
from fireedit.platform.data import catalog, preparation
from fireedit.platform.data.conversion import ConversionConfig
from fireedit.platform.data.ingest import Corpora, IngestConfig
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.scenes.world import TRAIN, WORLDS, World

CONFIG = ConversionConfig(size=32, cpus_per_task=0.5)
OTHER_FORMS = [name for name in catalog.SCENE_FORMS if name not in catalog.TRAINING_CORPORA]
BLOCK = 50_000_000
"""Seeds of one corpus in the world of training, which has a thousand million."""
FIRST_SEEDS = {
    "cc12m": 0,
    "instructpix2pix": 50_000_000,
    "cocostuff": 100_000_000,
    "llava_instruct": 150_000_000,
    "refcoco": 200_000_000,
    "refcoco+": 250_000_000,
    "refcocog": 300_000_000,
    "grefcoco": 350_000_000,
    "magicbrush": 400_000_000,
    "ultraedit": 450_000_000,
    "reasonedit": 500_000_000,
    "cc12m:tars": 550_000_000,
    "instructpix2pix:folders": 600_000_000,
    "instructpix2pix:zips": 650_000_000,
    "cocostuff:json": 700_000_000,
    "magicbrush:test": 750_000_000,
    "reasonedit:test": 800_000_000,
    "emu_edit": 850_000_000,
    "emu_edit:generations": 900_000_000,
}
"""Seeds that scenes of each corpus have been drawn from since they were first written; weights were trained on them."""


def modification_times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_scenes_with_the_same_settings_are_kept_and_others_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preparation.prepare_scenes(str(tmp_path), ["cocostuff"], rows=5, size=32, seed=0)
    before = modification_times(tmp_path)
    preparation.prepare_scenes(str(tmp_path), ["cocostuff"], rows=5, size=32, seed=0)
    assert modification_times(tmp_path) == before and "with these settings, kept" in capsys.readouterr().err
    preparation.prepare_scenes(str(tmp_path), ["cocostuff"], rows=3, size=32, seed=0)
    assert len(list((tmp_path / "cocostuff" / "images" / "train2017").iterdir())) == 3


def test_a_folder_of_real_data_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cc12m").mkdir()
    (tmp_path / "cc12m" / "cc12m.tsv").write_text("precious")
    with pytest.raises(FileExistsError, match="cc12m holds .*, but no .*; write a folder that is new or empty"):
        preparation.prepare_scenes(str(tmp_path), ["cc12m"], rows=2, size=32, seed=0)
    assert (tmp_path / "cc12m" / "cc12m.tsv").read_text() == "precious"


@pytest.mark.parametrize(("rows", "seed"), [(10, 5_000_000), (10, -1), (50_000_001, 0)])
def test_seeds_outside_the_part_of_a_corpus_are_refused(rows: int, seed: int) -> None:
    with pytest.raises(preparation.PrepareError, match=f"--seed {seed} with --rows {rows} leaves the corpus's range"):
        preparation.scene_seeds("cc12m", rows, seed, TRAIN)


@pytest.mark.parametrize("name", FIRST_SEEDS)
def test_scene_seeds_of_a_corpus_never_change(name: str) -> None:
    start, held_out = FIRST_SEEDS[name], WORLDS["unseen_pairs"]
    assert preparation.scene_seeds(name, BLOCK, 0, TRAIN) == range(start, start + BLOCK)
    first = held_out.seeds.start + start // 10
    assert preparation.scene_seeds(name, BLOCK // 10, 0, held_out) == range(first, first + BLOCK // 10)


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_no_two_corpora_seeds_or_worlds_draw_the_same_scene(world: World) -> None:
    last = len(world.seeds) // catalog.MOST_SEED_BLOCKS // 100 - 1
    ranges = [preparation.scene_seeds(name, 100, seed, world) for name in catalog.SCENE_FORMS for seed in (0, 1, last)]
    drawn = [seed for block in ranges for seed in block]
    assert len(set(drawn)) == len(drawn)
    assert all(block.start in world.seeds and block[-1] in world.seeds for block in ranges)
    assert world is TRAIN or not any(seed in TRAIN.seeds for seed in drawn)


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_every_other_form_is_written_where_the_readers_look(form: str, tmp_path: Path) -> None:
    preparation.prepare_scenes(str(tmp_path), [form], rows=12, size=32, seed=0)
    name, _, kind = form.partition(":")
    split = "test" if kind == "test" or name == "emu_edit" else "train"
    samples = list(catalog.open_corpus(name, str(tmp_path / name), split))
    assert len(samples) > 5 and not any(sample.error for sample in samples)
    assert catalog.world_of(str(tmp_path / name)) == "train"


@pytest.mark.ray
def test_missing_corpora_of_a_mixture_are_written_and_converted(ray_session: None, tmp_path: Path) -> None:
    """Finished shards are kept; an unknown name is refused before anything is written."""
    scenes = preparation.ScenesConfig(rows=4, size=32)
    with pytest.raises(catalog.UnknownCorpusError, match="cocostuf.*cocostuff"):
        preparation.prepare_missing(str(tmp_path), ["cc12m", "cocostuf"], scenes, cpus_per_task=0.5)
    assert list(tmp_path.iterdir()) == []
    for mixture in (["cc12m"], ["cc12m", "ultraedit"]):
        preparation.prepare_missing(str(tmp_path), mixture, scenes, cpus_per_task=0.5)
        assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == mixture
    preparation.prepare_missing(str(tmp_path), ["magicbrush"], None, cpus_per_task=0.5)
    assert not (tmp_path / "shards" / "magicbrush").exists()
    assert Corpora(str(tmp_path / "shards"), {"ultraedit": 1}, 0, IngestConfig()).sizes == {"ultraedit": 4}


@pytest.mark.ray
def test_shards_of_a_held_out_world_are_refused_by_training(ray_session: None, tmp_path: Path) -> None:
    corpora, out = str(tmp_path / "corpora"), str(tmp_path / "shards")
    preparation.prepare_scenes(corpora, ["magicbrush"], rows=8, size=32, seed=0, world="unseen_objects")
    preparation.prepare_shards(corpora, out, ["magicbrush"], config=CONFIG)
    with pytest.raises(ShardsError, match="held out of training: .*'unseen_objects'"):
        Corpora(out, {"magicbrush": 1}, 0, IngestConfig())


@pytest.mark.ray
def test_a_bucket_gives_the_same_rows_as_a_disk(ray_session: None, s3: str, tmp_path: Path) -> None:
    """Scenes, readers, shards and draws: the same ids, the same bytes of every picture."""
    forms = ["cc12m:tars", "cocostuff", "instructpix2pix:zips", "magicbrush"]
    names = [form.partition(":")[0] for form in forms]
    samples, drawn = {}, {}
    for kind, root in (("disk", str(tmp_path)), ("bucket", storage.join(s3, tmp_path.name))):
        corpora, out = storage.join(root, "corpora"), storage.join(root, "shards")
        preparation.prepare_scenes(corpora, forms, rows=12, size=48, seed=0)
        samples[kind] = [list(catalog.open_corpus(name, storage.join(corpora, name))) for name in names]
        reports = preparation.prepare_shards(corpora, out, names, config=CONFIG)["corpora"]
        assert all(report["kept"] == report["read"] > 5 for report in reports.values())
        mixture = Corpora(out, dict.fromkeys(names[1:], 1.0), 0, IngestConfig())
        row = mixture.reader()
        drawn[kind] = [row(draw) for draw in mixture.mixture.draws(0, 60)]
    assert samples["bucket"] == samples["disk"] and drawn["bucket"] == drawn["disk"]
    manifest = storage.read_bytes(storage.join(s3, tmp_path.name, "corpora", "magicbrush", catalog.MANIFEST))
    assert json.loads(manifest)["rows"] == 12
