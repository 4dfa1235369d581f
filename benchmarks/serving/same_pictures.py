"""One edit of one picture by every way in: HTTP, the pipeline, and the job; and photographs far above the canvas."""

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fireedit.benchmarks.serving.conventions import Convention, conventions
from fireedit.benchmarks.serving.edits import load_nano
from fireedit.benchmarks.serving.figures import Figure
from fireedit.benchmarks.serving.server import CHECKOUT, Server
from fireedit.platform.cluster import local_session
from fireedit.platform.images import Picture, encode_jpeg, encode_png, resize
from fireedit.platform.processes import in_new_process
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import WORLDS

ONE_THREAD = {"detector": {"threads": 1}, "vlm": {"threads": 1}, "unet": {"threads": 1}}
"""Sums in float32 depend on the threads that they run on."""
INSTRUCTION, SEED, STEPS = "Make the background a beach.", 7, 2
PHOTO_SIZE, PHOTO_EDITS = (4000, 3000), 10
FAMILIES = ("remove", "recolor", "replace")
"""Edits of one object."""


async def conventions_alike(server: Server, scale: float) -> list[Figure]:
    """Edit pictures by other programs' conventions by HTTP, in the pipeline and by the job; masked, half of each."""
    pictures = list(conventions())[: max(6, round(200 * scale))]
    files = [each.file for each in pictures]
    served = [[_over_http(server.url, each, masked) for each in pictures] for masked in (False, True)]
    piped = in_new_process(_by_pipeline, pictures)
    worked = _by_job(files)
    routes = zip(pictures, *served, *piped, worked, strict=True)
    differ = [
        each.name
        for each, free, masked, piped_free, piped_masked, worked_free in routes
        if not (_same(free, piped_free) and _same(masked, piped_masked) and _same(free, worked_free))
    ]
    sized = [(each, result) for each, result in zip(pictures, served[1], strict=True)]
    fitting = [(each, result) for each, result in sized if result.shape == each.pixels.shape]
    outside = sum(int((result != each.pixels)[mask_of(each) == 0].any(-1).sum()) for each, result in fitting)
    opacity = sum(int((result[..., 3:] != each.pixels[..., 3:]).sum()) for each, result in fitting)
    return [
        Figure("pictures by other programs' conventions", len(pictures), least=60 * min(1, scale)),
        Figure(f"that differ between HTTP, pipeline and job {differ or ''}".strip(), len(differ), most=0),
        Figure("of another size or orientation", len(sized) - len(fitting), most=0),
        Figure("pixels outside a mask other than a person sees", outside, most=0),
        Figure("opacities that differ", opacity, most=0),
    ]


async def photographs(server: Server, scale: float) -> list[Figure]:
    """Edit one object in photographs of 12 megapixels."""
    shares = in_new_process(_photo_shares, max(1, round(PHOTO_EDITS * scale)))
    return [
        Figure("smallest share of equal pixels", min(equal for equal, _ in shares), least=0.6),
        Figure("mean share of equal pixels", float(np.mean([equal for equal, _ in shares]))),
        Figure("pixels outside changed cells that differ", sum(wrong for _, wrong in shares), most=0),
    ]


def mask_of(each: Convention) -> np.ndarray:
    """Draw the mask of a picture, uint8 [H, W]: its left half may change; of one column, all of it."""
    height, width = each.pixels.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[:, : max(1, width // 2)] = 255
    return mask


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _over_http(url: str, each: Convention, masked: bool) -> np.ndarray:
    files = {"image": each.file}
    if masked:
        mask = mask_of(each)
        files["mask"] = encode_png(np.dstack([np.zeros((*mask.shape, 3), np.uint8), 255 - mask]))
    fields = {"prompt": INSTRUCTION, "seed": str(SEED), "num_inference_steps": str(STEPS)}
    response = local_session().post(f"{url}/v1/images/edits", data=fields, files=files, timeout=300)
    if response.status_code != 200:
        raise RuntimeError(f"{each.name}: {response.status_code}: {response.text[:300]}")
    return Picture(base64.b64decode(response.json()["data"][0]["b64_json"])).pixels(None)


def _by_pipeline(pictures: list[Convention]) -> list[list[np.ndarray]]:
    """Edit what `Image.open` gives, without and with the mask."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of Pillow, about the very pictures
    pipeline, results = load_nano(), [list[np.ndarray](), list[np.ndarray]()]
    for each in pictures:
        for kept, mask in zip(results, (None, Image.fromarray(mask_of(each))), strict=True):
            image, noise = _opened(each.file), torch.Generator().manual_seed(SEED)
            edited, _ = pipeline(
                INSTRUCTION, image, mask_image=mask, generator=noise, num_inference_steps=STEPS, return_dict=False
            )
            kept.append(np.asarray(edited[0]))
    return results


def _opened(file: bytes) -> Image.Image | bytes:
    """Open a file as a person does; Pillow refuses texts of 1.5 MB, and the pipeline takes the file itself."""
    try:
        return Image.open(io.BytesIO(file))
    except ValueError:
        return file


def _by_job(files: list[bytes]) -> list[np.ndarray]:
    """Edit all in one job, in a process and a Ray of its own."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"picture-{index:03d}" for index in range(len(files))]
        table = {
            "id": names,
            "image": files,
            "instruction": [INSTRUCTION] * len(files),
            "seed": [SEED] * len(files),
        }
        pq.write_table(pa.table(table), f"{folder}/pictures.parquet")
        command = [sys.executable, "jobs/edit.py", f"{folder}/pictures.parquet", "--out", f"{folder}/out"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}
        done = subprocess.run(
            [*command, "--steps", str(STEPS)], cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, check=True
        )
        report = json.loads(done.stdout.splitlines()[-1])
        if report["failed"]:
            raise RuntimeError(f"the job set {report['failed']} pictures aside: {Path(folder, 'out')}")
        return [Picture(Path(folder, f"out/edited/{name}.png").read_bytes()).pixels(None) for name in names]


def _photo_shares(count: int) -> list[tuple[float, int]]:
    """Edit photographs; returns for each the share of equal pixels and the wrong ones in unchanged cells."""
    pipeline, world, shares = load_nano(), WORLDS["unseen_seeds"], []
    for number in range(count):
        edit = make_edit(world, world.seeds[number], FAMILIES[number % len(FAMILIES)])
        drawn = resize(draw_scene(edit.source, PHOTO_SIZE[0]).image, *PHOTO_SIZE)
        grain = np.random.default_rng(number).integers(-3, 4, drawn.shape)
        source = Picture(encode_jpeg(np.clip(drawn + grain, 0, 255).astype(np.uint8), 92))
        canvases = [source.canvas(pipeline.vae.config.sample_size)]
        percepts = pipeline.perceive(canvases)
        tokens = pipeline.understand(percepts, [edit.instruction])
        noise = [torch.Generator().manual_seed(number)]
        state = pipeline.prepare(canvases, percepts, tokens, pipeline.settings, noise)
        edited = pipeline.paint(state)
        equal = (pipeline.restore(state, edited, [source], canvases)[0] == source.pixels()).all(axis=-1)
        (changed,) = pipeline.changed(state, edited)
        cells = [(np.arange(size) + 0.5) / size * len(changed) for size in equal.shape]
        outside = ~changed[np.ix_(*(cell.astype(int) for cell in cells))]
        shares.append((float(equal.mean()), int((~equal & outside).sum())))
    return shares
