import json
from pathlib import Path

import pytest

from fireedit.jobs import prepare
from fireedit.platform import storage
from fireedit.platform.data import catalog
from fireedit.platform.data.conversion import ConversionConfig
from fireedit.platform.data.corpora import cc12m
from fireedit.platform.data.ingest import Corpora, IngestConfig
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.scenes.world import TRAIN, WORLDS, World

FORMS = [*prepare.WRITERS, *prepare.OTHER_FORMS]


def run(*words: str) -> int:
    return prepare.main(["scenes", *words])


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_corpus_is_written_where_their_readers_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", str(tmp_path), "--rows", "6", "--size", "32") == 0
    said = capsys.readouterr()
    report = json.loads(said.out.splitlines()[-1])
    assert report["rows"] == dict.fromkeys(prepare.WRITERS, 6)
    assert report["out"] == str(tmp_path) and report["seconds"] >= 0
    assert report["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert "cocostuff" in said.err and "6/6" in said.err
    assert set(prepare.WRITERS) <= set(catalog.CORPORA)
    assert len(list(cc12m.read_chunk(str(tmp_path / "cc12m" / "cc12m.tsv"), 0))) == 6


def test_what_is_complete_is_kept_and_what_differs_is_redone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path), "--size", "32", "--corpora", "cocostuff"]
    assert run(*words, "--rows", "5") == 0
    before = files(tmp_path)
    assert run(*words, "--rows", "5") == 0
    assert files(tmp_path) == before and "with these settings, kept" in capsys.readouterr().err
    assert run(*words, "--rows", "3") == 0
    assert len(list((tmp_path / "cocostuff" / "images" / "train2017").iterdir())) == 3


def test_a_folder_of_somebody_else_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cc12m").mkdir()
    (tmp_path / "cc12m" / "cc12m.tsv").write_text("precious")
    assert run("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m") == 1
    assert "was not written by this job; move it away or choose another --out" in capsys.readouterr().err
    assert (tmp_path / "cc12m" / "cc12m.tsv").read_text() == "precious"


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(folder: Path, *_: object) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(prepare.WRITERS, "cc12m", break_off)
    with pytest.raises(KeyboardInterrupt):
        run("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--corpora", "imagenet"], "no scenes are written as 'imagenet'; write --corpora with cc12m,"),
        (["--rows", "10", "--seed", "10000000"], "leaves the corpus's range; write a seed of 0 to 4999999"),
        (["--seed", "-1"], "leaves the corpus's range"),
    ],
)
def test_wrong_arguments_are_told(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", str(tmp_path), *words) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_no_two_corpora_seeds_or_worlds_draw_the_same_scene(world: World) -> None:
    last = len(world.seeds) // catalog.MOST_SEED_BLOCKS // 100 - 1
    ranges = [prepare.scene_seeds(name, 100, seed, world) for name in FORMS for seed in (0, 1, last)]
    drawn = [seed for block in ranges for seed in block]
    assert len(set(drawn)) == len(drawn)
    assert all(block.start in world.seeds and block[-1] in world.seeds for block in ranges)
    assert world is TRAIN or not any(seed in TRAIN.seeds for seed in drawn)


@pytest.mark.parametrize("form", sorted(prepare.OTHER_FORMS))
def test_every_other_form_is_written_where_the_readers_look(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", str(tmp_path), "--rows", "12", "--size", "32", "--corpora", form) == 0
    name, _, kind = form.partition(":")
    split = "test" if kind == "test" or name == "emu_edit" else "train"
    samples = list(catalog.open_corpus(name, str(tmp_path / name), split))
    assert len(samples) > 5 and not any(sample.error for sample in samples)
    assert catalog.world_of(str(tmp_path / name)) == "train"


@pytest.mark.ray
def test_a_held_out_world_is_never_trained_on(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scenes have seeds of their own, and its shards say what they are."""
    corpora, out = str(tmp_path / "corpora"), str(tmp_path / "shards")
    words = ["--rows", "8", "--size", "32", "--corpora", "magicbrush", "--world", "unseen_objects"]
    assert run("--out", corpora, *words) == 0
    assert prepare.main(["shards", "--source", corpora, "--out", out, "--corpora", "magicbrush"]) == 0
    with pytest.raises(ShardsError, match="these shards are held out of training: they are of world 'unseen_objects'"):
        Corpora(out, {"magicbrush": 1}, 0, IngestConfig())


@pytest.mark.ray
def test_in_a_bucket_all_is_as_on_a_disk(ray_session: None, s3: str, tmp_path: Path) -> None:
    """Scenes, readers, shards and the rows that training draws: the same ids, the same bytes of every picture."""
    forms = ["cc12m:tars", "cocostuff", "instructpix2pix:zips", "magicbrush"]
    names = [form.partition(":")[0] for form in forms]
    config = ConversionConfig(size=32, cpus_per_task=0.5)
    read, drawn = {}, {}
    for kind, root in (("disk", str(tmp_path)), ("bucket", storage.join(s3, tmp_path.name))):
        corpora, out = storage.join(root, "corpora"), storage.join(root, "shards")
        prepare.prepare_scenes(corpora, forms, rows=12, size=48, seed=0)
        read[kind] = [list(catalog.open_corpus(name, storage.join(corpora, name))) for name in names]
        reports = prepare.prepare_shards(corpora, out, names, config=config)["corpora"]
        assert all(report["kept"] == report["read"] > 5 for report in reports.values())
        mixture = Corpora(out, dict.fromkeys(names[1:], 1.0), 0, IngestConfig())
        row = mixture.reader()
        drawn[kind] = [row(draw) for draw in mixture.mixture.draws(0, 60)]
    assert read["bucket"] == read["disk"] and drawn["bucket"] == drawn["disk"]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--corpora", "imagenet"], "no corpus is called 'imagenet'"),
        (["--corpora", "cc12m", "--source", "/nowhere"], "neither"),
        (["--corpora", "cc12m", "--encode", "latents"], "--encode needs --weights FOLDER"),
        (["--corpora", "cc12m", "--encode", "pixels", "--weights", "w"], "--encode: found 'pixels'; write latents or"),
    ],
)
def test_wrong_words_about_shards_are_told(
    ray_session: None, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m")
    assert prepare.main(["shards", "--source", str(tmp_path), "--out", str(tmp_path / "shards"), *words]) == 1
    assert told in capsys.readouterr().err


def test_the_default_folder_follows_fireedit_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", str(tmp_path))
    assert run("--rows", "2", "--corpora", "cc12m") == 0
    assert (tmp_path / "corpora" / "cc12m" / "prepared.json").exists()
