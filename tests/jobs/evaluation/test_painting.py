"""Replicas of an editor: chains in order, each picture once, failures noted."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.exceptions import RayError

from fireedit.jobs.evaluation.painting import (
    Painter,
    PaintingError,
    Replica,
    Replicas,
    failure_reason,
    map_in_replicas,
    missing_groups,
    read_seconds,
)
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, Turn
from fireedit.models.editors.editor import EditorName
from fireedit.models.editors.fireedit import FireEdit
from fireedit.models.pictures import Boxes
from fireedit.models.settings import PaintSettings
from fireedit.platform import images
from tests.factories import picture


class Darkening:
    """Editor that halves all values, notes what it gets, and fails at instructions that say so."""

    name, weights, settings = "darkening", "", PaintSettings()

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[str], Sequence[int]]] = []

    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        self.calls.append((instructions, seeds))
        if "fail" in instructions:
            raise ValueError("a prompt is too long\nwith more")
        return [each // 2 for each in pictures]


class Looking(FireEdit):
    """FireEdit that notes the regions it is given."""

    name, weights, settings = "fireedit", "", PaintSettings()

    def __init__(self) -> None:
        self.regions: Any = "not given"

    def edit(
        self,
        pictures: Sequence[np.ndarray],
        instructions: Sequence[str],
        seeds: Sequence[int],
        settings: PaintSettings,
        regions: Boxes | None = None,
    ) -> list[np.ndarray]:
        self.regions = regions
        return list(pictures)


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    painter = Painter(editor=EditorName("copy", ""), settings=PaintSettings(), seed=5, out=str(tmp_path / "out"))
    made = Replica(painter)
    made.editor = Darkening()
    return made


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "source.png"
    Image.fromarray(picture(1)).save(path)
    return str(path)


def paint(replica: Replica, *chains: list[Turn]) -> tuple[int, dict[str, str]]:
    answer = replica({"chains": json.dumps([[asdict(turn) for turn in chain] for chain in chains])})
    return answer["painted"], json.loads(answer["failed"])


def stored(replica: Replica, output: str) -> np.ndarray:
    with Image.open(replica.painter.path(output)) as image:
        return np.asarray(image)


def turn(output: str, source: str, text: str = "darker", **fields: Any) -> Turn:
    return Turn(output=output, instruction=text, source=source, **fields)


def test_a_chain_edits_its_own_outputs_beside_other_chains(replica: Replica, source: str) -> None:
    chain = [turn("a/1.png", source), turn("a/2.png", "a/1.png", chained=True)]
    assert paint(replica, chain, [turn("b/1.png", source)]) == (3, {})
    assert np.array_equal(stored(replica, "a/2.png"), picture(1) // 2 // 2)
    assert np.array_equal(stored(replica, "b/1.png"), picture(1) // 2)
    calls = replica.editor.calls
    assert [len(texts) for texts, _ in calls] == [2, 1] and all(set(seeds) == {5} for _, seeds in calls)


def test_pictures_that_are_there_are_not_painted_again(replica: Replica, source: str) -> None:
    chain = [turn("a/1.png", source), turn("a/2.png", "a/1.png", chained=True)]
    assert paint(replica, chain[:1]) == (1, {})
    assert paint(replica, chain) == (1, {}) and paint(replica, chain) == (0, {})
    assert len(replica.editor.calls) == 2


def test_the_seconds_of_each_picture_are_kept_in_a_file_of_its_replica(replica: Replica, source: str) -> None:
    out = replica.painter.out
    assert read_seconds(out) == {}
    paint(replica, [turn("a/1.png", source)], [turn("b/1.png", source)])
    first = read_seconds(out)
    assert first["a/1.png"] == first["b/1.png"] > 0, "painted together"
    other = Replica(replica.painter)
    other.editor = Darkening()
    paint(other, [turn("a/1.png", source)], [turn("c/1.png", source)])
    assert len(list(Path(out, "seconds").iterdir())) == 2
    assert read_seconds(out) == first | {"c/1.png": read_seconds(out)["c/1.png"]}, "a/1.png was there"


def test_a_picture_that_is_there_has_its_seconds(
    replica: Replica, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: np.ndarray) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "encode_png", killed)
    with pytest.raises(KeyboardInterrupt):
        paint(replica, [turn("a/1.png", source)])
    assert list(read_seconds(replica.painter.out)) == ["a/1.png"]


def test_one_that_fails_takes_its_chain_along_and_nobody_else(replica: Replica, source: str, tmp_path: Path) -> None:
    broken = [turn("a/1.png", source, "fail"), turn("a/2.png", "a/1.png", chained=True)]
    missing = [turn("c/1.png", str(tmp_path / "gone.png"))]
    painted, failed = paint(replica, broken, [turn("b/1.png", source)], missing)
    assert painted == 1 and list(failed) == ["c/1.png", "a/1.png", "a/2.png"]
    assert failed["a/1.png"] == "ValueError: a prompt is too long" and "gone.png" in failed["c/1.png"]
    assert not Path(replica.painter.path("a/1.png")).exists()


def test_the_bound_gets_targets_as_sources(source: str, tmp_path: Path) -> None:
    target = tmp_path / "target.png"
    Image.fromarray(picture(2)).save(target)
    name = EditorName("vae", "nano")
    made = Replica(Painter(editor=name, settings=PaintSettings(), seed=0, out=str(tmp_path / "out")))
    assert paint(made, [turn("a.png", source, target=str(target))]) == (1, {})
    expected = np.asarray(Image.fromarray(picture(2)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(stored(made, "a.png").astype(int) - expected).max() <= 1


def test_noise_has_the_evaluations_seed_and_the_turns_own(replica: Replica, source: str) -> None:
    paint(replica, *([Turn(output=f"{seed}.png", instruction="red", source=source, seed=seed)] for seed in (0, 7)))
    assert replica.editor.calls == [(["red", "red"], [5, 12])]


@pytest.mark.parametrize(("regions", "given"), [("true", [[[0, 0, 0.5, 1]], []]), ("none", [[], []])])
def test_given_regions_are_those_of_the_turns_or_none(
    replica: Replica, source: str, regions: Any, given: list[list[list[float]]]
) -> None:
    replica.painter, replica.editor = replace(replica.painter, regions=regions), Looking()
    known = Turn(output="a.png", instruction="red", source=source, boxes=[[0, 0, 0.5, 1]])
    paint(replica, [known], [Turn(output="b.png", instruction="red", source=source)])
    assert [boxes.tolist() for boxes in replica.editor.regions] == given
    assert all(boxes.shape == (len(boxes), 4) for boxes in replica.editor.regions)


def test_a_batch_with_a_missing_picture_is_painted_whole_and_counted_once(replica: Replica, source: str) -> None:
    chains = [[turn(f"{name}/1.png", source), turn(f"{name}/2.png", f"{name}/1.png", chained=True)] for name in "ab"]
    assert paint(replica, *chains) == (4, {})
    seconds, lost = read_seconds(replica.painter.out), Path(replica.painter.path("b/2.png"))
    before = lost.read_bytes()
    lost.unlink()
    assert paint(replica, *chains) == (1, {}) and lost.read_bytes() == before
    assert [len(texts) for texts, _ in replica.editor.calls] == [2, 2, 2], "the second turns alone, both of them"
    assert read_seconds(replica.painter.out)["a/2.png"] == seconds["a/2.png"]


def test_a_batch_is_not_painted_for_pictures_that_cannot_be(replica: Replica, source: str, tmp_path: Path) -> None:
    paint(replica, [turn("a.png", source)])
    painted, failed = paint(replica, [turn("a.png", source)], [turn("b.png", str(tmp_path / "gone.png"))])
    assert painted == 0 and list(failed) == ["b.png"] and len(replica.editor.calls) == 1


def test_chains_are_grouped_alike_whatever_was_painted_before(replica: Replica, source: str) -> None:
    edits = EvaluationSet(
        name="a",
        fingerprint="",
        turns=[turn(f"{number}.png", source) for number in range(5)],
        comparisons=[],
        columns=[],
    )
    for number in (0, 1, 2):
        paint(replica, [turn(f"{number}.png", source)])
    groups = missing_groups(edits, replica.painter, batch=2)
    assert [[chain[0].output for chain in group] for group in groups] == [["2.png", "3.png"], ["4.png"]]


class Failing:
    """Actor that fails in every call."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("found no weights\nand more")


@pytest.mark.ray
def test_a_failure_of_a_replica_is_one_line(ray_session: None) -> None:
    with pytest.raises(PaintingError, match=r"^Ray failed: ValueError: found no weights; start again: [^\n]*$"):
        list(map_in_replicas([{"a": 1}], Failing, {}, Replicas(most=1, cpus=0.1)))


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (
            'It died, ray::A() (pid=1)\n    ^^\n  File "a.py", line 1, in a\n    b()\n    ^^^\nError: c\nd',
            "Error: c",
        ),
        ("The node is gone.\n\tid: 1", "The node is gone."),
        ("", "RayError"),
    ],
)
def test_the_reason_is_behind_the_traceback(report: str, reason: str) -> None:
    assert failure_reason(RayError(report)) == reason


@pytest.mark.ray
def test_replicas_that_have_no_room_are_refused(ray_session: None) -> None:
    with pytest.raises(PaintingError, match=r"the job takes 64 CPUs, this Ray has .*; write --cpus"):
        list(map_in_replicas([{"a": 1}], Failing, {}, Replicas(most=1, cpus=64)))
