"""FireEditPipeline: a diffusers pipeline from source image and instruction to edited image."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from fireedit.models.callbacks import TENSORS, StepCallback, StepProperties, call_back, check_callback
from fireedit.models.checkpoint_files import check_pipeline, read_json
from fireedit.models.detectors.kinds import AnyDetector
from fireedit.models.hvca import HVCA, HVCAConfig
from fireedit.models.layers.component import AS_SAVED
from fireedit.models.model import NANO, FireEdit, FireEditConfig, Percepts, preset
from fireedit.models.pictures import (
    Boxes,
    FireEditPipelineOutput,
    ImageInput,
    Regions,
    as_type,
    check_inputs,
    read_images,
    read_masks,
    regions_of,
    result_sizes,
    tensors_of,
)
from fireedit.models.placement import StageDevices
from fireedit.models.processor import squash
from fireedit.models.qformer import QFormer
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.sampler import Generators, Sampler, check_sampler, initial_noise, started
from fireedit.models.sampling import Projected, SamplingState, predict_guided
from fireedit.models.schedule import sampler
from fireedit.models.settings import PaintSettings
from fireedit.models.speed import SpeedConfig
from fireedit.models.tati import TATI
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.tokens import PADDING, PromptTokenizer
from fireedit.models.unet import EditUNet
from fireedit.models.vae import (
    EditVAE,
    PatchCodec,
    changed_cells,
    decode_latents,
    encode_pixels,
    keep_unchanged,
    require_finite,
    source_latents,
)
from fireedit.models.vision import Sources, Vision
from fireedit.models.vlm import VLM
from fireedit.platform.images import Picture
from fireedit.platform.restoration import Edit, restore


class FireEditPipeline(StepProperties, StageDevices, StableDiffusionMixin, DiffusionPipeline):
    """Edits images by instructions: `perceive`, `understand`, `prepare`, `denoise` (one step), `finish`, `decode`.

    Perceiving, understanding and the rest (painting) can run in processes of their own, with the components below.

    Source: FireEdit (arXiv 2503.19839).
    """

    PERCEIVING = ("vision", "detector", "region_encoder")
    UNDERSTANDING = ("vlm", "vlm_tokenizer", "qformer")
    PAINTING = ("hvca", "tati", "unet", "vae", "text_encoder", "tokenizer", "scheduler")

    model_cpu_offload_seq = "text_encoder->vision->detector->region_encoder->vlm->qformer->hvca->tati->unet->vae"
    _optional_components = [*PERCEIVING, *UNDERSTANDING, *PAINTING]
    _callback_tensor_inputs = [*TENSORS]
    sources_elsewhere: Sources | None = None
    """Sources that an HVCA in another process reads: that of the folder from which this one loaded other parts."""
    speed = SpeedConfig()
    """Switches that `accelerate` applied."""

    def __init__(
        self,
        vision: Vision,
        detector: AnyDetector,
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
        scheduler: Sampler,
        settings: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            settings: fields of `PaintSettings`, the defaults of these weights; saved with them. None takes those of the
                pipeline whose `components` these are, or else the paper's.
        """
        components = {name: part for name, part in locals().items() if name in self._optional_components}
        super().__init__()
        if settings is None:
            settings = getattr(unet, "pipeline_settings", None)
        self.register_to_config(settings=asdict(PaintSettings(**(settings or {}))))
        self.register_modules(**components)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], parts: Sequence[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load a saved pipeline; `"nano"` is the one shipped with the project.

        Args:
            parts: names of the components to load, such as `FireEditPipeline.PAINTING`; None loads all.
            kwargs: those of diffusers; `dtype` is float32 for every part by default, and "auto" is as each tensor is
                saved. Tensors saved in it are mapped from their files, which the processes of a machine share.
        Raises:
            CheckpointFileError, DetectorError: a file is missing, damaged or not what its name says.
            ValueError: `parts` names no component.
        """
        cls.check_parts(parts)
        folder = NANO if pretrained_model_name_or_path == "nano" else Path(pretrained_model_name_or_path)
        check_pipeline(folder, parts or cls._optional_components)
        omitted = {} if parts is None else dict.fromkeys(set(cls._optional_components) - set(parts))
        if kwargs.get("torch_dtype") is None:
            dtype = kwargs.get("dtype") or torch.float32
            kwargs["dtype"] = {"default": AS_SAVED} if dtype == AS_SAVED else dtype  # diffusers takes no bare word
        pipeline = super().from_pretrained(str(folder), **omitted, **kwargs)
        saved = folder / "hvca" / "config.json"
        if "hvca" in omitted and saved.is_file():
            pipeline.sources_elsewhere = read_json(saved).get("sources", HVCAConfig.sources)
        return pipeline

    @classmethod
    def fresh(
        cls,
        seed: int = 0,
        config: FireEditConfig | None = None,
        tokenizers: Path = NANO,
        dtype: torch.dtype | None = None,
        parts: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Build a pipeline of fresh weights, equal for equal seeds, of nano's sizes or of `config`.

        Args:
            tokenizers: folder of `vlm_tokenizer` and `tokenizer`; ids of the shipped ones fit the paper's sizes too.
            dtype, parts, device: as of `FireEdit.fresh`.
        """
        cls.check_parts(parts)
        model = FireEdit.fresh(config := config or preset("nano"), seed, dtype or torch.float32, parts, device)
        made: dict[str, Any] = dict.fromkeys(cls._optional_components) | dict(model.named_children())
        made |= {name: AutoTokenizer.from_pretrained(tokenizers / name) for name in ("vlm_tokenizer", "tokenizer")}
        return cls(**made | {"scheduler": sampler(config.schedule)}, settings=asdict(config.painting))

    @property
    def components(self) -> dict[str, Any]:
        """Parts by name; `FireEditPipeline(**pipe.components)` keeps the settings, which go along with the UNet."""
        parts = super().components
        if parts["unet"] is not None:
            parts["unet"].pipeline_settings = self.config.settings
        return parts

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Fuse as diffusers; a codec without attention has nothing to fuse."""
        super().fuse_qkv_projections(unet, vae and isinstance(self.vae, AutoencoderKL))

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Unfuse as diffusers."""
        super().unfuse_qkv_projections(unet, vae and isinstance(self.vae, AutoencoderKL))

    @property
    def settings(self) -> PaintSettings:
        """Default sampler settings of these weights."""
        return PaintSettings(**self.config.settings)

    @property
    def model(self) -> FireEdit:
        """The components with weights, shared, as the module that training uses."""
        return FireEdit(**{name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)})

    @torch.no_grad()
    def perceive(self, images: Sequence[np.ndarray], boxes: Sequence[Tensor | None] | None = None) -> Percepts:
        """Encode B decoded images of any sizes, uint8 RGB [H, W, 3] each, as `FireEdit.perceive`.

        The sources in the result are those that HVCA reads, also one that runs in another process.
        """
        side = self.vision.config.image_size
        view = torch.from_numpy(np.stack([squash(image, side) for image in images]))
        return self.model.perceive(view.to(self.device_of("perceive")), boxes, self.sources_elsewhere)

    @torch.no_grad()
    def understand(self, percepts: Percepts, prompts: Sequence[str], keys: Sequence[str] | None = None) -> Tensor:
        """Compute edit tokens e_t [B, 77, 768] of B images and their prompts.

        Args:
            keys: contents of the images and their regions, for the prefixes kept; None computes them.
        Raises:
            PromptError: a prompt is too long.
        """
        percepts = percepts.to(self.device_of("understand"))
        tokenizer = PromptTokenizer(self.vlm_tokenizer, self.vlm.config.vocab_size, self.vlm.prompt_config)
        ids = [torch.tensor(tokenizer.edit(prompt).input_ids) for prompt in prompts]
        if self.prefixes is not None:
            return self.prefixes.understand(self.model, percepts, ids, keys)
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PADDING)
        edit_tokens, _ = self.model.understand(percepts, input_ids)
        return edit_tokens

    @torch.no_grad()
    def prepare(
        self,
        canvases: Sequence[np.ndarray],
        percepts: Percepts | None,
        edit_tokens: Tensor,
        settings: PaintSettings,
        generators: Generators = None,
        latents: Tensor | None = None,
        copies: Sequence[int] | None = None,
    ) -> SamplingState:
        """Compute everything that all denoising steps share, once per source.

        Args:
            canvases: B sources, uint8 RGB of one size: that FireEdit was trained on, or any of whole cells.
            percepts, edit_tokens: their conditions; no percepts for an editor without HVCA.
            generators: one for each of N outputs makes each independent of the rest of the batch.
            latents: [N, C, h, w] of unit variance, in place of noise from the generators.
            copies: number of outputs for each source, N in total; one each by default.
        """
        device, dtype = self.device_of("paint"), self.unet.dtype
        scheduler = started(self.scheduler, settings.num_inference_steps, device)
        generators = list(generators) if isinstance(generators, Sequence) else generators
        counts = torch.tensor(copies or [1] * len(canvases))
        source_of = torch.arange(len(canvases)).repeat_interleave(counts).to(device)
        source = source_latents(encode_pixels(self.vae, torch.from_numpy(np.stack(canvases)).to(device)))[source_of]
        edit_tokens = edit_tokens.to(device, dtype)
        null_ids = tokenize_text(self.tokenizer, [settings.negative_prompt], edit_tokens.shape[1]).to(device)
        noise = initial_noise(latents, source.shape, generators, device)
        null_tokens = text_states(self.text_encoder, null_ids).to(dtype) if settings.guided else None
        detail_tokens = null_detail = None
        if percepts is not None:
            percepts = percepts.to(device)
            detail_tokens = self.model.gather_detail(edit_tokens, percepts)
            if null_tokens is not None and self.model.null_detail:
                null_detail = self.model.gather_detail(null_tokens.expand_as(edit_tokens), percepts)
        noise_levels = scheduler.config.num_train_timesteps
        state = SamplingState(
            settings=settings,
            scheduler=scheduler,
            generators=generators,
            source_of=source_of,
            source=source,
            edit_tokens=edit_tokens,
            detail_tokens=detail_tokens,
            null_tokens=null_tokens,
            null_detail=null_detail,
            # In float32 whatever the UNet's dtype: rounding errors would accumulate over the steps.
            latents=noise * scheduler.init_noise_sigma,
            guided_steps=[self.speed.guides(timestep, noise_levels) for timestep in scheduler.timesteps.tolist()],
            reuse_every=self.speed.reuse_every,
        )
        if self.speed.share_keys and not hasattr(self.unet, "_hf_hook") and self.unet.device == device:  # no offloading
            state.projected = Projected.of(self.unet, state)
        return state

    @torch.no_grad()
    def denoise(self, *states: SamplingState) -> None:
        """Advance states by one timestep each, in one forward; each may be at another step of other settings.

        On a CPU in float32 the result of a state is the same, byte for byte, in any company.
        """
        model = FireEdit(tati=self.tati, unet=self.unet)
        for state, predicted in zip(states, predict_guided(model, states), strict=True):
            state.advance(predicted)

    @torch.no_grad()
    def preview(self, state: SamplingState) -> np.ndarray:
        """Decode what a sampling would end with if its last prediction were true; the sampling is not disturbed."""
        return self.decode(state.latents if state.clean is None else state.clean)

    @torch.no_grad()
    def finish(self, state: SamplingState) -> Tensor:
        """Return the edited latents [N, C, h, w] of a sampling whose steps are done."""
        source = state.source * self.vae.config.scaling_factor
        return keep_unchanged(require_finite(state.latents), source, state.settings.keep_below)

    @torch.no_grad()
    def paint(
        self,
        state: SamplingState,
        callback: StepCallback | None = None,
        tensors: Sequence[str] = ("latents",),
    ) -> Tensor:
        """Run all steps of a prepared sampling, or until an interruption; returns its edited latents.

        Args:
            callback: diffusers' `callback_on_step_end`, which gets and may replace the `tensors` after each step.
        """
        self.begin_steps(state)
        try:
            for step in self.progress_bar(range(self.num_timesteps)):
                if self.interrupt:
                    break
                self.denoise(state)
                if callback is not None:
                    call_back(callback, self, step, state, tensors)
        finally:
            self._interrupt = False
        return self.finish(state)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode edited latents to canvases, uint8 RGB [N, S, S, 3]."""
        decoded = decode_latents(self.vae, latents.to(self.vae.dtype)).float()
        return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    @torch.no_grad()
    def changed(self, state: SamplingState, edited: Tensor) -> np.ndarray:
        """Find the cells of edited latents, as `finish` returned them, that the edit changed; bool [N, h, w]."""
        source = state.source * self.vae.config.scaling_factor
        return changed_cells(edited, source, state.settings.keep_below).cpu().numpy()

    def restore(
        self,
        state: SamplingState,
        edited: Tensor,
        sources: Sequence[Picture],
        canvases: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]] | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> list[np.ndarray]:
        """Apply edited latents [N, C, h, w] to the sources at their full sizes, as `platform.restoration.restore`."""
        sizes, masks = sizes or [source.size for source in sources], masks or [None] * len(sources)
        edits = zip(self.decode(edited), self.changed(state, edited), state.source_of.tolist(), strict=True)
        return [
            restore(sources[index], Edit(canvases[index], canvas, changed), sizes[index], masks[index])
            for canvas, changed, index in edits
        ]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: ImageInput | list[ImageInput],
        *,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        size: str | tuple[int, int] = "auto",
        mask_image: ImageInput | list[ImageInput] | None = None,
        regions: Boxes | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **settings: Any,
    ) -> FireEditPipelineOutput | tuple[Any, list[Regions]]:
        """Edit one image or several, each by its prompt; arguments are named as in diffusers.

        Args:
            image: upright as its EXIF says and in sRGB when it is read, its transparency over gray and kept.
            size: width and height of the results; "auto" for each source's own, "canvas" for no more than the model
                paints. Of a source of another aspect than width and height, the center is shown.
            mask_image: mask of each source's size, white (255 or True) where it may change; its other pixels are kept.
            regions: boxes that the VLM looks at in place of the detector's.
            output_type: "pil", "np" or "pt" (RGB in [0, 1], of sources of one size), or "latent".
            settings: fields of `PaintSettings`, such as `num_inference_steps=20`; None or left out, the weights' own.
        Raises:
            TypeError: a setting is unknown.
            ValueError: prompts and images differ in number, an argument is none or out of its range, the scheduler does
                not fit the UNet, or a part is not loaded.
        """
        self.require_parts()
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        images = list(image) if isinstance(image, list | tuple) else [image]
        check_inputs(prompts, images, num_images_per_prompt, generator, output_type)
        check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self._interrupt, paint_settings = False, self.settings.but(**settings)
        check_sampler(self.scheduler, paint_settings.num_inference_steps)
        sources, side = read_images(images), self.vae.config.sample_size
        masks = read_masks(mask_image, sources)
        sizes = result_sizes(size, sources, side, output_type)
        canvases = [source.canvas(side) for source in sources]
        percepts = self.perceive(canvases, tensors_of(regions, len(images)))
        edit_tokens = self.understand(percepts, prompts)
        copies = [num_images_per_prompt] * len(images)
        state = self.prepare(canvases, percepts, edit_tokens, paint_settings, generator, latents, copies)
        edited = self.paint(state, callback_on_step_end, callback_on_step_end_tensor_inputs)
        pictures: Any = edited
        if output_type != "latent":
            pictures = as_type(self.restore(state, edited, sources, canvases, sizes, masks), output_type)
        self.maybe_free_model_hooks()
        found = regions_of(percepts)
        return FireEditPipelineOutput(images=pictures, regions=found) if return_dict else (pictures, found)
