from pathlib import Path

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.scenes import families, world
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.writers import coco, cocostuff


def test_label_maps_agree_with_the_rendered_masks(tmp_path: Path) -> None:
    cocostuff.write(tmp_path, range(20), 48, world.TRAIN)
    for seed in range(20):
        scene = families.make_edit(world.TRAIN, seed).source
        picture = Renderer().draw(scene, 48)
        label_map = images.decode_labels((tmp_path / f"annotations/train2017/{seed:012d}.png").read_bytes())
        for name in scene.names:
            shown = np.any([picture.masks[placed.id] for placed in scene.objects if placed.name == name], axis=0)
            np.testing.assert_array_equal(label_map == coco.THING_IDS[name] - 1, shown)
        behind = ~np.any(list(picture.masks.values()), axis=0)
        np.testing.assert_array_equal(label_map == coco.STUFF_IDS[scene.background] - 1, behind)


def test_labels_are_numbered_by_line() -> None:
    lines = cocostuff.label_lines().split("\n")
    assert lines[0] == "0: unlabeled" and lines[1] == "1: dog"
    assert all(line.startswith(f"{number}: ") for number, line in enumerate(lines))
