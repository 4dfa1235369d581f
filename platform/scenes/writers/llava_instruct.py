"""LLaVA-Instruct-150K from scenes: one JSON list of conversations, and their pictures."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fireedit.platform.scenes import dialogue
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco

MOST_TURNS = 4


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one conversation per seed about a picture `size` pixels square."""
    records = []
    for seed, scene, _ in coco.write_pictures(folder / "train2017", seeds, size, world):
        name = coco.picture_name(seed)
        turns = dialogue.dialogue(world, scene, seed)[:MOST_TURNS]
        records.append({"id": name, "image": f"{name}.jpg", "conversations": _conversation(turns, seed % 2 == 0)})
    (folder / "llava_instruct_150k.json").write_text(json.dumps(records))


def _conversation(turns: list[dialogue.Turn], picture_first: bool) -> list[dict[str, Any]]:
    """List turns of human and gpt; the first question has `<image>` before or after its text, as published."""
    messages = []
    for index, (question, answer) in enumerate(turns):
        if index == 0:
            question = f"<image>\n{question}" if picture_first else f"{question}\n<image>"
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return messages
