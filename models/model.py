"""FireEdit's forward pass, from image and instruction to predicted noise (arXiv 2503.19839, figure 2).

Shapes at the paper's size, for B images of R regions each (at most 100):

    perceive     view     uint8 [B, 448, 448, 3]                             the source, squashed to a square
                 mu       DINOv2 and CLIP, frozen                         -> image tokens I [B, 256, 4096], maps of
                                                                             DINOv2 [B, 1024, 32, 32] x 4, detail
                                                                             sources [B, N, 1024] that HVCA reads
                 D        DETR on the mean of the maps, or another kind   -> boxes [R, 4], best first
                 R        pyramid on the last three maps, RoIAlign        -> region tokens P [R, 4096]
    understand   prompt   instruction around I and P, then 32 [IMG] tokens
                 VLM      LLaMA with LoRA, one prefill                    -> [IMG] states e [B, 32, 4096]
                 Q-Former                                                 -> edit tokens e_t [B, 77, 768]
    condition    TATI     e_t and the timestep t                          -> timed tokens c_t [B, 77, 768]
                 HVCA     e_t and the detail sources                      -> detail tokens v [B, 16, 768]
    predict      UNet     noisy latents beside the source's, t, c_t, v    -> noise [B, 4, 64, 64]

The left column names the methods of `FireEdit`, called in this order by training (stages.py) and sampling
(pipeline.py). Stage 1 runs `understand` on text alone; stage 2 runs all but TATI and HVCA (c_t = e_t, no v); stage 3
runs everything. mu, D and R are always frozen. The VAE, guidance and the sampler around `predict` are in pipeline.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import torch
import yaml
from pydantic import Field, TypeAdapter
from torch import Tensor, nn
from transformers import CLIPTextModel
from transformers.modeling_utils import local_torch_dtype

from fireedit.models.deep_features import DeepFeatures
from fireedit.models.detector import DetectorConfig
from fireedit.models.detectors.kinds import AnyDetectorConfig, build_detector, load_detector
from fireedit.models.detectors.proposals import RegionDetector, select_proposals
from fireedit.models.hvca import HVCA, HVCAConfig
from fireedit.models.layers.device import to_device
from fireedit.models.qformer import QFormer, QFormerConfig
from fireedit.models.region_encoder import RegionEncoder, RegionEncoderConfig
from fireedit.models.schedule import ScheduleConfig
from fireedit.models.settings import PaintSettings
from fireedit.models.tati import TATI, TATIConfig
from fireedit.models.text import TextConfig, build_text_encoder
from fireedit.models.unet import EditUNet, KeysValues, UNetConfig
from fireedit.models.vae import Codec, PatchCodecConfig, VAEConfig, build_vae
from fireedit.models.vision import Sources, Vision, VisionConfig, VisionFeatures
from fireedit.models.vlm import VLM, VLMConfig, VLMOutput

NANO = Path(__file__).parent / "nano"
"""Folder of the sizes, tokenizers and weights of the small model."""


@dataclass(frozen=True, kw_only=True)
class FireEditConfig:
    """Sizes of every component, noise schedule and sampler settings; the defaults are the paper's."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    detector: AnyDetectorConfig = field(default_factory=DetectorConfig)
    """DDETR, or the detector that `kind` names."""
    region_encoder: RegionEncoderConfig = field(default_factory=RegionEncoderConfig)
    vlm: VLMConfig = field(default_factory=VLMConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    tati: TATIConfig = field(default_factory=TATIConfig)
    hvca: HVCAConfig = field(default_factory=HVCAConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: Annotated[PatchCodecConfig | VAEConfig, Field(union_mode="left_to_right")] = field(default_factory=VAEConfig)
    """PatchCodec if `patch_size` is given."""
    text: TextConfig = field(default_factory=TextConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    painting: PaintSettings = field(default_factory=PaintSettings)


def preset(name: str) -> FireEditConfig:
    """Load the sizes called `paper` or `nano`.

    Raises:
        ValueError: the name is another.
    """
    if name == "paper":
        return FireEditConfig()
    if name == "nano":
        return TypeAdapter(FireEditConfig).validate_python(yaml.safe_load((NANO / "config.yaml").read_text()))
    raise ValueError(f"no preset is called {name!r}; write 'paper' or 'nano'")


@dataclass(frozen=True)
class Percepts:
    """Output of `perceive` for B images: visual input of the VLM and of HVCA."""

    image_tokens: Tensor
    """I [B, N, 4 W], before the VLM's adapter."""
    region_tokens: tuple[Tensor, ...]
    """P: B tensors [R_b, D] in the LLM's width; [0, 0] for a model that proposes no regions."""
    boxes: tuple[Tensor, ...]
    """B tensors [R_b, 4], xyxy in [0, 1], best first."""
    scores: tuple[Tensor, ...]
    """B tensors [R_b] in [0, 1]; 1 for boxes that were given."""
    detail: tuple[Tensor, ...]
    """Sources that HVCA reads, each [B, N_i, W_i]; () for a model without one, as in stage 2."""

    def __len__(self) -> int:
        return len(self.image_tokens)

    def split(self) -> list[Self]:
        """Split into the percepts of each image."""
        return [
            type(self)(
                image_tokens=self.image_tokens[i : i + 1],
                region_tokens=self.region_tokens[i : i + 1],
                boxes=self.boxes[i : i + 1],
                scores=self.scores[i : i + 1],
                detail=tuple(source[i : i + 1] for source in self.detail),
            )
            for i in range(len(self))
        ]

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Concatenate batches; the inverse of `split`."""
        return cls(
            image_tokens=torch.cat([percepts.image_tokens for percepts in batches]),
            region_tokens=tuple(tokens for percepts in batches for tokens in percepts.region_tokens),
            boxes=tuple(boxes for percepts in batches for boxes in percepts.boxes),
            scores=tuple(scores for percepts in batches for scores in percepts.scores),
            detail=tuple(torch.cat(sources) for sources in zip(*(each.detail for each in batches), strict=True)),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        lists = (self.region_tokens, self.boxes, self.scores, self.detail)
        return type(self)(change(self.image_tokens), *(tuple(map(change, tensors)) for tensors in lists))

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Conditions:
    """Output of `condition` for B edits: all that the UNet attends to."""

    timed_tokens: Tensor
    """c_t [B, 77, 768]."""
    detail_tokens: Tensor | None
    """v [B, 16, 768]; None leaves the UNet's image attention out."""
    projected: tuple[KeysValues, KeysValues | None] | None = None
    """Keys and values of both in the UNet's attentions; None: the UNet computes them."""


class FireEdit(nn.Module):
    """Components of the editor and its forward pass; components that a caller does not run may be None.

    Source: FireEdit (arXiv 2503.19839).
    """

    vision: Vision
    detector: RegionDetector
    region_encoder: RegionEncoder
    vlm: VLM
    qformer: QFormer
    tati: TATI
    hvca: HVCA
    unet: EditUNet
    vae: Codec
    text_encoder: CLIPTextModel

    def __init__(self, **components: nn.Module | None):
        super().__init__()
        for name in FireEdit.__annotations__:
            setattr(self, name, components.pop(name, None))
        if components:
            raise TypeError(f"unknown components {[*components]}; write some of {[*FireEdit.__annotations__]}")

    @classmethod
    def from_config(cls, config: FireEditConfig, parts: Sequence[str] | None = None) -> Self:
        """Build a model of fresh weights from torch's current random state; a published detector has none yet.

        Args:
            parts: names of the components to build; None builds all.
        """
        build: dict[str, Callable[[], nn.Module]] = {
            "vision": lambda: Vision(config.vision),
            "detector": lambda: build_detector(config.detector),
            "region_encoder": lambda: RegionEncoder(config.region_encoder),
            "vlm": lambda: VLM(config.vlm),
            "qformer": lambda: QFormer(config.qformer),
            "tati": lambda: TATI(config.tati),
            "hvca": lambda: HVCA(config.hvca),
            "unet": lambda: EditUNet(config.unet),
            "vae": lambda: build_vae(config.vae),
            "text_encoder": lambda: build_text_encoder(config.text),
        }
        return cls(**{name: make() for name, make in build.items() if parts is None or name in parts})

    @classmethod
    def fresh(
        cls,
        config: FireEditConfig,
        seed: int,
        dtype: torch.dtype = torch.float32,
        parts: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Build a frozen model of fresh weights, equal for equal seeds, whatever torch's random state, which stays.

        A published detector has its published weights.

        Args:
            dtype: of all weights but the detector's, which are float32. They are drawn in it, and take no more memory.
            parts: names of the components to build; None builds all.
            device: draws the weights, others than a CPU does.
        """
        with torch.random.fork_rng(), local_torch_dtype(dtype), torch.device(device):
            torch.manual_seed(seed)
            model = cls.from_config(config, parts)
        if model.detector is not None:
            if not isinstance(config.detector, DetectorConfig):
                model.detector = load_detector(config.detector).to(device)
            model.detector.float()
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def perceive(
        self, view: Tensor, boxes: Sequence[Tensor | None] | None = None, detail: Sources | None = None
    ) -> Percepts:
        """Encode images and their regions: mu, D, R; all frozen. Of HVCA's sources those that it reads are computed.

        Args:
            view: uint8 RGB [B, V, V, 3].
            boxes: for each image [R_b, 4] xyxy in [0, 1] in place of the detector's, or None for the detector's.
            detail: sources for an HVCA in another process; a model's own decides itself.
        """
        features = self.vision(view, detail=detail if self.hvca is None else self.hvca.config.sources)
        if self.detector is None and boxes is None:  # the ablation without regions
            empty = features.image_tokens.new_zeros(0)
            tokens, regions, scores = ((empty.view(*shape),) * len(view) for shape in ((0, 0), (0, 4), (0,)))
        else:
            regions, scores = self._select_regions(features, view, boxes or [None] * len(view))
            tokens = tuple(self.region_encoder(features, regions))
        return Percepts(features.image_tokens, tokens, boxes=regions, scores=scores, detail=features.detail)

    def understand(
        self, percepts: Percepts | None, input_ids: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, VLMOutput]:
        """Turn B prompts into edit tokens e_t [B, 77, 768]: VLM, Q-Former. Also returns the VLM's losses.

        Args:
            percepts: of the B images; None for prompts of text alone (stage 1).
            input_ids: [B, T] on the CPU, right-padded with PADDING.
            labels: [B, T] on the CPU, target ids of the language modelling loss, IGNORED where there is none.
        """
        image_tokens, region_tokens = None, None
        if percepts is not None:
            image_tokens, region_tokens = percepts.image_tokens, percepts.region_tokens
        output = self.vlm(input_ids, labels, image_tokens, region_tokens)
        return self.qformer(output.img_states), output

    def condition(
        self,
        edit_tokens: Tensor,
        timesteps: Tensor,
        percepts: Percepts | None = None,
        detail_tokens: Tensor | None = None,
    ) -> Conditions:
        """Adapt edit tokens [B, 77, 768] to timesteps [B] and images: TATI, HVCA; c_t = e_t without a TATI.

        Args:
            detail_tokens: of an earlier timestep of the same edits, in place of `percepts`: v does not depend on t.
        """
        if percepts is not None:
            detail_tokens = self.gather_detail(edit_tokens, percepts)
        timed_tokens = edit_tokens if self.tati is None else self.tati(edit_tokens, timesteps)
        return Conditions(timed_tokens, detail_tokens)

    def gather_detail(self, edit_tokens: Tensor, percepts: Percepts) -> Tensor | None:
        """Compute v with HVCA, once per edit; None without an HVCA (stage 2)."""
        return None if self.hvca is None else self.hvca(percepts.detail, edit_tokens)

    @property
    def null_detail(self) -> bool:
        """True if v is made from the null tokens where text is dropped: `HVCAConfig.null_detail`."""
        return self.hvca is not None and self.hvca.config.null_detail

    def predict(
        self,
        noisy: Tensor,
        source: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """Predict noise, velocity or clean latents, as the schedule calls for: UNet. float32 in and out.

        Args:
            noisy: [B, 4, h, w] latents at `timesteps`, [B] or a scalar.
            source: [B, 4, h, w] unscaled latents of the source; zeros where the image condition is dropped.
            deep: the UNet's features of an earlier step to reuse, or an empty place for those of this step.
        """
        tokens, detail_tokens = conditions.timed_tokens, conditions.detail_tokens
        return self.unet.predict(noisy, source, timesteps, tokens, detail_tokens, conditions.projected, deep)

    def _select_regions(
        self, features: VisionFeatures, view: Tensor, given: Sequence[Tensor | None]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return boxes [R_b, 4] and scores [R_b] of each image: given ones, or the best of the detector's.

        Selection runs on the CPU: NMS would wait for the GPU at every image.
        """
        device, boxes, scores = features.image_tokens.device, [], []
        if any(image_boxes is None for image_boxes in given):
            with torch.autocast(device.type, enabled=False):  # rounding would swap the ranks of the queries
                proposals = self.detector(features, view)
            all_boxes, all_scores = proposals.boxes.cpu(), proposals.scores.cpu()
        for index, image_boxes in enumerate(given):
            if image_boxes is None:
                selected = select_proposals(all_boxes[index], all_scores[index], self.detector.proposal_config)
                boxes.append(all_boxes[index][selected])
                scores.append(all_scores[index][selected])
            else:
                boxes.append(image_boxes.cpu().float())
                scores.append(torch.ones(len(image_boxes)))
        counts = [len(image_scores) for image_scores in scores]
        return to_device(torch.cat(boxes), device).split(counts), to_device(torch.cat(scores), device).split(counts)
