"""Measures of pictures whose errors are known."""

import math

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation import metrics


def gray(value: int, count: int = 2) -> torch.Tensor:
    return torch.full((count, 8, 8, 3), value, dtype=torch.uint8)


def test_the_mask_is_the_dilated_change() -> None:
    source, target = gray(0, 1), gray(0, 1)
    target[0, 4, 4, 1] = 9
    mask = metrics.edit_mask(source, target, grow=1)
    assert mask.shape == (1, 8, 8) and int(mask.sum()) == 9 and bool(mask[0, 3:6, 3:6].all())


def test_errors_are_separated_by_the_mask() -> None:
    target, edited = gray(0), gray(0)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    edited[0, :4] = 51
    scores = metrics.pixel_scores(edited, target, mask)
    assert scores["l1"].tolist() == pytest.approx([0.1, 0])
    assert scores["l1_inside"].tolist() == pytest.approx([0.2, 0])
    assert scores["l1_outside"].tolist() == [0, 0]
    assert scores["psnr_inside"].tolist() == pytest.approx([20 * math.log10(5), metrics.MAX_DB])


def test_errors_of_an_empty_mask_are_nan() -> None:
    scores = metrics.pixel_scores(gray(0), gray(9), torch.zeros(2, 8, 8, dtype=torch.bool))
    assert scores["l1_inside"].isnan().all() and scores["psnr_inside"].isnan().all()
    assert not scores["l1_outside"].isnan().any()


def test_the_perceptual_distance_ignores_the_scale_of_features() -> None:
    features = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    others = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    assert metrics.perceptual_distance(features, [3 * level for level in features]).tolist() == pytest.approx([0, 0])
    assert bool((metrics.perceptual_distance(features, others) > 0).all())


def test_an_interval_contains_the_mean_and_narrows_with_more_values() -> None:
    rng = np.random.default_rng(0)
    few, many = (metrics.interval(rng.random(count) < 0.7) for count in (20, 2000))
    assert few.low < few.mean < few.high and many.high - many.low < few.high - few.low
    assert abs(many.mean - 0.7) < 0.05 and many.count == 2000
    assert metrics.interval([0.0, 1.0, 1.0]) == metrics.interval([0.0, 1.0, 1.0])
    assert metrics.interval([1.0, float("nan")]).mean == 1
    assert metrics.interval([]).count == 0 and math.isnan(metrics.interval([]).mean)


def test_a_ratio_is_resampled_in_pairs() -> None:
    rng = np.random.default_rng(0)
    possible = rng.random(200) < 0.8
    passed = possible & (rng.random(200) < 0.6)
    paired, shuffled = metrics.ratio(passed, possible), metrics.ratio(rng.permutation(passed), possible)
    assert paired.mean == shuffled.mean == passed.sum() / possible.sum()
    assert paired.low < paired.mean < paired.high and paired.high - paired.low < shuffled.high - shuffled.low
    assert metrics.ratio([1.0, float("nan")], [2.0, 1.0]).count == 1, "a pair with a NaN is left out"
    assert metrics.ratio([0.0], [0.0]).count == 0, "a ratio to zero is unknown"
