"""Vision of nano: labels of a scene, gradients, and saved weights that the model perceives with."""

import random
from pathlib import Path

import torch
from torch.utils.data import default_collate

from fireedit.jobs.training.parts import vision
from fireedit.jobs.training.pretraining import pretrain
from fireedit.models.detector import Detector
from fireedit.models.model import FireEdit, preset
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import Vision
from fireedit.platform.scenes.layout import sample_mirror
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")


def recipe_of(folder: Path, steps: int = 3) -> vision.VisionRecipe:
    optimizer = OptimizerConfig(lr=1e-3)
    return vision.VisionRecipe(steps=steps, batch=4, workers=0, optimizer=optimizer, held_out=8, home=str(folder))


def test_mirror_and_reflection_are_labelled_as_objects() -> None:
    scene = next(filter(None, (sample_mirror(TRAIN, random.Random(seed)) for seed in range(20))))
    labels = vision.labelled(draw_scene(scene, 64), scene)
    is_object = labels["names"] != IGNORED
    assert is_object.sum() == 4 and labels["reflected"][is_object].sum() == 1
    assert vision.NAMES.index("mirror") in labels["names"][is_object]
    for name, box in zip(labels["names"][is_object], labels["boxes"][is_object], strict=True):
        left, top, right, bottom = (box * 64).long().tolist()
        assert (labels["cells"][top:bottom, left:right] == name).any()
        assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64


def test_a_box_is_labelled_as_object_or_empty_or_ignored() -> None:
    true, empty = torch.tensor([0.2, 0.2, 0.6, 0.6]), torch.tensor([0.7, 0.7, 0.9, 0.9])
    half = torch.tensor([0.2, 0.2, 0.6, 0.36])
    batch = {"boxes": torch.stack([true, true])[None], "names": torch.tensor([[3, IGNORED]])}
    batch |= {"looks": torch.tensor([[2, IGNORED]]), "reflected": torch.tensor([[1, IGNORED]])}
    names, looks, reflected = vision.box_labels([torch.stack([true, empty, half])], batch)
    assert names.tolist() == [3, vision.NOTHING, IGNORED]
    assert looks.tolist() == [2, IGNORED, IGNORED] and reflected.tolist() == [1, IGNORED, IGNORED]


def test_every_trained_parameter_gets_a_gradient(tmp_path: Path) -> None:
    task = vision.VisionTask(SIZES, recipe_of(tmp_path), tmp_path)
    batch = default_collate([task.draw(seed) for seed in range(4)])
    task.losses(task.model, batch)["loss"].backward()
    idle = {name for name, weight in task.model.named_parameters() if weight.requires_grad and weight.grad is None}
    assert not idle


def test_trained_weights_are_saved_and_perceive(tmp_path: Path) -> None:
    before = Vision(SIZES.vision)
    before.save_pretrained(tmp_path / "vision")
    task = vision.VisionTask(SIZES, recipe_of(tmp_path), tmp_path)
    report = pretrain(task, recipe_of(tmp_path), tmp_path)
    shares = {name: value for name, value in report.items() if name.endswith(("accuracy", "recall", "precision"))}
    assert len(shares) == 10 and all(0 <= value <= 1 for value in shares.values())

    kinds = {"vision": Vision, "detector": Detector, "region_encoder": RegionEncoder}
    loaded = {name: kind.from_pretrained(tmp_path / name, torch_dtype=torch.float32) for name, kind in kinds.items()}
    torch.testing.assert_close(loaded["vision"].clip.state_dict(), before.clip.state_dict(), atol=1e-3, rtol=1e-3)
    assert not torch.equal(loaded["vision"].dino.layernorm.weight, before.dino.layernorm.weight)
    percepts = FireEdit(**loaded).perceive(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert percepts.region_tokens[0].shape == (len(percepts.boxes[0]), SIZES.region_encoder.width_out)
