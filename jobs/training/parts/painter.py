"""The UNet ("painter") at nano size: an InstructPix2Pix UNet on the text encoder's states of the instruction.

The paper takes it ready-made as the start of stages 2 and 3; trained as long as they are, it is the baseline without a
VLM. Every edit is drawn from a fresh seed.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from transformers import AutoTokenizer

from fireedit.jobs.evaluation.cases import FAMILIES, Cases, EditCase, edit_cases, stacked
from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.nano_folder import frozen, load_weights
from fireedit.jobs.training.pretraining import PretrainRecipe
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix, text_pipeline, without_vlm
from fireedit.models.model import FireEditConfig
from fireedit.models.schedule import prediction_target, sampler, signal_to_noise, training_noise
from fireedit.models.stages import DropoutConfig, ObjectiveConfig, choose_timesteps, edit_errors
from fireedit.models.text import build_text_encoder, text_states, tokenize_text
from fireedit.models.unet import EditUNet
from fireedit.models.vae import build_vae, encode_pixels, source_latents
from fireedit.platform.scenes.families import training_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import MIRROR, Rendering, draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

CELL_CONTENTS = (*TRAIN.backgrounds, "mirror", *TRAIN.things)
"""Classes of a cell's content: backgrounds, the mirror, then objects."""
FIRST_OBJECT = CELL_CONTENTS.index("mirror") + 1
CELL_LOOKS = ("", *COLORS, "plain", *EFFECTS)
"""Classes of a cell's look: an object's color, or the effect on its background."""
OBJECT_WEIGHT = 3.0
"""Weight of cells with an object in the loss of the probes; the others have weight 1."""
CHANGED = 1e-3
"""Mean squared distance between a cell's source and target latents from which it counts as changed."""
SHOWN_EACH = 2
"""Edits of each family on the sheet."""


@dataclass(frozen=True, kw_only=True)
class PainterRecipe(PretrainRecipe):
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    reading_weight: NonNegativeFloat = 0.6
    """Weight of the probes' cross entropy; the diffusion loss has weight 1."""
    compiled: bool = False
    """Run through torch.compile, which pays for its minute of compilation on a GPU."""
    held_out: PositiveInt = 16
    """Held-out edits of each family that the figures are computed on."""


class UNetWithProbes(nn.Module):
    """The UNet and two linear probes of its features, which supervise it and are discarded afterwards.

    Features of the down path must predict the contents of the source, those of the up path the target's.
    """

    def __init__(self, unet: EditUNet):
        super().__init__()
        self.unet = unet
        width, answers = unet.config.block_out_channels[-1], len(CELL_CONTENTS) + len(CELL_LOOKS)
        self.source_reader, self.target_reader = nn.Conv2d(width, answers, 1), nn.Conv2d(width, answers, 1)
        self._features: dict[str, Tensor] = {}
        for name, block in (("source", unet.down_blocks[-1]), ("target", unet.up_blocks[0])):
            block.register_forward_hook(functools.partial(self._keep, name))

    def forward(
        self, noisy: Tensor, source: Tensor, timesteps: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the latents, and logits [B, CELL_CONTENTS + CELL_LOOKS, h, w] of the cells of source and target."""
        predicted = self.unet.predict(noisy, source, timesteps, tokens, None)
        source_logits = self.source_reader(self._features["source"])
        target_logits = self.target_reader(self._features["target"])
        self._features.clear()
        return predicted, source_logits, target_logits

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Store the features of a block."""
        self._features[name] = output[0] if isinstance(output, tuple) else output


class PainterTask:
    """EditUNet without detail tokens, conditioned on the source's latents and CLIP's text states."""

    name = "painter"

    def __init__(self, sizes: FireEditConfig, recipe: PainterRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        self.vae = frozen(build_vae(sizes.vae), out / "vae") if (out / "vae").is_dir() else build_vae(sizes.vae)
        self.text_encoder = frozen(build_text_encoder(sizes.text), out / "text_encoder")
        self.model = UNetWithProbes(EditUNet(sizes.unet).to(memory_format=torch.channels_last))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".image_attention." not in name)
        self.noise = training_noise(sizes.schedule)
        self.null_ids = tokenize_text(self.tokenizer, [""], sizes.text.tokens)
        if recipe.compiled:
            torch._dynamo.config.suppress_errors = True  # a machine that cannot compile trains uncompiled
            self.model.compile()

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """Draw an edit.

        Returns:
            pictures: uint8 [2, S, S, 3], source and target. shown: uint8 [2, 2, h, w], their cells' classes in
            `CELL_CONTENTS` and in `CELL_LOOKS`. text_ids: int16 [T], the instruction.
        """
        edit = training_edit(TRAIN, seed)
        scenes = (edit.source, edit.target)
        renderings = [draw_scene(scene, self.sizes.vae.sample_size) for scene in scenes]
        cells = [self._cell_classes(*pair) for pair in zip(scenes, renderings, strict=True)]
        ids = tokenize_text(self.tokenizer, [edit.instruction], self.sizes.text.tokens)[0]
        return {
            "pictures": torch.from_numpy(np.stack([rendering.image for rendering in renderings])),
            "shown": torch.from_numpy(np.stack(cells)),
            "text_ids": ids.to(torch.int16),
        }

    def losses(self, model: UNetWithProbes, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images, device, objective = batch["pictures"], batch["pictures"].device, self.recipe.objective
        vae = self.vae.to(device)
        source, clean = (source_latents(encode_pixels(vae, images[:, side])) for side in (0, 1))
        noise = torch.randn_like(clean)
        timesteps = choose_timesteps(self.noise, objective, torch.rand(len(clean), 2, device=device))
        noisy = self.noise.add_noise(clean, noise, timesteps)
        tokens, null_tokens = self._text(batch["text_ids"]), self._text(self.null_ids.to(device))
        drop_text, drop_image = self.recipe.dropout.masks(torch.rand(len(clean), device=device))
        tokens = torch.where(drop_text[:, None, None], null_tokens, tokens)
        condition = torch.where(drop_image[:, None, None, None], 0.0, source)

        predicted, *logits = model(noisy, condition, timesteps, tokens)
        target, snr = prediction_target(self.noise, clean, noise, timesteps), signal_to_noise(self.noise, timesteps)
        painting = edit_errors(predicted, target, source, clean, snr, objective).mean()
        reading = sum(probe_loss(cells, batch["shown"][:, side]) for side, cells in enumerate(logits))
        pure_noise = (timesteps == self.noise.config.num_train_timesteps - 1) & ~drop_text & ~drop_image
        return {
            "loss": painting + self.recipe.reading_weight * reading,
            "painting": painting,
            "reading": torch.as_tensor(reading),
            **_pure_noise_errors(predicted.detach(), source, clean, pure_noise),
        }

    def figures(self, model: UNetWithProbes) -> dict[str, float]:
        """Compute mean absolute errors of pixels in [0, 1] on held-out edits, by family and their means.

        `inside` are the pixels that the edit changes, `outside` the others; `over_copy` is `inside` divided by that of
        a copy of the source.
        """
        figures, cases, editor = dict[str, float](), Cases(self.sizes.vae.sample_size), self._editor(model)
        for family in FAMILIES:
            held_out = cases.of(HELD_OUT.name, family, self.recipe.held_out)
            errors = family_errors(held_out, edit_cases(editor, held_out))
            figures |= {f"{family}_{name}": error for name, error in errors.items()}
        means = {}
        for name in ("inside", "copy_inside", "outside"):
            values = [figures[key] for family in FAMILIES if (key := f"{family}_{name}") in figures]
            means[name] = round(sum(values) / len(values), 4)
        return {**means, "over_copy": round(means["inside"] / means["copy_inside"], 4), **figures}

    def preview(self, model: UNetWithProbes) -> Image.Image:
        """Draw source, edited and target of the first held-out edits of every family."""
        cases = Cases(self.sizes.vae.sample_size)
        held_out = [case for family in FAMILIES for case in cases.of(HELD_OUT.name, family, SHOWN_EACH)]
        panels = [
            Panel(image=np.concatenate([case.source, edited, case.target], axis=1), title=case.instruction)
            for case, edited in zip(held_out, edit_cases(self._editor(model), held_out), strict=True)
        ]
        return sheet(panels, columns=2, height=128)

    def load(self, folder: Path) -> None:
        load_weights(self.model.unet, folder / "unet")

    def save(self, model: UNetWithProbes, folder: Path) -> None:
        """Save the UNet, its image attention reset to a no-op beside the trained text attention, and the codec."""
        model.unet.reset_image_attention()
        model.unet.half().save_pretrained(folder / "unet")
        self.vae.save_pretrained(folder / "vae")

    @torch.no_grad()
    def _text(self, ids: Tensor) -> Tensor:
        return text_states(self.text_encoder.to(ids.device), ids.long()).float()

    def _editor(self, model: UNetWithProbes) -> InstructPix2Pix:
        parts = {
            "unet": model.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": sampler(self.sizes.schedule),
        }
        pipeline = text_pipeline(parts, self.sizes.painting).to(model.source_reader.weight.device)
        return without_vlm(pipeline, self.sizes.painting)

    def _cell_classes(self, scene: Scene, rendering: Rendering) -> np.ndarray:
        """Classify the center of every cell of the latents by content and look: uint8 [2, h, w]."""
        cells = self.sizes.unet.sample_size
        step = rendering.image.shape[0] // cells
        centers = (slice(step // 2, None, step),) * 2
        contents = np.full((cells, cells), CELL_CONTENTS.index(scene.background), np.uint8)
        looks = np.full((cells, cells), CELL_LOOKS.index(scene.effect or "plain"), np.uint8)
        if MIRROR in rendering.masks:
            contents[rendering.masks[MIRROR][centers]] = CELL_CONTENTS.index("mirror")
        for placed in scene.objects:
            mask = rendering.masks[placed.id][centers]
            contents[mask], looks[mask] = CELL_CONTENTS.index(placed.name), CELL_LOOKS.index(placed.looks)
        return np.stack([contents, looks])


def family_errors(cases: Sequence[EditCase], edited: np.ndarray) -> dict[str, float]:
    """Mean absolute errors of edited images, uint8 [N, S, S, 3], and of copies, inside and outside of the change.

    An error is left out where the cases have no such pixels.
    """
    source, target, result = stacked(cases, "source"), stacked(cases, "target"), dict[str, float]()
    inside = (source != target).any(axis=-1)
    regions = {"inside": (edited, inside), "outside": (edited, ~inside), "copy_inside": (source, inside)}
    for name, (images, pixels) in regions.items():
        if pixels.any():
            errors = np.abs(images.astype(int) - target).mean(axis=-1) / 255
            result[name] = round(float(errors[pixels].mean()), 4)
    return result


def probe_loss(logits: Tensor, cells: Tensor) -> Tensor:
    """Cross entropy of the contents and looks of cells.

    Args:
        logits: [B, CELL_CONTENTS + CELL_LOOKS, h, w], at the cells of the latents or coarser.
        cells: [B, 2, H, W] classes; a coarse cell takes those of an object in it, if there is one.
    """
    cells = cells.long()
    ratio = cells.shape[-1] // logits.shape[-1]
    contents, looks = cells.unfold(2, ratio, ratio).unfold(3, ratio, ratio).flatten(4).unbind(1)
    chosen = (contents >= FIRST_OBJECT).byte().argmax(dim=-1, keepdim=True)
    contents, looks = contents.gather(-1, chosen)[..., 0], looks.gather(-1, chosen)[..., 0]
    weights = torch.where(contents >= FIRST_OBJECT, OBJECT_WEIGHT, 1.0)
    logits = logits.float()
    errors = F.cross_entropy(logits[:, : len(CELL_CONTENTS)], contents, reduction="none")
    errors = errors + F.cross_entropy(logits[:, len(CELL_CONTENTS) :], looks, reduction="none")
    return (errors * weights).sum() / weights.sum()


@torch.no_grad()
def _pure_noise_errors(predicted: Tensor, source: Tensor, clean: Tensor, pure_noise: Tensor) -> dict[str, Tensor]:
    """Errors of predictions from pure noise: in changed cells relative to a copy, and in the others.

    Args:
        pure_noise: bool [B], samples whose latents were pure noise.
    """
    copied, errors = (source - clean).square().mean(dim=1), (predicted.float() - clean).square().mean(dim=1)
    inside = (copied > CHANGED) & pure_noise[:, None, None]
    outside = (copied <= CHANGED) & pure_noise[:, None, None]
    return {
        "inside": (errors * inside).sum() / (copied * inside).sum().clamp(min=1e-6),
        "outside": (errors * outside).sum() / outside.sum().clamp(min=1),
    }
