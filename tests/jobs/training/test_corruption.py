"""A spoiled picture is another one, and still shows the same."""

import torch

from fireedit.jobs.evaluation.scene_reader import signed
from fireedit.jobs.training.corruption import noisy, speckled, spoiled
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import TRAIN


def drawn(count: int) -> torch.Tensor:
    images = [draw_scene(make_edit(TRAIN, seed).source, 64).image for seed in range(count)]
    return torch.stack([torch.from_numpy(image) for image in images])


def test_a_spoiled_picture_stays_the_same_picture() -> None:
    torch.manual_seed(0)
    pictures = signed(drawn(16))
    changed = spoiled(pictures, 1.0)
    assert (changed != pictures).flatten(1).any(dim=1).all()
    assert changed.abs().max() <= 1
    assert ((changed - pictures).abs().mean(dim=(1, 2, 3)) < 0.2).all()


def test_the_share_says_how_many_are_spoiled() -> None:
    torch.manual_seed(0)
    pictures = signed(drawn(4)).repeat(16, 1, 1, 1)
    assert torch.equal(spoiled(pictures, 0.0), pictures)
    assert 0.3 < (spoiled(pictures, 0.5) != pictures).flatten(1).any(dim=1).float().mean() < 0.7


def test_speckles_are_whole_cells() -> None:
    pictures = drawn(4)
    dice = torch.Generator().manual_seed(0)
    changed = (speckled(pictures, dice) != pictures).any(dim=-1)
    cells = changed.unflatten(2, (16, 4)).unflatten(1, (16, 4)).float().mean(dim=(2, 4))
    assert 0.01 < (cells > 0).float().mean() < 0.08
    assert cells[cells > 0].mean() > 0.8
    assert (noisy(pictures, dice) != pictures).float().mean() > 0.5
