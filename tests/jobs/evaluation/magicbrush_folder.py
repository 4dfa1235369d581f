"""MagicBrush's test folder as its evaluation must bear it: sessions of one turn, any aspect, targets of other sizes."""

import json
from pathlib import Path

from PIL import Image

from tests.factories import picture

SESSIONS = (((120, 80), 1), ((75, 101), 2), ((300, 224), 3), ((64, 64), 1), ((90, 133), 2))
"""Width, height and turns of each session; targets of every second session are larger than their sources."""
TEXTS = ("make it red", "make it blue", "make it dark")


def write_magicbrush(folder: Path) -> Path:
    """Write FOLDER/test, with captions that are equal or too long for CLIP; returns the folder."""
    root, sessions = folder / "test", dict[str, list[dict[str, str]]]()
    captions: dict[str, dict[str, dict[str, str]]] = {"local": {}, "global": {}}
    for number, (size, turns) in enumerate(SESSIONS):
        key = str(40_000 + 17 * number)
        before, images = f"{key}-input.png", root / "images" / key
        images.mkdir(parents=True)
        Image.fromarray(picture(number, *size)).save(images / before)
        sessions[key] = []
        for each in captions.values():
            each[key] = {}
        for turn, text in enumerate(TEXTS[:turns], start=1):
            output, mask = f"{key}-output{turn}.png", f"{key}-mask{turn}.png"
            width, height = (side + 8 * turn * (number % 2) for side in size)
            for name, seed in ((output, 100 * number + turn), (mask, 5)):
                Image.fromarray(picture(seed, width, height)).save(images / name)
            sessions[key].append({"input": before, "mask": mask, "output": output, "instruction": text})
            captions["local"][key][output] = "a red car" if turn != 2 else "the same caption"
            captions["global"][key][output] = "a car on a road" + " that is very long" * (30 if number == 2 else 0)
            before = output
    written = {"edit_sessions": sessions, "local_descriptions": captions["local"]}
    for name, content in (written | {"global_descriptions": captions["global"]}).items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return folder
