"""CLIP as published: the embeddings behind CLIP-I, CLIP-T, the directional similarity and ReasonEdit's CLIP score."""

import html
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from fireedit.jobs.evaluation.measures.frozen import load_frozen
from fireedit.jobs.evaluation.measures.preprocessing import EncoderInput, Picture
from fireedit.models.checkpoint_files import read_tokenizer
from fireedit.models.text import tokenize_text
from fireedit.models.vision import CLIP_MEAN, CLIP_STD
from fireedit.platform.provenance import fingerprint

PUBLISHED = "openai/clip-vit-base-patch32"
"""CLIP of MagicBrush's and Emu Edit's measures; ReasonEdit's is openai/clip-vit-large-patch14."""
WIDTHS = {768: "base", 1024: "large"}
"""Names of the vision towers by their width."""
BATCH = 64
"""Pictures or texts embedded together."""
SAME = 1e-5
"""Distance of two unit embeddings below which they are those of one input; rounding alone leaves some 1e-7."""


class CLIPMeasure:
    """Frozen CLIP whose embeddings are compared by `cosine` and `direction` (arXiv 2103.00020).

    `truncated` has the texts so far that were longer than the encoder's 77 tokens.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """
        Args:
            folder: the files of `PUBLISHED` or of another CLIP by OpenAI: config.json, weights and tokenizer.
        Raises:
            CheckpointFileError: a file is missing, damaged, or not what its name says.
            WeightsError: the folder holds another model, or lacks tensors.
        """
        self.model = load_frozen(CLIPModel, folder, "clip", PUBLISHED).to(device)
        self.tokenizer = read_tokenizer(folder)
        config = self.model.config.vision_config
        side, self.tokens = config.image_size, self.model.config.text_config.max_position_embeddings
        self.preprocess = EncoderInput(side, side, CLIP_MEAN, CLIP_STD)
        self.truncated = set[str]()
        size = WIDTHS.get(config.hidden_size, str(config.hidden_size))
        self.name = f"clip-vit-{size}-patch{config.patch_size}" + (f"-{side}" if side != 224 else "")
        self.weights = fingerprint(str(folder))

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Embed B pictures of any sizes as float32 [B, W] on the CPU, projected and not normalized."""
        return torch.cat([self._pictures(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embed B texts as float32 [B, W] on the CPU, projected and not normalized.

        A text of more than 77 tokens keeps its first 76 and the end token, as `clip.tokenize(truncate=True)` has it,
        and is added to `truncated`. Departure: OpenAI's tokenizer also repairs texts with ftfy, which makes curly
        quotes straight and splits ligatures.
        """
        return torch.cat([self._texts(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])

    def _pictures(self, pictures: Sequence[Picture]) -> Tensor:
        pixels = self.preprocess.batch(pictures).to(self.model.device)
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output).cpu()

    def _texts(self, texts: Sequence[str]) -> Tensor:
        plain = [html.unescape(html.unescape(text)) for text in texts]  # twice, as OpenAI's tokenizer does
        lengths = map(len, self.tokenizer(plain, verbose=False).input_ids)
        self.truncated.update(text for text, length in zip(texts, lengths, strict=True) if length > self.tokens)
        ids = tokenize_text(self.tokenizer, plain, self.tokens).to(self.model.device)
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        states = self.model.text_model(ids).last_hidden_state
        return self.model.text_projection(states[torch.arange(len(ids)), ends]).cpu()


def cosine(embeddings: Tensor, others: Tensor) -> Tensor:
    """Cosines [B] of two sets of embeddings [B, W]: CLIP-I and DINO of two pictures, CLIP-T of picture and caption."""
    return F.cosine_similarity(embeddings, others, dim=-1)


def direction(output: Tensor, source: Tensor, output_text: Tensor, source_text: Tensor) -> Tensor:
    """Directional similarity [B] of embeddings [B, W] of pictures and captions, before and after the edit.

    Cosine of the change between the pictures and that between the captions, each of unit embeddings: 0 if the output
    is the source, NaN if the captions are equal.

    Source: StyleGAN-NADA (arXiv 2108.00946) as InstructPix2Pix (arXiv 2211.09800) and Emu Edit (arXiv 2311.10089)
    report it.
    """
    unit = [F.normalize(embeddings, dim=-1) for embeddings in (output, source, output_text, source_text)]
    change, text_change = unit[0] - unit[1], unit[2] - unit[3]
    similarity = torch.where(change.norm(dim=-1) < SAME, 0, cosine(change, text_change))
    return torch.where(text_change.norm(dim=-1) < SAME, torch.nan, similarity)


def clip_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """CLIPScore [B] of 0 to 100 of embeddings [B, W]; ReasonEdit's compares the edited region with a noun.

    Source: arXiv 2104.08718 with torchmetrics' factor of 100; SmartEdit (arXiv 2312.06739) takes
    openai/clip-vit-large-patch14.
    """
    return 100 * cosine(pictures, texts).clamp(min=0)
