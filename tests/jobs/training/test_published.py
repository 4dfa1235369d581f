"""Published files, at nano's sizes and under their published names, become a pipeline that edits."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr
from fireedit.jobs.training.published import PublishedPaths, convert
from fireedit.models.detectors.object_detector import ObjectDetector, ObjectDetectorConfig
from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture
from tests.jobs.published_folders import llm_tensors, write


@pytest.fixture(scope="module")
def paths(published: Path) -> PublishedPaths:
    names = ("groma", "llm", "dinov2", "clip")
    folders = {name: published / name for name in names}
    return PublishedPaths(**folders, instruct_pix2pix=published / "instruct-pix2pix")


@pytest.fixture(scope="module")
def converted(paths: PublishedPaths, published: Path) -> FireEditPipeline:
    pipeline = convert(dataclasses.replace(paths, smartedit=published / "qformer.bin"), preset("nano"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def llm(published: Path, tmp_path: Path) -> Path:
    """A copy of the LLM's folder, to change."""
    return shutil.copytree(published / "llm", tmp_path / "llm")


def train_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Write a `tokenizer.model` as LLaMA's: BPE with bytes for rare letters."""
    model = io.BytesIO()
    words = [f"make the {thing} {color}" for thing in ("hat", "cat", "house") for color in ("red", "blue", "green")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_every_published_tensor_arrives(trained: FireEditPipeline, converted: FireEditPipeline) -> None:
    for name in ("vision", "detector", "region_encoder", "unet", "vae", "text_encoder", "qformer"):
        before, after = getattr(trained, name).state_dict(), getattr(converted, name).state_dict()
        assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()), name
    before, after = trained.vlm.state_dict(), converted.vlm.state_dict()
    published = {name for name in before if ".lora_" not in name and not name.startswith("new_")}
    assert all(torch.equal(before[name], after[name]) for name in published)


def test_new_rows_are_smartedits_or_the_mean_of_the_old(converted: FireEditPipeline) -> None:
    vlm = converted.vlm
    mean = vlm.llm.model.embed_tokens.weight.mean(dim=0)
    assert torch.allclose(vlm.new_embeddings.weight, mean.expand(36, -1), atol=1e-6)
    heads = dict(zip(vlm.prompt_config.new_tokens, vlm.new_head.weight, strict=True))
    assert heads["<im_start>"].eq(1).all() and heads["<img_0>"].eq(3).all() and heads["<img_31>"].eq(34).all()
    assert torch.allclose(heads["<roi>"], vlm.llm.lm_head.weight.mean(dim=0), atol=1e-6)


def test_lora_and_tati_start_as_no_ops(converted: FireEditPipeline) -> None:
    lora = {name: parameter for name, parameter in converted.vlm.named_parameters() if ".lora_" in name}
    assert all((parameter == 0).all() == (".lora_B." in name) for name, parameter in lora.items())
    assert converted.tati.token_out.weight.abs().max() == 0


def test_settings_come_from_the_published_files(converted: FireEditPipeline) -> None:
    assert converted.region_encoder.config.groma_compat
    assert converted.vlm.llm.config.rms_norm_eps == converted.vlm.config.norm_eps == 2e-5


def test_another_detector_takes_the_place_of_gromas(paths: PublishedPaths, tmp_path: Path) -> None:
    kind = f"hf:{save_tiny_rt_detr(tmp_path)}"
    config = dataclasses.replace(preset("nano"), detector=ObjectDetectorConfig(kind=kind))
    detector = convert(paths, config).detector
    assert isinstance(detector, ObjectDetector) and not any(tensor.is_meta for tensor in detector.parameters())


def test_the_result_edits(converted: FireEditPipeline) -> None:
    image = converted("make it red", picture(1), num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 60, 80, 3) and np.isfinite(image).all()


def test_tokens_added_after_the_vocabulary_are_plain_text(paths: PublishedPaths, llm: Path) -> None:
    """LLaVA and Groma give `<image>` an id that belongs to one of this project's new tokens."""
    llava = FireEditPipeline.fresh().vlm_tokenizer
    llava.add_tokens([f"<filler_{index}>" for index in range(1024 - len(llava))])
    llava.add_tokens(["<image>"])
    llava.save_pretrained(llm)
    tokenizer = convert(dataclasses.replace(paths, llm=llm), preset("nano")).vlm_tokenizer
    assert max(llava("<image>").input_ids) == 1024 and max(tokenizer("<image>").input_ids) < 1024
    assert tokenizer("make it red").input_ids == llava("make it red").input_ids and tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("model_type", ["llama", "llava"])
def test_tokenizer_model_alone_is_enough(paths: PublishedPaths, llm: Path, model_type: str) -> None:
    """Vicuna and LLaVA-1.5 are published so; the token ids are SentencePiece's own."""
    for path in llm.glob("*token*"):
        path.unlink()
    (llm / "config.json").write_text(json.dumps({"model_type": model_type, "rms_norm_eps": 1e-5}))
    reference = train_sentencepiece(llm / "tokenizer.model")
    tokenizer = convert(dataclasses.replace(paths, llm=llm), preset("nano")).vlm_tokenizer
    for text in ("make the red hat green", "USER: make\nthe ü ASSISTANT:", "</s>"):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == reference.encode(text), text
    assert (tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_id) == ("<s>", 1, 2)


def test_another_llm_than_gromas_is_warned_of(
    paths: PublishedPaths, llm: Path, trained: FireEditPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = llm_tensors(trained)
    write(llm / "pytorch_model.bin", {name: tensor.half() for name, tensor in tensors.items()})
    convert(dataclasses.replace(paths, llm=llm), preset("nano"))
    assert "warning" not in capsys.readouterr().err
    finetuned = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    write(llm / "pytorch_model.bin", finetuned)
    convert(dataclasses.replace(paths, llm=llm), preset("nano"))
    err = capsys.readouterr().err
    assert f"warning: Groma's region encoder was trained with another LLM than {llm}" in err
    assert "groma-7b-pretrain with lmsys/vicuna-7b-v1.5" in err
