"""The UNet at nano size: InstructPix2Pix on the text encoder's states of the instruction.

The paper takes it ready-made as the start of stages 2 and 3; trained as long as they are, it is the baseline without a
VLM. Latents are computed once: the edits that it learns from lie encoded on the disk.
"""

import io
import itertools
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
from transformers import AutoTokenizer

from fireedit.jobs.benchmarking.cases import FAMILIES, Cases
from fireedit.jobs.benchmarking.editors import Copy, Editor, Reconstruction, TextEditor, text_pipeline
from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.saved import fill, frozen
from fireedit.jobs.pretraining.scenes import HELD_OUT, training_batches
from fireedit.models.fireedit import FireEditConfig
from fireedit.models.schedule import training_noise, wanted_prediction
from fireedit.models.stages import DropoutConfig, change_weights
from fireedit.models.text import build_text_encoder, text_states, tokenize_text
from fireedit.models.unet import EditUNet, start_as_no_op
from fireedit.models.vae import EditVAE, source_latents
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.data.scenes.edits import Edit
from fireedit.platform.data.scenes.families import lesson
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

ENCODED = 64
"""Edits that the VAE encodes at a time."""
PART = 1024
"""Edits of a file of the pool."""
SHOWN_EACH = 2


@dataclass(frozen=True, kw_only=True)
class UNetRecipe(PretrainRecipe):
    pool: PositiveInt = 60_000
    """Edits that it learns from; the first of the training world."""
    changed_weight: NonNegativeFloat = 4.0
    """See `change_weights`."""
    min_snr_gamma: PositiveFloat | None = 5.0
    """Timesteps of a signal-to-noise ratio above this count the less the clearer they are; None counts all alike.
    Source: Hang et al. (arXiv 2303.09556), here with 1 added to the ratio, or pure noise would count nothing."""
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
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
        assert sizes.schedule.prediction_type == "v_prediction"  # `_importance` is for squared errors of velocities
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
        errors = (predicted.float() - wanted_prediction(self.noise, clean, noise, timesteps)).square().mean(dim=1)
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
        cases, editors = Cases(self.sizes.vae.sample_size), self._editors(model)
        for family in FAMILIES:
            asked = cases.of(HELD_OUT.name, family, self.recipe.held_out)
            source, target = (np.stack([getattr(case, side) for case in asked]) for side in ("source", "target"))
            changed = (source != target).any(axis=-1)
            for name, editor in editors.items():
                errors = np.abs(editor.edit(asked).astype(int) - target).mean(axis=-1) / 255
                for where, pixels in (("inside", changed), ("outside", ~changed)):
                    if pixels.any() and (name, where) != ("copy_", "outside"):
                        figures[f"{family}_{name}{where}"] = round(float(errors[pixels].mean()), 4)
        means = {}
        for name in ("inside", "vae_inside", "copy_inside", "outside", "vae_outside"):
            found = [figures[key] for family in FAMILIES if (key := f"{family}_{name}") in figures]
            means[name] = round(sum(found) / len(found), 4)
        return {**means, **figures}

    def look(self, model: nn.Module) -> Image.Image:
        """Source, edited and target of the first held-out edits of every family."""
        cases = Cases(self.sizes.vae.sample_size)
        asked = [case for family in FAMILIES for case in cases.of(HELD_OUT.name, family, SHOWN_EACH)]
        edited = self._editors(model)[""].edit(asked)
        panels = [
            Panel(image=np.concatenate([case.source, picture, case.target], axis=1), title=case.instruction)
            for case, picture in zip(asked, edited, strict=True)
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
        """Weight of each timestep's squared error of the velocity, [B]."""
        snr = self.snr.to(timesteps.device)[timesteps]
        gamma = self.recipe.min_snr_gamma
        return torch.ones_like(snr) if gamma is None else (snr.clamp(max=gamma) + 1) / (snr + 1)

    @torch.no_grad()
    def _text(self, ids: Tensor) -> Tensor:
        return text_states(self.text_encoder.to(ids.device), ids.long())

    def _editors(self, model: nn.Module) -> dict[str, Editor]:
        """The UNet, the VAE and a copy, by what their figures begin with."""
        assert isinstance(model, EditUNet)
        pipeline = text_pipeline(model, self.vae, self.text_encoder, self.tokenizer, self.sizes).to(model.device)
        return {"": TextEditor(pipeline, self.sizes.painting), "vae_": Reconstruction(self.vae), "copy_": Copy()}

    def _pair(self, renderer: Renderer, edit: Edit) -> dict[str, Tensor]:
        """An edit as tensors: both pictures, and the instruction's ids."""
        side = self.sizes.vae.sample_size
        drawn = [renderer.draw(scene, side).image for scene in (edit.source, edit.target)]
        return {
            "pictures": torch.from_numpy(np.stack(drawn)),
            "text_ids": tokenize_text(self.tokenizer, [edit.instruction], self.sizes.text.tokens)[0],
        }

    def _training_pair(self, renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
        return self._pair(renderer, lesson(TRAIN, seed))

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
