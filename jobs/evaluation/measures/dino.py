"""DINO as published: the embeddings behind MagicBrush's and Emu Edit's DINO similarity."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTModel

from fireedit.jobs.evaluation.measures.frozen import load_frozen
from fireedit.jobs.evaluation.measures.preprocessing import EncoderInput, Picture
from fireedit.models.vision import IMAGENET_MEAN, IMAGENET_STD
from fireedit.models.weights import WeightsError
from fireedit.platform.provenance import fingerprint

PUBLISHED = "facebook/dino-vits16"
WIDTHS = {384: "s", 768: "b"}
"""Names of the towers by their width."""
SHORT, SIDE = 256, 224
"""Pixels of the short side after resizing, and of the square that is cropped."""
NORM_EPS = 1e-6
"""Epsilon of the LayerNorms in facebookresearch/dino; the published config.json has transformers' default."""
BATCH = 64
"""Pictures embedded together."""


class DINOMeasure:
    """Frozen DINO; the measure is the cosine of two pictures' embeddings (arXiv 2104.14294)."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """
        Args:
            folder: the files of `PUBLISHED`, config.json and weights.
        Raises:
            CheckpointFileError: a file is missing, damaged, or not what its name says.
            WeightsError: the folder holds another model, or lacks tensors.
        """
        options = {"add_pooling_layer": False, "layer_norm_eps": NORM_EPS}
        self.model = load_frozen(ViTModel, folder, "vit", PUBLISHED, **options).to(device)
        config = self.model.config
        if config.image_size != SIDE:
            raise WeightsError(
                f"{folder} holds a ViT for pictures of {config.image_size} pixels, not {SIDE}; "
                f"write the files of {PUBLISHED} there"
            )
        self.preprocess = EncoderInput(SHORT, SIDE, IMAGENET_MEAN, IMAGENET_STD)
        self.name = f"dino-vit{WIDTHS.get(config.hidden_size, f'{config.hidden_size}-')}{config.patch_size}"
        self.weights = fingerprint(str(folder))

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Embed B pictures of any sizes as float32 [B, W] on the CPU: the class token after the last LayerNorm."""
        return torch.cat([self._pictures(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)])

    def _pictures(self, pictures: Sequence[Picture]) -> Tensor:
        pixels = self.preprocess.batch(pictures).to(self.model.device)
        return self.model(pixels).last_hidden_state[:, 0].cpu()
