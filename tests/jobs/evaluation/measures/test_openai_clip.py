"""Embeddings and scores of CLIP are MagicBrush's, on a small model in the published layout."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from fireedit.jobs.evaluation.measures.openai_clip import CLIPMeasure, clip_score, cosine, direction
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.model import NANO
from fireedit.models.weights import WeightsError
from fireedit.platform.provenance import fingerprint
from tests.jobs.evaluation.measures.plain import cosine as plain_cosine
from tests.jobs.evaluation.measures.plain import pairs, photo, view
from tests.jobs.evaluation.published_backbones import save_clip

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
LONG = "red car " * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def measure(folder: Path) -> CLIPMeasure:
    return CLIPMeasure(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(folder).eval()


@torch.no_grad()
def test_clip_i_is_magicbrushs(measure: CLIPMeasure, model: CLIPModel) -> None:
    outputs, references = zip(*pairs(), strict=True)
    expected = []
    for pair in zip(outputs, references, strict=True):
        embedded = [model.get_image_features(view(image, 224, MEAN, STD)).pooler_output for image in pair]
        expected.append(plain_cosine(*embedded))
    similarity = cosine(measure.pictures(outputs), measure.pictures(references))
    assert similarity.tolist() == pytest.approx(expected, abs=1e-6)
    assert min(expected) < 0.9, "the pictures should differ for the model"


@torch.no_grad()
def test_pictures_are_projected_and_not_normalized(measure: CLIPMeasure, model: CLIPModel) -> None:
    image = photo(230, 301, 3)
    embedded = measure.pictures([image])
    assert embedded.shape == (1, 24) and embedded.dtype == torch.float32
    torch.testing.assert_close(embedded, model.get_image_features(view(image, 224, MEAN, STD)).pooler_output)
    assert abs(embedded.norm().item() - 1) > 0.1


@torch.no_grad()
def test_texts_are_read_at_their_end_token(folder: Path, model: CLIPModel) -> None:
    measure, tokenizer = CLIPMeasure(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["a red car", "two dogs beside a tree and a house", ""]
    for text, embedded in zip(texts, measure.texts(texts), strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        states = model.text_model(ids).last_hidden_state
        torch.testing.assert_close(embedded, model.text_projection(states[0, -1]), rtol=1e-5, atol=1e-5)
    assert not measure.truncated


@torch.no_grad()
def test_long_texts_keep_their_end_token_and_are_counted(folder: Path, model: CLIPModel) -> None:
    measure, tokenizer = CLIPMeasure(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(LONG, verbose=False).input_ids
    assert len(ids) > 77
    embedded = measure.texts([LONG, "a red car", LONG])
    shortened = torch.tensor([[*ids[:76], tokenizer.eos_token_id]])
    expected = model.get_text_features(shortened).pooler_output[0]
    torch.testing.assert_close(embedded[0], expected, rtol=1e-5, atol=1e-5)
    assert measure.truncated == {LONG}


def test_a_text_of_77_tokens_is_not_truncated(folder: Path) -> None:
    measure = CLIPMeasure(folder)
    exact = "!" * 74  # and a space, a first and an end token
    assert len(measure.tokenizer(exact, verbose=False).input_ids) == 77
    measure.texts([exact])
    assert not measure.truncated
    measure.texts([exact + " !"])
    assert measure.truncated == {exact + " !"}


def test_entities_of_html_are_read_as_their_characters(measure: CLIPMeasure) -> None:
    written, escaped, twice = measure.texts(["salt & pepper", "salt &amp; pepper", "salt &amp;amp; pepper"])
    assert torch.equal(written, escaped) and torch.equal(written, twice)


def test_clip_t_is_the_cosine_of_picture_and_caption(measure: CLIPMeasure) -> None:
    images, texts = [photo(300, 200, 0), photo(200, 300, 1)], ["a red car", "a blue dog"]
    pictures, captions = measure.pictures(images), measure.texts(texts)
    expected = [plain_cosine(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    assert cosine(pictures, captions).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_direction_compares_changes_of_unit_embeddings() -> None:
    east, north = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    diagonal = torch.tensor([[2.0, 2.0]])
    assert direction(north, east, north, east).item() == pytest.approx(1)
    assert direction(north, east, east, north).item() == pytest.approx(-1)
    half = torch.tensor(0.5).sqrt().item()
    expected = plain_cosine(torch.tensor([half - 1, half]), torch.tensor([-1.0, 1.0]))
    assert direction(diagonal, east, north, east).item() == pytest.approx(expected, abs=1e-6)


def test_pairs_with_equal_captions_have_no_direction(measure: CLIPMeasure) -> None:
    pictures = measure.pictures([photo(64, 64, 0), photo(64, 64, 1)])
    before, after = measure.texts(["a red car", "a red car"]), measure.texts(["a red car", "a blue car"])
    values = direction(pictures, pictures.flip(0), after, before)
    assert values[0].isnan() and not values[1].isnan()


def test_an_output_equal_to_its_source_has_direction_0(measure: CLIPMeasure) -> None:
    pictures = measure.pictures([photo(64, 64, 0)])
    captions = measure.texts(["a red car", "a blue car"])
    assert direction(pictures, pictures * 1.0000001, captions[:1], captions[1:]).item() == 0


def test_the_clip_score_is_a_percentage_without_negative_values() -> None:
    pictures, texts = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert clip_score(pictures, texts).tolist() == pytest.approx([60, 0])


def test_more_than_a_batch_is_embedded_in_order(measure: CLIPMeasure, monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = [photo(40, 30, seed) for seed in range(5)], [f"{count} cars" for count in range(5)]
    whole, read = measure.pictures(images), measure.texts(texts)
    monkeypatch.setattr("fireedit.jobs.evaluation.measures.openai_clip.BATCH", 2)
    torch.testing.assert_close(measure.pictures(images), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(measure.texts(texts), read, rtol=1e-5, atol=1e-5)


def test_the_measure_names_its_model_and_weights(measure: CLIPMeasure, folder: Path) -> None:
    assert measure.name == "clip-vit-32-patch32"
    assert measure.weights == fingerprint(str(folder)) and measure.weights.startswith("sha256:")


@pytest.mark.parametrize(
    ("width", "patch", "side", "name"),
    [
        (768, 32, 224, "clip-vit-base-patch32"),
        (1024, 14, 224, "clip-vit-large-patch14"),
        (1024, 14, 336, "clip-vit-large-patch14-336"),
    ],
)
def test_published_sizes_have_published_names(tmp_path: Path, width: int, patch: int, side: int, name: str) -> None:
    sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "patch_size": patch}
    measure = CLIPMeasure(save_clip(tmp_path, **sizes, image_size=side))
    assert measure.name == name and measure.pictures([photo(40, 30, 0)]).shape == (1, 24)


def test_a_wrong_folder_says_what_to_write_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"config.json is missing; write the files of openai/clip-vit-base"):
        CLIPMeasure(tmp_path / "absent")
    with pytest.raises(WeightsError, match="holds a model of type 'clip_text_model', not 'clip'; write the files of"):
        CLIPMeasure(NANO / "text_encoder")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(CheckpointFileError, match="found no tokenizer"):
        CLIPMeasure(tmp_path)
