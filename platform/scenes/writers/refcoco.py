"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO from scenes: references, `instances.json`, pictures as in train2014."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fireedit.platform.scenes import language, referring
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}


def write(folder: Path, seeds: Iterable[int], size: int, world: World, *, corpus: str = "refcoco") -> None:
    """Write one picture per seed, and a reference to each object in it that some expression means alone.

    RefCOCO+ has no words of location, so expressions with left and right are left out there.
    """
    instances, refs = coco.InstancesWriter(folder), list[dict[str, Any]]()
    for seed in seeds:
        scene = referring.make_reference(world, seed).scene
        instances.add(seed, scene, size)
        for placed in scene.objects:
            if texts := _expressions(scene, placed, locations=corpus != "refcoco+"):
                refs.append(_reference(seed, placed, texts, len(refs)))
    instances.close()
    (folder / REFS[corpus]).write_bytes(pickle.dumps(refs, protocol=2))


def write_grefcoco(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one picture and one reference per seed, to none, one or several of its objects."""
    instances, refs = coco.InstancesWriter(folder), list[dict[str, Any]]()
    for seed in seeds:
        reference = referring.make_reference(world, seed)
        instances.add(seed, reference.scene, size)
        refs.append(_group_reference(seed, reference, len(refs)))
    instances.close()
    (folder / "grefs(unc).json").write_text(json.dumps(refs))


def _expressions(scene: Scene, placed: Placed, locations: bool) -> list[str]:
    texts = language.expressions(scene, placed) + referring.taught_expressions(scene, placed)
    bare = [text.removeprefix("the ") for text in dict.fromkeys(texts)]
    return [text for text in bare if locations or not ("left" in text or "right" in text)]


def _reference(seed: int, placed: Placed, texts: list[str], number: int) -> dict[str, Any]:
    """Make one reference; its `file_name` ends in the object's number, as published, and names no file."""
    listed = _sentences(texts, first=number * 10)
    annotation = coco.annotation_id(seed, placed.id)
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": seed,
        "category_id": coco.THING_IDS[placed.name],
        "split": "train",
        "file_name": f"COCO_train2014_{coco.picture_name(seed)}_{annotation}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in listed],
        "sentences": listed,
    }


def _group_reference(seed: int, reference: referring.Reference, number: int) -> dict[str, Any]:
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
        "sentences": _sentences([reference.expression], first=number),
    }


def _sentences(texts: Iterable[str], first: int) -> list[dict[str, Any]]:
    """Number and tokenize expressions as the files list them, from `first` on."""
    return [
        {"raw": text, "sent": text.lower(), "tokens": text.lower().split(), "sent_id": number}
        for number, text in enumerate(texts, start=first)
    ]
