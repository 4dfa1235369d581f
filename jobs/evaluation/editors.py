"""Editors, the rows of a benchmark: FireEdit, ablations of it, and the baselines copy, VAE and target."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from fireedit.jobs.evaluation.cases import EditCase, stacked
from fireedit.models.checkpoint_files import check_folder
from fireedit.models.editors.editor import EDITORS, EditorError, EditorName, load_editor
from fireedit.models.editors.editor import Editor as System
from fireedit.models.model import NANO, FireEditConfig, Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.schedule import sampler
from fireedit.models.settings import PaintSettings, SettingValue
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.unet import EditUNet
from fireedit.models.vae import Codec, decode_latents, encode_pixels, load_vae, source_latents
from fireedit.models.weights import fingerprint

REGION_SOURCES = ("predicted", "true", "none")
"""Regions that the VLM gets: the detector's, the scene's true ones, or none."""
TEXT_ROWS = ("ip2p", "ip2p_plain")
"""Rows that skip the VLM even if the folder has one; the second reads instructions that name their object."""
Changes = Mapping[str, SettingValue | None]
"""Fields of PaintSettings that replace those saved with the weights; None leaves one unchanged."""


class Editor(Protocol):
    """Editor of the cases of a benchmark."""

    weights: str
    """Fingerprint; empty for an editor without weights, whose pictures are not cached."""
    manner: str
    """Settings, sampler and inputs: everything besides the weights that its pictures depend on."""

    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        """Edit cases to uint8 RGB [B, S, S, 3]; only the baselines may read a case's target."""


@dataclass(frozen=True)
class Baseline:
    """Baseline that returns the source or the target: the latter's success is the scene reader's own accuracy."""

    picture: Literal["source", "target"]
    weights = manner = ""

    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        return stacked(cases, self.picture)


class Reconstruction:
    """Baseline that returns the target after the VAE: the upper bound of editors that sample its latents."""

    manner = ""

    def __init__(self, vae: Codec):
        self.vae, self.weights = vae, fingerprint(vae)

    @torch.no_grad()
    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        canvas = torch.from_numpy(stacked(cases, "target")).to(self.vae.device)
        latents = source_latents(encode_pixels(self.vae, canvas)) * self.vae.config.scaling_factor
        return _pixels((decode_latents(self.vae, latents).permute(0, 2, 3, 1) + 1) / 2)


class PipelineEditor:
    """Editor with the UNet of a pipeline; subclasses compute what it is conditioned on."""

    def __init__(self, pipeline: FireEditPipeline, settings: PaintSettings, manner: str):
        self.pipeline, self.settings, self.weights = pipeline, settings, fingerprint(pipeline.model)
        scheduler = pipeline.scheduler
        config = sorted((name, value) for name, value in scheduler.config.items() if not name.startswith("_"))
        self.manner = f"{manner} {settings} {type(scheduler).__name__} {config}"

    def condition(self, cases: Sequence[EditCase]) -> tuple[Percepts, Tensor]:
        """Compute the percepts and the edit tokens [B, 77, W] of cases."""
        raise NotImplementedError

    @torch.no_grad()
    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        """Sample each case from noise of its own seed, independent of the rest of the batch."""
        noise = [torch.Generator().manual_seed(case.seed) for case in cases]
        canvases = [squash(case.source, self.pipeline.vae.config.sample_size) for case in cases]
        latents = self.pipeline.paint(self.pipeline.prepare(canvases, *self.condition(cases), self.settings, noise))
        return self.pipeline.decode(latents)

    def text_states(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to CLIP's text states, [B, 77, W]."""
        text_encoder = self.pipeline.text_encoder
        ids = tokenize_text(self.pipeline.tokenizer, list(texts), text_encoder.config.max_position_embeddings)
        return text_states(text_encoder, ids.to(text_encoder.device))


class FireEditor(PipelineEditor):
    """FireEdit, complete or an ablation."""

    def __init__(self, pipeline: FireEditPipeline, settings: PaintSettings, regions: str):
        super().__init__(pipeline, settings, f"regions {regions}")
        self.regions = regions

    def condition(self, cases: Sequence[EditCase]) -> tuple[Percepts, Tensor]:
        percepts = self.perceive(cases)
        return percepts, self.pipeline.understand(percepts, [case.instruction for case in cases])

    @torch.no_grad()
    def distances_to_text(self, cases: Sequence[EditCase]) -> list[float]:
        """Return the MSE of each case's edit tokens to CLIP's states of its instruction or of the plain instruction,
        whichever is smaller."""
        _, tokens = self.condition(cases)
        texts = ([case.instruction for case in cases], [case.edit.plain for case in cases])
        distances = [(tokens - self.text_states(each)).square().mean(dim=(1, 2)) for each in texts]
        return torch.minimum(*distances).tolist()

    def perceive(self, cases: Sequence[EditCase]) -> Percepts:
        """Encode the sources and the regions of the row's region source."""
        boxes = None
        if self.regions == "true":
            boxes = [torch.tensor(case.boxes).view(-1, 4) for case in cases]
        elif self.regions == "none" and self.pipeline.detector is not None:
            boxes = [torch.zeros(0, 4)] * len(cases)
        return self.pipeline.perceive([case.source for case in cases], boxes)


class TextEditor(PipelineEditor):
    """InstructPix2Pix's conditioning: the UNet gets CLIP's text states of the instruction, without a VLM."""

    def __init__(self, pipeline: FireEditPipeline, settings: PaintSettings, plain: bool = False):
        """
        Args:
            plain: read the instruction with every object named, as a perfect VLM would resolve one that describes it.
        """
        super().__init__(pipeline, settings, "plain" if plain else "as told")
        self.plain = plain

    def condition(self, cases: Sequence[EditCase]) -> tuple[Percepts, Tensor]:
        tokens = self.text_states([case.edit.plain if self.plain else case.instruction for case in cases])
        empty = torch.zeros(len(cases), 0, 0)
        return Percepts(image_tokens=empty, region_tokens=(), boxes=(), scores=(), detail=()), tokens


class OtherSystem:
    """Editor of another system, by its own settings; its pictures are scaled to the cases' size."""

    def __init__(self, system: System, changes: Changes):
        self.system, self.weights, self.settings = system, system.weights, system.settings.but(**changes)
        self.manner = f"{system.name} {self.settings}"

    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        texts, seeds = [case.instruction for case in cases], [case.seed for case in cases]
        edited = self.system.edit([case.source for case in cases], texts, seeds, self.settings)
        return np.stack([squash(picture, len(case.source)) for picture, case in zip(edited, cases, strict=True)])


@dataclass(frozen=True)
class RowName:
    """Row of the command line: `NAME`, `NAME=FOLDER` or `NAME=FOLDER@REGIONS`."""

    name: str
    folder: str
    regions: str


def parse_rows(text: str, weights: str, regions: str) -> list[RowName]:
    """Parse rows separated by commas, with defaults; `target` is put first if it is missing.

    Raises:
        EditorError: two rows have one name, or a row's regions are not one of `REGION_SOURCES`.
    """
    rows = dict[str, RowName]()
    for row in text.split(","):
        name_and_folder, _, suffix = row.partition("@")
        name, _, folder = name_and_folder.partition("=")
        if suffix and suffix not in REGION_SOURCES:
            raise EditorError(f"row {name!r}: regions {suffix!r}; write one of {', '.join(REGION_SOURCES)}")
        name = f"{name}@{suffix}" if suffix else name
        if name in rows:
            raise EditorError(f"--rows {text}: two rows have one name")
        rows[name] = RowName(name, folder or weights, suffix or regions)
    first = [] if "target" in rows else [RowName("target", weights, regions)]
    return [*first, *rows.values()]


def make_editor(row: RowName, sizes: FireEditConfig, changes: Changes, device: str) -> Editor:
    """Make the editor of a row: `copy`, `target` or `vae`, a system such as `magicbrush`, or else the row's folder.

    Settings are those saved with a pipeline, or `sizes.painting` for a folder of components alone, with `changes`.

    Raises:
        EditorError: the folder has no weights of an editor.
    """
    if row.name in ("copy", "target"):
        return Baseline("source" if row.name == "copy" else "target")
    folder = NANO if row.folder == "nano" else Path(row.folder).expanduser()
    if row.name == "vae":
        if not (folder / "vae").is_dir():
            raise EditorError(f"{folder / 'vae'} is missing; give --weights a folder with a VAE")
        return Reconstruction(load_vae(folder / "vae").to(device))
    if row.name in EDITORS and row.name != "fireedit":
        return OtherSystem(load_editor(EditorName(row.name, row.folder), device), changes)
    if row.name not in TEXT_ROWS and has_vlm(folder):
        pipeline = FireEditPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        pipeline.set_progress_bar_config(disable=True)
        regions = row.regions if pipeline.detector is not None else "none"  # the ablation without a detector
        return FireEditor(pipeline, pipeline.settings.but(**changes), regions)
    if (folder / "unet").is_dir():
        index = folder / "model_index.json"
        saved = json.loads(index.read_text()).get("settings") if index.is_file() else None
        settings = (PaintSettings(**saved) if saved else sizes.painting).but(**changes)
        return TextEditor(_saved_text_pipeline(folder, sizes).to(device), settings, plain=row.name == "ip2p_plain")
    raise EditorError(f"row {row.name!r}: {folder} has neither a pipeline nor a UNet; write {row.name}=FOLDER")


def has_vlm(folder: Path) -> bool:
    """Return whether a folder is a whole pipeline, not components that need CLIP's text states."""
    return (folder / "model_index.json").is_file() and (folder / "vlm").is_dir()


def text_pipeline(
    unet: EditUNet, vae: Codec, text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerBase, sizes: FireEditConfig
) -> FireEditPipeline:
    """Build the pipeline of a TextEditor."""
    left_out = (*FireEditPipeline.PERCEIVING, *FireEditPipeline.UNDERSTANDING, "hvca", "tati")
    parts: dict[str, Any] = dict.fromkeys(left_out) | {"unet": unet, "vae": vae, "scheduler": sampler(sizes.schedule)}
    pipeline = FireEditPipeline(**parts, text_encoder=text_encoder, tokenizer=tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _saved_text_pipeline(folder: Path, sizes: FireEditConfig) -> FireEditPipeline:
    """Load the pipeline of a TextEditor; components that the folder lacks, except the UNet, are nano's."""
    vae, text_encoder, tokenizer = (
        check_folder((folder if (folder / name).is_dir() else NANO) / name)
        for name in ("vae", "text_encoder", "tokenizer")
    )
    return text_pipeline(
        EditUNet.from_pretrained(check_folder(folder / "unet"), dtype=torch.float32).eval(),
        load_vae(vae),
        CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(tokenizer),
        sizes,
    )


def _pixels(pictures: Tensor) -> np.ndarray:
    """Round [B, S, S, 3] in [0, 1] to uint8."""
    return (pictures.float() * 255).round().byte().cpu().numpy()
