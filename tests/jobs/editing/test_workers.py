"""Pictures of a folder, edited in actor pools: each once, with the pipeline's pixels."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.jobs.editing import workers
from fireedit.jobs.editing.many import ManyEdits
from fireedit.jobs.editing.pools import FOLDER, PoolsConfig
from fireedit.models.editors.editor import EditorError
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import config, storage
from fireedit.platform.images import decode, encode_png
from fireedit.platform.job_folder import JobFolderError
from tests.factories import picture

POOLS = ["rows_per_batch=2", "paint.max_actors=1"]


def records(out: Path, folder: str = "rows") -> list[dict[str, Any]]:
    lines = [line for part in (out / folder).iterdir() for line in part.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["row"])


def pixels(out: Path) -> dict[str, np.ndarray]:
    return {record["id"]: decode((out / record["file"]).read_bytes()) for record in records(out)}


@pytest.mark.ray
@pytest.mark.slow
def test_each_picture_is_edited_once_with_the_pipelines_pixels(ray_session: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edits = ManyEdits(source=write_pictures(tmp_path / "in"), out=str(out))
    report = workers.edit_many(edits, "nano", config.load(PoolsConfig, "cpu", POOLS, FOLDER))
    assert (report["edited"], report["failed"], report["skipped"]) == (5, 2, 0)
    errors = {record["id"]: record["error"] for record in records(out, "failed")}
    assert set(errors) == {"bad", "long"} and "tokens" in errors["long"] and "no picture" in errors["bad"]
    whole, expected = pixels(out), pipeline_pixels(records(out))
    assert all(np.array_equal(whole[name], expected[name]) for name in expected) and len(expected) == 5

    kept, *lost = records(out)  # a kill leaves pictures whose lines are not saved yet
    shutil.rmtree(out / "rows")
    storage.write_bytes(str(out / "rows" / "earlier.jsonl"), json.dumps(kept).encode())
    apart = config.load(PoolsConfig, "cpu", [*POOLS, "together=false", "paint.cpus=0.2"], FOLDER)
    report = workers.edit_many(edits, "nano", apart)
    assert (report["edited"], report["failed"], report["skipped"]) == (len(lost), 2, 1)
    assert [record["id"] for record in records(out)] == [record["id"] for record in (kept, *lost)]
    assert all(np.array_equal(picture, whole[name]) for name, picture in pixels(out).items())


@pytest.mark.ray
@pytest.mark.slow
def test_another_system_edits_many_pictures(ray_session: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edits = ManyEdits(source=write_pictures(tmp_path / "in"), out=str(out), size="40x30")
    pools = config.load(PoolsConfig, "cpu", POOLS, FOLDER)
    with pytest.raises(EditorError, match="/nowhere: no such folder; write"):
        workers.edit_many(edits, "", pools, "magicbrush=/nowhere")
    report = workers.edit_many(edits, "", pools, "copy")
    assert (report["edited"], report["failed"], report["skipped"]) == (6, 1, 0)
    source = Image.fromarray(picture(2, 82)).resize((40, 30), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels(out)["2"], np.asarray(source))
    assert json.loads((out / "edit.json").read_text())["editor"] == "copy"
    with pytest.raises(JobFolderError, match="made with weights '', not"):
        workers.edit_many(edits, "", pools, "vae=nano")


def test_weights_that_are_missing_or_of_another_system_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^--weights {tmp_path}: found no {tmp_path}/model_index.json; write"):
        workers.read_weights(str(tmp_path), {})
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionInstructPix2PixPipeline"}')
    with pytest.raises(EditorError, match="which fireedit does not take; give it to the editor instruct-pix2pix or"):
        workers.read_weights(str(tmp_path), {})


def write_pictures(folder: Path) -> str:
    """Write five pictures, a damaged one, and one with too long an instruction."""
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w") as file:
        for number, name in enumerate(["0", "1", "2", "bad", "3", "4", "long"]):
            data = b"no picture" if name == "bad" else encode_png(picture(number, 80 + number))
            (folder / f"{name}.png").write_bytes(data)
            text = "make it red " * (2000 if name == "long" else 1)
            file.write(json.dumps({"file_name": f"{name}.png", "prompt": text}) + "\n")
    return str(folder)


def pipeline_pixels(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Edit the rows one by one in this process, on one thread as the actors."""
    threads, pipeline = torch.get_num_threads(), FireEditPipeline.from_pretrained("nano")
    torch.set_num_threads(1)
    edited = {}
    for row in rows:
        generator = torch.Generator().manual_seed(row["seed"])
        output = pipeline(row["instruction"], decode(Path(row["source"]).read_bytes()), generator=generator)
        edited[row["id"]] = np.asarray(output.images[0])
    torch.set_num_threads(threads)
    return edited


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "vae").mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "FireEditPipeline"}))
        (folder / "vae" / "config.json").write_text('{"sample_size": 64}')
        (folder / "vae" / "weights.safetensors").write_bytes(name.encode())
    first, second = (workers.read_weights(str(tmp_path / name), {"num_inference_steps": 3}) for name in ("a", "b"))
    assert first.side == 64 and first.settings.num_inference_steps == 3
    assert first.fingerprint != second.fingerprint
