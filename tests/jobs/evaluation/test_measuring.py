"""Measures of stored pictures: MagicBrush's own evaluation in plain form, Emu Edit's and ReasonEdit's."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, ViTModel

from fireedit.jobs.evaluation import measuring
from fireedit.jobs.evaluation.measures.lpips import LPIPS
from fireedit.jobs.evaluation.measures.openai_clip import CLIPMeasure
from fireedit.jobs.evaluation.measuring import (
    EQUAL_DB,
    Batch,
    MeasureReplica,
    Measuring,
    check_backbones,
    load_backbones,
    measure,
)
from fireedit.jobs.evaluation.painting import PaintingError, Replicas
from fireedit.jobs.evaluation.sets import magicbrush
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison
from fireedit.models.checkpoint_files import CheckpointFileError
from tests.factories import picture
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush
from tests.jobs.evaluation.measures.plain import cosine, unit_pixels, view
from tests.jobs.evaluation.published_backbones import write_backbones

CLIP_VIEW = (224, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
DINO_VIEW = (256, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbones(tmp_path_factory.mktemp("backbones"))


def saved(path: Path, seed: int, width: int, height: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, width, height)).save(path)
    return str(path)


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def measured(
    backbones: Path, pictures: Path, columns: tuple[str, ...], *comparisons: Comparison
) -> list[dict[str, float]]:
    asked = Measuring(columns, str(backbones), str(pictures))
    return Batch(comparisons, str(pictures), load_backbones(asked)).measure(asked.present)


@torch.no_grad()
def test_columns_of_magicbrush_are_its_own_evaluations(backbones: Path, tmp_path: Path) -> None:
    edits = magicbrush.open_set(str(write_magicbrush(tmp_path / "data")), "test", partial=True)
    for seed, output in enumerate(dict.fromkeys(each.output for each in edits.comparisons)):
        saved(tmp_path / "pictures" / output, 500 + seed, 90 + seed, 70)
    values = measured(backbones, tmp_path / "pictures", magicbrush.COLUMNS, *edits.comparisons)
    clip = CLIPModel.from_pretrained(backbones / "clip-vit-base-patch32").eval()
    dino = ViTModel.from_pretrained(backbones / "dino-vits16", add_pooling_layer=False, layer_norm_eps=1e-6).eval()
    tokenizer = AutoTokenizer.from_pretrained(backbones / "clip-vit-base-patch32")

    def embedded(image: Image.Image) -> torch.Tensor:
        return clip.visual_projection(clip.vision_model(view(image, *CLIP_VIEW)).pooler_output)

    def read(text: str) -> torch.Tensor:
        ids = tokenizer(text, truncation=True, max_length=77, return_tensors="pt").input_ids
        return clip.text_projection(clip.text_model(ids).last_hidden_state[:, -1])

    def state(image: Image.Image) -> torch.Tensor:
        return dino(view(image, *DINO_VIEW)).last_hidden_state[:, 0]

    for comparison, found in zip(edits.comparisons, values, strict=True):
        output, target = opened(tmp_path / "pictures" / comparison.output), opened(comparison.reference)
        errors = unit_pixels(output.resize(target.size)).astype(np.float64) - unit_pixels(target)
        expected = {
            "l1": np.abs(errors).mean(),
            "l2": np.square(errors).mean(),
            "clip_i": cosine(embedded(output), embedded(target)),
            "dino": cosine(state(output), state(target)),
            "clip_t": cosine(embedded(output), read(comparison.caption)),
            "clip_t_global": cosine(embedded(output), read(comparison.global_caption)),
        }
        assert found == pytest.approx(expected, abs=1e-6)


def test_emu_edits_columns_compare_with_the_source(backbones: Path, tmp_path: Path) -> None:
    source = saved(tmp_path / "source.png", 1, 80, 60)
    saved(tmp_path / "pictures" / "edited.png", 2, 80, 60)
    Image.open(source).save(tmp_path / "pictures" / "same.png")
    fields = {"table": "all", "unit": "a", "reference": source, "source": source}
    captions = {"caption": "a red car", "source_caption": "a car"}
    comparisons = [
        Comparison(output="edited.png", **fields, **captions),
        Comparison(output="same.png", **fields, **captions),
        Comparison(output="edited.png", **fields, caption="a car", source_caption="a car"),
    ]
    columns = ("l1", "lpips", "clip_i", "clip_dir")
    edited, same, equal = measured(backbones, tmp_path / "pictures", columns, *comparisons)
    alex = LPIPS(backbones / "lpips", "alex")
    assert edited["lpips"] == alex.distance(opened(tmp_path / "pictures" / "edited.png"), opened(source)) > 0.01
    assert same == pytest.approx({"l1": 0, "lpips": 0, "clip_i": 1, "clip_dir": 0}, abs=1e-6)
    assert math.isnan(equal["clip_dir"]), "captions without a direction"
    assert -1 <= edited["clip_dir"] <= 1 and edited["l1"] > 0.05


def test_reasonedits_columns_look_outside_the_mask_and_inside_its_box(backbones: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    source = saved(tmp_path / "source.png", 1, 256, 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[64:128, 32:160] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    inside, outside = np.array(opened(source)), np.array(opened(source))
    inside[64:128, 32:160] = picture(7, 128, 64)
    outside[200:210] = 0
    pictures.mkdir()
    for name, array in (("inside.png", inside), ("outside.png", outside)):
        Image.fromarray(array).save(pictures / name)
    fields = {"table": "all", "unit": "a", "reference": source, "mask": str(tmp_path / "mask.png"), "noun": "car"}
    columns = ("psnr_outside", "ssim_outside", "lpips_outside", "mse_outside", "clip_score")
    kept, spoiled = measured(
        backbones, pictures, columns, *(Comparison(output=name, **fields) for name in ("inside.png", "outside.png"))
    )
    assert kept["psnr_outside"] == EQUAL_DB and kept["mse_outside"] == 0 and kept["ssim_outside"] == pytest.approx(1)
    assert kept["lpips_outside"] == pytest.approx(0, abs=1e-6)
    lost = (np.array(opened(source))[200:210] / 255.0) ** 2
    assert spoiled["mse_outside"] == pytest.approx(lost.sum() / (256 * 256 * 3), rel=1e-4)
    assert spoiled["psnr_outside"] == pytest.approx(-10 * math.log10(spoiled["mse_outside"]))
    assert spoiled["ssim_outside"] < 0.999 and spoiled["lpips_outside"] > 0
    clip = CLIPMeasure(backbones / "clip-vit-large-patch14")
    crop = Image.fromarray(picture(7, 128, 64))
    wanted = 100 * torch.cosine_similarity(clip.pictures([crop]), clip.texts(["car"])).clamp(min=0)
    assert kept["clip_score"] == pytest.approx(wanted.item(), abs=1e-4)


def test_a_mask_saved_as_jpeg_covers_its_region_alone(tmp_path: Path) -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[90:150, 40:130] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=75)
    assert 0 < np.asarray(Image.open(tmp_path / "mask.jpg"))[mask == 0].max() < 128, "the file has no artifacts"
    fields = {"table": "all", "unit": "a", "output": "output.png", "noun": "car", "mask": str(tmp_path / "mask.jpg")}
    comparison = Comparison(reference=saved(tmp_path / "source.png", 1, 200, 300), **fields)
    saved(tmp_path / "output.png", 2, 512, 512)
    batch = Batch([comparison], str(tmp_path), {})
    output, source = (
        np.asarray(Image.open(tmp_path / name).resize((256, 256), Image.Resampling.BICUBIC))
        for name in ("output.png", "source.png")
    )
    error = np.where(mask[..., None] > 0, 0, output / 255.0 - source / 255.0)
    found = batch.measure(["mse_outside", "psnr_outside"])[0]
    assert found["mse_outside"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert found["psnr_outside"] == pytest.approx(-10 * math.log10((error**2).mean()), rel=1e-5)
    assert np.array_equal(np.asarray(batch._crop(comparison)), output[90:150, 40:130])


def test_an_empty_mask_leaves_the_whole_output(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "mask.png")
    saved(tmp_path / "output.png", 2, 256, 256)
    comparison = Comparison(table="all", unit="a", output="output.png", reference="", mask=str(tmp_path / "mask.png"))
    assert Batch([comparison], str(tmp_path), {})._crop(comparison).size == (256, 256)


def test_measures_without_their_backbone_are_left_out_and_named(backbones: Path, tmp_path: Path) -> None:
    columns = ("l1", "clip_i", "dino", "lpips")
    assert Measuring(columns, "", "").present == ["l1"]
    (tmp_path / "dino-vits16").symlink_to(backbones / "dino-vits16")
    partly = Measuring(columns, str(tmp_path), "")
    assert partly.present == ["l1", "dino"]
    assert partly.absent == {"clip_i": str(tmp_path / "clip-vit-base-patch32"), "lpips": str(tmp_path / "lpips")}


def test_a_replica_names_the_captions_that_are_cut(backbones: Path, tmp_path: Path) -> None:
    source = saved(tmp_path / "pictures" / "a.png", 1, 64, 64)
    fields = {"table": "all", "unit": "a", "output": "a.png", "reference": source}
    group = [Comparison(**fields, caption="red car " * 60), Comparison(**fields, caption="a car")]
    replica = MeasureReplica(Measuring(("l1", "clip_t"), str(backbones), str(tmp_path / "pictures")))
    row = {"number": 3, "group": json.dumps([asdict(each) for each in group])}
    answers = [replica(row), replica(row)]
    found = json.loads(answers[0]["found"])
    assert answers[0]["number"] == 3 and answers[0] == answers[1]
    assert found["truncated"] == ["red car " * 60] and [each["l1"] for each in found["values"]] == [0, 0]
    assert list(found["weights"]) == ["clip-vit-32-patch32"]


@pytest.mark.parametrize(
    ("column", "lost", "message"),
    [
        ("clip_i", "clip-vit-base-patch32/config.json", "config.json is missing; write the files of openai/clip-vit-b"),
        ("clip_t", "clip-vit-base-patch32/tokenizer.json", "found no tokenizer"),
        ("clip_score", "clip-vit-large-patch14/model.safetensors", "found no weights"),
        ("dino", "dino-vits16/model.safetensors", "found no weights"),
        ("lpips", "lpips/alex.pth", "alex.pth is missing"),
        ("lpips_outside", "lpips/squeezenet1_1-b8a52dc0.pth", "squeezenet1_1-b8a52dc0.pth is missing"),
    ],
)
def test_a_file_that_a_backbone_lacks_is_named_before_any_is_loaded(
    backbones: Path, tmp_path: Path, column: str, lost: str, message: str
) -> None:
    shutil.copytree(backbones, tmp_path / "backbones", copy_function=os.link)
    check_backbones(Measuring((column,), str(tmp_path / "backbones"), ""))
    (tmp_path / "backbones" / lost).unlink()
    with pytest.raises(CheckpointFileError, match=message):
        check_backbones(Measuring((column,), str(tmp_path / "backbones"), ""))


def test_backbones_that_are_no_folder_are_refused_and_none_are_a_note(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match="--backbones /no/such: found no such folder; write a folder"):
        check_backbones(Measuring(("l1", "clip_i"), "/no/such", ""))
    for folder in ("", str(tmp_path)):
        check_backbones(Measuring(("l1", "clip_i"), folder, ""))


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(rows: Any, actor: Any, arguments: Any, _: Replicas) -> Iterator[Any]:
        return map(actor(**arguments), rows)

    monkeypatch.setattr(measuring, "map_in_replicas", here)
    source = saved(tmp_path / "source.png", 1, 32, 32)
    saved(tmp_path / "pictures" / "good.png", 2, 32, 32)
    (tmp_path / "pictures" / "bad.png").write_text("hello")
    fields = {"table": "all", "unit": "a", "reference": source}
    comparisons = [Comparison(output=f"{name}.png", **fields) for name in ("good", "bad")]
    with pytest.raises(PaintingError, match=f"^{tmp_path}/pictures/bad.png: found 5 bytes that begin with b'hello'"):
        measure(Measuring(("l1",), "", str(tmp_path / "pictures")), comparisons, Replicas(most=1, cpus=0.1))
