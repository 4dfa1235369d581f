"""Edit of one picture with weights of one's own, in this process."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict

import numpy as np
import torch

from fireedit.jobs.editing import pictures
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import EditorError, EditorName, load_editor, require_pipeline
from fireedit.models.layers.device import require_device
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import SettingValue
from fireedit.platform import images, storage
from fireedit.platform.images import EncodedImage
from fireedit.platform.provenance import Provenance, fingerprint


def edit_picture(
    data: bytes,
    instruction: str,
    weights: str,
    device: str,
    seed: int,
    changes: Mapping[str, SettingValue | None],
    size: str = "auto",
    mask: np.ndarray | None = None,
    file_format: images.Format = "png",
    editor: str = "",
) -> tuple[EncodedImage, int]:
    """Edit one picture.

    Args:
        data: encoded picture.
        weights: pipeline folder, local or s3://; `nano` names the shipped one.
        changes: sampler settings; None is the weights' own.
        size: as `pictures.require_size`.
        mask: uint8 [H, W] of the picture's size, 255 where it may change; none for another system.
        file_format: of the result.
        editor: `NAME=FOLDER` of another system, in place of the weights.
    Returns:
        The encoded result, and the number of regions that the VLM read, 0 without one.
    Raises:
        EditorError: the editor is unknown or has no masks, or the weights are of another system.
        ValueError: torch does not have the device.
    """
    quiet_loading()
    if editor:
        if mask is not None:
            raise EditorError(f"--mask: found with --editor {editor}; only FireEdit's --weights have masks")
        name = EditorName.parse(editor)
        return _edit_with(name, data, instruction, device, seed, changes, size, file_format), 0
    ground, source = pictures.ground_of(file_format), images.Picture(data)
    require_device(device := device or default_device())
    with nullcontext(NANO) if weights == "nano" else storage.reading_folder(weights) as folder:
        require_pipeline("fireedit", folder)
        pipeline = FireEditPipeline.from_pretrained(folder).to(device)
        hashed = fingerprint(str(folder))
    output = pipeline(
        instruction,
        data if ground is None else source.pixels(ground),
        size=pictures.size_of(size),
        mask_image=mask,
        generator=torch.Generator().manual_seed(seed),
        **changes,
    )
    settings = asdict(pipeline.settings.but(**changes))
    facts = Provenance(weights=hashed, seed=seed, settings=settings)
    result = np.asarray(output.images[0])
    return pictures.encode_picture(result, file_format, facts), len(output.regions[0].boxes)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _edit_with(
    editor: EditorName,
    data: bytes,
    instruction: str,
    device: str,
    seed: int,
    changes: Mapping[str, SettingValue | None],
    size: str,
    file_format: images.Format,
) -> EncodedImage:
    """Edit one picture and scale the result from the size that the editor paints, unless `size` is `canvas`."""
    source, system = images.Picture(data), load_editor(editor, device or default_device())
    settings = system.settings.but(**changes)
    (edited,) = system.edit(
        [source.pixels(pictures.ground_of(file_format) or images.GRAY)], [instruction], [seed], settings
    )
    edited = pictures.scaled(edited, data, size)
    facts = Provenance(weights=system.weights, seed=seed, settings=asdict(settings))
    return pictures.encode_picture(edited, file_format, facts)
