"""Facts of the served weights, read without torch."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.tokens import PromptError, PromptTokenizer
from fireedit.platform import storage
from fireedit.serve.prompts import NANO, ServedModel, served_model
from fireedit.serve.schema import BadRequest

ROOT = Path(__file__).parents[2]
TEXTS = ["make it red", " it's <s> </s> <im_start>\r\n\tA  b", "\u8d64 caf\u00e9 \U0001f469\u200d\U0001f680", "x" * 400]


def test_import_and_reading_load_no_torch() -> None:
    read = "from fireedit.serve.prompts import served_model as read; read('nano'); read('nano', 'instruct-pix2pix')"
    code = f"{read}; import sys; sys.exit(bool({{'torch', 'transformers', 'diffusers'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_facts_are_the_pipelines(pipeline: FireEditPipeline, weights: Path) -> None:
    model = served_model(str(weights))
    assert (model.settings, model.side) == (pipeline.settings, pipeline.vae.config.sample_size)
    assert served_model("nano").settings == FireEditPipeline.from_pretrained("nano", parts=()).settings


def test_tokens_are_those_that_the_vlm_reads(pipeline: FireEditPipeline) -> None:
    count = pickle.loads(pickle.dumps(served_model("nano"))).count
    vlm = PromptTokenizer(pipeline.vlm_tokenizer, pipeline.vlm.config.vocab_size, pipeline.vlm.prompt_config)
    for text in TEXTS[:3]:
        assert count(text) == vlm.edit(text)
    with pytest.raises(PromptError) as theirs:
        vlm.edit(TEXTS[3])
    with pytest.raises(BadRequest) as ours:
        served_model("nano").check(TEXTS[3], "")
    assert (str(ours.value), ours.value.param) == (f"prompt: {theirs.value}", "prompt")


def test_facts_are_read_from_a_bucket(s3: str) -> None:
    """Only the small files are there: nothing else is fetched."""
    folder = storage.join(s3, "served")
    tokenizer = ("vlm_tokenizer/tokenizer.json", "vlm_tokenizer/tokenizer_config.json")
    for name in ("model_index.json", "vae/config.json", "vlm/config.json", *tokenizer):
        storage.write_bytes(storage.join(folder, name), (NANO / name).read_bytes())
    with pytest.raises(BadRequest, match="at most 192"):
        served_model(folder).check(TEXTS[3], "")


def test_weights_without_a_fast_tokenizer_leave_the_check_to_the_vlm(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(
        weights, tmp_path, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer.json"), dirs_exist_ok=True
    )
    model = served_model(str(tmp_path))
    model.check(TEXTS[3], "")


def write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def instruct_pix2pix(tmp_path: Path) -> Path:
    """Small files of diffusers' folder, with the tokenizer in the two files that InstructPix2Pix was published with."""
    bpe = json.loads((NANO / "tokenizer" / "tokenizer.json").read_text())["model"]
    merges = "\n".join(" ".join(pair) for pair in bpe["merges"])
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }
    files = {
        "model_index.json": {"_class_name": "StableDiffusionInstructPix2PixPipeline"},
        "vae/config.json": {"sample_size": 256, "block_out_channels": [8] * 4},
        "unet/config.json": {"sample_size": 64},
        "text_encoder/config.json": {"max_position_embeddings": 77},
        "tokenizer/vocab.json": bpe["vocab"],
        "tokenizer/merges.txt": f"#version: 0.2\n{merges}\n",
        "tokenizer/tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", **special},
    }
    write(tmp_path, files)
    return tmp_path


def longest(model: ServedModel) -> int:
    """Count the words that fit into a prompt."""
    words = 1
    try:
        while words < 1000:
            model.check(" ".join(["the"] * (words + 1)), "")
            words += 1
    except BadRequest as error:
        assert error.param == "prompt" and "CLIP reads at most 77" in str(error)
    return words


def test_a_prompt_that_clip_would_cut_is_refused(instruct_pix2pix: Path) -> None:
    model = served_model(str(instruct_pix2pix), "instruct-pix2pix")
    assert (model.settings, model.side) == (PaintSettings(), 512)
    clip = CLIPTokenizer.from_pretrained(instruct_pix2pix / "tokenizer")
    for text in TEXTS:
        assert model.count.tokenizer.encode(text).ids == clip(text).input_ids[1:-1]
    fits = longest(model)
    assert len(clip(" ".join(["the"] * fits)).input_ids) <= 77 < len(clip(" ".join(["the"] * (fits + 1))).input_ids)
    assert longest(served_model("nano", "instruct-pix2pix")) == 75, "nano's tokenizer has the word as one token"


@pytest.mark.parametrize("editor", ["fireedit", "instruct-pix2pix"])
def test_a_negative_prompt_that_clip_would_cut_is_refused(editor: str) -> None:
    model = served_model("nano", editor)
    model.check("make it red", " ".join(["the"] * 75))
    with pytest.raises(BadRequest, match="^negative_prompt: .* has 78 tokens; CLIP reads at most 77") as error:
        model.check("make it red", " ".join(["the"] * 76))
    assert error.value.param == "negative_prompt"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        served_model(str(tmp_path))
