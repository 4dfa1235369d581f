"""The eyes at nano size: DINOv2, the region proposer and the region encoder, trained together.

The paper takes a DINOv2 that was self-distilled on 142 million pictures, and keeps it frozen below the other two. A
tower of 0.4 million parameters learns too little from self-distillation, so here boxes, names and colours teach it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import PositiveInt
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fireedit.jobs.evaluation.clip import normalized
from fireedit.jobs.training.held_out import HELD_OUT, accuracy, held_out_batches, known_cross_entropy
from fireedit.jobs.training.loop import PretrainRecipe
from fireedit.jobs.training.nano_folder import load_weights, saved
from fireedit.models.detector import Detections, Detector, select_proposals
from fireedit.models.layers.boxes import box_iou, to_cxcywh
from fireedit.models.model import FireEditConfig
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import IMAGENET_MEAN, IMAGENET_STD, Vision, VisionFeatures
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import MIRROR, Renderer, Rendering, box_of
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

NAMES = (*TRAIN.things, "mirror")
"""What a box can hold."""
NOTHING = len(NAMES)
"""The name of a box that holds none of them."""
SHOWN_THERE = (*NAMES, *TRAIN.backgrounds)
"""What a cell can show."""
LOOKS, STYLES = ("", *COLORS), ("", *EFFECTS)
COLOURLESS = ("black and white", "sepia")
"""Effects under which no colour is told."""
MOST_OBJECTS = 8
"""That a scene can hold, and proposals that are read while training."""
SMALLEST_SHARE = 0.003
"""Of the picture that an object must fill to be looked for: 12 pixels of 64 x 64."""
SAME, OTHER = 0.5, 0.3
"""Intersection over union from which on a box is an object's, and below which it is nobody's."""
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class VisionRecipe(PretrainRecipe):
    region_share: float = 0.25
    """Share of a batch whose regions are read: the region encoder costs ten times what the tower does."""
    jitter: float = 0.08
    """How far the edges of true boxes are moved before they are read, in parts of the box's sides."""
    detection_weight: float = 0.2
    """Of the set loss, a sum over layers, beside the cross entropies."""
    held_out: PositiveInt = 512
    """Held-out scenes that figures are taken on."""


class Eyes(nn.Module):
    """What is trained, with the linear readers that teach it and are thrown away afterwards.

    CLIP's vision model lies in the tower unused: the part `clip` trains it.
    """

    def __init__(self, sizes: FireEditConfig):
        super().__init__()
        self.vision, self.detector = Vision(sizes.vision), Detector(sizes.detector)
        self.region_encoder = RegionEncoder(sizes.region_encoder)
        self.vision.clip.requires_grad_(False)
        self.vision.dino.embeddings.mask_token.requires_grad_(False)  # only self-distillation reads it
        width, token = sizes.vision.dino_width, sizes.region_encoder.width_out
        self.cells, self.cell_looks = nn.Linear(width, len(SHOWN_THERE)), nn.Linear(width, len(LOOKS))
        self.background, self.style = nn.Linear(width, len(TRAIN.backgrounds)), nn.Linear(width, len(STYLES))
        self.names, self.looks = nn.Linear(token, len(NAMES) + 1), nn.Linear(token, len(LOOKS))
        self.reflected = nn.Linear(token, 2)

    def look(self, view: Tensor) -> tuple[VisionFeatures, Tensor]:
        """uint8 [B, S, S, 3] -> its features, and what the final norm makes of the last ones, [B, N, W]."""
        features = self.vision(view, detail=False)
        return features, self.vision.dino.layernorm(features.maps[-1].flatten(2).transpose(1, 2))

    def look_coarsely(self, view: Tensor) -> Tensor:
        """The normed states of the smaller view, [B, n, W]: HVCA reads them too."""
        pixels = normalized(view, self.vision.config.detail_size, IMAGENET_MEAN, IMAGENET_STD)
        return self.vision.dino(pixels).last_hidden_state[:, 1:]

    def detect(self, features: VisionFeatures) -> Detections:
        return self.detector.detect(features)


class SetLoss:
    """DETR's loss for one kind of object, after every layer and at the encoder's anchors; both heads learn all boxes.

    Focal loss, L1 and GIoU with Deformable DETR's weights. transformers has the same, picture by picture, which on a
    GPU takes longer than the step.
    """

    CLASS, L1, GIOU = 2.0, 5.0, 2.0

    def __call__(self, found: Detections, true: Tensor, there: Tensor) -> Tensor:
        """`true` [B, G, 4] xyxy are the boxes of each picture, first those that are `there`, bool [B, G]."""
        layers = zip(found.coco_logits, found.sa1b_logits, found.boxes, strict=True)
        losses = [self._one(found.anchor_logits[None], found.anchor_boxes, true, there)]
        losses += [self._one(torch.stack([coco, sa1b]), boxes, true, there) for coco, sa1b, boxes in layers]
        return torch.stack(losses).sum()

    def _one(self, heads: Tensor, boxes: Tensor, true: Tensor, there: Tensor) -> Tensor:
        """Heads [H, B, Q] of logits, that share boxes [B, Q, 4] and their matching."""
        matched = self._matched(heads.detach().mean(dim=0), boxes.detach(), true, there)
        own = boxes.gather(1, matched[..., None].expand(-1, -1, 4))
        off = (to_cxcywh(own) - to_cxcywh(true)).abs().sum(dim=-1)
        placed = self.L1 * off + self.GIOU * (1 - _generalized_iou(own, true))
        queries = boxes.shape[1]
        wanted = heads.new_zeros(len(boxes), queries + 1)
        wanted = wanted.scatter(1, torch.where(there, matched, queries), 1.0)[:, :-1].expand_as(heads)
        classified = _focal(heads, wanted).sum() / len(heads)
        return (self.CLASS * classified + torch.where(there, placed, 0).sum()) / there.sum().clamp(min=1)

    def _matched(self, logits: Tensor, boxes: Tensor, true: Tensor, there: Tensor) -> Tensor:
        """The query [B, G] of each true box, each another one, at the least cost; 0 where no box is."""
        cost = _focal(logits, torch.ones_like(logits)) - _focal(logits, torch.zeros_like(logits))
        sides = (to_cxcywh(boxes)[:, :, None] - to_cxcywh(true)[:, None]).abs().sum(dim=-1)
        overlap = _generalized_iou(boxes[:, :, None], true[:, None])
        costs = self.CLASS * cost[..., None] + self.L1 * sides - self.GIOU * overlap
        matched = np.zeros(there.shape, np.int64)
        for row, one, count in zip(matched, costs.cpu().numpy(), there.sum(dim=1).tolist(), strict=True):
            queries, objects = linear_sum_assignment(one[:, :count])
            row[objects] = queries
        return torch.from_numpy(matched).to(boxes.device)


def _focal(logits: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit; what is wanted is 0 or 1."""
    surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = torch.where(wanted > 0, 1 - logits.sigmoid(), logits.sigmoid())
    return torch.where(wanted > 0, alpha, 1 - alpha) * missed**gamma * surprise


def _generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Of pairs of boxes [..., 4] xyxy, in [-1, 1]: intersection over union less the share of the hull that is empty."""
    shared, hull = (
        (pick_right(boxes[..., 2:], others[..., 2:]) - pick_left(boxes[..., :2], others[..., :2])).clamp(min=0).prod(-1)
        for pick_left, pick_right in ((torch.maximum, torch.minimum), (torch.minimum, torch.maximum))
    )
    union = sum((one[..., 2:] - one[..., :2]).clamp(min=0).prod(dim=-1) for one in (boxes, others)) - shared
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


class VisionTask:
    """The tower by what its cells show, the proposer by DETR's set loss, the region encoder by what regions hold."""

    name = "vision"

    def __init__(self, sizes: FireEditConfig, recipe: VisionRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.model = Eyes(sizes)
        self.set_loss = SetLoss()

    def draw(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        """Source or target of an edit, and all that is known of it."""
        edit = make_edit(TRAIN if seed in TRAIN.seeds else HELD_OUT, seed)
        scene = (edit.source, edit.target)[seed % 2]
        return known(renderer.draw(scene, self.sizes.vision.image_size), scene)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, Eyes)
        batch = _numbered(batch)
        features, states = model.look(batch["view"])
        found = model.detect(features)
        detection = self.set_loss(found, batch["boxes"], batch["names"] != IGNORED)
        cells = self._cell_loss(model, [states, model.look_coarsely(batch["view"])], batch)
        whole = known_cross_entropy(model.background(states.mean(dim=1)), batch["background"])
        whole = whole + known_cross_entropy(model.style(states.mean(dim=1)), batch["style"])
        regions = self._region_loss(model, features, found, batch)
        loss = self.recipe.detection_weight * detection + cells + whole + regions
        return {"loss": loss, "detection": detection, "cells": cells, "whole": whole, "regions": regions}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Shares in [0, 1] on held-out scenes.

        `recall`: true boxes that some proposal covers with IoU >= 0.5; `kept_...`: of those that `select_proposals`
        keeps for the VLM; names and colours are read from region tokens by the linear readers.
        """
        assert isinstance(model, Eyes)
        hits: dict[str, list[Tensor]] = defaultdict(list)
        device = model.names.weight.device
        for batch in held_out_batches(self.draw, self.recipe.held_out, 64):
            batch = _numbered({name: value.to(device) for name, value in batch.items()})
            features, states = model.look(batch["view"])
            for name, reader in (("background", model.background), ("style", model.style)):
                hits[f"{name}_accuracy"].append(reader(states.mean(dim=1)).argmax(dim=-1) == batch[name])
            side = self.sizes.vision.image_size // self.sizes.vision.patch_size
            mostly = _shares(batch["cells"], len(SHOWN_THERE), [side]).argmax(dim=-1)
            hits["cell_accuracy"].append((model.cells(states).argmax(dim=-1) == mostly).flatten())
            boxes, _, kept = _proposed(model, features)
            true = _true_boxes(batch)
            for own, every, keep in zip(true, boxes, kept, strict=True):
                overlap = box_iou(own, every) >= SAME
                hits["recall"].append(overlap.any(dim=1))
                hits["kept_recall"].append(overlap[:, keep].any(dim=1))
                hits["kept_precision"].append(overlap[:, keep].any(dim=0))
            for prefix, asked in (
                ("", true),
                ("kept_", [every[keep] for every, keep in zip(boxes, kept, strict=True)]),
            ):
                tokens = torch.cat(model.region_encoder(features, asked))
                names, looks, _ = held(asked, batch)
                for name, reader, truth in (("name", model.names, names), ("colour", model.looks, looks)):
                    right = reader(tokens).argmax(dim=-1) == truth
                    hits[f"{prefix}{name}_accuracy"].append(right[(names != NOTHING) & (names != IGNORED)])
        return {name: accuracy(each) for name, each in hits.items()}

    def preview(self, model: nn.Module) -> Image.Image:
        """Held-out scenes with the boxes that the VLM would see, their scores, and what the readers call them."""
        assert isinstance(model, Eyes)
        panels, device = [], model.names.weight.device
        for batch in held_out_batches(self.draw, SHOWN, 1):
            features, _ = model.look(batch["view"].to(device))
            (boxes,), (scores,), (kept,) = _proposed(model, features)
            (tokens,) = model.region_encoder(features, [boxes[kept]])
            read = zip(model.looks(tokens).argmax(dim=-1), model.names(tokens).argmax(dim=-1), strict=True)
            words = [f"{LOOKS[look]} {(*NAMES, '?')[name]}".strip() for look, name in read]
            framed, sure = boxes[kept].tolist(), scores[kept].tolist()
            panels.append(Panel(image=batch["view"][0].numpy(), title=", ".join(words), boxes=framed, scores=sure))
        return sheet(panels, columns=4, height=256)

    def load(self, folder: Path) -> None:
        """All but the readers, which are never saved."""
        self.model.vision.dino.load_state_dict(saved(Vision(self.sizes.vision), folder / "vision").dino.state_dict())
        load_weights(self.model.detector, folder / "detector")
        load_weights(self.model.region_encoder, folder / "region_encoder")

    def save(self, model: nn.Module, folder: Path) -> None:
        """In half precision, but for the proposer, which is never computed in it; CLIP's part of the tower stays."""
        assert isinstance(model, Eyes)
        vision = saved(Vision(self.sizes.vision), folder / "vision")
        vision.dino.load_state_dict(model.vision.dino.state_dict())
        vision.half().save_pretrained(folder / "vision")
        model.detector.save_pretrained(folder / "detector")
        model.region_encoder.half().save_pretrained(folder / "region_encoder")

    def _cell_loss(self, model: Eyes, views: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """What the cells of each view [B, N, W] show and in which colour, by shares of their pixels."""
        states, sides = torch.cat(list(views), dim=1), [round(view.shape[1] ** 0.5) for view in views]
        shares = _shares(batch["cells"], len(SHOWN_THERE), sides), _shares(batch["cell_looks"], len(LOOKS), sides)
        read = model.cells(states), model.cell_looks(states)
        losses = [
            F.cross_entropy(logits.float().flatten(0, 1), true.flatten(0, 1))
            for logits, true in zip(read, shares, strict=True)
        ]
        return torch.stack(losses).sum()

    def _region_loss(
        self, model: Eyes, features: VisionFeatures, found: Detections, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Name, colour and reflection of true boxes, moved a bit, and of the best proposals, in part of the batch."""
        few = max(1, round(self.recipe.region_share * len(batch["view"])))
        best = (found.coco_logits[-1] + found.sa1b_logits[-1])[:few].detach().topk(MOST_OBJECTS).indices
        asked = []
        for own, every, first in zip(_true_boxes(batch)[:few], found.boxes[-1].detach(), best, strict=False):
            sides = (own[:, 2:] - own[:, :2]).repeat(1, 2)
            moved = own + self.recipe.jitter * sides * torch.randn_like(own)
            asked.append(torch.cat([moved.clamp(0, 1), every[first]]))
        tokens = torch.cat(model.region_encoder(features[:few], asked))
        readers = (model.names, model.looks, model.reflected)
        losses = [
            known_cross_entropy(reader(tokens), truth)
            for reader, truth in zip(readers, held(asked, batch), strict=True)
        ]
        return torch.stack(losses).sum()


def known(picture: Rendering, scene: Scene) -> dict[str, Tensor]:
    """A drawn scene of the training world with its truth.

    Returns:
        view: uint8 [S, S, 3]. cells, cell_looks: uint8 [S, S], what each pixel shows of `SHOWN_THERE` and of `LOOKS`.
        boxes: float [M, 4] xyxy in [0, 1]; names, looks, reflected: int16 [M]; as many as are seen, then zeros and
        IGNORED. background, style: int16 [].
    """
    side, placed = len(picture.image), {one.id: one for one in scene.objects}
    cells = np.full((side, side), SHOWN_THERE.index(scene.background), np.uint8)
    cell_looks, boxes = np.zeros_like(cells), np.zeros((MOST_OBJECTS, 4), np.float32)
    columns, count = np.full((3, MOST_OBJECTS), IGNORED, np.int16), 0
    for number, mask in picture.masks.items():
        is_mirror = number == MIRROR
        name = NAMES.index("mirror" if is_mirror else placed[number].name)
        colour = LOOKS.index("" if is_mirror or scene.effect in COLOURLESS else placed[number].looks)
        cells[mask], cell_looks[mask] = name, colour
        if np.count_nonzero(mask) >= SMALLEST_SHARE * side**2:
            boxes[count] = np.array(box_of(mask)) / side
            columns[:, count] = name, colour, not is_mirror and placed[number].reflection
            count += 1
    names, looks, reflected = torch.from_numpy(columns)
    return {
        "view": torch.from_numpy(picture.image.copy()),
        "cells": torch.from_numpy(cells),
        "cell_looks": torch.from_numpy(cell_looks),
        "boxes": torch.from_numpy(boxes),
        "names": names,
        "looks": looks,
        "reflected": reflected,
        "background": torch.tensor(TRAIN.backgrounds.index(scene.background), dtype=torch.int16),
        "style": torch.tensor(STYLES.index(scene.effect), dtype=torch.int16),
    }


def _numbered(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the numbers as losses read them, int64."""
    return {name: value if name in ("view", "boxes") else value.long() for name, value in batch.items()}


def _true_boxes(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """For each picture [G_b, 4]."""
    counts = (batch["names"] != IGNORED).sum(dim=1).tolist()
    return [boxes[:count] for boxes, count in zip(batch["boxes"], counts, strict=True)]


def held(asked: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Name, colour and reflection of what each box [R_b, 4] of the first pictures holds, [R] each, one after another.

    A box that is neither an object's nor clearly nobody's has no name, and only an object has a colour.
    """
    columns: list[list[Tensor]] = [[], [], []]
    for number, (boxes, true) in enumerate(zip(asked, _true_boxes(batch), strict=False)):
        best, which = box_iou(boxes, true).max(dim=1)
        nobodys = torch.where(best < OTHER, NOTHING, IGNORED)
        for column, name in zip(columns, ("names", "looks", "reflected"), strict=True):
            other = nobodys if name == "names" else torch.full_like(nobodys, IGNORED)
            column.append(torch.where(best >= SAME, batch[name][number][which], other))
    names, looks, reflected = (torch.cat(column) for column in columns)
    return names, looks, reflected


def _shares(pixels: Tensor, kinds: int, sides: Sequence[int]) -> Tensor:
    """[B, S, S] of numbers below `kinds` -> [B, sum of sides^2, kinds]: shares of each cell's pixels, view by view."""
    told = F.one_hot(pixels, kinds).movedim(-1, 1).float()
    return torch.cat([F.adaptive_avg_pool2d(told, side).flatten(2).transpose(1, 2) for side in sides], dim=1)


def _proposed(model: Eyes, features: VisionFeatures) -> tuple[Tensor, Tensor, list[Tensor]]:
    """All boxes [B, Q, 4] and scores [B, Q] as `FireEdit.perceive` sees them, and which ones it keeps."""
    proposals = model.detector(features)
    pairs = zip(proposals.boxes, proposals.scores, strict=True)
    return (
        proposals.boxes,
        proposals.scores,
        [select_proposals(*pair, model.detector.proposal_config) for pair in pairs],
    )
