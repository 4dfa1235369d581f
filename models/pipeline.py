"""The editor as people use it: a diffusers pipeline from a picture and a sentence to the edited picture."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline, EulerAncestralDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from fireedit.models.checkpoint_files import check_pipeline
from fireedit.models.detector import Detector
from fireedit.models.hvca import HVCA
from fireedit.models.model import NANO, FireEdit, FireEditConfig, Percepts, preset
from fireedit.models.processor import squash
from fireedit.models.qformer import QFormer
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.schedule import sampler
from fireedit.models.settings import PaintSettings
from fireedit.models.tati import TATI
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.tokens import PADDING, PromptTokenizer
from fireedit.models.unet import EditUNet
from fireedit.models.vae import EditVAE, PatchCodec, decode_latents, keep_unchanged, source_latents
from fireedit.models.vision import Vision
from fireedit.models.vlm import VLM

Picture = Image.Image | np.ndarray
"""A PIL image, or uint8 RGB [H, W, 3]."""


@dataclass(frozen=True)
class Regions:
    """What the VLM looked at in one picture."""

    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the picture's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""


@dataclass
class FireEditPipelineOutput(BaseOutput):
    images: list[Image.Image] | np.ndarray | Tensor
    """`num_images_per_prompt` for each source, in its aspect ratio; latents if these were asked for."""
    regions: list[Regions]
    """One for each source."""


class FireEditPipeline(DiffusionPipeline):
    """Edits pictures as sentences say. Perceives, understands and paints; each of the three can run on its own.

    Source: FireEdit (arXiv 2503.19839).
    """

    PERCEIVING = ("vision", "detector", "region_encoder")
    UNDERSTANDING = ("vlm", "vlm_tokenizer", "qformer")
    PAINTING = ("hvca", "tati", "unet", "vae", "text_encoder", "tokenizer", "scheduler")

    model_cpu_offload_seq = "text_encoder->vision->detector->region_encoder->vlm->qformer->hvca->tati->unet->vae"
    _optional_components = [*PERCEIVING, *UNDERSTANDING, *PAINTING]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vision: Vision,
        detector: Detector,
        region_encoder: RegionEncoder,
        vlm: VLM,
        vlm_tokenizer: PreTrainedTokenizerBase,
        qformer: QFormer,
        hvca: HVCA,
        tati: TATI,
        unet: EditUNet,
        vae: EditVAE | PatchCodec,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: EulerAncestralDiscreteScheduler | DDIMScheduler,
        settings: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            settings: fields of `PaintSettings` that these weights paint best with; saved with them.
        """
        super().__init__()
        self.register_to_config(settings=asdict(PaintSettings(**(settings or {}))))
        self.register_modules(
            vision=vision,
            detector=detector,
            region_encoder=region_encoder,
            vlm=vlm,
            vlm_tokenizer=vlm_tokenizer,
            qformer=qformer,
            hvca=hvca,
            tati=tati,
            unet=unet,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], parts: Sequence[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load a saved pipeline; `"nano"` is the one that ships with the project.

        Args:
            parts: names of the components to load, such as `FireEditPipeline.PAINTING`; None loads all.
        Raises:
            CheckpointFileError: a file is missing, damaged or not what its name says.
        """
        name = str(pretrained_model_name_or_path)
        check_pipeline(NANO if name == "nano" else Path(name), parts or cls._optional_components)
        left_out = {} if parts is None else dict.fromkeys(set(cls._optional_components) - set(parts))
        return super().from_pretrained(str(NANO) if name == "nano" else name, **left_out, **kwargs)

    @classmethod
    def from_config_with(
        cls,
        config: FireEditConfig,
        vlm_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        seed: int = 0,
    ) -> Self:
        """A pipeline of fresh weights, the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = FireEdit.from_config(config)
        model.eval().requires_grad_(False)
        parts: dict[str, Any] = dict(model.named_children())
        parts |= {"vlm_tokenizer": vlm_tokenizer, "tokenizer": tokenizer, "scheduler": sampler(config.schedule)}
        return cls(**parts, settings=asdict(config.painting))

    @classmethod
    def fresh_nano(cls, seed: int = 0) -> Self:
        """Fresh weights of nano's sizes with the tokenizers that ship."""
        vlm_tokenizer = AutoTokenizer.from_pretrained(NANO / "vlm_tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(NANO / "tokenizer")
        return cls.from_config_with(preset("nano"), vlm_tokenizer, tokenizer, seed)

    @property
    def settings(self) -> PaintSettings:
        """How these weights paint if one does not say otherwise."""
        return PaintSettings(**self.config.settings)

    @property
    def model(self) -> FireEdit:
        """The parts with weights, shared, as the module that training sees."""
        parts: dict[str, Any] = {
            name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)
        }
        return FireEdit(**parts)

    @torch.no_grad()
    def perceive(self, images: Sequence[Picture]) -> Percepts:
        """Look at B pictures of any sizes."""
        side = self.vision.config.image_size
        view = torch.from_numpy(np.stack([squash(image, side) for image in images]))
        return self.model.perceive(view.to(self._execution_device))

    @torch.no_grad()
    def understand(self, percepts: Percepts, prompts: Sequence[str]) -> Tensor:
        """What to do in each of B pictures: edit tokens e_t [B, 77, 768].

        Raises:
            PromptError: a prompt is too long.
        """
        device = self._execution_device
        words = PromptTokenizer(self.vlm_tokenizer, self.vlm.config.vocab_size, self.vlm.prompt_config)
        ids = [torch.tensor(words.edit(prompt).input_ids) for prompt in prompts]
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PADDING).to(device)
        percepts = percepts.to(device)
        understood = self.vlm(input_ids, None, percepts.image_tokens, percepts.region_tokens)
        return self.qformer(understood.img_states)

    @torch.no_grad()
    def paint(
        self,
        images: Sequence[Picture],
        percepts: Percepts,
        edit_tokens: Tensor,
        settings: PaintSettings,
        generators: Sequence[torch.Generator] | torch.Generator | None = None,
        latents: Tensor | None = None,
        on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Denoise B pictures, guided three ways, to their edited latents [B, 4, h, w].

        Args:
            generators: one for each picture makes each independent of its neighbours.
            latents: what to start from instead of their noise, of unit variance.
            on_step: called with (step, timestep, latents) after each step; returns the latents to go on with.
        """
        device, dtype = self._execution_device, self.unet.dtype
        canvas = torch.from_numpy(np.stack([squash(image, self.vae.config.sample_size) for image in images]))
        source = source_latents(self.vae, canvas.to(device)).to(dtype)
        edit_tokens = edit_tokens.to(device, dtype)
        detail_tokens = self.hvca(percepts.to(device).detail, edit_tokens)
        null_ids = tokenize_text(self.tokenizer, [settings.negative_prompt], edit_tokens.shape[1])
        null_tokens = text_states(self.text_encoder, null_ids.to(device)).to(dtype).expand_as(edit_tokens)

        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(settings.num_inference_steps, device=device)
        if latents is None:
            latents = randn_tensor(source.shape, generator=generators, device=device, dtype=torch.float32)
        if latents.shape != source.shape:
            raise ValueError(f"latents of shape {list(latents.shape)}; write {list(source.shape)}")
        # In float32 whatever the UNet computes in: errors of rounding would add up over the steps.
        latents = latents.to(device, torch.float32) * scheduler.init_noise_sigma
        # Samplers that add no noise of their own, such as UniPC, take no generator.
        drawn = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        # Branches in this order: text and picture, picture alone, neither. The picture's detail goes with the picture.
        # Guidance by 1 and 1 is the first branch alone, which is then all that is computed.
        guided = (settings.guidance_scale, settings.image_guidance_scale) != (1, 1)
        sources, details = source, detail_tokens
        if guided:
            sources = torch.cat([source, source, torch.zeros_like(source)])
            details = torch.cat([detail_tokens, detail_tokens, torch.zeros_like(detail_tokens)])
        for step, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
            noisy = scheduler.scale_model_input(torch.cat([latents] * (3 if guided else 1)), timestep).to(dtype)
            tokens = self.tati(edit_tokens, timestep.expand(len(edit_tokens)))
            if guided:
                tokens = torch.cat([tokens, null_tokens, null_tokens])
            predicted = self.unet.predict(noisy, sources, timestep, tokens, details).float()
            if guided:
                full, pictured, bare = predicted.chunk(3)
                predicted = (
                    bare
                    + settings.guidance_scale * (full - pictured)
                    + settings.image_guidance_scale * (pictured - bare)
                )
            latents = scheduler.step(predicted, timestep, latents, **drawn).prev_sample
            if on_step is not None:
                latents = on_step(step, timestep, latents)
        return keep_unchanged(latents, source.float() * self.vae.config.scaling_factor, settings.keep_below)

    @torch.no_grad()
    def decode(self, latents: Tensor, sizes: Sequence[tuple[int, int]], output_type: str = "pil") -> Any:
        """Edited latents to pictures, each in the aspect ratio of its source.

        Args:
            sizes: (width, height) of each source.
            output_type: `pil`, `np`, `pt`, or `latent`; all but `pil` and `latent` need sources of one size.
        """
        if output_type == "latent":
            return latents
        decoded = decode_latents(self.vae, latents.to(self.vae.dtype)).float()
        side = self.vae.config.sample_size
        fitted = [
            F.interpolate(one[None], size=output_size(size, side)[::-1], mode="bicubic", antialias=True).clamp(-1, 1)
            for one, size in zip(decoded, sizes, strict=True)
        ]
        processor = VaeImageProcessor()
        if output_type == "pil":
            return [processor.postprocess(one, output_type="pil")[0] for one in fitted]
        return processor.postprocess(torch.cat(fitted), output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: Picture | list[Picture],
        *,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Mapping[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **settings: Any,
    ) -> FireEditPipelineOutput | tuple[Any, list[Regions]]:
        """Edit one picture or several, each as its prompt says; the arguments are diffusers' own.

        Args:
            settings: fields of `PaintSettings`, such as `num_inference_steps=20`; the weights' own where None.
        Raises:
            TypeError: a setting is unknown.
            ValueError: prompts and pictures differ in number, or an argument is out of its range.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        images = list(image) if isinstance(image, list | tuple) else [image]
        _check_inputs(prompts, images, num_images_per_prompt, generator, latents, output_type)
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callback_on_step_end_tensor_inputs: unknown {sorted(unknown)}; it takes 'latents'")
        chosen = self.settings.but(**settings)

        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return latents
            tensors = {"latents": latents} if "latents" in callback_on_step_end_tensor_inputs else {}
            return (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)

        percepts = self.perceive(images)
        edit_tokens = self.understand(percepts, prompts)
        copies = [index for index in range(len(images)) for _ in range(num_images_per_prompt)]
        each = percepts.split()
        edited = self.paint(
            images=[images[index] for index in copies],
            percepts=Percepts.join([each[index] for index in copies]),
            edit_tokens=edit_tokens[copies],
            settings=chosen,
            generators=generator,
            latents=latents,
            on_step=on_step,
        )
        pictures = self.decode(edited, [picture_size(images[index]) for index in copies], output_type)
        self.maybe_free_model_hooks()
        regions = regions_of(percepts)
        return FireEditPipelineOutput(images=pictures, regions=regions) if return_dict else (pictures, regions)


def _check_inputs(
    prompts: Sequence[str],
    images: Sequence[Picture],
    copies: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    latents: Tensor | None,
    output_type: str,
) -> None:
    """Raise ValueError, which says what to write, for anything that could only fail or mislead later."""
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images; write one prompt for each image")
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty; write what to change in the picture")
    for image in images:
        is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        if not is_array and not isinstance(image, Image.Image):
            raise ValueError(f"an image is a {type(image).__name__}; write a PIL image or uint8 RGB [H, W, 3]")
    if copies < 1:
        raise ValueError(f"num_images_per_prompt is {copies}; write 1 or more")
    count = len(images) * copies
    if isinstance(generator, list | tuple) and len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} pictures; write one for each, or one for all")
    if latents is not None and len(latents) != count:
        raise ValueError(f"{len(latents)} latents for {count} pictures; write one for each")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type is {output_type!r}; write 'pil', 'np', 'pt' or 'latent'")
    if output_type in ("np", "pt") and len({picture_size(image) for image in images}) > 1:
        raise ValueError("images of several sizes do not fit into one array; write output_type='pil'")


def regions_of(percepts: Percepts) -> list[Regions]:
    """The proposals of each picture, off the device."""
    return [
        Regions(boxes=boxes.float().cpu().numpy(), scores=scores.float().cpu().numpy())
        for boxes, scores in zip(percepts.boxes, percepts.scores, strict=True)
    ]


def picture_size(image: Picture) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def output_size(source: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of an edited picture: the source's, its short side no longer than the canvas's."""
    scale = min(1.0, side / min(source))
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))
