"""Places of text and visual tokens, worked out by hand."""

import torch

from fireedit.models.prompt_layout import PromptLayout
from fireedit.models.tokens import IGNORED, PADDING

IMAGE, REGIONS, FIRST_IMG = 100, 101, 102
IDS = torch.tensor([[7, IMAGE, REGIONS, FIRST_IMG, FIRST_IMG + 1], [7, IMAGE, 8, PADDING, PADDING]])
LABELS = torch.tensor([[IGNORED, IGNORED, IGNORED, FIRST_IMG, FIRST_IMG + 1], [7, IGNORED, 8, IGNORED, IGNORED]])


def test_visual_tokens_follow_their_marks_and_padding_has_no_place() -> None:
    """The second prompt has no mark of regions, so that its region has no place, either."""
    layout = PromptLayout.of(IDS, LABELS, {IMAGE: [2, 2], REGIONS: [3, 1]}, FIRST_IMG)
    assert layout.length == 10
    text, image, regions = layout.positions.split([5, 2, 3], dim=1)
    assert text.tolist() == [[0, 1, 4, 8, 9], [0, 1, 4, 10, 10]]
    assert image.tolist() == [[2, 3], [2, 3]] and regions.tolist() == [[5, 6, 7], [10, 10, 10]]
    assert layout.first_img.tolist()[0] == 8 and layout.has_img.tolist() == [True, False]


def test_the_state_before_a_labelled_token_predicts_it() -> None:
    """The first token has nothing before it: its label does not count."""
    layout = PromptLayout.of(IDS, LABELS, {IMAGE: [2, 2], REGIONS: [3, 1]}, FIRST_IMG)
    assert layout.predictors.tolist() == [7, 8, 10 + 3], "the last region, the first [IMG] token, the image"
    assert layout.targets.tolist() == [FIRST_IMG, FIRST_IMG + 1, 8] and layout.counts.tolist() == [2, 1]
    assert layout.labelled.tolist() == [3, 4, 5 + 2]


def test_text_alone_keeps_its_places() -> None:
    layout = PromptLayout.of(IDS, LABELS, {}, FIRST_IMG)
    assert layout.length == 5 and layout.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 5, 5]]
    assert layout.to(torch.device("meta")).positions.is_meta
