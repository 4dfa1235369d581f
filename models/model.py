"""The waist: FireEdit as a whole, what flows between its parts, and its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import torch
import yaml
from pydantic import Field, TypeAdapter
from torch import Tensor, nn
from transformers import CLIPTextModel

from fireedit.models.detector import Detector, DetectorConfig, select_proposals
from fireedit.models.hvca import HVCA, HVCAConfig
from fireedit.models.qformer import QFormer, QFormerConfig
from fireedit.models.region_encoder import RegionEncoder, RegionEncoderConfig
from fireedit.models.schedule import ScheduleConfig
from fireedit.models.settings import PaintSettings
from fireedit.models.tati import TATI, TATIConfig
from fireedit.models.text import TextConfig, build_text_encoder
from fireedit.models.unet import EditUNet, UNetConfig
from fireedit.models.vae import Codec, PatchCodecConfig, VAEConfig, build_vae
from fireedit.models.vision import Vision, VisionConfig
from fireedit.models.vlm import VLM, VLMConfig

NANO = Path(__file__).parent / "nano"
"""Sizes, tokenizers and weights of the small model."""


@dataclass(frozen=True, kw_only=True)
class FireEditConfig:
    """Sizes of every part, and how it paints; the defaults are the paper's."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    region_encoder: RegionEncoderConfig = field(default_factory=RegionEncoderConfig)
    vlm: VLMConfig = field(default_factory=VLMConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    tati: TATIConfig = field(default_factory=TATIConfig)
    hvca: HVCAConfig = field(default_factory=HVCAConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: Annotated[PatchCodecConfig | VAEConfig, Field(union_mode="left_to_right")] = field(default_factory=VAEConfig)
    """A codec if `patch_size` is given."""
    text: TextConfig = field(default_factory=TextConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    painting: PaintSettings = field(default_factory=PaintSettings)


def preset(name: str) -> FireEditConfig:
    """The sizes called `paper` or `nano`.

    Raises:
        ValueError: another name.
    """
    if name == "paper":
        return FireEditConfig()
    if name == "nano":
        return TypeAdapter(FireEditConfig).validate_python(yaml.safe_load((NANO / "config.yaml").read_text()))
    raise ValueError(f"no preset is called {name!r}; write 'paper' or 'nano'")


@dataclass(frozen=True)
class Percepts:
    """What was seen in B pictures: all that the VLM and the painter need to know of them besides the pixels."""

    image_tokens: Tensor
    """I [B, N, 4 W], before the VLM's adapter."""
    region_tokens: tuple[Tensor, ...]
    """P: B tensors [R_b, D] in the LLM's width; [0, 0] where nobody proposes regions."""
    boxes: tuple[Tensor, ...]
    """B tensors [R_b, 4], xyxy in [0, 1], best first."""
    scores: tuple[Tensor, ...]
    """B tensors [R_b] in [0, 1]."""
    detail: tuple[Tensor, ...]
    """HVCA's sources, each [B, N_i, W_i]; () in stage 2."""

    def __len__(self) -> int:
        return len(self.image_tokens)

    def split(self) -> list[Self]:
        """One for each picture."""
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
    def join(cls, percepts: Sequence[Self]) -> Self:
        """The inverse of `split`; an element may stand in it several times."""
        return cls(
            image_tokens=torch.cat([one.image_tokens for one in percepts]),
            region_tokens=tuple(tokens for one in percepts for tokens in one.region_tokens),
            boxes=tuple(boxes for one in percepts for boxes in one.boxes),
            scores=tuple(scores for one in percepts for scores in one.scores),
            detail=tuple(torch.cat(source) for source in zip(*(one.detail for one in percepts), strict=True)),
        )

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            image_tokens=self.image_tokens.to(device),
            region_tokens=tuple(tokens.to(device) for tokens in self.region_tokens),
            boxes=tuple(boxes.to(device) for boxes in self.boxes),
            scores=tuple(scores.to(device) for scores in self.scores),
            detail=tuple(source.to(device) for source in self.detail),
        )


class FireEdit(nn.Module):
    """All parts of the editor side by side; one that nobody here needs may be left out.

    Source: FireEdit (arXiv 2503.19839).
    """

    vision: Vision
    detector: Detector
    region_encoder: RegionEncoder
    vlm: VLM
    qformer: QFormer
    tati: TATI
    hvca: HVCA
    unet: EditUNet
    vae: Codec
    text_encoder: CLIPTextModel

    def __init__(
        self,
        *,
        vision: Vision | None = None,
        detector: Detector | None = None,
        region_encoder: RegionEncoder | None = None,
        vlm: VLM | None = None,
        qformer: QFormer | None = None,
        tati: TATI | None = None,
        hvca: HVCA | None = None,
        unet: EditUNet | None = None,
        vae: Codec | None = None,
        text_encoder: CLIPTextModel | None = None,
    ):
        super().__init__()
        parts = {"vision": vision, "detector": detector, "region_encoder": region_encoder, "vlm": vlm}
        parts |= {"qformer": qformer, "tati": tati, "hvca": hvca, "unet": unet, "vae": vae}
        for name, part in (parts | {"text_encoder": text_encoder}).items():
            setattr(self, name, part)

    @classmethod
    def from_config(cls, config: FireEditConfig) -> Self:
        """Fresh weights from torch's current random state."""
        return cls(
            vision=Vision(config.vision),
            detector=Detector(config.detector),
            region_encoder=RegionEncoder(config.region_encoder),
            vlm=VLM(config.vlm),
            qformer=QFormer(config.qformer),
            tati=TATI(config.tati),
            hvca=HVCA(config.hvca),
            unet=EditUNet(config.unet),
            vae=build_vae(config.vae),
            text_encoder=build_text_encoder(config.text),
        )

    @torch.no_grad()
    def perceive(self, view: Tensor, detail: bool = True) -> Percepts:
        """Look at `view`, uint8 [B, V, V, 3], with the frozen eyes; `detail` also gathers HVCA's sources.

        Without a detector there are no regions.
        """
        features = self.vision(view, detail=detail)
        if self.detector is None:
            nothing = features.image_tokens.new_zeros(0)
            return Percepts(
                image_tokens=features.image_tokens,
                region_tokens=(nothing.view(0, 0),) * len(view),
                boxes=(nothing.view(0, 4),) * len(view),
                scores=(nothing,) * len(view),
                detail=features.detail,
            )
        proposals = self.detector(torch.stack(features.maps).mean(dim=0).to(self.detector.dtype))
        kept = [
            select_proposals(boxes, scores, self.detector.proposal_config)
            for boxes, scores in zip(proposals.boxes, proposals.scores, strict=True)
        ]
        boxes = tuple(every[keep] for every, keep in zip(proposals.boxes, kept, strict=True))
        return Percepts(
            image_tokens=features.image_tokens,
            region_tokens=tuple(self.region_encoder(features.maps[-3:], boxes)),
            boxes=boxes,
            scores=tuple(every[keep] for every, keep in zip(proposals.scores, kept, strict=True)),
            detail=features.detail,
        )
