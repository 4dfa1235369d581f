"""CLIP of the small model: similarities of pictures and texts, as nano-CLIP-I and nano-CLIP-T measure them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModel, PreTrainedTokenizerBase

from fireedit.models.checkpoint_files import check_folder, read_tensors
from fireedit.models.text import tokenize_text
from fireedit.models.vision import CLIP_MEAN, CLIP_STD, Vision

JUDGE = "judges/clip.safetensors"
"""File of the two projections and the scale; the encoders are in the pipeline's own folders."""
MAX_LOG_SCALE = math.log(100)


class CLIP(nn.Module):
    """Equivalent of transformers' CLIPModel around encoders that the pipeline also uses without it."""

    def __init__(self, text_encoder: CLIPTextModel, vision: CLIPVisionModel):
        super().__init__()
        self.text_encoder, self.vision = text_encoder, vision
        text_width, vision_width = text_encoder.config.hidden_size, vision.config.hidden_size
        self.text_projection = nn.Linear(text_width, text_width, bias=False)
        self.visual_projection = nn.Linear(vision_width, text_width, bias=False)
        for projection in (self.text_projection, self.visual_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def read(self, ids: Tensor) -> Tensor:
        """Pool token ids [B, T], padded to full length, to the states at the last position, [B, W].

        The UNet is modulated by that state. Departure: OpenAI's CLIP pools the state at the first end token.
        """
        return self.text_encoder(ids).last_hidden_state[:, -1]

    def texts(self, pooled: Tensor) -> Tensor:
        """Project the pooled states of `read` to unit vectors [B, W]."""
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    def pictures(self, pictures: Tensor, side: int) -> Tensor:
        """Embed uint8 RGB [B, S, S, 3], resized to `side` pixels, as unit vectors [B, W]."""
        pixels = normalized(pictures, side, CLIP_MEAN, CLIP_STD)
        pooled = self.vision(pixels, interpolate_pos_encoding=True).pooler_output
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def scale(self) -> Tensor:
        """Inverse temperature of the logits, at most 100."""
        return self.logit_scale.clamp(max=MAX_LOG_SCALE).exp()


class CLIPJudge:
    """Frozen CLIP whose cosines are nano-CLIP-I and nano-CLIP-T.

    A substitute for OpenAI's CLIP, trained on the scenes it judges: its scores cannot be compared with published ones.
    """

    def __init__(self, clip: CLIP, tokenizer: PreTrainedTokenizerBase, side: int):
        self.clip, self.tokenizer, self.side = clip.eval().requires_grad_(False), tokenizer, side

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Load the encoders, the tokenizer and `JUDGE` from the folder of a pipeline."""
        text_encoder = CLIPTextModel.from_pretrained(check_folder(folder / "text_encoder"), dtype=torch.float32)
        vision = Vision.from_pretrained(check_folder(folder / "vision"), dtype=torch.float32)
        clip = CLIP(text_encoder, vision.clip)
        for name, value in read_tensors(folder / JUDGE).items():
            clip.get_parameter(name).data.copy_(value)
        return cls(clip, AutoTokenizer.from_pretrained(folder / "tokenizer"), vision.config.image_size)

    def pictures(self, pictures: Tensor) -> Tensor:
        """Embed uint8 RGB [B, S, S, 3] as unit vectors [B, W]."""
        return self.clip.pictures(pictures, self.side)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embed B texts as unit vectors [B, W]."""
        length = self.clip.text_encoder.config.max_position_embeddings
        ids = tokenize_text(self.tokenizer, list(texts), length)
        return self.clip.texts(self.clip.read(ids.to(self.clip.logit_scale.device)))


def normalized(pictures: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Resize and normalize uint8 RGB [B, S, S, 3] as the vision tower does, to [B, 3, side, side]."""
    pixels = pictures.permute(0, 3, 1, 2).float() / 255
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    center, spread = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels - center) / spread
