import json
from pathlib import Path

import numpy as np
import pytest

from fireedit.platform.data.corpora import grefcoco, instances, rows, segmentation
from fireedit.platform.scenes import referring as scenes
from fireedit.platform.scenes import world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import grefcoco as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grefcoco")
    writer.write(folder, range(30), 48, world.TRAIN)
    return folder


def test_our_writer_is_read_back(corpus: Path) -> None:
    counts = set()
    samples = list(grefcoco.read(str(corpus)))
    for seed, one in enumerate(grefcoco.read_refs(str(corpus), "train")):
        reference = scenes.make_reference(world.TRAIN, seed)
        masks = Renderer().draw(reference.scene, 48).masks
        sample = samples[seed]
        assert sample.id == f"grefcoco/train/{seed}-0" and not sample.error
        assert reference.expression.lower() in sample.instruction
        assert (sample.source == sample.target) == (not reference.ids)
        assert len(one.outlines) == len(sample.boxes) == len(reference.ids)
        assert list(sample.boxes) == [segmentation.box(masks[placed_id]) for placed_id in reference.ids]
        for outline, placed_id in zip(one.outlines, reference.ids, strict=True):
            np.testing.assert_array_equal(instances.draw(outline, 48, 48), masks[placed_id])
        counts.add(min(len(reference.ids), 2))
    assert counts == {0, 1, 2}


def test_a_folder_that_is_not_grefcoco_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match=r"grefs\(unc\).json is missing: the references of gRefCOCO"):
        grefcoco.read(str(tmp_path))
    (tmp_path / "grefs(unc).json").write_text("[")
    with pytest.raises(rows.CorpusError, match="is not JSON"):
        grefcoco.read(str(tmp_path))
    (tmp_path / "grefs(unc).json").write_text(json.dumps([{"split": "train"}]))
    with pytest.raises(rows.CorpusError, match="instances.json is missing: the objects of COCO train2014"):
        grefcoco.read(str(tmp_path))
