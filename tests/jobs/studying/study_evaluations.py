"""Folders of evaluations, and studies of them, for the tests of studies."""

import json
from pathlib import Path

from PIL import Image, PngImagePlugin

from fireedit.jobs.studying.question_draw import make_study
from fireedit.jobs.studying.study_folder import Study
from tests.factories import picture

METHODS = ("fireedit", "instruct-pix2pix", "magicbrush", "hq-edit", "ultraedit", "smartedit", "mgie")
"""Methods of the paper's study."""


def write_evaluation(out: Path, editor: str, edits: int = 4, fingerprint: str = "f1", side: int = 24) -> Path:
    """Write what `evaluate.py --out` leaves: pictures that name their editor in their metadata, of any size."""
    rows = []
    for number in range(edits):
        name, source = f"{number:05}/{number:05}_1.png", out.parent / "data" / f"{number}.png"
        for path, seed, width in ((source, number, 48), (out / "pictures" / name, hash(editor) % 1000 + number, side)):
            path.parent.mkdir(parents=True, exist_ok=True)
            described = PngImagePlugin.PngInfo()
            described.add_text("Software", editor)
            Image.fromarray(picture(seed, width, 32)).save(path, pnginfo=described)
        address = {"source": str(source), "picture": f"pictures/{name}"}
        rows.append({"output": name, "instruction": f"Make number {number} red."} | address)
    (out / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"editor": editor, "weights": f"sha256:{editor}", "set": "magicbrush-test", "fingerprint": fingerprint}
    (out / "evaluation.json").write_text(json.dumps(result))
    return out


def write_study(folder: Path, questions: int = 4, methods: tuple[str, ...] = METHODS) -> tuple[Study, Path]:
    """Make a study of evaluations; returns it and its folder."""
    outs = [str(write_evaluation(folder / name, name, questions)) for name in methods]
    return make_study(str(folder / "study"), outs, questions), folder / "study"
