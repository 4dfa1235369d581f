"""Published detectors are read as published, saved whole, and refused with a reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DetrImageProcessorPil, SamImageProcessorPil

from fireedit.models.detectors.pretrained import PUBLISHED, Preprocessing, PretrainedDetector
from fireedit.models.detectors.proposals import DetectorError
from fireedit.models.detectors.sam import SAMConfig, SAMDetector


@pytest.mark.parametrize(
    "processor",
    [
        SamImageProcessorPil(size={"longest_edge": 96}, pad_size={"height": 96, "width": 96}),
        DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 60}, resample=3),
        DetrImageProcessorPil(size={"height": 56, "width": 72}, do_normalize=False),
    ],
)
def test_pixels_are_those_of_transformers(processor: SamImageProcessorPil, view: Tensor) -> None:
    ours = Preprocessing.of(processor)(view)
    theirs = processor([Image.fromarray(pixels) for pixels in view.numpy()], return_tensors="pt")["pixel_values"]
    level = 1.01 / 255 / min(processor.image_std if processor.do_normalize else [1.0])
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < level, "rounded in between, by Pillow twice"
    assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "keeps the size of a square picture, or pads it"),
        ({"size": {"longest_edge": 48}}, "keeps the size of a square picture, or pads it"),
        ({"resample": 1}, "has resample 1; write 2 or 3"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: dict[str, object], said: str) -> None:
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    with pytest.raises(DetectorError, match=said):
        Preprocessing.of(SamImageProcessorPil(**(sizes | settings)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["sam", "rt_detr"])
def test_a_saved_detector_needs_no_other_folder(
    name: str, view: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    detector: PretrainedDetector = request.getfixturevalue(name)
    before = detector(None, view)
    detector.save_pretrained(tmp_path)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "/" not in written.replace("pytorch/", ""), "paths of this machine stay here"
    assert json.loads((tmp_path / "config.json").read_text())["proposals"]["max_regions"] == 100
    again = type(detector).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert dict(again.config).items() <= dict(detector.config).items() and again.dtype == torch.float32
    after = again(None, view)
    assert torch.equal(after.boxes, before.boxes) and torch.equal(after.scores, before.scores)


def test_frozen_in_eval_mode(sam: SAMDetector) -> None:
    assert not sam.training and not any(parameter.requires_grad for parameter in sam.parameters())


def test_an_outline_takes_no_memory_and_leaves_no_tensor_on_the_cpu(sam_folder: Path, view: Tensor) -> None:
    outline = SAMDetector.outline(SAMConfig(folder=str(sam_folder), points_per_side=2))
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    proposals = outline(None, view.to("meta"))
    assert proposals.boxes.shape == (3, 12, 4) and proposals.boxes.is_meta and proposals.scores.is_meta


@pytest.fixture
def copy(sam_folder: Path, tmp_path: Path) -> Path:
    """A folder of SAM, to damage."""
    return Path(shutil.copytree(sam_folder, tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(DetectorError) as error:
        SAMDetector.load(SAMConfig(folder=str(folder)))
    message = str(error.value)
    assert message.startswith(f"{folder}: ") and "; write model.detector.folder=FOLDER of a SamModel" in message
    return message


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "none")


def test_a_folder_of_another_model_is_refused(rt_detr_folder: Path) -> None:
    assert "found a rt_detr, not a sam" in refusal(rt_detr_folder)


def test_a_file_that_stands_in_for_the_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "is a Git LFS pointer, not the file" in refusal(copy)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name.split(".")[0].split("_")[0] in refusal(copy)


def test_weights_that_lack_a_tensor_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["vision_encoder.patch_embed.projection.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack vision_encoder.patch_embed.projection.weight" in refusal(copy)


def test_a_damaged_saved_detector_is_refused(sam: SAMDetector, tmp_path: Path) -> None:
    sam.save_pretrained(tmp_path)
    (tmp_path / PUBLISHED / "model.safetensors").write_bytes(b"")
    with pytest.raises(DetectorError, match="model.safetensors is empty; download it again"):
        SAMDetector.from_pretrained(tmp_path)
