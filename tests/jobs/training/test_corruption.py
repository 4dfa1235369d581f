"""Corrupted images differ from the originals and stay close to them."""

import torch

from fireedit.jobs.evaluation.scene_reader import signed
from fireedit.jobs.training.corruption import corrupted, noisy, speckled
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import TRAIN


def images(count: int) -> torch.Tensor:
    drawn = [draw_scene(make_edit(TRAIN, seed).source, 64).image for seed in range(count)]
    return torch.stack([torch.from_numpy(image) for image in drawn])


def test_a_corrupted_image_stays_close_to_the_original() -> None:
    torch.manual_seed(0)
    pictures = signed(images(16))
    changed = corrupted(pictures, 1.0)
    assert (changed != pictures).flatten(1).any(dim=1).all()
    assert changed.abs().max() <= 1
    assert ((changed - pictures).abs().mean(dim=(1, 2, 3)) < 0.2).all()


def test_a_share_of_the_images_is_corrupted() -> None:
    torch.manual_seed(0)
    pictures = signed(images(4)).repeat(16, 1, 1, 1)
    assert torch.equal(corrupted(pictures, 0.0), pictures)
    assert 0.3 < (corrupted(pictures, 0.5) != pictures).flatten(1).any(dim=1).float().mean() < 0.7


def test_speckles_are_whole_cells() -> None:
    pictures = images(4)
    generator = torch.Generator().manual_seed(0)
    changed = (speckled(pictures, generator) != pictures).any(dim=-1)
    cells = changed.unflatten(2, (16, 4)).unflatten(1, (16, 4)).float().mean(dim=(2, 4))
    assert 0.01 < (cells > 0).float().mean() < 0.08
    assert cells[cells > 0].mean() > 0.8
    assert (noisy(pictures, generator) != pictures).float().mean() > 0.5
