import json
from pathlib import Path

import pytest

from fireedit.jobs import prepare
from fireedit.platform import images
from fireedit.platform.data import catalog
from fireedit.platform.data.corpora import cc12m
from fireedit.platform.data.ingest import Corpora, IngestConfig
from tests.factories import picture


def write_scenes(*words: str) -> int:
    return prepare.main(["scenes", *words])


def test_every_corpus_is_written_where_the_readers_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_scenes("--out", str(tmp_path), "--rows", "6", "--size", "32") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    assert report["rows"] == dict.fromkeys(catalog.TRAINING_CORPORA, 6)
    assert report["out"] == str(tmp_path) and report["seconds"] >= 0
    assert report["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert "cocostuff" in printed.err and "6/6" in printed.err
    assert len(list(cc12m.read_chunk(str(tmp_path / "cc12m" / "cc12m.tsv"), 0))) == 6


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--corpora", "imagenet"], "no scenes are written as 'imagenet'; write --corpora with cc12m,"),
        (["--rows", "10", "--seed", "10000000"], "leaves the corpus's range; write a seed of 0 to 4999999"),
        (["--seed", "-1"], "leaves the corpus's range"),
    ],
)
def test_wrong_arguments_of_scenes_are_errors(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_scenes("--out", str(tmp_path), *words) == 1
    assert error in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--corpora", "imagenet"], "no corpus is called 'imagenet'"),
        (["--corpora", "cc12m", "--source", "/nowhere"], "neither"),
        (["--corpora", "cc12m", "--encode", "latents"], "--encode needs --weights FOLDER"),
        (["--corpora", "cc12m", "--encode", "pixels", "--weights", "w"], "--encode: found 'pixels'; write latents or"),
    ],
)
def test_wrong_arguments_of_shards_are_errors(
    ray_session: None, words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m")
    assert prepare.main(["shards", "--source", str(tmp_path), "--out", str(tmp_path / "shards"), *words]) == 1
    assert error in capsys.readouterr().err


def write_pairs(folder: Path, count: int) -> None:
    """Write pairs of your own with a csv whose columns have no usual names."""
    folder.mkdir()
    lines = ["before,text,after"]
    for number in range(count):
        for name, seed in (("a", number), ("b", number + 1)):
            (folder / f"{name}{number}.png").write_bytes(images.encode_png(picture(seed, 40, 30)))
        lines.append(f'a{number}.png,"Make it {number}, please.",b{number}.png')
    (folder / "metadata.csv").write_text("\n".join(lines))


@pytest.mark.ray
def test_pairs_of_your_own_become_shards_that_a_mixture_draws_from(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards keep the columns that they were made of: others are refused, the same go on."""
    write_pairs(tmp_path / "photos", 5)
    out, columns = str(tmp_path / "shards"), "source=before,instruction=text,target=after"
    words = ["shards", "--corpora", "mine", "--source", str(tmp_path / "photos"), "--out", out, "--format", "pairs"]
    assert prepare.main([*words, "--columns", columns]) == 0
    report = json.loads(capsys.readouterr().out)["corpora"]["mine"]
    assert (report["kept"], report["set_aside"]) == (5, 0)
    corpora = Corpora(out, {"mine": 0.5}, 0, IngestConfig())
    rows = [stored.sample for stored in map(corpora.reader(), corpora.mixture.draws(0, 5))]
    assert sorted(row.instruction for row in rows) == [f"Make it {number}, please." for number in range(5)]
    assert all(images.decode(row.target).shape == (30, 40, 3) and row.corpus == "mine" for row in rows)
    assert prepare.main([*words, "--columns", columns]) == 0
    assert prepare.main([*words, "--columns", "source=after,instruction=text,target=before"]) == 1
    assert "were made with columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--corpora", "cc12m", "--format", "pairs"], "--corpora: found 'cc12m'; write one name"),
        (["--corpora", "mine,yours", "--format", "pairs"], "--corpora: found 'mine,yours'; write one name"),
        (["--corpora", "mine"], "no corpus is called 'mine'; write one of cc12m"),
        (["--corpora", "mine", "--format", "pairs", "--columns", "image=a"], "--columns: found 'image=a'"),
        (["--corpora", "cc12m", "--columns", "source=a"], "--columns are read with --format pairs only"),
    ],
)
def test_wrong_arguments_of_pairs_are_errors(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["shards", "--source", str(tmp_path), "--out", str(tmp_path / "shards"), *words]) == 1
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--encode", "latents", "--weights", "nowhere"], "--weights: nowhere/vae/config.json is missing; write nano"),
        (["--cpus-per-task", "0"], "shards: cpus_per_task: Input should be greater than 0, found 0.0"),
        (["--cpus-per-task", "1.5"], "shards: cpus_per_task: found 1.5; Ray takes fractions below 1 only"),
        (["--gpus", "-1"], "shards: gpus: Input should be greater than or equal to 0, found -1.0"),
        (["--max-bad-fraction", "2"], "shards: max_bad_fraction: Input should be less than or equal to 1, found 2.0"),
    ],
)
def test_shards_are_refused_before_anything_is_converted(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert prepare.main(["shards", "--source", str(tmp_path), "--out", str(out), "--corpora", "cc12m", *words]) == 1
    assert f"prepare: {error}" in capsys.readouterr().err and not out.exists()


def test_the_default_folder_follows_fireedit_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", str(tmp_path))
    assert write_scenes("--rows", "2", "--corpora", "cc12m") == 0
    assert (tmp_path / "corpora" / "cc12m" / "prepared.json").exists()
