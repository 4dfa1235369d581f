"""Training and serving process an image and a text to the same tensors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import RENAMED, EncodingError, Processor, squash
from fireedit.models.text import tokenize_text
from fireedit.models.tokens import IGNORED, PADDING, PromptError
from fireedit.platform.data.ingest import stacked
from tests.factories import batch_of, caption_sample, edit_sample, picture, processor_of, vqa_sample


@pytest.fixture(scope="module")
def processor(nano: FireEditPipeline) -> Processor:
    return processor_of(nano)


@pytest.fixture(scope="module")
def encoded(nano: FireEditPipeline) -> Processor:
    """Processor of corpora that are stored with their encodings."""
    return Processor(nano.vlm_tokenizer, nano.tokenizer, preset("nano"), encoded=True)


PIXELS = {"view", "source_pixels", "target_pixels"}
MOMENTS = preset("nano").vae.moments_shape


def stored(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def encoded_edit(seed: int) -> dict[str, Any]:
    moments = {"source_moments": stored(seed, *MOMENTS), "target_moments": stored(seed + 1, *MOMENTS)}
    return edit_sample(seed) | moments | {"target": None}


def clip_ids(nano: FireEditPipeline, text: str) -> list[int]:
    return tokenize_text(nano.tokenizer, [text], 77)[0].tolist()


def test_squashing_does_not_keep_the_aspect() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, :20] = 200
    small = squash(wide, 8)
    assert small.shape == (8, 8, 3) and small.dtype == np.uint8
    assert (small[:, :2] == 200).all() and (small[:, 6:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    assert squash(Image.fromarray(picture(0)).convert(mode), 8).shape == (8, 8, 3)


def test_an_array_and_its_pil_image_are_squashed_alike() -> None:
    assert np.array_equal(squash(picture(0), 32), squash(Image.fromarray(picture(0)), 32))


def test_an_image_of_the_right_size_is_not_copied() -> None:
    image = np.ascontiguousarray(squash(picture(0), 32))
    assert squash(image, 32) is image


def test_clip_reads_the_plain_form_of_an_instruction_and_the_vlm_the_instruction(
    nano: FireEditPipeline, processor: Processor
) -> None:
    sample = edit_sample(1, instruction="Remove what cuts paper.") | {"plain": "Remove the scissors."}
    row, without = processor.row(sample), processor.row(sample | {"plain": ""})
    assert row["text_ids"].tolist() == clip_ids(nano, "Remove the scissors.")
    assert without["text_ids"].tolist() == clip_ids(nano, "Remove what cuts paper.")
    assert np.array_equal(row["input_ids"], without["input_ids"])


def test_rows_have_the_fields_that_batch_declares(nano: FireEditPipeline, processor: Processor) -> None:
    for sample in (edit_sample(1), caption_sample(1), vqa_sample(1)):
        batch = vars(batch_of(nano, sample))
        assert {RENAMED.get(name, name) for name in processor.row(sample)} == {
            name for name, value in batch.items() if value is not None and name != "null_text_ids"
        }
        dtypes = {name: value.dtype for name, value in batch.items() if isinstance(value, torch.Tensor)}
        assert dtypes.pop("is_edit") == torch.bool
        assert {dtypes.pop(name) for name in dtypes.keys() & PIXELS} == {torch.uint8}
        assert set(dtypes.values()) == {torch.int64}


def test_an_edit_row_has_source_and_target_on_the_canvas(nano: FireEditPipeline, processor: Processor) -> None:
    sample = edit_sample(1)
    row = processor.row(sample)
    assert np.array_equal(row["view"], squash(sample["source"], 64))
    assert np.array_equal(row["source_pixels"], squash(sample["source"], 64))
    assert np.array_equal(row["target_pixels"], squash(sample["target"], 64))
    assert row["is_edit"] is True and row["id"] == "test/edit/1" and row["corpus"] == "test"
    assert row["text_ids"].tolist() == clip_ids(nano, sample["instruction"])
    prompt = processor.prompts.edit(sample["instruction"])
    assert row["input_ids"][row["input_ids"] != PADDING].tolist() == prompt.input_ids
    assert row["labels"][: len(prompt.labels)].tolist() == prompt.labels
    assert (row["labels"][len(prompt.labels) :] == IGNORED).all()


def test_a_dialogue_row_has_a_view_and_black_pixels(nano: FireEditPipeline, processor: Processor) -> None:
    sample = vqa_sample(2)
    row = processor.row(sample)
    assert row["text_ids"].tolist() == clip_ids(nano, "")
    assert np.array_equal(row["view"], squash(sample["source"], 64))
    assert not row["source_pixels"].any() and not row["target_pixels"].any() and row["is_edit"] is False
    prompt = processor.prompts.dialogue(sample["questions"], sample["answers"])
    assert row["input_ids"][: len(prompt.input_ids)].tolist() == prompt.input_ids


def test_a_caption_row_has_no_images_and_has_its_text_for_clip(nano: FireEditPipeline, processor: Processor) -> None:
    row = processor.row(caption_sample(3))
    assert row["view"].tolist() == [[[0, 0, 0]]] and not {"source_pixels", "source_moments"} & row.keys()
    assert row["is_edit"] is False and row["text_ids"].tolist() == clip_ids(nano, "a red circle on a table")


def test_a_captions_template_depends_on_its_id(processor: Processor) -> None:
    rows = [processor.row(caption_sample(seed)) for seed in range(20)]
    again = [processor.row(caption_sample(seed)) for seed in range(20)]
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(rows, again, strict=True))
    assert len({row["input_ids"].tobytes() for row in rows}) > 3


def test_captions_have_no_images_and_batches_of_their_own(nano: FireEditPipeline) -> None:
    batch = batch_of(nano, caption_sample(1), caption_sample(2))
    assert batch.view.shape == (2, 1, 1, 3) and batch.source_pixels is batch.target_moments is None
    with pytest.raises(ValueError, match="captions and pictures"):
        batch_of(nano, caption_sample(1), edit_sample(2))


def test_a_batch_of_edits_and_dialogue_is_cut_to_its_longest_prompt(nano: FireEditPipeline) -> None:
    samples = [edit_sample(1), vqa_sample(2), vqa_sample(3)]
    batch = batch_of(nano, *samples)
    lengths = (batch.input_ids != PADDING).sum(dim=1)
    assert batch.input_ids.shape == batch.labels.shape == (3, lengths.max())
    assert batch.is_edit.tolist() == [True, False, False]
    assert batch.ids == ["test/edit/1", "test/vqa/2", "test/vqa/3"] and batch.corpora == ["test"] * 3
    assert batch.view.dtype == torch.uint8 and batch.view.shape == (3, 64, 64, 3)
    assert batch.text_ids.shape == (3, 77) and batch.null_text_ids.tolist() == [clip_ids(nano, "")]


def test_a_batch_moves_with_its_tensors_and_keeps_its_names(nano: FireEditPipeline) -> None:
    moved = replace(batch_of(nano, edit_sample(1)), seeds=torch.tensor([5])).to("meta")
    assert moved.view.is_meta and moved.null_text_ids.is_meta and moved.ids == ["test/edit/1"]
    assert {moved.input_ids.device.type, moved.labels.device.type, moved.seeds.device.type} == {"cpu"}


def test_train_and_serve_process_one_image_alike(nano: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's inputs of vision, VAE and VLM equal those of a training batch."""
    sample, encode = edit_sample(5), nano.vae.encode
    batch = batch_of(nano, sample)
    read: dict[str, Any] = {}

    def encode_and_record(pixels: torch.Tensor) -> Any:
        read.update(canvas=pixels)
        return encode(pixels)

    monkeypatch.setattr(nano.vae, "encode", encode_and_record)
    hooks = [
        nano.vision.register_forward_pre_hook(lambda _, args: read.update(view=args[0])),
        nano.vlm.register_forward_pre_hook(lambda _, args: read.update(input_ids=args[0])),
    ]
    nano(sample["instruction"], Image.fromarray(sample["source"]), num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    assert torch.equal(read["view"], batch.view) and torch.equal(read["input_ids"], batch.input_ids)
    assert torch.equal(read["canvas"], batch.source_pixels.permute(0, 3, 1, 2) / 127.5 - 1)


def test_a_text_that_is_too_long_is_an_error(processor: Processor) -> None:
    with pytest.raises(PromptError, match="prompt of [0-9]+ tokens"):
        processor.row(edit_sample(1, instruction="paint " * 300))


def test_an_encoded_edit_has_moments_and_a_view(encoded: Processor) -> None:
    sample = encoded_edit(1)
    row = encoded.row(sample)
    assert np.array_equal(row["view"], squash(sample["source"], 64))
    assert np.array_equal(row["source_moments"], sample["source_moments"])
    assert np.array_equal(row["target_moments"], sample["target_moments"])


def test_encoded_edits_and_dialogue_share_a_batch(encoded: Processor) -> None:
    batch = encoded.batch(stacked([encoded.row(encoded_edit(1)), encoded.row(vqa_sample(2))]))
    source, target = batch.source_moments, batch.target_moments
    assert source.shape == target.shape == (2, *MOMENTS) and source.dtype == target.dtype == torch.float16
    assert source[0].any() and not source[1].any() and not target[1].any()
    assert batch.text_states is None and batch.source_pixels is None


def test_encoded_captions_have_clip_text_states(encoded: Processor) -> None:
    samples = [caption_sample(seed) | {"text_states": stored(seed, 77, 96)} for seed in range(2)]
    batch = encoded.batch(stacked([encoded.row(sample) for sample in samples]))
    assert batch.text_states is not None and batch.text_states.dtype == torch.float16
    assert np.array_equal(batch.text_states.numpy(), np.stack([sample["text_states"] for sample in samples]))
    assert batch.to("meta").text_states.is_meta and batch.source_moments is None
    with pytest.raises(ValueError, match="captions and pictures"):
        encoded.batch(stacked([encoded.row(samples[0]), encoded.row(vqa_sample(2))]))


def test_encodings_are_ignored_unless_configured(processor: Processor) -> None:
    plain, caption = edit_sample(1), caption_sample(2)
    row = processor.row(encoded_edit(1) | {"target": plain["target"]})
    assert all(np.array_equal(row[name], expected) for name, expected in processor.row(plain).items())
    assert "text_states" not in processor.row(caption | {"text_states": stored(2, 77, 96)})


@pytest.mark.parametrize("missing", ["source_moments", "target_moments", "text_states"])
def test_a_missing_encoding_is_an_error_that_names_sample_and_encoding(encoded: Processor, missing: str) -> None:
    sample = caption_sample(1) if missing == "text_states" else encoded_edit(1)
    sample[missing] = None
    with pytest.raises(EncodingError, match=f"{sample['id']}: {missing} is missing"):
        encoded.row(sample)


def test_an_encoding_of_another_models_size_is_an_error(encoded: Processor) -> None:
    with pytest.raises(EncodingError, match=r"target_moments.*\[8, 64, 64\].*\[96, 16, 16\]"):
        encoded.row(encoded_edit(1) | {"target_moments": stored(1, 8, 64, 64)})
