"""Arrays stored beside the shards equal the outputs of the frozen encoders for their rows, in half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.training.encoders import ENCODERS, check_encoders, encode_shards
from fireedit.models.model import NANO, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.vae import encode_pixels
from fireedit.models.weights import fingerprint
from fireedit.platform import images
from fireedit.platform.data import shards
from fireedit.platform.data.encoding import EncodersConfig
from fireedit.platform.data.preparation import PrepareError
from fireedit.platform.data.sample import NO_IMAGE, Sample
from tests.factories import caption_sample, edit_sample, vqa_sample

CONFIG = EncodersConfig(cpus_per_task=0.25, batch=2)
SAMPLES = [edit_sample(0), caption_sample(0), vqa_sample(2), edit_sample(4), caption_sample(1, "a hat " * 60)]
MOMENTS = preset("nano").vae.moments_shape


@pytest.fixture(scope="module")
def pipeline() -> FireEditPipeline:
    return FireEditPipeline.fresh(0)


@pytest.fixture(scope="module")
def weights(pipeline: FireEditPipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Samples of all three tasks, their pictures encoded."""
    return [Sample(**sample | {name: _encoded(sample[name]) for name in ("source", "target")}) for sample in SAMPLES]


def _encoded(picture: np.ndarray | None) -> images.EncodedImage:
    return NO_IMAGE if picture is None else images.encode_jpeg(picture)


@pytest.fixture
def out(samples: list[Sample], tmp_path: Path) -> str:
    """Write the shards of one corpus, `test`, into a folder."""
    root = str(tmp_path / "test")
    shards.write_samples(root, "000000-000", samples)
    shards.write_index(root, shards.Index("test", "train", "", [shards.Shard("000000-000", len(samples))]))
    return str(tmp_path)


def stored(out: str, *encoders: str) -> list[shards.StoredSample]:
    """Read the rows of `test` as training does."""
    root = f"{out}/test"
    index = shards.read_index(root)
    reader = shards.ShardReader(root, index, encoders)
    return [reader.row(shard, group, row) for shard, group, count in index.groups() for row in range(count)]


@torch.no_grad()
def moments_of(pipeline: FireEditPipeline, encoded: bytes) -> np.ndarray:
    side = preset("nano").vae.sample_size
    canvas = torch.tensor(squash(images.decode(encoded, draft=side), side))
    return encode_pixels(pipeline.vae, canvas[None])[0].half().numpy()


@torch.no_grad()
def text_states_of(pipeline: FireEditPipeline, caption: str) -> np.ndarray:
    ids = tokenize_text(pipeline.tokenizer, [caption], preset("nano").text.tokens)
    return text_states(pipeline.text_encoder, ids)[0].half().numpy()


def assert_close(actual: np.ndarray, wanted: np.ndarray) -> None:
    """Compare to a step of half precision: a batch of another size may round differently."""
    assert actual.dtype == wanted.dtype == np.float16 and actual.shape == wanted.shape
    np.testing.assert_allclose(actual.astype(np.float32), wanted.astype(np.float32), rtol=2e-3, atol=2e-3)


@pytest.mark.ray
def test_rows_get_the_outputs_of_vae_and_text_encoder(
    ray_session: None, pipeline: FireEditPipeline, weights: str, out: str
) -> None:
    reports = encode_shards(out, ["test"], ["latents", "text"], "nano", weights, CONFIG)["encoded"]
    assert {name: report["rows"] for name, report in reports.items()} == {"test/latents": 2, "test/text": 2}
    index = shards.read_index(f"{out}/test")
    parts = {"latents": pipeline.vae, "text": pipeline.text_encoder}
    assert {name: entry.weights for name, entry in index.encodings.items()} == {
        name: fingerprint(part) for name, part in parts.items()
    }
    for row in stored(out, "latents", "text"):
        if row.sample.task == "edit":
            for name in ("source", "target"):
                assert row.arrays[f"{name}_moments"].shape == MOMENTS
                assert_close(row.arrays[f"{name}_moments"], moments_of(pipeline, getattr(row.sample, name)))
        else:
            assert row.arrays["source_moments"] is row.arrays["target_moments"] is None
        if row.sample.task == "caption":
            assert_close(row.arrays["text_states"], text_states_of(pipeline, row.sample.instruction))
        else:
            assert row.arrays["text_states"] is None

    again = encode_shards(out, ["test"], ["latents", "text"], "nano", weights, CONFIG)["encoded"]
    assert [report["encoded_now"] for report in again.values()] == [0, 0]


def test_weights_saved_in_half_precision_have_the_same_fingerprint(
    pipeline: FireEditPipeline, weights: str, tmp_path: Path
) -> None:
    FireEditPipeline.from_pretrained(weights, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for name, part in {"latents": pipeline.vae, "text": pipeline.text_encoder}.items():
        fingerprints = [ENCODERS[name]("nano", folder).fingerprint for folder in (weights, str(tmp_path))]
        assert fingerprints == [fingerprint(part)] * 2


def test_wrong_arguments_say_what_to_write(weights: str, out: str) -> None:
    with pytest.raises(PrepareError, match="--encode: found 'audio'"):
        encode_shards(out, ["test"], ["audio"], "nano", weights, CONFIG)
    with pytest.raises(PrepareError, match="needs --weights"):
        encode_shards(out, ["test"], ["text"], "nano", "", CONFIG)
    with pytest.raises(PrepareError, match="--weights: .*/nowhere/text_encoder/config.json is missing; write nano, or"):
        encode_shards(out, ["test"], ["text"], "nano", f"{out}/nowhere", CONFIG)
    with pytest.raises(PrepareError, match="nano has vae.*, --model paper .*; write the --model of these weights"):
        check_encoders(["latents"], "paper", "nano")
    with pytest.raises(
        PrepareError, match="nano has text_encoder.hidden_size .*, --model paper 768; write the --model"
    ):
        check_encoders(["text"], "paper", "nano")
    assert check_encoders(["text", "latents"], "nano", "nano") == str(NANO) and check_encoders([], "paper", "") == ""
