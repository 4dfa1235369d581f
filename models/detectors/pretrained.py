"""Base class of the detectors that others have published, and their preprocessing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor

from fireedit.models.checkpoint_files import check_folder, read_json
from fireedit.models.detectors.proposals import DetectorError, ProposalConfig, Proposals, RegionDetector
from fireedit.models.vision import VisionFeatures

PUBLISHED = "published"
"""Subfolder of a saved detector with the weights and their settings, in the layout in which others publish them."""
MODES = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}
"""Torch's names of Pillow's filters."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Pixels as a published model reads them, made on the device of the view.

    transformers' own processors make them one by one on the CPU, and not at all of the fake tensors of a plan.
    """

    size: tuple[int, int]
    """Height and width, pixels."""
    mode: str = "bilinear"
    """Torch's name of the filter."""
    factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, processor: Any) -> Self:
        """Read the settings of a transformers image processor.

        Raises:
            DetectorError: it leaves the size as it is, pads a square picture, or has a filter that torch lacks.
        """
        white = processor(np.full((64, 64, 3), 255, np.uint8), return_tensors="pt")["pixel_values"][0]
        if not processor.do_resize or not torch.equal(white, white[:, :1, :1].expand_as(white)):
            raise DetectorError("its preprocessor_config.json keeps the size of a square picture, or pads it")
        if processor.resample not in MODES:
            raise DetectorError(f"its preprocessor_config.json has resample {processor.resample}; write 2 or 3")
        normalized: dict[str, Any] = {}
        if processor.do_normalize:
            normalized = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
        return cls(
            size=(white.shape[1], white.shape[2]),
            mode=MODES[processor.resample],
            factor=processor.rescale_factor if processor.do_rescale else 1.0,
            **normalized,
        )

    def __call__(self, view: Tensor) -> Tensor:
        """Resize and normalize uint8 RGB [B, V, V, 3] -> float32 [B, 3, h, w], within a level of Pillow's."""
        pixels = view.permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, size=self.size, mode=self.mode, antialias=True).round().clamp(0, 255)
        channels = zip(pixels.unbind(dim=1), self.mean, self.std, strict=True)
        return torch.stack([(channel * self.factor - mean) / std for channel, mean, std in channels], dim=1)


@dataclass(frozen=True, kw_only=True)
class WeightsFolder:
    """Settings of a detector whose weights lie in a folder."""

    folder: str
    """Folder of the published weights."""
    proposals: ProposalConfig = field(default_factory=ProposalConfig)

    @property
    def source(self) -> str:
        """Folder of the weights."""
        return self.folder

    def trimmed(self) -> Self:
        """Leave the path out, but for the folder's own name."""
        return replace(self, folder=Path(self.folder).name)


class PretrainedDetector(RegionDetector):
    """Published detector that reads the picture itself; never trained, float32 always.

    Its config says where the weights come from (`source`), and leaves paths out of what is saved (`trimmed`). A saved
    one needs no other folder: it holds the weights in PUBLISHED.
    """

    auto_class: ClassVar[Any]
    """Class of transformers that loads the weights."""
    published: ClassVar[str]
    """Words for the weights in errors."""
    batched: ClassVar[bool] = True
    """True lets a GPU run a batch whole; one image fills it otherwise."""
    _keep_in_fp32_modules = ["model"]  # all of it
    model: nn.Module
    processor: Any
    preprocess: Preprocessing

    def __init__(self, config: Any, source: str | Path, weights: bool = True):
        """Build the detector from published weights.

        Args:
            source: folder of the weights, or a name on the Hugging Face Hub.
            weights: False builds it on the meta device, from the settings alone.
        Raises:
            DetectorError: the source is missing, damaged, or of another kind.
        """
        super().__init__(config.trimmed())
        with self._naming(source), torch.device("cpu"):  # the caller may be building on another
            self.read(source, weights)
        self.eval().requires_grad_(False)

    def forward(self, features: VisionFeatures | None, view: Tensor) -> Proposals:
        """Propose regions from the view alone; image by image on a CPU, whose sums depend on the batch's size."""
        whole = self.batched and view.device.type != "cpu"
        proposed = [self.propose(part) for part in ((view,) if whole else view.split(1))]
        return Proposals(*(torch.cat(tensors).float() for tensors in zip(*proposed, strict=True)))

    def pixels(self, view: Tensor) -> Tensor:
        """Make the model's pixels, in the precision of its weights if a caller has changed it."""
        return self.preprocess(view).to(self.dtype)

    def propose(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Propose boxes and scores, as `Proposals` has them, of the images that run together."""
        raise NotImplementedError

    @classmethod
    def load(cls, config: Any) -> Self:
        """Load the weights that a config names."""
        return cls(config, config.source)

    @classmethod
    def outline(cls, config: Any) -> Self:
        """Build the detector that a config names on the meta device, without memory for its weights."""
        return cls(config, config.source, weights=False)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], output_loading_info: bool = False, **kwargs: Any
    ) -> Self:
        """Load a saved detector; options of diffusers, such as another precision, do not apply to it."""
        folder = Path(pretrained_model_name_or_path)
        config = TypeAdapter(cls.config_class).validate_python(read_json(folder / "config.json"))
        return cls(config, folder / PUBLISHED)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the settings, and the weights beside them as they were published."""
        self.save_config(save_directory)
        self.write(Path(save_directory) / PUBLISHED)

    def read(self, source: str | Path, weights: bool) -> None:
        """Set `model`, `processor` and `preprocess` from a folder or a name on the Hub."""
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        self.check(config)
        self.processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        self.preprocess = Preprocessing.of(self.processor)
        if not weights:
            with torch.device("meta"):
                self.model = self.auto_class.from_config(config)
            return
        self.model, info = self.auto_class.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            lacking = min(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
            raise DetectorError(f"its weights lack {lacking}, or have it in another shape")

    def write(self, folder: Path) -> None:
        """Write what `read` reads."""
        self.model.save_pretrained(folder)  # type: ignore[operator]  # a model of transformers
        self.processor.save_pretrained(folder)

    def check(self, config: Any) -> None:
        """Raise DetectorError if a config of transformers is not of this kind."""
        raise NotImplementedError

    @contextmanager
    def _naming(self, source: str | Path) -> Iterator[None]:
        """Name the source in the errors of transformers, which are of many classes and many lines."""
        try:
            if Path(source).is_dir():
                check_folder(Path(source))
            elif Path(source).is_absolute():
                raise DetectorError("no such folder")
            yield
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise DetectorError(f"{source}: {reason}; write {self.published}") from error
