"""The eyes of nano: what is told of a scene, what the set loss wants, and that what is saved perceives."""

import random
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from fireedit.jobs.training.loop import pretrain
from fireedit.jobs.training.parts import vision
from fireedit.models.detector import Detections, Detector
from fireedit.models.layers.boxes import to_cxcywh
from fireedit.models.model import FireEdit, preset
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import Vision
from fireedit.platform.scenes.layout import sample_mirror
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")
TRUE = [torch.tensor([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 0.8]]), torch.tensor([[0.3, 0.3, 0.7, 0.9]])]


def recipe_of(folder: Path, steps: int = 3) -> vision.VisionRecipe:
    optimizer = OptimizerConfig(lr=1e-3)
    return vision.VisionRecipe(steps=steps, batch=4, workers=0, optimizer=optimizer, held_out=8, home=str(folder))


def detections(boxes: list[torch.Tensor], sure: float) -> Detections:
    """All layers agree on these boxes, the first two of four queries; `sure` is the logit of those that are true."""
    placed = torch.full((2, 4, 4), 0.02) + torch.tensor([0.0, 0.0, 0.01, 0.01])
    logits = torch.full((2, 4), -sure)
    for number, own in enumerate(boxes):
        placed[number, : len(own)], logits[number, : len(own)] = own, sure
    layers = logits.expand(2, -1, -1)
    return Detections(placed, logits, placed.expand(2, -1, -1, -1), layers, layers)


def padded(boxes: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of every picture behind one another, and which are there."""
    return pad_sequence(boxes, batch_first=True), pad_sequence([own[:, 0] > 0 for own in boxes], batch_first=True)


def mirror_scene() -> dict[str, torch.Tensor]:
    scene = next(filter(None, (sample_mirror(TRAIN, random.Random(seed)) for seed in range(20))))
    return vision.known(Renderer().draw(scene, 64), scene)


def test_mirror_and_reflection_are_objects_too() -> None:
    known = mirror_scene()
    there = known["names"] != IGNORED
    assert there.sum() == 4 and known["reflected"][there].sum() == 1
    assert vision.NAMES.index("mirror") in known["names"][there]


def test_boxes_hold_the_pixels_that_show_their_object() -> None:
    known = mirror_scene()
    for name, box in zip(known["names"], known["boxes"], strict=True):
        if name != IGNORED:
            left, top, right, bottom = (box * 64).long().tolist()
            assert (known["cells"][top:bottom, left:right] == name).any()
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64


def test_the_set_loss_falls_to_nothing_where_every_box_is_found() -> None:
    loss = vision.SetLoss()
    found = loss(detections(TRUE, sure=8.0), *padded(TRUE))
    moved = loss(detections([boxes + 0.05 for boxes in TRUE], sure=8.0), *padded(TRUE))
    unsure = loss(detections(TRUE, sure=-2.0), *padded(TRUE))
    assert found < 0.01 and moved > 0.5 and unsure > 0.5


def test_the_set_loss_is_that_of_transformers() -> None:
    found = detections([boxes + 0.05 for boxes in TRUE], sure=0.5)
    targets = [{"class_labels": torch.zeros(len(own), dtype=torch.int64), "boxes": to_cxcywh(own)} for own in TRUE]
    matcher = DeformableDetrHungarianMatcher(2.0, 5.0, 2.0)
    stock = DeformableDetrImageLoss(matcher, num_classes=1, focal_alpha=0.25, losses=["labels", "boxes"])
    outputs = {"pred_boxes": to_cxcywh(found.boxes[-1]), "logits": found.coco_logits[-1][..., None]}
    losses = stock(outputs, targets)
    wanted = 2 * losses["loss_ce"] + 5 * losses["loss_bbox"] + 2 * losses["loss_giou"]
    torch.testing.assert_close(vision.SetLoss()(found, *padded(TRUE)), 3 * wanted)  # two layers, and the anchors


def test_a_box_is_an_objects_or_nobodys_or_neither() -> None:
    true, nowhere = torch.tensor([0.2, 0.2, 0.6, 0.6]), torch.tensor([0.7, 0.7, 0.9, 0.9])
    half = torch.tensor([0.2, 0.2, 0.6, 0.36])
    batch = {"boxes": torch.stack([true, true])[None], "names": torch.tensor([[3, IGNORED]])}
    batch |= {"looks": torch.tensor([[2, IGNORED]]), "reflected": torch.tensor([[1, IGNORED]])}
    names, looks, reflected = vision.held([torch.stack([true, nowhere, half])], batch)
    assert names.tolist() == [3, vision.NOTHING, IGNORED]
    assert looks.tolist() == [2, IGNORED, IGNORED] and reflected.tolist() == [1, IGNORED, IGNORED]


def test_a_seed_always_draws_the_same_scene(tmp_path: Path) -> None:
    part = vision.VisionTask(SIZES, recipe_of(tmp_path), tmp_path)
    first, other, again = (part.draw(Renderer(), seed) for seed in (3, 4, 3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(first[name].shape == other[name].shape for name in first) and not torch.equal(
        first["view"], other["view"]
    )


def test_all_that_is_trained_gets_a_gradient(tmp_path: Path) -> None:
    part = vision.VisionTask(SIZES, recipe_of(tmp_path), tmp_path)
    batch = default_collate([part.draw(Renderer(), seed) for seed in range(4)])
    part.losses(part.model, batch)["loss"].backward()
    idle = {name for name, one in part.model.named_parameters() if one.requires_grad and one.grad is None}
    assert not idle


def test_what_is_trained_is_saved_and_perceives(tmp_path: Path) -> None:
    before = Vision(SIZES.vision)
    before.save_pretrained(tmp_path / "vision")
    part = vision.VisionTask(SIZES, recipe_of(tmp_path), tmp_path)
    report = pretrain(part, recipe_of(tmp_path), tmp_path)
    shares = {name: value for name, value in report.items() if name.endswith(("accuracy", "recall", "precision"))}
    assert len(shares) == 10 and all(0 <= value <= 1 for value in shares.values())

    parts = (Vision, Detector, RegionEncoder)
    folders = ("vision", "detector", "region_encoder")
    eyes = {
        folder: kind.from_pretrained(tmp_path / folder, torch_dtype=torch.float32)
        for kind, folder in zip(parts, folders, strict=True)
    }
    torch.testing.assert_close(eyes["vision"].clip.state_dict(), before.clip.state_dict(), atol=1e-3, rtol=1e-3)
    assert not torch.equal(eyes["vision"].dino.layernorm.weight, before.dino.layernorm.weight)
    percepts = FireEdit(**eyes).perceive(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), detail=False)
    assert percepts.region_tokens[0].shape == (len(percepts.boxes[0]), SIZES.region_encoder.width_out)
