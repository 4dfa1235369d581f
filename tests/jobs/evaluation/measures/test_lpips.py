"""LPIPS is that of a plain NumPy rebuild, on random files under the published names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.jobs.evaluation.measures.lpips import LPIPS, NETS
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.weights import WeightsError
from tests.jobs.evaluation.measures.plain import photo, unit_pixels
from tests.jobs.evaluation.published_backbones import SQUEEZE, Tensors, random_heads, random_trunk, save_lpips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lpips(tmp_path_factory.mktemp("lpips"))


def convolved(states: np.ndarray, tensors: Tensors, name: str, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Convolve [C, H, W] and cut off negative values."""
    weight, bias = (tensors[f"{name}.{kind}"].double().numpy() for kind in ("weight", "bias"))
    padded = np.pad(states, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    sums = np.tensordot(weight, windows, axes=([1, 2, 3], [0, 3, 4]))
    return np.maximum(sums + bias[:, None, None], 0)


def pooled(states: np.ndarray, partial: bool) -> np.ndarray:
    """Take the maxima of windows of 3 pixels at every second, those over the edge only if `partial`."""
    height, width = ((length - 3) / 2 for length in states.shape[1:])
    rows, columns = (int(np.ceil(steps) if partial else np.floor(steps)) + 1 for steps in (height, width))
    grid = [
        [states[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3].max(axis=(1, 2)) for x in range(columns)] for y in range(rows)
    ]
    return np.array(grid).transpose(2, 0, 1)


def levels(image: Image.Image, net: str, tensors: Tensors) -> list[np.ndarray]:
    signed = 2 * unit_pixels(image).astype(np.float64) - 1
    mean, spread = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    states = (signed - mean[:, None, None]) / spread[:, None, None]
    if net == "alex":
        first = convolved(states, tensors, "features.0", stride=4, padding=2)
        second = convolved(pooled(first, partial=False), tensors, "features.3", padding=2)
        third = convolved(pooled(second, partial=False), tensors, "features.6", padding=1)
        fourth = convolved(third, tensors, "features.8", padding=1)
        return [first, second, third, fourth, convolved(fourth, tensors, "features.10", padding=1)]
    outputs = {0: convolved(states, tensors, "features.0", stride=2)}
    states = outputs[0]
    for index in SQUEEZE:
        if index in (3, 6, 9):
            states = pooled(states, partial=True)
        squeezed = convolved(states, tensors, f"features.{index}.squeeze")
        wide = convolved(squeezed, tensors, f"features.{index}.expand3x3", padding=1)
        outputs[index] = states = np.concatenate([convolved(squeezed, tensors, f"features.{index}.expand1x1"), wide])
    return [outputs[index] for index in (0, 4, 7, 9, 10, 11, 12)]


def plain_lpips(output: Image.Image, reference: Image.Image, net: str) -> float:
    tensors, total = random_trunk(net), 0.0
    both = [levels(image, net, tensors) for image in (output.resize(reference.size), reference)]
    for first, second, weight in zip(*both, random_heads(net).values(), strict=True):
        unit, other = (level / (np.sqrt((level**2).sum(axis=0)) + 1e-10) for level in (first, second))
        total += (weight.double().numpy()[0] * (unit - other) ** 2).sum(axis=0).mean()
    return total


@pytest.mark.parametrize("net", ["alex", "squeeze"])
@pytest.mark.parametrize("sizes", [((65, 47), (65, 47)), ((80, 80), (41, 58))])
def test_lpips_is_that_of_a_plain_rebuild(
    folder: Path, net: str, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    output, reference = photo(*sizes[0], 0), photo(*sizes[1], 1)
    expected = plain_lpips(output, reference, net)
    assert expected > 0.1 and LPIPS(folder, net).distance(output, reference) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_equal_pictures_have_no_distance(folder: Path, net: str) -> None:
    measure, picture = LPIPS(folder, net), np.asarray(photo(64, 64, 0))
    assert measure.distance(picture, picture) == 0
    black = np.zeros_like(picture)
    assert measure.distance(black, black) == 0


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_the_smallest_picture_passes_the_trunk(folder: Path, net: str) -> None:
    measure = LPIPS(folder, net)
    assert measure.distance(photo(32, 32, 0), photo(32, 32, 1)) > 0
    with pytest.raises(ValueError, match="found a picture of 64 x 31 pixels; give LPIPS sides of at least 32"):
        measure.distance(photo(64, 64, 0), photo(64, 31, 1))


def test_the_measure_names_its_net_and_weights(folder: Path, tmp_path: Path) -> None:
    alex, squeeze = LPIPS(folder, "alex"), LPIPS(folder, "squeeze")
    assert (alex.name, squeeze.name) == ("lpips-alex", "lpips-squeeze")
    assert alex.weights == LPIPS(folder, "alex").weights != squeeze.weights
    (tmp_path / NETS["alex"].file).symlink_to(folder / NETS["alex"].file)
    torch.save({name: 2 * tensor for name, tensor in random_heads("alex").items()}, tmp_path / "alex.pth")
    assert LPIPS(tmp_path, "alex").weights != alex.weights


def test_missing_and_wrong_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"alexnet-owt-7be5be79.pth is missing; write torchvision's AlexNet"):
        LPIPS(tmp_path, "alex")
    (tmp_path / NETS["alex"].file).symlink_to(folder / NETS["alex"].file)
    with pytest.raises(CheckpointFileError, match=r"alex.pth is missing; write lpips/weights/v0.1/alex.pth"):
        LPIPS(tmp_path, "alex")
    (tmp_path / "alex.pth").symlink_to(folder / "squeeze.pth")
    with pytest.raises(WeightsError, match=r"lin0.model.1.weight|lin5.model.1.weight"):
        LPIPS(tmp_path, "alex")
    with pytest.raises(ValueError, match="found net 'vgg'; write one of alex, squeeze"):
        LPIPS(folder, "vgg")


def test_a_pickle_of_more_than_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"lin0.model.1.weight": Path("x")}, tmp_path / "squeeze.pth")
    (tmp_path / NETS["squeeze"].file).symlink_to(folder / NETS["squeeze"].file)
    with pytest.raises(CheckpointFileError, match="is not a file of tensors alone"):
        LPIPS(tmp_path, "squeeze")
