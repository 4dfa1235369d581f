import json
import pickle
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from fireedit.platform.scenes import referring, world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers import refcoco


def test_pycocotools_reads_the_instances_without_a_differing_pixel(tmp_path: Path) -> None:
    refcoco.write(tmp_path, range(8), 48, world.TRAIN)
    coco = COCO(str(tmp_path / "instances.json"))
    for seed in range(8):
        scene = referring.make_reference(world.TRAIN, seed).scene
        masks = draw_scene(scene, 48).masks
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[seed]))
        assert len(annotations) == len(scene.objects)
        for annotation, placed in zip(annotations, scene.objects, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), masks[placed.id])
            assert coco.loadCats(annotation["category_id"])[0]["name"] == placed.name
            assert annotation["area"] == masks[placed.id].sum()


def test_references_have_the_published_fields(tmp_path: Path) -> None:
    refcoco.write(tmp_path, range(4), 32, world.TRAIN, corpus="refcocog")
    refs = pickle.loads((tmp_path / "refs(umd).p").read_bytes())
    listed = json.loads((tmp_path / "instances.json").read_text())["annotations"]
    annotations = {annotation["id"]: annotation for annotation in listed}
    for ref in refs:
        assert ref["image_id"] == annotations[ref["ann_id"]]["image_id"]
        assert ref["file_name"].endswith(f"_{ref['ann_id']}.jpg")
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        assert set(ref["sentences"][0]) == {"raw", "sent", "tokens", "sent_id"}
    ids = [number for ref in refs for number in ref["sent_ids"]]
    assert len(set(ids)) == len(ids)
