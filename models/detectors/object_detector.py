"""D of kind `hf:NAME`: any object detector of transformers, such as RT-DETR, without regard to its classes."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Self

import torch
from diffusers import ModelMixin
from pydantic import Field
from torch import Tensor
from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING, AutoModelForObjectDetection

from fireedit.models.detectors.pretrained import PretrainedDetector
from fireedit.models.detectors.proposals import DetectorError, ProposalConfig
from fireedit.models.layers.boxes import to_xyxy

PREFIX = "hf:"


@dataclass(frozen=True, kw_only=True)
class ObjectDetectorConfig:
    kind: Annotated[str, Field(pattern=f"^{PREFIX}.")]
    """`hf:` and a folder of published weights, or their name on the Hugging Face Hub."""
    proposals: ProposalConfig = field(default_factory=ProposalConfig)

    @property
    def source(self) -> str:
        """Folder of the weights, or their name."""
        return self.kind.removeprefix(PREFIX)

    def trimmed(self) -> Self:
        """Leave the path out, but for the folder's own name."""
        return replace(self, kind=PREFIX + Path(self.source).name)


class ObjectDetector(PretrainedDetector, ModelMixin):
    """Boxes of a transformers model, one per query; a box's score is the probability of its best class.

    Whether probabilities are sigmoids or softmaxes, the published post-processing shows on one box.
    """

    config_class, auto_class = ObjectDetectorConfig, AutoModelForObjectDetection
    published = "model.detector.kind=hf:FOLDER of an object detector as transformers saves it, or hf:NAME on the Hub"

    def check(self, config: Any) -> None:
        if type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING:
            raise DetectorError(f"found a {config.model_type}, which is no object detector of transformers")

    def read(self, source: str | Path, weights: bool) -> None:
        super().read(source, weights)
        self.sigmoid = _has_sigmoids(self.processor)

    def propose(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Propose the boxes of all queries, cut at the image's edges."""
        output = self.model(pixel_values=self.pixels(view))
        probabilities = output.logits.sigmoid() if self.sigmoid else output.logits.softmax(dim=-1)[..., :-1]
        return to_xyxy(output.pred_boxes).clamp(0, 1), probabilities.amax(dim=-1)


def _has_sigmoids(processor: Any) -> bool:
    """Ask a processor for the score of a box of three logits 0: 1/2 as a sigmoid, 1/3 as a softmax.

    Raises:
        DetectorError: it has no post-processing of boxes (center x, center y, width, height) in [0, 1].
    """
    box = torch.tensor([[[0.5, 0.5, 0.5, 0.25]]])
    output = SimpleNamespace(logits=torch.zeros(1, 1, 3), pred_boxes=box)
    try:
        (found,) = processor.post_process_object_detection(output, threshold=0.0)
        score, corners = found["scores"][0].item(), found["boxes"][0]
    except (AttributeError, IndexError, TypeError) as error:
        raise DetectorError(f"{type(processor).__name__} cannot read boxes from logits and pred_boxes") from error
    if not torch.allclose(corners, to_xyxy(box[0, 0])) or min(abs(score - 1 / 2), abs(score - 1 / 3)) > 1e-6:
        raise DetectorError(f"{type(processor).__name__} reads boxes or scores in a way of its own")
    return score > 0.4
