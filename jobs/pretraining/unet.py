"""The UNet at nano size: InstructPix2Pix on the text encoder's states of the instruction.

The paper takes it ready-made as the start of stages 2 and 3; trained as long as they are, it is the baseline without a
VLM. Latents are computed once: the edits that it learns from lie encoded on the disk.
"""

import io
import itertools
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from PIL import Image
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import AutoTokenizer

from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.saved import fill, frozen
from fireedit.jobs.pretraining.scenes import HELD_OUT, training_batches
from fireedit.models.fireedit import FireEditConfig
from fireedit.models.pipeline import PaintSettings
from fireedit.models.schedule import ScheduleConfig, sampler, training_noise
from fireedit.models.stages import DropoutConfig, change_weights
from fireedit.models.text import build_text_encoder, text_states, tokenize_text
from fireedit.models.unet import EditUNet, start_as_no_op
from fireedit.models.vae import EditVAE, decode_latents, source_latents
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.data.scenes.edits import Edit
from fireedit.platform.data.scenes.families import FAMILIES, NO_OP, make_edit
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

NO_OP_SHARE = 0.05
"""Of the edits of training: requests for what is not there."""
ENCODED = 64
"""Edits that the VAE encodes at a time."""
PART = 1024
"""Edits of a file of the pool."""
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class UNetRecipe(PretrainRecipe):
    pool: PositiveInt = 60_000
    """Edits that it learns from; the first of the training world."""
    changed_weight: NonNegativeFloat = 4.0
    """See `change_weights`."""
    min_snr_gamma: PositiveFloat | None = 5.0
    """Timesteps of a signal-to-noise ratio above this count the less the clearer they are; None counts all alike.
    Source: Hang et al. (arXiv 2303.09556)."""
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    paint: PaintSettings = field(default_factory=PaintSettings)
    """How the figures' pictures are painted."""
    held_out: PositiveInt = 32
    """Edits of each family that figures are taken on."""


class UNetPart:
    """EditUNet without detail tokens, on noisy latents and the source's latents, told by CLIP's text states.

    Departures from InstructPix2Pix: what the edit changes weighs more in the loss, and so do noisy timesteps; the
    target is the mode of its latents, not a sample, for the noise of a narrow VAE is nothing that a picture needs.
    """

    name = "unet"

    def __init__(self, sizes: FireEditConfig, recipe: UNetRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        unet = EditUNet(sizes.unet).to(memory_format=torch.channels_last)
        self.vae = frozen(EditVAE(sizes.vae), out / "vae")
        self.text_encoder = frozen(build_text_encoder(sizes.text), out / "text_encoder")
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("_ip." not in name)
        self.model: nn.Module = unet
        self.noise = training_noise(sizes.schedule)
        signal = self.noise.alphas_cumprod
        self.snr = signal / (1 - signal)
        self.null_ids = tokenize_text(self.tokenizer, [""], sizes.text.tokens)

    def batches(self, first: int, last: int) -> Iterator[Mapping[str, Tensor]]:
        """Every epoch goes through the pool in an order of its own; what does not fill a batch is left out."""
        pool, batch = self._filled_pool(), self.recipe.batch
        per_epoch = self.recipe.pool // batch
        assert per_epoch > 0, f"a pool of {self.recipe.pool} edits does not fill a batch of {batch}"
        for epoch, steps in itertools.groupby(range(first, last), lambda step: step // per_epoch):
            order = np.random.default_rng((self.recipe.seed, epoch)).permutation(self.recipe.pool)
            for step in steps:
                start = step % per_epoch * batch
                rows = pool.rows(order[start : start + batch])
                yield {name: torch.from_numpy(rows[name].copy()) for name in rows.dtype.names or ()}

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, EditUNet)
        source, target = batch["source"].float(), batch["target"].float()
        weights = change_weights(source, target, self.recipe.changed_weight).squeeze(1)
        clean = target * self.vae.config.scaling_factor
        count, device = len(clean), clean.device
        noise = torch.randn(clean.shape, device=device)
        timesteps = torch.randint(0, self.noise.config.num_train_timesteps, (count,), device=device)
        noisy = self.noise.add_noise(clean, noise, timesteps)
        tokens, null_tokens = self._text(batch["text_ids"]), self._text(self.null_ids.to(device))
        drop_text, drop_image = self.recipe.dropout.draw(count, device)
        tokens = torch.where(drop_text[:, None, None], null_tokens, tokens)
        source = torch.where(drop_image[:, None, None, None], 0.0, source)

        predicted = model.predict(noisy, source, timesteps, tokens, None)
        errors = (predicted.float() - noise).square().mean(dim=1)
        weighted = (errors * weights).mean(dim=(1, 2))
        return {
            "loss": (weighted * self._importance(timesteps)).mean(),
            "mse": errors.mean(),
            "weighted_mse": weighted.mean(),
        }

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Mean absolute difference to the target of pixels in [0, 1], on held-out edits, by family.

        `inside` are the pixels that the edit changes, `outside` the others; beside the UNet stand a copy of the source
        and what the VAE makes of the target, which nothing that paints latents can beat by much.
        """
        figures: dict[str, float] = {}
        draw, families = Renderer(), (*FAMILIES, NO_OP)
        for family in families:
            pairs = [
                self._pair(draw, make_edit(HELD_OUT, seed, family)) for seed in HELD_OUT.seeds[: self.recipe.held_out]
            ]
            batch = default_collate(pairs)
            pictures = _unit(batch["pictures"])
            source, target = pictures[:, 0], pictures[:, 1]
            changed = (source != target).any(dim=1, keepdim=True).expand_as(source)
            made = {"": self._edited(model, batch), "vae_": self._reconstructed(batch), "copy_": source}
            for where, pixels in (("inside", changed), ("outside", ~changed)):
                for name, picture in made.items():
                    if pixels.any() and (name, where) != ("copy_", "outside"):
                        figures[f"{family}_{name}{where}"] = round(float((picture - target).abs()[pixels].mean()), 4)
        means = {}
        for name in ("inside", "vae_inside", "copy_inside", "outside", "vae_outside"):
            found = [figures[key] for family in families if (key := f"{family}_{name}") in figures]
            means[name] = round(sum(found) / len(found), 4)
        return {**means, **figures}

    def look(self, model: nn.Module) -> Image.Image:
        """Source, edited and target of the first held-out edits of any family."""
        draw, edits = Renderer(), [make_edit(HELD_OUT, seed) for seed in HELD_OUT.seeds[:SHOWN]]
        batch = default_collate([self._pair(draw, edit) for edit in edits])
        pictures, edited = _unit(batch["pictures"]), self._edited(model, batch)
        triples = torch.cat([pictures[:, 0], edited, pictures[:, 1]], dim=-1)
        panels = [
            Panel(image=(triple.permute(1, 2, 0) * 255).round().byte().numpy(), title=edit.instruction)
            for triple, edit in zip(triples, edits, strict=True)
        ]
        return sheet(panels, columns=2, height=128)

    def load(self, folder: Path) -> None:
        fill(self.model, folder / "unet")

    def save(self, model: nn.Module, folder: Path) -> None:
        """With an image attention that is a no-op beside the text attention as it is now."""
        assert isinstance(model, EditUNet)
        for name, processor in model.attn_processors.items():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                start_as_no_op(processor, model.get_submodule(name.removesuffix(".processor")))
        model.half().save_pretrained(folder / "unet")

    def _importance(self, timesteps: Tensor) -> Tensor:
        """Weight of each timestep's loss for a model that predicts noise, [B]."""
        snr = self.snr.to(timesteps.device)[timesteps]
        gamma = self.recipe.min_snr_gamma
        return torch.ones_like(snr) if gamma is None else snr.clamp(max=gamma) / snr

    @torch.no_grad()
    def _text(self, ids: Tensor) -> Tensor:
        return text_states(self.text_encoder.to(ids.device), ids.long())

    def _edited(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """What the UNet makes of the sources, [B, 3, S, S] in [0, 1]."""
        assert isinstance(model, EditUNet)
        source = source_latents(self.vae.to(model.device), batch["pictures"][:, 0].to(model.device))
        tokens, null_tokens = (self._text(ids.to(model.device)) for ids in (batch["text_ids"], self.null_ids))
        latents = paint(model, source, tokens, null_tokens, self.recipe.paint, self.sizes.schedule, self.recipe.seed)
        return ((decode_latents(self.vae, latents) + 1) / 2).cpu()

    def _reconstructed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the VAE makes of the targets, [B, 3, S, S] in [0, 1]."""
        latents = source_latents(self.vae, batch["pictures"][:, 1].to(self.vae.device))
        return ((decode_latents(self.vae, latents * self.vae.config.scaling_factor) + 1) / 2).cpu()

    def _pair(self, renderer: Renderer, edit: Edit) -> dict[str, Tensor]:
        """An edit as tensors: both pictures, and the instruction's ids."""
        side = self.sizes.vae.sample_size
        drawn = [renderer.draw(scene, side).image for scene in (edit.source, edit.target)]
        return {
            "pictures": torch.from_numpy(np.stack(drawn)),
            "text_ids": tokenize_text(self.tokenizer, [edit.instruction], self.sizes.text.tokens)[0],
        }

    def _training_pair(self, renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
        family = NO_OP if random.Random(f"is no-op {seed}").random() < NO_OP_SHARE else None
        return self._pair(renderer, make_edit(TRAIN, seed, family))

    def _filled_pool(self) -> "Pool":
        """The pool of this VAE and this tokenizer, encoded as far as it is not yet."""
        words = zlib.crc32(self.tokenizer.backend_tokenizer.to_str().encode())
        name = f"pool-{fingerprint(self.vae)}-{words:08x}"
        pool = Pool(Path(self.recipe.home) / "pretraining" / self.name / name, self._row_type())
        pool.fill(self.recipe.pool, self._encoded)
        return pool

    def _row_type(self) -> np.dtype:
        moments, height, width = self.sizes.vae.moments_shape
        latents = (np.float16, (moments // 2, height, width))
        return np.dtype(
            [
                ("source", *latents),
                ("target", *latents),
                ("text_ids", np.int32, (self.sizes.text.tokens,)),
            ]
        )

    @torch.no_grad()
    def _encoded(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Rows of the training world's edits from `first` to `last`, some at a time."""
        batches = training_batches(self._training_pair, first // ENCODED, last // ENCODED, ENCODED, self.recipe.workers)
        device = next(self.model.parameters()).device
        vae = self.vae.to(device)
        for batch in batches:
            rows = np.empty(len(batch["text_ids"]), self._row_type())
            with torch.autocast(device.type, enabled=False):
                for side, name in enumerate(("source", "target")):
                    rows[name] = source_latents(vae, batch["pictures"][:, side].to(device)).half().cpu().numpy()
            rows["text_ids"] = batch["text_ids"].numpy()
            yield rows


class Pool:
    """Encoded edits on the disk, in files of PART rows: a build that was broken off loses one of them at the most."""

    def __init__(self, folder: Path, row: np.dtype):
        self.folder, self.row = folder, row
        self._parts: dict[int, np.ndarray] = {}

    def fill(self, size: int, encoded: Callable[[int, int], Iterable[np.ndarray]]) -> None:
        """Write what is missing of the first `size` rows; `encoded` makes those from a number to another, in order."""
        parts = -(-size // PART)
        first = next((number for number in range(parts) if not self._path(number).exists()), parts)
        rows: list[np.ndarray] = []
        for some in encoded(first * PART, parts * PART) if first < parts else ():
            rows.append(some)
            if sum(map(len, rows)) == PART:
                data = io.BytesIO()
                np.save(data, np.concatenate(rows))
                storage.write_bytes(str(self._path(first)), data.getvalue())
                rows, first = [], first + 1
                print(f"unet: {first * PART} of {parts * PART} edits encoded", file=sys.stderr, flush=True)
        assert not rows, len(rows)

    def rows(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of these numbers, in their order."""
        found = np.empty(len(numbers), self.row)
        numbers = np.asarray(numbers)
        for number in np.unique(numbers // PART):
            wanted = numbers // PART == number
            found[wanted] = self._part(int(number))[numbers[wanted] % PART]
        return found

    def _part(self, number: int) -> np.ndarray:
        if number not in self._parts:
            self._parts[number] = np.load(self._path(number), mmap_mode="r")
        return self._parts[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"


@torch.no_grad()
def paint(
    unet: EditUNet,
    source: Tensor,
    tokens: Tensor,
    null_tokens: Tensor,
    settings: PaintSettings,
    schedule: ScheduleConfig,
    seed: int,
) -> Tensor:
    """Denoise B pictures as FireEditPipeline.paint does, told by text states alone.

    Args:
        source: [B, C, h, w] latents of the pictures to edit, unscaled.
        tokens: [B, T, W] text states of the instructions.
        null_tokens: [1, T, W] those of no text.
    Returns:
        Edited latents [B, C, h, w].
    """
    scheduler = sampler(schedule)
    scheduler.set_timesteps(settings.num_inference_steps, device=source.device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(source.shape, generator=generator).to(source.device) * scheduler.init_noise_sigma
    # Branches in this order: text and picture, picture alone, neither.
    sources = torch.cat([source, source, torch.zeros_like(source)])
    words = torch.cat([tokens, *[null_tokens.expand_as(tokens)] * 2])
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents] * 3), timestep)
        full, pictured, bare = unet.predict(noisy, sources, timestep, words, None).float().chunk(3)
        noise = bare + settings.guidance_scale * (full - pictured) + settings.image_guidance_scale * (pictured - bare)
        latents = scheduler.step(noise, timestep, latents, generator=generator).prev_sample
    return latents


def _unit(pictures: Tensor) -> Tensor:
    """uint8 [B, 2, S, S, 3] to [B, 2, 3, S, S] in [0, 1]."""
    return pictures.movedim(-1, 2).float() / 255
