"""Scenes as RefCOCO, RefCOCO+ and RefCOCOg: pickled references, `instances.json` and pictures named as in train2014."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fireedit.platform.scenes import language, referring
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco
from fireedit.platform.scenes.writers.instances import InstancesWriter, annotation_id

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}


def write(folder: Path, seeds: Iterable[int], size: int, world: World, *, corpus: str = "refcoco") -> None:
    """One picture per seed, and a reference to each object in it that some expression means alone.

    RefCOCO+ knows no places, so expressions with left and right are not written there.
    """
    written, renderer = InstancesWriter(folder), Renderer()
    refs: list[dict[str, Any]] = []
    for seed in seeds:
        scene = referring.make_reference(world, seed).scene
        written.add(seed, scene, renderer.draw(scene, size))
        for placed in scene.objects:
            if said := _expressions(scene, placed, places=corpus != "refcoco+"):
                refs.append(_reference(seed, placed, said, len(refs)))
    written.close()
    (folder / REFS[corpus]).write_bytes(pickle.dumps(refs, protocol=2))


def sentences(said: Iterable[str], first: int) -> list[dict[str, Any]]:
    """As the files list them, numbered from `first` on."""
    return [
        {"raw": text, "sent": text.lower(), "tokens": text.lower().split(), "sent_id": number}
        for number, text in enumerate(said, start=first)
    ]


def _expressions(scene: Scene, placed: Placed, places: bool) -> list[str]:
    texts = language.expressions(scene, placed) + referring.taught_expressions(scene, placed)
    found = [text.removeprefix("the ") for text in dict.fromkeys(texts)]
    return [text for text in found if places or not ("left" in text or "right" in text)]


def _reference(seed: int, placed: Placed, said: list[str], number: int) -> dict[str, Any]:
    """`file_name` has the object's number for a suffix, as the published files do; there is no such file."""
    spoken = sentences(said, first=number * 10)
    annotation = annotation_id(seed, placed.id)
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": seed,
        "category_id": coco.THING_IDS[placed.name],
        "split": "train",
        "file_name": f"COCO_train2014_{coco.picture_name(seed)}_{annotation}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in spoken],
        "sentences": spoken,
    }
