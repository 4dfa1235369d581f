"""Detector that proposes the most regions."""

import torch

from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.models.detector import Detector
from fireedit.models.model import preset
from fireedit.models.vision import VisionFeatures
from tests.factories import features_of


def test_a_detector_proposes_as_many_regions_as_a_prompt_takes() -> None:
    config = preset("nano").detector
    detector = Detector(config)
    propose_most_regions(detector)
    features: VisionFeatures = features_of(*(torch.randn(2, config.feature_width, 8, 8) for _ in range(4)))
    proposals = detector(features)
    assert proposals.boxes.shape == (2, config.proposals.max_regions, 4)
    assert proposals.boxes.min() == 0 and proposals.boxes.max() <= 1
