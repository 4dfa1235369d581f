"""Vision at nano size: DINOv2, the region proposer and the region encoder, trained together.

The paper takes a DINOv2 that was self-distilled on 142 million images, and freezes it below the other two. A tower of
0.4 million parameters learns too little from self-distillation, so here boxes, names and colors supervise it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from fireedit.jobs.evaluation.clip import normalized
from fireedit.jobs.evaluation.success import COLORLESS
from fireedit.jobs.training.detection_loss import SetLoss
from fireedit.jobs.training.held_out import HELD_OUT, SHOWN, accuracy, held_out_batches, known_cross_entropy
from fireedit.jobs.training.nano_folder import load_weights, read_component, saved
from fireedit.jobs.training.pretraining import PretrainRecipe
from fireedit.models.detector import Detections, Detector, DetectorConfig
from fireedit.models.detectors.proposals import select_proposals
from fireedit.models.layers.boxes import box_iou
from fireedit.models.model import FireEditConfig
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import IMAGENET_MEAN, IMAGENET_STD, Vision, VisionFeatures
from fireedit.platform.config import Ratio
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import MIRROR, Rendering, box_of, draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

NAMES = (*TRAIN.things, "mirror")
"""Names of the contents of a box."""
NOTHING = len(NAMES)
"""Class of a box without an object."""
CELL_CLASSES = (*NAMES, *TRAIN.backgrounds)
"""Classes of the pixels of a cell."""
LOOKS, STYLES = ("", *COLORS), ("", *EFFECTS)
"""Colors of objects and effects on the whole image; "" for none."""
MAX_OBJECTS = 8
"""Largest number of objects of a scene, and number of proposals whose regions are trained on."""
MIN_AREA = 0.003
"""Share of the image that an object must cover to be detected: 12 pixels of 64 x 64."""
OBJECT_IOU, EMPTY_IOU = 0.5, 0.3
"""Intersection over union from which a box counts as the object's, and below which it counts as empty."""


@dataclass(frozen=True, kw_only=True)
class VisionRecipe(PretrainRecipe):
    region_share: Ratio = 0.25
    """Share of a batch whose regions are encoded: the region encoder costs ten times as much as the tower."""
    jitter: Ratio = 0.08
    """Standard deviation of the noise on the edges of true boxes, in sides of the box."""
    detection_weight: NonNegativeFloat = 0.2
    """Weight of the set loss, a sum over layers; the cross entropies have weight 1."""
    held_out: PositiveInt = 512
    """Held-out scenes that the figures are computed on."""


class VisionWithProbes(nn.Module):
    """Tower, proposer and region encoder, with the linear probes that supervise them and are discarded afterwards.

    CLIP's vision model is in the tower but unused: the part `clip` trains it.
    """

    def __init__(self, sizes: FireEditConfig):
        super().__init__()
        assert isinstance(sizes.detector, DetectorConfig), "no other kind is trained"
        self.vision, self.detector = Vision(sizes.vision), Detector(sizes.detector)
        self.region_encoder = RegionEncoder(sizes.region_encoder)
        self.vision.clip.requires_grad_(False)
        self.vision.dino.embeddings.mask_token.requires_grad_(False)  # used in self-distillation only
        width, token = sizes.vision.dino_width, sizes.region_encoder.width_out
        self.cells, self.cell_looks = nn.Linear(width, len(CELL_CLASSES)), nn.Linear(width, len(LOOKS))
        self.background, self.style = nn.Linear(width, len(TRAIN.backgrounds)), nn.Linear(width, len(STYLES))
        self.names, self.looks = nn.Linear(token, len(NAMES) + 1), nn.Linear(token, len(LOOKS))
        self.reflected = nn.Linear(token, 2)

    def encode(self, view: Tensor) -> tuple[VisionFeatures, Tensor]:
        """Encode uint8 [B, S, S, 3]: features, and the last states after the final norm, [B, N, W]."""
        features = self.vision(view)
        return features, self.vision.dino.layernorm(features.maps[-1].flatten(2).transpose(1, 2))

    def propose(self, features: VisionFeatures) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Propose boxes [B, Q, 4] and scores [B, Q] as `FireEdit.perceive` does, and the indices it selects."""
        proposals = self.detector(features)
        config = self.detector.proposal_config
        pairs = zip(proposals.boxes, proposals.scores, strict=True)
        return proposals.boxes, proposals.scores, [select_proposals(*pair, config) for pair in pairs]

    def encode_regions(self, features: VisionFeatures, boxes: Sequence[Tensor]) -> Tensor:
        """Encode the boxes [R_b, 4] of the first images as tokens, [R, D] one image after another."""
        return torch.cat(self.region_encoder(features[: len(boxes)], boxes))


class VisionTask:
    """Tower trained on the contents of its cells, proposer on DETR's set loss, region encoder on contents of boxes."""

    name = "vision"

    def __init__(self, sizes: FireEditConfig, recipe: VisionRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.model = VisionWithProbes(sizes)
        self.set_loss = SetLoss()

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw the source or target of an edit, with the labels of `labelled`."""
        edit = make_edit(TRAIN if seed in TRAIN.seeds else HELD_OUT, seed)
        scene = (edit.source, edit.target)[seed % 2]
        return labelled(draw_scene(scene, self.sizes.vision.image_size), scene)

    def losses(self, model: VisionWithProbes, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch = _as_int64(batch)
        features, states = model.encode(batch["view"])
        detections = model.detector.detect(features)
        detection = self.set_loss(detections, batch["boxes"], batch["names"] != IGNORED)
        pixels = normalized(batch["view"], self.sizes.vision.detail_size, IMAGENET_MEAN, IMAGENET_STD)
        coarse = model.vision.dino(pixels).last_hidden_state[:, 1:]  # of the smaller view that HVCA also reads
        cells = self._cell_loss(model, [states, coarse], batch)
        whole = known_cross_entropy(model.background(states.mean(dim=1)), batch["background"])
        whole = whole + known_cross_entropy(model.style(states.mean(dim=1)), batch["style"])
        regions = self._region_loss(model, features, detections, batch)
        loss = self.recipe.detection_weight * detection + cells + whole + regions
        return {"loss": loss, "detection": detection, "cells": cells, "whole": whole, "regions": regions}

    def figures(self, model: VisionWithProbes) -> dict[str, float]:
        """Compute shares in [0, 1] on held-out scenes.

        `recall`: true boxes that a proposal covers with IoU >= 0.5; `kept_...`: the same of the proposals that
        `select_proposals` passes to the VLM; names and colors are read from region tokens by the linear probes.
        """
        hits: dict[str, list[Tensor]] = defaultdict(list)
        device = model.names.weight.device
        for batch in held_out_batches(self.draw, self.recipe.held_out, 64):
            batch = _as_int64({name: value.to(device) for name, value in batch.items()})
            features, states = model.encode(batch["view"])
            for name, probe in (("background", model.background), ("style", model.style)):
                hits[f"{name}_accuracy"].append(probe(states.mean(dim=1)).argmax(dim=-1) == batch[name])
            largest = cell_shares(batch["cells"], len(CELL_CLASSES), [model.vision.side]).argmax(dim=-1)
            hits["cell_accuracy"].append(model.cells(states).argmax(dim=-1) == largest)
            boxes, _, selected = model.propose(features)
            true = _true_boxes(batch)
            for true_boxes, proposed, keep in zip(true, boxes, selected, strict=True):
                overlap = box_iou(true_boxes, proposed) >= OBJECT_IOU
                hits["recall"].append(overlap.any(dim=1))
                hits["kept_recall"].append(overlap[:, keep].any(dim=1))
                hits["kept_precision"].append(overlap[:, keep].any(dim=0))
            kept = [proposed[keep] for proposed, keep in zip(boxes, selected, strict=True)]
            for prefix, regions in (("", true), ("kept_", kept)):
                tokens, (names, looks, _) = model.encode_regions(features, regions), box_labels(regions, batch)
                is_object = (names != NOTHING) & (names != IGNORED)
                for name, probe, labels in (("name", model.names, names), ("colour", model.looks, looks)):
                    right = probe(tokens).argmax(dim=-1) == labels
                    hits[f"{prefix}{name}_accuracy"].append(right[is_object])
        return {name: accuracy(values) for name, values in hits.items()}

    def preview(self, model: VisionWithProbes) -> Image.Image:
        """Draw held-out scenes with the boxes selected for the VLM, their scores, and the probes' names for them."""
        panels, device = [], model.names.weight.device
        for batch in held_out_batches(self.draw, SHOWN, 1):
            features, _ = model.encode(batch["view"].to(device))
            (boxes,), (scores,), (kept,) = model.propose(features)
            tokens = model.encode_regions(features, [boxes[kept]])
            classes = zip(model.looks(tokens).argmax(dim=-1), model.names(tokens).argmax(dim=-1), strict=True)
            words = [f"{LOOKS[look]} {(*NAMES, '?')[name]}".strip() for look, name in classes]
            image, title = batch["view"][0].numpy(), ", ".join(words)
            panels.append(Panel(image=image, title=title, boxes=boxes[kept].tolist(), scores=scores[kept].tolist()))
        return sheet(panels, columns=4, height=256)

    def load(self, folder: Path) -> None:
        """Load all but the probes, which are never saved."""
        vision = read_component(Vision(self.sizes.vision), folder / "vision")
        self.model.vision.dino.load_state_dict(vision.dino.state_dict())
        load_weights(self.model.detector, folder / "detector")
        load_weights(self.model.region_encoder, folder / "region_encoder")

    def save(self, model: VisionWithProbes, folder: Path) -> None:
        """Save in half precision, but for the proposer, which never runs in it; CLIP in the tower stays as it is."""
        vision = saved(Vision(self.sizes.vision), folder / "vision")
        vision.dino.load_state_dict(model.vision.dino.state_dict())
        vision.half().save_pretrained(folder / "vision")
        model.detector.save_pretrained(folder / "detector")
        model.region_encoder.half().save_pretrained(folder / "region_encoder")

    def _cell_loss(self, model: VisionWithProbes, views: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of contents and colors of the cells of each view [B, N, W], by shares of their pixels."""
        states, sides = torch.cat(list(views), dim=1), [round(view.shape[1] ** 0.5) for view in views]
        losses = []
        for probe, name, classes in ((model.cells, "cells", CELL_CLASSES), (model.cell_looks, "cell_looks", LOOKS)):
            shares = cell_shares(batch[name], len(classes), sides)
            losses.append(F.cross_entropy(probe(states).float().flatten(0, 1), shares.flatten(0, 1)))
        return torch.stack(losses).sum()

    def _region_loss(
        self, model: VisionWithProbes, features: VisionFeatures, detections: Detections, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Cross entropy of names, colors and reflections of jittered true boxes and of the best proposals.

        Only the first `region_share` of the batch are encoded.
        """
        count = max(1, round(self.recipe.region_share * len(batch["view"])))
        scores = (detections.coco_logits[-1] + detections.sa1b_logits[-1])[:count].detach()
        best, boxes = scores.topk(MAX_OBJECTS).indices, []
        for true, proposed, top in zip(_true_boxes(batch)[:count], detections.boxes[-1].detach(), best, strict=False):
            sides = (true[:, 2:] - true[:, :2]).repeat(1, 2)
            jittered = true + self.recipe.jitter * sides * torch.randn_like(true)
            boxes.append(torch.cat([jittered.clamp(0, 1), proposed[top]]))
        tokens = model.encode_regions(features, boxes)
        probes = zip((model.names, model.looks, model.reflected), box_labels(boxes, batch), strict=True)
        return torch.stack([known_cross_entropy(probe(tokens), labels) for probe, labels in probes]).sum()


def labelled(rendering: Rendering, scene: Scene) -> dict[str, Tensor]:
    """Label a rendered scene of the training world.

    Returns:
        view: uint8 [S, S, 3]. cells, cell_looks: uint8 [S, S], class of each pixel in `CELL_CLASSES` and in `LOOKS`.
        boxes: float [M, 4] xyxy in [0, 1]; names, looks, reflected: int16 [M]; padded with zeros and IGNORED.
        background, style: int16 [].
    """
    side, placed = len(rendering.image), {placed.id: placed for placed in scene.objects}
    cells = np.full((side, side), CELL_CLASSES.index(scene.background), np.uint8)
    cell_looks, boxes = np.zeros_like(cells), np.zeros((MAX_OBJECTS, 4), np.float32)
    columns, count = np.full((3, MAX_OBJECTS), IGNORED, np.int16), 0
    for number, mask in rendering.masks.items():
        is_mirror = number == MIRROR
        name = NAMES.index("mirror" if is_mirror else placed[number].name)
        look = LOOKS.index("" if is_mirror or scene.effect in COLORLESS else placed[number].looks)
        cells[mask], cell_looks[mask] = name, look
        if np.count_nonzero(mask) >= MIN_AREA * side**2:
            boxes[count] = np.array(box_of(mask)) / side
            columns[:, count] = name, look, not is_mirror and placed[number].reflection
            count += 1
    names, looks, reflected = torch.from_numpy(columns)
    return {
        "view": torch.from_numpy(rendering.image.copy()),
        "cells": torch.from_numpy(cells),
        "cell_looks": torch.from_numpy(cell_looks),
        "boxes": torch.from_numpy(boxes),
        "names": names,
        "looks": looks,
        "reflected": reflected,
        "background": torch.tensor(TRAIN.backgrounds.index(scene.background), dtype=torch.int16),
        "style": torch.tensor(STYLES.index(scene.effect), dtype=torch.int16),
    }


def box_labels(boxes: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Label the boxes [R_b, 4] of the first images with name, color and reflection, [R] each, image after image.

    A box that is neither an object's nor clearly empty has no name, and only an object's has a color.
    """
    columns: list[list[Tensor]] = [[], [], []]
    for number, (image_boxes, true) in enumerate(zip(boxes, _true_boxes(batch), strict=False)):
        best, which = box_iou(image_boxes, true).max(dim=1)
        empty = torch.where(best < EMPTY_IOU, NOTHING, IGNORED)
        for column, name in zip(columns, ("names", "looks", "reflected"), strict=True):
            otherwise = empty if name == "names" else torch.full_like(empty, IGNORED)
            column.append(torch.where(best >= OBJECT_IOU, batch[name][number][which], otherwise))
    names, looks, reflected = (torch.cat(column) for column in columns)
    return names, looks, reflected


def cell_shares(pixels: Tensor, classes: int, sides: Sequence[int]) -> Tensor:
    """Average pixel classes [B, S, S] over the cells of grids of these sides: [B, sum of sides^2, classes]."""
    one_hot = F.one_hot(pixels, classes).movedim(-1, 1).float()
    return torch.cat([F.adaptive_avg_pool2d(one_hot, side).flatten(2).transpose(1, 2) for side in sides], dim=1)


def _as_int64(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert labels to the int64 that losses take."""
    return {name: value if name in ("view", "boxes") else value.long() for name, value in batch.items()}


def _true_boxes(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Remove the padding of the true boxes: [G_b, 4] of each image."""
    counts = (batch["names"] != IGNORED).sum(dim=1).tolist()
    return [boxes[:count] for boxes, count in zip(batch["boxes"], counts, strict=True)]
