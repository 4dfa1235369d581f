"""The scene reader detects each object once, and can be saved."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation.scene_reader import (
    BOX_UNIT,
    FOLDER,
    WEIGHTS,
    Maps,
    SceneReader,
    SceneReaderConfig,
    load_reader,
    save_reader,
)

SMALL = SceneReaderConfig(widths=(8, 16), groups=4)


def blank(cells: int = 8) -> Maps:
    """Maps of an empty picture."""
    return Maps(
        objects=torch.full((1, cells, cells), -9.0),
        boxes=torch.ones(1, cells, cells, 4),
        names=torch.zeros(1, cells, cells, len(SMALL.names)),
        colors=torch.zeros(1, cells, cells, len(SMALL.colors)),
        reflections=torch.full((1, cells, cells), -9.0),
        backgrounds=torch.zeros(1, len(SMALL.backgrounds)),
        effects=torch.zeros(1, len(SMALL.effects)),
        mirrors=torch.full((1, cells, cells), -9.0),
    )


def test_a_peak_is_one_object_with_its_box() -> None:
    maps = blank()
    maps.objects[0, 2:5, 2:5] = 1.0
    maps.objects[0, 3, 3] = 2.0
    maps.names[0, 3, 3, 7] = 1.0
    (reading,) = SceneReader(SMALL).readings(maps)
    (seen,) = reading.objects
    middle = 3.5 / 8
    assert seen.name == SMALL.names[7] and not seen.reflection
    assert seen.box == pytest.approx((middle - BOX_UNIT, middle - BOX_UNIT, middle + BOX_UNIT, middle + BOX_UNIT))
    assert reading.mirror is None


def test_two_peaks_in_one_box_are_one_object() -> None:
    maps = blank()
    maps.objects[0, 3, 3], maps.objects[0, 3, 5] = 2.0, 1.0
    maps.boxes[0, 3, 3], maps.boxes[0, 3, 5] = torch.tensor([2.5, 2, 3.5, 2]), torch.tensor([5, 2, 1, 2])
    assert len(SceneReader(SMALL).readings(maps)[0].objects) == 1
    maps.boxes[:] = 0.5
    assert len(SceneReader(SMALL).readings(maps)[0].objects) == 2


def test_a_saved_reader_reads_the_same(tmp_path: Path) -> None:
    reader = SceneReader(SMALL).half().float().eval()
    save_reader(reader, tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    assert load_reader(tmp_path).read(pictures) == reader.read(pictures)
    assert (tmp_path / FOLDER / WEIGHTS).stat().st_size < 200_000
