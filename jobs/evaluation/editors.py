"""Editors, the rows of the benchmark: from one that does nothing to one that hands over the target."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from fireedit.jobs.evaluation.cases import Case
from fireedit.models.model import NANO, FireEditConfig, Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.schedule import sampler
from fireedit.models.settings import PaintSettings
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.unet import EditUNet
from fireedit.models.vae import Codec, decode_latents, encode_pixels, load_vae, source_latents
from fireedit.models.weights import fingerprint

RegionSource = Literal["predicted", "true", "none"]
"""What the VLM gets to see of regions: the detector's, those of the scene, or none at all."""
REGION_SOURCES: tuple[RegionSource, ...] = ("predicted", "true", "none")
TEXT_ROWS = ("ip2p", "ip2p_plain")
"""Rows that leave out a VLM even where there is one; the second reads the plain words of an instruction."""
Changes = Mapping[str, int | float | None]
"""Fields of PaintSettings in the place of those that were saved with the weights; None leaves one as it was saved."""


class EditorError(ValueError):
    """A row that cannot be made; the message says what to write instead."""


class Editor(Protocol):
    """Makes edited pictures of cases."""

    weights: str
    """A hash; empty if it has none, so that its pictures are not worth keeping."""
    manner: str
    """All else that its pictures depend on: settings, sampler, what it gets to see."""

    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        """The edited pictures, uint8 RGB [B, S, S, 3]; only cheats look at a case's target."""


class Copy:
    """Leaves everything as it is: what any edit must beat."""

    weights = manner = ""

    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        return np.stack([case.source for case in cases])


class Target:
    """Hands over what was asked for: how often the reader itself is right."""

    weights = manner = ""

    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        return np.stack([case.target for case in cases])


class Reconstruction:
    """The target as the VAE keeps it: the ceiling of all that paint in its latents."""

    manner = ""

    def __init__(self, vae: Codec):
        self.vae, self.weights = vae, fingerprint(vae)

    @torch.no_grad()
    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        canvas = torch.from_numpy(np.stack([case.target for case in cases])).to(self.vae.device)
        latents = source_latents(self.vae, encode_pixels(self.vae, canvas)) * self.vae.config.scaling_factor
        return _pixels((decode_latents(self.vae, latents).permute(0, 2, 3, 1) + 1) / 2)


class FireEditor:
    """FireEdit, whole or with parts left out."""

    def __init__(self, pipeline: FireEditPipeline, settings: PaintSettings, regions: RegionSource):
        self.pipeline, self.settings, self.regions = pipeline, settings, regions
        self.weights = fingerprint(pipeline.model)
        self.manner = f"regions {regions} {_painting(pipeline, settings)}"

    @torch.no_grad()
    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        percepts = self._look(cases)
        tokens = self.pipeline.understand(percepts, [case.instruction for case in cases])
        return _paint(self.pipeline, cases, percepts, tokens, self.settings)

    @torch.no_grad()
    def distances_to_text(self, cases: Sequence[Case]) -> list[float]:
        """Mean squared distance of each case's edit tokens to CLIP's states of its instruction, or of the plain one if
        that is nearer: both say what to do."""
        tokens = self.pipeline.understand(self._look(cases), [case.instruction for case in cases])
        texts = ([case.instruction for case in cases], [case.edit.plain for case in cases])
        distances = [(tokens - _read(self.pipeline, own)).square().mean(dim=(1, 2)) for own in texts]
        return torch.minimum(*distances).tolist()

    def _look(self, cases: Sequence[Case]) -> Percepts:
        boxes: list[Tensor] | None = None
        if self.regions == "true":
            boxes = [torch.tensor(case.boxes).view(-1, 4) for case in cases]
        elif self.regions == "none" and self.pipeline.detector is not None:
            boxes = [torch.zeros(0, 4)] * len(cases)
        return self.pipeline.perceive([case.source for case in cases], boxes)


class TextEditor:
    """InstructPix2Pix's way: the UNet reads CLIP's text states of the instruction, and no VLM looks at the picture."""

    def __init__(self, pipeline: FireEditPipeline, settings: PaintSettings, plain: bool = False):
        """
        Args:
            plain: read the words that name the object, also where the instruction only says what it is for: what
                a perfect VLM would make of them.
        """
        self.pipeline, self.settings, self.plain = pipeline, settings, plain
        self.weights = fingerprint(pipeline.model)
        self.manner = f"{'plain' if plain else 'as told'} {_painting(pipeline, settings)}"

    @torch.no_grad()
    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        tokens = _read(self.pipeline, [case.edit.plain if self.plain else case.instruction for case in cases])
        nothing = torch.zeros(len(cases), 0, 0)
        percepts = Percepts(image_tokens=nothing, region_tokens=(), boxes=(), scores=(), detail=())
        return _paint(self.pipeline, cases, percepts, tokens, self.settings)


@dataclass(frozen=True)
class RowName:
    """A row as it is asked for: `NAME`, `NAME=FOLDER` or `NAME=FOLDER@REGIONS`."""

    name: str
    folder: str
    regions: RegionSource

    @classmethod
    def parse(cls, text: str, weights: str, regions: RegionSource) -> "RowName":
        """Fill in what is not said.

        Raises:
            EditorError: REGIONS is none of ours.
        """
        text, _, own = text.partition("@")
        name, _, folder = text.partition("=")
        if own and own not in REGION_SOURCES:
            raise EditorError(f"row {name!r}: regions {own!r}; write one of {', '.join(REGION_SOURCES)}")
        chosen = next((source for source in REGION_SOURCES if source == own), regions)
        return cls(f"{name}@{own}" if own else name, folder or weights, chosen)


def make_editor(row: RowName, sizes: FireEditConfig, changes: Changes, device: str) -> Editor:
    """The editor of a row: `copy`, `target` and `vae`, or what lies in the row's folder, for TEXT_ROWS without its VLM.

    Settings are those that were saved with a pipeline, for a folder of mere parts those of `sizes`, with `changes`.

    Raises:
        EditorError: there is nothing in the folder that edits.
    """
    if row.name == "copy":
        return Copy()
    if row.name == "target":
        return Target()
    folder = NANO if row.folder == "nano" else Path(row.folder).expanduser()
    if row.name == "vae":
        if not (folder / "vae").is_dir():
            raise EditorError(f"{folder / 'vae'} is not there; give --weights a folder with a VAE")
        return Reconstruction(load_vae(folder / "vae").to(device))
    if row.name not in TEXT_ROWS and has_vlm(folder):
        pipeline = FireEditPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        pipeline.set_progress_bar_config(disable=True)
        regions = row.regions if pipeline.detector is not None else "none"  # an ablation that proposes none
        return FireEditor(pipeline, pipeline.settings.but(**changes), regions)
    if (folder / "unet").is_dir():
        settings = _saved_settings(folder) or sizes.painting
        pipeline = _saved_text_pipeline(folder, sizes).to(device)
        return TextEditor(pipeline, settings.but(**changes), plain=row.name == "ip2p_plain")
    raise EditorError(f"row {row.name!r}: {folder} holds neither a pipeline nor a UNet; write {row.name}=FOLDER")


def has_vlm(folder: Path) -> bool:
    """Tell a pipeline that understands by itself from parts that need CLIP's text states."""
    return (folder / "model_index.json").is_file() and (folder / "vlm").is_dir()


def text_pipeline(
    unet: EditUNet, vae: Codec, text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerBase, sizes: FireEditConfig
) -> FireEditPipeline:
    """The parts that TextEditor paints with."""
    left_out = (*FireEditPipeline.PERCEIVING, *FireEditPipeline.UNDERSTANDING, "hvca", "tati")
    parts: dict[str, Any] = dict.fromkeys(left_out) | {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": sampler(sizes.schedule),
    }
    pipeline = FireEditPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _saved_text_pipeline(folder: Path, sizes: FireEditConfig) -> FireEditPipeline:
    """Read the parts `unet`, `vae`, `text_encoder` and `tokenizer` in a folder; all but the UNet may lie beside nano's
    weights instead."""

    def found(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else NANO / name

    return text_pipeline(
        EditUNet.from_pretrained(folder / "unet", dtype=torch.float32).eval(),
        load_vae(found("vae")),
        CLIPTextModel.from_pretrained(found("text_encoder"), dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(found("tokenizer")),
        sizes,
    )


def _saved_settings(folder: Path) -> PaintSettings | None:
    """Settings of the pipeline in a folder; None where only parts lie."""
    index = folder / "model_index.json"
    saved = json.loads(index.read_text()).get("settings") if index.is_file() else None
    return PaintSettings(**saved) if saved else None


def _painting(pipeline: FireEditPipeline, settings: PaintSettings) -> str:
    """How a pipeline paints, in words that differ where its pictures may."""
    scheduler = pipeline.scheduler
    known = sorted((name, value) for name, value in scheduler.config.items() if not name.startswith("_"))
    return f"{settings} {type(scheduler).__name__} {known}"


def _read(pipeline: FireEditPipeline, texts: Sequence[str]) -> Tensor:
    """CLIP's text states, [B, 77, W]."""
    text_encoder = pipeline.text_encoder
    ids = tokenize_text(pipeline.tokenizer, list(texts), text_encoder.config.max_position_embeddings)
    return text_states(text_encoder, ids.to(text_encoder.device))


def _paint(
    pipeline: FireEditPipeline, cases: Sequence[Case], percepts: Percepts, tokens: Tensor, settings: PaintSettings
) -> np.ndarray:
    """Each from noise of its own seed, so that its picture does not depend on its neighbours."""
    noise = [torch.Generator().manual_seed(case.seed) for case in cases]
    pictures = [case.source for case in cases]
    latents = pipeline.paint(pipeline.prepare(pictures, percepts, tokens, settings, noise))
    side = pipeline.vae.config.sample_size
    return _pixels(torch.from_numpy(pipeline.decode(latents, [(side, side)] * len(cases), "np")))


def _pixels(pictures: Tensor) -> np.ndarray:
    """[B, S, S, 3] in [0, 1] to uint8."""
    return (pictures.float() * 255).round().byte().cpu().numpy()
