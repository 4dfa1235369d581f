"""gRefCOCO from scenes: `grefs(unc).json`, in which a reference means no, one or several objects."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fireedit.platform.scenes import referring
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco
from fireedit.platform.scenes.writers.refcoco import sentences


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one picture and one reference per seed."""
    instances, renderer, refs = coco.InstancesWriter(folder), Renderer(), []
    for number, seed in enumerate(seeds):
        reference = referring.make_reference(world, seed)
        instances.add(seed, reference.scene, renderer.draw(reference.scene, size))
        refs.append(_record(seed, reference, number))
    instances.close()
    (folder / "grefs(unc).json").write_text(json.dumps(refs))


def _record(seed: int, reference: referring.Reference, number: int) -> dict[str, Any]:
    classes = {placed.id: coco.THING_IDS[placed.name] for placed in reference.scene.objects}
    return {
        "ref_id": number,
        "ann_id": [coco.annotation_id(seed, placed_id) for placed_id in reference.ids] or [-1],
        "category_id": [classes[placed_id] for placed_id in reference.ids] or [-1],
        "no_target": not reference.ids,
        "image_id": seed,
        "split": "train",
        "file_name": coco.file_name(seed),
        "sent_ids": [number],
        "sentences": sentences([reference.expression], first=number),
    }
