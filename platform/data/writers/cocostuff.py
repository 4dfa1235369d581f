"""Scenes as COCO-Stuff: pictures, label maps whose value is the class id minus 1, and labels.txt."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.scenes import families
from fireedit.platform.data.scenes.render import Picture, Renderer
from fireedit.platform.data.scenes.scene import Scene
from fireedit.platform.data.scenes.world import World
from fireedit.platform.data.writers import coco


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """One picture and its map per seed, `size` pixels square."""
    pictures, maps = folder / "images" / "train2017", folder / "annotations" / "train2017"
    pictures.mkdir(parents=True)
    maps.mkdir(parents=True)
    (folder / "labels.txt").write_text(label_lines())
    renderer = Renderer()
    for seed in seeds:
        scene = families.make_edit(world, seed).source
        picture = renderer.draw(scene, size)
        name = coco.picture_name(seed)
        (pictures / f"{name}.jpg").write_bytes(images.encode_jpeg(picture.image))
        (maps / f"{name}.png").write_bytes(images.encode_png(label_map(scene, picture)))


def label_lines() -> str:
    """`id: name` from 0 on without a gap, as readers index it by line; a number we do not use is unlabeled."""
    names = coco.class_names()
    return "\n".join(f"{number}: {names.get(number, 'unlabeled')}" for number in range(max(names) + 1))


def label_map(scene: Scene, picture: Picture) -> np.ndarray:
    """[size, size] uint8 class ids minus 1: the background's, and each object's where one sees it."""
    size = picture.image.shape[0]
    labels = np.full((size, size), coco.STUFF_IDS[scene.background] - 1, np.uint8)
    for placed in scene.objects:
        labels[picture.masks[placed.id]] = coco.THING_IDS[placed.name] - 1
    return labels
