from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from fireedit.platform.labels import decode_labels
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers import coco, cocostuff


def test_label_maps_agree_with_the_rendered_masks(tmp_path: Path) -> None:
    cocostuff.write(tmp_path, range(20), 48, world.TRAIN)
    for seed in range(20):
        scene = families.make_edit(world.TRAIN, seed).source
        picture = draw_scene(scene, 48)
        label_map = decode_labels((tmp_path / f"annotations/train2017/{seed:012d}.png").read_bytes())
        for name in scene.names:
            shown = np.any([picture.masks[placed.id] for placed in scene.objects if placed.name == name], axis=0)
            np.testing.assert_array_equal(label_map == coco.THING_IDS[name] - 1, shown)
        behind = ~np.any(list(picture.masks.values()), axis=0)
        np.testing.assert_array_equal(label_map == coco.STUFF_IDS[scene.background] - 1, behind)


def test_labels_are_numbered_by_line() -> None:
    lines = cocostuff.label_lines().split("\n")
    assert lines[0] == "0: unlabeled" and lines[1] == "1: dog"
    assert all(line.startswith(f"{number}: ") for number, line in enumerate(lines))


def test_pycocotools_reads_the_stuff_json_without_a_differing_pixel(tmp_path: Path) -> None:
    cocostuff.write_json(tmp_path, range(20), 48, world.TRAIN)
    listed = COCO(str(tmp_path / "annotations" / "stuff_train2017.json"))
    for seed in range(20):
        scene = families.make_edit(world.TRAIN, seed).source
        objects = np.any(list(draw_scene(scene, 48).masks.values()), axis=0)
        wanted = {coco.STUFF_IDS[scene.background]: ~objects, cocostuff.OTHER: objects}
        annotations = listed.loadAnns(listed.getAnnIds(imgIds=[seed]))
        assert {annotation["category_id"] for annotation in annotations} == set(wanted)
        for annotation in annotations:
            mask = wanted[annotation["category_id"]]
            np.testing.assert_array_equal(listed.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            assert isinstance(annotation["segmentation"]["counts"], str)
        assert (tmp_path / "images" / "train2017" / listed.loadImgs([seed])[0]["file_name"]).exists()


def test_the_json_lists_stuff_and_other() -> None:
    ids = [category["id"] for category in cocostuff.categories()]
    assert ids[0] == coco.FIRST_STUFF and ids[-1] == 183 and len(ids) == len(coco.STUFF_IDS) + 1
