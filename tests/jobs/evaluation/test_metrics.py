"""Numbers of an edited picture: what they are of pictures whose errors are known."""

import math

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation import metrics


def grey(value: int, count: int = 2) -> torch.Tensor:
    return torch.full((count, 8, 8, 3), value, dtype=torch.uint8)


def test_the_mask_is_what_changes_and_a_little_around() -> None:
    source, target = grey(0, 1), grey(0, 1)
    target[0, 4, 4, 1] = 9
    mask = metrics.edit_mask(source, target, grow=1)
    assert mask.shape == (1, 8, 8) and int(mask.sum()) == 9 and bool(mask[0, 3:6, 3:6].all())


def test_errors_are_told_apart_inside_and_outside() -> None:
    target, edited = grey(0), grey(0)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    edited[0, :4] = 51
    scores = metrics.pixel_scores(edited, target, mask)
    assert scores.l1.tolist() == pytest.approx([0.1, 0])
    assert scores.l1_inside.tolist() == pytest.approx([0.2, 0])
    assert scores.l1_outside.tolist() == [0, 0]
    assert scores.psnr_inside.tolist() == pytest.approx([20 * math.log10(5), metrics.MOST_DB])


def test_where_there_are_no_pixels_there_is_no_error() -> None:
    scores = metrics.pixel_scores(grey(0), grey(9), torch.zeros(2, 8, 8, dtype=torch.bool))
    assert scores.l1_inside.isnan().all() and scores.psnr_inside.isnan().all()
    assert not scores.l1_outside.isnan().any()


def test_equal_features_have_no_distance_and_brightness_makes_none() -> None:
    features = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    others = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    assert metrics.perceptual_distance(features, [3 * one for one in features]).tolist() == pytest.approx([0, 0])
    assert bool((metrics.perceptual_distance(features, others) > 0).all())


def test_an_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    rng = np.random.default_rng(0)
    few, many = (metrics.interval(rng.random(count) < 0.7) for count in (20, 2000))
    assert few.low < few.mean < few.high and many.high - many.low < few.high - few.low
    assert abs(many.mean - 0.7) < 0.05 and many.count == 2000
    assert metrics.interval([0.0, 1.0, 1.0]) == metrics.interval([0.0, 1.0, 1.0])


def test_what_was_not_measured_is_left_out_of_the_mean() -> None:
    assert metrics.interval([1.0, float("nan")]).mean == 1
    assert metrics.interval([]).count == 0 and math.isnan(metrics.interval([]).mean)


def test_the_interval_of_a_ratio_is_of_pairs() -> None:
    dice = np.random.default_rng(0)
    judged = dice.random(200) < 0.8
    ours = judged & (dice.random(200) < 0.6)
    paired, apart = metrics.ratio(ours, judged), metrics.ratio(dice.permutation(ours), judged)
    assert paired.mean == apart.mean == ours.sum() / judged.sum()
    assert paired.low < paired.mean < paired.high and paired.high - paired.low < apart.high - apart.low
    assert metrics.ratio([1.0, float("nan")], [2.0, 1.0]).count == 1, "a case of which half is unknown is left out"
    assert metrics.ratio([0.0], [0.0]).count == 0, "nothing is relative to nothing"
