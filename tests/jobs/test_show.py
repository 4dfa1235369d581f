"""Samples of a corpus, and those that a run will draw, are shown on a sheet and in tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs import show
from fireedit.jobs.training.recipe import read_recipe
from fireedit.jobs.training.stage_task import open_corpora
from fireedit.platform import images
from fireedit.platform.data.conversion import ConversionConfig
from fireedit.platform.data.preparation import prepare_shards
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.scenes.writers import cc12m, instructpix2pix, llava_instruct

WRITERS: dict[str, Callable[..., None]] = {
    "cc12m": cc12m.write,
    "instructpix2pix": instructpix2pix.write,
    "llava_instruct": llava_instruct.write,
}
ROWS = 6
PICTURE = images.encode_png(np.zeros((6, 8, 3), np.uint8))
RECIPE = [
    *("--stage", "2", "mixture={instructpix2pix: 3, llava_instruct: 1}"),
    *("steps=3", "workers.count=2", "engine.micro_batch=4"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write corpora, one of whose pictures is truncated."""
    home = tmp_path_factory.mktemp("home")
    for name, write in WRITERS.items():
        (home / "corpora" / name).mkdir(parents=True)
        write(home / "corpora" / name, range(ROWS), size=32, world=TRAIN)
    picture = min((home / "corpora" / "llava_instruct" / "train2017").iterdir())
    picture.write_bytes(picture.read_bytes()[:200])
    return home


@pytest.fixture(scope="module")
def shards(ray_session: None, home: Path) -> Path:
    config = ConversionConfig(size=32, cpus_per_task=0.25, max_bad_fraction=0.5)
    prepare_shards(str(home / "corpora"), str(home / "shards"), ["instructpix2pix", "llava_instruct"], config=config)
    return home


def run(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[dict[str, Any], list[str]]:
    """Run the job; returns its report and its lines on stderr."""
    show.main([*arguments, "--out", str(out)])
    output = capsys.readouterr()
    return json.loads(output.out), output.err.splitlines()


def test_corpora_are_shown_in_their_readers_order(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, where = tmp_path / "sheet.png", ["--corpora", str(home / "corpora")]
    report, lines = run(capsys, out, "cc12m", "llava_instruct", *where, "--rows", "2")
    assert report == {
        "sheet": str(out),
        "samples": 4,
        "bad": 1,
        "corpora": {"cc12m": {"samples": 2, "bad": 0}, "llava_instruct": {"samples": 2, "bad": 1}},
    }
    assert [line.split()[0] for line in lines] == ["no.", "0", "1", "0", "1"]
    assert "SET ASIDE: llava_instruct" in lines[3] and "32x32" in lines[4]
    with Image.open(out) as page:
        assert page.width > show.COLUMNS * 2 * 192

    _, later = run(capsys, out, "cc12m", *where, "--start", "1", "--rows", "1")
    assert [line.split()[:2] for line in later[1:]] == [lines[2].split()[:2]], "the row of that number"


@pytest.mark.ray
def test_a_mixture_is_shown_as_training_draws_it(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = [*RECIPE, f"home={shards}"]
    report, lines = run(capsys, tmp_path / "sheet.jpg", *recipe, "--start", "5", "--rows", "9")
    corpora = open_corpora(read_recipe(recipe))
    read = corpora.reader()
    drawn = [(str(draw.number), read(draw).sample.id) for draw in corpora.mixture.draws(5, 14)]
    assert [tuple(line.split()[:2]) for line in lines[1:10]] == drawn

    edits, answers = report["corpora"]["instructpix2pix"], report["corpora"]["llava_instruct"]
    assert edits["samples"] + answers["samples"] == report["samples"] == 9 and report["bad"] == 0
    assert (edits["weight"], edits["rows"], answers["weight"], answers["rows"]) == (0.75, ROWS, 0.25, ROWS - 1)
    assert (edits["epochs"], answers["epochs"]) == (24 * 0.75 / ROWS, 24 * 0.25 / (ROWS - 1)), "of 3 steps of 8 samples"
    assert lines[11].split()[:3] == ["corpus", "weight", "rows"] and lines[12].split()[0] == "instructpix2pix"


def test_missing_shards_are_named_with_the_job_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="instructpix2pix.* missing.*prepare.py shards"):
        show.main([*RECIPE, f"home={tmp_path}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cocostuf"], "'cocostuf'.*'cocostuff'"),
        (["cc12m", "--split", "test"], "cc12m.*'test'.*train"),
        (["cc12m", "--start", "6"], "found no sample.*smaller --start"),
        ([], "found no sample.*--stage"),
    ],
)
def test_a_wrong_name_says_what_to_write(arguments: list[str], message: str, home: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        show.main([*arguments, "--corpora", str(home / "corpora")])
