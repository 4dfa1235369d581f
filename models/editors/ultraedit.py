"""UltraEdit as an editor: Stable Diffusion 3 whose transformer reads the source's latents, and perhaps a mask's.

Source: UltraEdit (arXiv 2407.05282) and its pipeline of diffusers.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from fireedit.models.checkpoint_files import check_file, check_pipeline
from fireedit.models.editors.editor import require_unchanged
from fireedit.models.processor import squash
from fireedit.models.sampling import guided
from fireedit.models.settings import PaintSettings
from fireedit.models.weights import WeightsError, fingerprint, load_whole

SETTINGS = PaintSettings(num_inference_steps=50, guidance_scale=7.5, image_guidance_scale=1.5)
SIDE = 512
"""Side of the pictures that it paints, pixels; sources are squashed to it."""
NETWORKS: Mapping[str, type[nn.Module]] = {
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
}


class UltraEdit:
    """Stable Diffusion 3 tuned for edits.

    The transformer of the free-form model reads twice the channels of the latents, noisy and source; that of the mask
    model three times, and gets a white mask, with which all of the picture may change.
    """

    name, settings = "ultraedit", SETTINGS

    def __init__(self, pipeline: StableDiffusion3Pipeline, side: int = SIDE):
        self.pipeline, self.side = pipeline, side
        modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        self.weights = fingerprint(nn.ModuleDict(modules))
        channels, latents = pipeline.transformer.config.in_channels, pipeline.vae.config.latent_channels
        if channels not in (2 * latents, 3 * latents):
            raise WeightsError(
                f"found a transformer of {channels} input channels; UltraEdit's have {2 * latents} or {3 * latents}"
            )
        self.has_mask = channels == 3 * latents

    @torch.no_grad()
    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        require_unchanged(self, settings, "keep_below")
        texts, condition = self._encode_texts(instructions, settings.negative_prompt), self._condition(pictures)
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(settings.num_inference_steps, device=condition.device)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (len(pictures), self.pipeline.vae.config.latent_channels, *condition.shape[2:])
        latents = randn_tensor(shape, generator=noise, device=condition.device, dtype=condition.dtype)
        for timestep in scheduler.timesteps:
            predicted = guided(self._predict(latents, condition, timestep, *texts), settings)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return list(self._decode(latents))

    def _encode_texts(self, instructions: Sequence[str], negative_prompt: str) -> tuple[Tensor, Tensor]:
        """Encode texts to states [3 B, T, W] and pooled states [3 B, P] of the branches of `_predict`."""
        prompts = dict.fromkeys(("prompt", "prompt_2", "prompt_3"), list(instructions))
        states, null_states, pooled, null_pooled = self.pipeline.encode_prompt(
            **prompts,
            negative_prompt=[negative_prompt] * len(instructions),
            max_sequence_length=self.pipeline.tokenizer_max_length,  # of T5 too, as in UltraEdit's own pipeline
        )
        return torch.cat([states, null_states, null_states]), torch.cat([pooled, null_pooled, null_pooled])

    def _condition(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Encode sources, and white masks for the mask model, to latents [B, C or 2 C, h, w], as they are."""
        vae = self.pipeline.vae
        pixels = torch.from_numpy(np.stack([squash(picture, self.side) for picture in pictures]))
        sources = (pixels.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.device, vae.dtype)
        encoded = [sources, torch.ones_like(sources)] if self.has_mask else [sources]
        return torch.cat([vae.encode(each).latent_dist.mode() for each in encoded], dim=1)

    def _predict(self, latents: Tensor, condition: Tensor, timestep: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        """Predict for the branches text and image, image alone, neither; [3 B, C, h, w]."""
        with_image, without = torch.cat([latents, condition], dim=1), torch.cat([latents, 0 * condition], dim=1)
        return self.pipeline.transformer(
            hidden_states=torch.cat([with_image, with_image, without]),
            timestep=timestep.expand(len(states)),
            encoder_hidden_states=states,
            pooled_projections=pooled,
        ).sample

    def _decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents to uint8 [B, S, S, 3]; UltraEdit leaves out the shift of Stable Diffusion 3's latents."""
        decoded = self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor).sample.float()
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def load(folder: Path, device: str) -> UltraEdit:
    """Load diffusers' folder, `BleachNick/SD3_UltraEdit_freeform` or `BleachNick/SD3_UltraEdit_w_mask`.

    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: tensors are missing, or the transformer has other input channels.
    """
    check_file(folder / "model_index.json")
    check_pipeline(folder, (*NETWORKS, "scheduler"))
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    parts = {
        name: load_whole(kind, folder / name, dtype) for name, kind in NETWORKS.items() if (folder / name).is_dir()
    }
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return UltraEdit(pipeline)
