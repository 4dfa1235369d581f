"""CLIP embeds the views that HVCA reads, and the judge scores pictures against captions."""

import torch

from fireedit.jobs.evaluation.clip import CLIPJudge, normalized
from fireedit.models.model import NANO, preset
from fireedit.models.vision import CLIP_MEAN, CLIP_STD, Vision
from fireedit.platform.scenes import language
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import WORLDS

SIZES = preset("nano").vision


def test_pictures_are_normalized_as_the_vision_tower_does() -> None:
    vision = Vision(SIZES).eval()
    view = torch.randint(256, (2, SIZES.image_size, SIZES.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        coarse, fine, *_ = vision(view, detail="both").detail
        for states, side in ((coarse, SIZES.detail_size), (fine, SIZES.image_size)):
            pixels = normalized(view, side, CLIP_MEAN, CLIP_STD)
            output = vision.clip(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
            torch.testing.assert_close(output.hidden_states[-2][:, 1:], states)


def test_the_shipped_judge_prefers_the_caption_of_a_picture() -> None:
    judge, world = CLIPJudge.from_pretrained(NANO), WORLDS["unseen_seeds"]
    scenes = [make_edit(world, seed).source for seed in world.seeds[:2]]
    pictures = torch.stack([torch.from_numpy(draw_scene(scene, 64).image) for scene in scenes])
    images, texts = judge.pictures(pictures), judge.texts([language.caption(scene) for scene in scenes])
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert (images @ texts.T).argmax(dim=1).tolist() == [0, 1]
