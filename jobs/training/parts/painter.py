"""The painter at nano size: an InstructPix2Pix UNet on the text encoder's states of the instruction.

The paper takes it ready-made as the start of stages 2 and 3; trained as long as they are, it is the baseline without a
VLM. It learns from edits of ever new seeds, each drawn when it is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from transformers import AutoTokenizer

from fireedit.jobs.evaluation.cases import FAMILIES, Cases
from fireedit.jobs.evaluation.editors import TextEditor, text_pipeline
from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.loop import PretrainRecipe
from fireedit.jobs.training.nano_folder import frozen, load_weights
from fireedit.models.model import FireEditConfig
from fireedit.models.schedule import prediction_target, signal_to_noise, training_noise
from fireedit.models.stages import DropoutConfig, ObjectiveConfig, draw_timesteps, edit_errors
from fireedit.models.text import build_text_encoder, text_states, tokenize_text
from fireedit.models.unet import EditUNet, start_as_no_op
from fireedit.models.vae import build_vae, encode_pixels, source_latents
from fireedit.platform.scenes.families import training_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import MIRROR, Rendering, draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

WHAT = (*TRAIN.backgrounds, "mirror", *TRAIN.things)
"""What a cell can show; objects stand behind the mirror in this list, backgrounds before it."""
FIRST_OBJECT = WHAT.index("mirror") + 1
LOOKS = ("", *COLORS, "plain", *EFFECTS)
"""How it can look: an object's color, or the effect that lies on its background."""
OBJECT_WEIGHT = 3.0
"""How much a cell that shows an object counts to the readers, beside one that shows none."""
CHANGED = 1e-3
"""Mean square distance of a cell's latents from which on it has changed."""
SHOWN_EACH = 2


@dataclass(frozen=True, kw_only=True)
class PainterRecipe(PretrainRecipe):
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    reading_weight: NonNegativeFloat = 0.6
    """Of the readers' cross entropy beside the error of the picture."""
    compiled: bool = False
    """Whether it runs through torch.compile, which is worth its minute on a GPU."""
    held_out: PositiveInt = 16
    """Edits of each family that figures are taken on."""


class Taught(nn.Module):
    """The UNet and two linear readers of its features, which teach it what is where and are thrown away.

    The way down must know what the source shows, the way up what the target will show.
    """

    def __init__(self, unet: EditUNet):
        super().__init__()
        self.unet = unet
        width, answers = unet.config.block_out_channels[-1], len(WHAT) + len(LOOKS)
        self.source_reader, self.target_reader = nn.Conv2d(width, answers, 1), nn.Conv2d(width, answers, 1)
        self._features: dict[str, Tensor] = {}
        for name, block in (("source", unet.down_blocks[-1]), ("target", unet.up_blocks[0])):
            block.register_forward_hook(self._keeper(name))

    def forward(
        self, noisy: Tensor, source: Tensor, timesteps: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the UNet predicts, and logits [B, WHAT + LOOKS, h, w] of what source and target show."""
        predicted = self.unet.predict(noisy, source, timesteps, tokens, None)
        read = self.source_reader(self._features["source"]), self.target_reader(self._features["target"])
        self._features.clear()
        return predicted, *read

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._features[name] = output[0] if isinstance(output, tuple) else output

        return keep


class PainterTask:
    """EditUNet without detail tokens, on noisy latents and the source's latents, told by CLIP's text states."""

    name = "painter"

    def __init__(self, sizes: FireEditConfig, recipe: PainterRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        self.vae = frozen(build_vae(sizes.vae), out / "vae") if (out / "vae").is_dir() else build_vae(sizes.vae)
        self.text_encoder = frozen(build_text_encoder(sizes.text), out / "text_encoder")
        self.model: nn.Module = Taught(EditUNet(sizes.unet).to(memory_format=torch.channels_last))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("_ip." not in name)
        self.noise = training_noise(sizes.schedule)
        self.null_ids = tokenize_text(self.tokenizer, [""], sizes.text.tokens)
        self._run: Any = None

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """Both pictures of an edit, what their cells show, and the instruction's ids."""
        edit = training_edit(TRAIN, seed)
        scenes = (edit.source, edit.target)
        drawn = [draw_scene(scene, self.sizes.vae.sample_size) for scene in scenes]
        ids = tokenize_text(self.tokenizer, [edit.instruction], self.sizes.text.tokens)[0]
        return {
            "pictures": torch.from_numpy(np.stack([one.image for one in drawn])),
            "shown": torch.from_numpy(np.stack([self._shown(*pair) for pair in zip(scenes, drawn, strict=True)])),
            "text_ids": ids.to(torch.int16),
        }

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pictures, device = batch["pictures"], batch["pictures"].device
        vae = self.vae.to(device)
        source, clean = (source_latents(vae, encode_pixels(vae, pictures[:, index])) for index in (0, 1))
        noise = torch.randn_like(clean)
        timesteps = draw_timesteps(self.noise, self.recipe.objective, len(clean), device)
        noisy = self.noise.add_noise(clean, noise, timesteps)
        tokens, null_tokens = self._text(batch["text_ids"]), self._text(self.null_ids.to(device))
        drop_text, drop_image = self.recipe.dropout.draw(len(clean), device)
        tokens = torch.where(drop_text[:, None, None], null_tokens, tokens)
        shown = torch.where(drop_image[:, None, None, None], 0.0, source)

        predicted, *logits = self._runner(model)(noisy, shown, timesteps, tokens)
        wanted, snr = prediction_target(self.noise, clean, noise, timesteps), signal_to_noise(self.noise, timesteps)
        painting = edit_errors(predicted, wanted, source, clean, snr, self.recipe.objective).mean()
        reading = sum(_reading_loss(one, batch["shown"][:, side]) for side, one in enumerate(logits))
        blind = (timesteps == self.noise.config.num_train_timesteps - 1) & ~drop_text & ~drop_image
        return {
            "loss": painting + self.recipe.reading_weight * reading,
            "painting": painting,
            "reading": torch.as_tensor(reading),
            **_blind_errors(predicted.detach(), source, clean, blind),
        }

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Mean absolute difference to the target of pixels in [0, 1], on held-out edits, by family.

        `inside` are the pixels that the edit changes, `outside` the others; `over_copy` is inside over that of a copy.
        """
        figures, cases, editor = dict[str, float](), Cases(self.sizes.vae.sample_size), self._editor(model)
        for family in FAMILIES:
            asked = cases.of(HELD_OUT.name, family, self.recipe.held_out)
            source, target = (np.stack([getattr(case, side) for case in asked]) for side in ("source", "target"))
            changed = (source != target).any(axis=-1)
            for name, made in (("", editor.edit(asked)), ("copy_", source)):
                errors = np.abs(made.astype(int) - target).mean(axis=-1) / 255
                for where, pixels in (("inside", changed), ("outside", ~changed)):
                    if pixels.any() and (name, where) != ("copy_", "outside"):
                        figures[f"{family}_{name}{where}"] = round(float(errors[pixels].mean()), 4)
        means = {}
        for name in ("inside", "copy_inside", "outside"):
            found = [figures[key] for family in FAMILIES if (key := f"{family}_{name}") in figures]
            means[name] = round(sum(found) / len(found), 4)
        return {**means, "over_copy": round(means["inside"] / means["copy_inside"], 4), **figures}

    def preview(self, model: nn.Module) -> Image.Image:
        """Source, edited and target of the first held-out edits of every family."""
        cases = Cases(self.sizes.vae.sample_size)
        asked = [case for family in FAMILIES for case in cases.of(HELD_OUT.name, family, SHOWN_EACH)]
        edited = self._editor(model).edit(asked)
        panels = [
            Panel(image=np.concatenate([case.source, picture, case.target], axis=1), title=case.instruction)
            for case, picture in zip(asked, edited, strict=True)
        ]
        return sheet(panels, columns=2, height=128)

    def load(self, folder: Path) -> None:
        assert isinstance(self.model, Taught)
        load_weights(self.model.unet, folder / "unet")

    def save(self, model: nn.Module, folder: Path) -> None:
        """With an image attention that is a no-op beside the text attention as it is now, and the codec beside it."""
        assert isinstance(model, Taught)
        for name, processor in model.unet.attn_processors.items():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                start_as_no_op(processor, model.unet.get_submodule(name.removesuffix(".processor")))
        model.unet.half().save_pretrained(folder / "unet")
        self.vae.save_pretrained(folder / "vae")

    def _runner(self, model: nn.Module) -> Any:
        if self._run is None and self.recipe.compiled:
            torch._dynamo.config.suppress_errors = True  # a machine that cannot compile trains all the same, slower
        if self._run is None:
            self._run = torch.compile(model) if self.recipe.compiled else model
        return self._run

    @torch.no_grad()
    def _text(self, ids: Tensor) -> Tensor:
        return text_states(self.text_encoder.to(ids.device), ids.long()).float()

    def _editor(self, model: nn.Module) -> TextEditor:
        assert isinstance(model, Taught)
        device = model.source_reader.weight.device
        pipeline = text_pipeline(model.unet, self.vae, self.text_encoder, self.tokenizer, self.sizes).to(device)
        return TextEditor(pipeline, self.sizes.painting)

    def _shown(self, scene: Scene, picture: Rendering) -> np.ndarray:
        """What the middle of every cell of the latents shows, of `WHAT` and of `LOOKS`: uint8 [2, h, w]."""
        cells = self.sizes.unet.sample_size
        step = picture.image.shape[0] // cells
        middles = (slice(step // 2, None, step),) * 2
        what = np.full((cells, cells), WHAT.index(scene.background), np.uint8)
        looks = np.full((cells, cells), LOOKS.index(scene.effect or "plain"), np.uint8)
        if MIRROR in picture.masks:
            what[picture.masks[MIRROR][middles]] = WHAT.index("mirror")
        for placed in scene.objects:
            mask = picture.masks[placed.id][middles]
            what[mask], looks[mask] = WHAT.index(placed.name), LOOKS.index(placed.looks)
        return np.stack([what, looks])


def _reading_loss(logits: Tensor, shown: Tensor) -> Tensor:
    """Cross entropy of what cells show, and how it looks.

    Args:
        logits: [B, WHAT + LOOKS, h, w], at the cells of the latents or coarser.
        shown: [B, 2, H, W]; a coarse cell is called after an object in it, if there is one.
    """
    shown = shown.long()
    ratio = shown.shape[-1] // logits.shape[-1]
    if ratio > 1:
        what, looks = shown.unfold(2, ratio, ratio).unfold(3, ratio, ratio).flatten(4).unbind(1)
        chosen = (what >= FIRST_OBJECT).byte().argmax(dim=-1, keepdim=True)
        what, looks = what.gather(-1, chosen)[..., 0], looks.gather(-1, chosen)[..., 0]
    else:
        what, looks = shown.unbind(1)
    weights = torch.where(what >= FIRST_OBJECT, OBJECT_WEIGHT, 1.0)
    logits = logits.float()
    errors = F.cross_entropy(logits[:, : len(WHAT)], what, reduction="none")
    errors = errors + F.cross_entropy(logits[:, len(WHAT) :], looks, reduction="none")
    return (errors * weights).sum() / weights.sum()


@torch.no_grad()
def _blind_errors(predicted: Tensor, source: Tensor, clean: Tensor, blind: Tensor) -> dict[str, Tensor]:
    """How far predictions from pure noise are off: in changed cells beside a copy, and in the others.

    Args:
        blind: bool [B], the samples that saw nothing but noise.
    """
    copied, errors = (source - clean).square().mean(dim=1), (predicted.float() - clean).square().mean(dim=1)
    inside = (copied > CHANGED) & blind[:, None, None]
    outside = (copied <= CHANGED) & blind[:, None, None]
    return {
        "inside": (errors * inside).sum() / (copied * inside).sum().clamp(min=1e-6),
        "outside": (errors * outside).sum() / outside.sum().clamp(min=1),
    }
