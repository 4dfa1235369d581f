"""Published files, written by the real classes at tiny sizes, become a pipeline folder that holds their tensors."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM

from fireedit.benchmarks import published_folders
from fireedit.jobs.training import published as module
from fireedit.jobs.training.published import PARTS, convert
from fireedit.jobs.training.published_files import PublishedPaths
from fireedit.models.checkpoint_files import CheckpointFileError, check_pipeline, read_tokenizer
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.weights import WeightsError
from tests.factories import PAPERLIKE
from tests.jobs.published_folders import Published, write

VLM_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def load(folder: Path, parts: tuple[str, ...] | None = None) -> FireEditPipeline:
    """Load a pipeline, each tensor in the precision in which it was written."""
    pipeline = FireEditPipeline.from_pretrained(folder, parts=parts, dtype="auto")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def plain(published: Published, tmp_path_factory: pytest.TempPathFactory) -> FireEditPipeline:
    """Conversion without SmartEdit."""
    folder = tmp_path_factory.mktemp("plain")
    convert(published.paths(), PAPERLIKE, folder)
    return load(folder)


@pytest.fixture(scope="module")
def with_smartedit(published: Published, tmp_path_factory: pytest.TempPathFactory) -> FireEditPipeline:
    """Conversion with SmartEdit's folder and the LLM of its LoRA, and with an IP-Adapter."""
    folder = tmp_path_factory.mktemp("smartedit")
    published_folders.save_ip_adapter(folder / "ip-adapter-plus_sd15.bin", PAPERLIKE)
    given = {
        "llm": published.root / "LLaVA-7B-v1",
        "smartedit": published.root / "SmartEdit-7B",
        "ip_adapter": folder / "ip-adapter-plus_sd15.bin",
    }
    convert(published.paths(**given), PAPERLIKE, folder)
    return load(folder)


@pytest.fixture
def llm(published: Published, tmp_path: Path) -> Path:
    """A copy of the LLM's folder, to change."""
    return shutil.copytree(published.root / "vicuna-7b-v1.5", tmp_path / "llm")


def vlm_of(paths: PublishedPaths, folder: Path) -> nn.Module:
    """Convert, and load the VLM alone."""
    convert(paths, PAPERLIKE, folder)
    return load(folder, ("vlm",)).vlm


def holds(part: nn.Module, expected: Mapping[str, Tensor]) -> bool:
    """Compare tensors, and their precision, by name."""
    found = part.state_dict()
    return expected.keys() <= found.keys() and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


def llama_tensors(vlm: nn.Module) -> dict[str, Tensor]:
    """Name the tensors of a VLM's LLM as without its LoRA."""
    state = vlm.llm.state_dict()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def is_llm(vlm: nn.Module, llm: LlamaForCausalLM) -> bool:
    found = llama_tensors(vlm)
    return found.keys() == llm.state_dict().keys() and all(
        torch.equal(found[name], tensor) for name, tensor in llm.state_dict().items()
    )


def test_every_published_tensor_arrives(published: Published, plain: FireEditPipeline) -> None:
    assert holds(plain.vision.dino, published.dinov2.state_dict())
    assert holds(plain.vision.clip, published.clip.vision_model.state_dict())
    assert holds(plain.text_encoder, published.clip.text_model.state_dict())
    assert holds(plain.detector, published.groma["detector"].state_dict())
    assert holds(plain.region_encoder, published.groma["region_encoder"].state_dict())
    assert holds(plain.vlm.adapter, published.groma["adapter"].state_dict())
    assert holds(plain.unet, published.unet.state_dict()) and holds(plain.vae, published.vae.state_dict())
    assert is_llm(plain.vlm, published.llm) and plain.vlm.llm.model.norm.weight.dtype == torch.float16


def test_the_unet_predicts_what_diffusers_own_does(published: Published, plain: FireEditPipeline) -> None:
    """The image attention starts as a no-op."""
    generator = torch.Generator().manual_seed(0)
    noisy, source, tokens, detail = (
        torch.randn(1, *shape, generator=generator) for shape in ((4, 8, 8), (4, 8, 8), (77, 64), (16, 64))
    )
    with torch.no_grad():
        expected = published.unet(torch.cat([noisy, source], dim=1), 500, encoder_hidden_states=tokens).sample
        found = plain.unet.predict(noisy, source, torch.tensor(500), tokens, detail)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_folder_is_as_diffusers_saves_it(plain: FireEditPipeline, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path)
    written = Path(plain.config._name_or_path)
    assert json.loads((tmp_path / "model_index.json").read_text()) == {
        **json.loads((written / "model_index.json").read_text()),
        "_name_or_path": str(written),
    }
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()} == names


def test_nothing_of_a_part_is_held_when_the_next_one_begins(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, list[str]]] = []

    def watched(name: str) -> Callable[..., object]:
        def fill(*arguments: object) -> object:
            held.append((name, re.findall(rf"{published.root}/\S+", Path("/proc/self/maps").read_text())))
            return fillings[name](*arguments)

        return fill

    fillings = module.PARTS
    monkeypatch.setattr(module, "PARTS", {name: watched(name) for name in fillings})
    given = {"llm": published.root / "LLaVA-7B-v1", "smartedit": published.root / "SmartEdit-7B"}
    convert(published.paths(**given), PAPERLIKE, tmp_path)
    assert held == [(name, []) for name in (*fillings, *fillings)], "checked, then written"


def test_new_rows_are_smartedits_or_the_mean_of_the_old(
    plain: FireEditPipeline, with_smartedit: FireEditPipeline
) -> None:
    mean = plain.vlm.llm.model.embed_tokens.weight.float().mean(dim=0)
    assert torch.allclose(plain.vlm.new_embeddings.weight, mean.expand(36, -1), atol=1e-6)
    vlm = with_smartedit.vlm
    mean = vlm.llm.model.embed_tokens.weight.float().mean(dim=0)
    tables = zip(vlm.prompt_config.new_tokens, vlm.new_embeddings.weight, vlm.new_head.weight, strict=True)
    rows = {token: (embedding, head) for token, embedding, head in tables}
    for token, number in (("<im_start>", 1), ("<im_end>", 2), ("<img_0>", 3), ("<img_31>", 34)):
        assert rows[token][0].eq(-number).all() and rows[token][1].eq(number).all(), token
    assert torch.allclose(rows["<roi>"][0], mean, atol=1e-6)


def test_lora_and_tati_start_as_no_ops(plain: FireEditPipeline) -> None:
    lora = {name: parameter for name, parameter in plain.vlm.named_parameters() if ".lora_" in name}
    assert lora and all((parameter == 0).all() == (".lora_B." in name) for name, parameter in lora.items())
    assert plain.tati.token_out.weight.abs().max() == 0
    assert float(plain.qformer.query_tokens.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_smartedits_parts_arrive(published: Published, with_smartedit: FireEditPipeline) -> None:
    """The Q-Former, PEFT's LoRA, and the UNet in place of InstructPix2Pix's."""
    own = published.smartedit
    assert holds(with_smartedit.qformer, own["qformer"].state_dict())
    assert holds(with_smartedit.unet, own["unet"].state_dict())
    assert is_llm(with_smartedit.vlm, published.llava)
    lora = {
        name.replace("base_model.model.", "llm.model."): tensor
        for name, tensor in own["llm"].state_dict().items()
        if ".lora_" in name
    }
    assert len(lora) == 8 and all(tensor.any() for tensor in lora.values()) and holds(with_smartedit.vlm, lora)


def test_ip_adapters_pickle_goes_to_the_layers_it_was_trained_for(with_smartedit: FireEditPipeline) -> None:
    numbers = {name: index for index, name in enumerate(with_smartedit.unet.attn_processors) if ".attn2." in name}
    for name, number in numbers.items():
        attention = with_smartedit.unet.get_submodule(f"{name.removesuffix('.processor')}.image_attention")
        assert attention.to_k.weight.eq(number).all() and attention.to_v.weight.eq(number + 0.5).all(), name


def test_a_part_of_smartedit_that_is_not_there_comes_from_elsewhere(published: Published, tmp_path: Path) -> None:
    folder, out = tmp_path / "SmartEdit-7B", tmp_path / "out"
    published_folders.save_smartedit(folder, PAPERLIKE, published.llm, prefix="", seed=9)
    shutil.rmtree(folder / "LLM-15000")
    reports = convert(published.paths(smartedit=folder), PAPERLIKE, out)
    assert holds(load(out, ("unet",)).unet, published_folders.build_unet(PAPERLIKE, 9).state_dict()), "plain names"
    assert {"new_embeddings.weight", "new_head.weight"} < {*reports["vlm"].missing}
    file = folder / "embeddings_qformer/checkpoint-15000_embeddings_qformer.bin"
    assert convert(published.paths(smartedit=file), PAPERLIKE, out)["vlm"] == reports["vlm"]
    assert holds(load(out, ("unet",)).unet, published.unet.state_dict()), "InstructPix2Pix's"


def test_lora_of_another_rank_is_refused(published: Published, tmp_path: Path) -> None:
    folder = shutil.copytree(published.root / "SmartEdit-7B", tmp_path / "SmartEdit-7B")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 32}))
    with pytest.raises(WeightsError, match=r"^vlm: .*LLM-15000 has a LoRA of .*\(8, 32, .*not \(8, 16, .*; give "):
        convert(published.paths(smartedit=folder), PAPERLIKE, tmp_path / "out")


def test_settings_come_from_the_published_files(plain: FireEditPipeline, published: Published, llm: Path) -> None:
    assert plain.region_encoder.config.groma_compat and plain.vision.config.groma_compat
    assert plain.vlm.llm.config.rms_norm_eps == plain.vlm.config.norm_eps == 1e-5
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 2e-5}))
    assert vlm_of(published.paths(llm=llm), llm.parent / "out").config.norm_eps == 2e-5


def test_the_detector_alone_comes_from_groma_det_pretrain(published: Published, tmp_path: Path) -> None:
    detector = published_folders.groma_parts(PAPERLIKE, seed=12)["detector"]
    published_folders.save_groma_detector(tmp_path / "groma-det-pretrain", detector, published.dinov2)
    given = dict.fromkeys(("detector", "dinov2"), tmp_path / "groma-det-pretrain")
    convert(published.paths(**given), PAPERLIKE, tmp_path / "out")
    pipeline = load(tmp_path / "out", ("vision", "detector"))
    assert holds(pipeline.detector, detector.state_dict())
    assert holds(pipeline.vision.dino, published.dinov2.state_dict())


def test_llavas_added_rows_and_projector_are_left_out(published: Published, tmp_path: Path) -> None:
    """In the authors' layout, and in that of llava-hf."""
    published_folders.save_llava_hf(tmp_path / "llava-hf", PAPERLIKE, published.llm)
    assert is_llm(vlm_of(published.paths(llm=tmp_path / "llava-hf"), tmp_path / "out"), published.llm)
    given = published.paths(llm=published.root / "llava-v1.5-7b")
    found = llama_tensors(vlm_of(given, tmp_path / "out"))
    expected = published_folders.build_llm(PAPERLIKE, 4).state_dict()
    assert all(torch.equal(found[table], expected[table]) for table in VLM_TABLES)


def test_gromas_own_llm_is_taken_where_none_is_given(published: Published, tmp_path: Path) -> None:
    given = {"groma": published.root / "groma-7b-finetune", "llm": None}
    vlm = vlm_of(published.paths(**given), tmp_path)
    expected = {name: each.bfloat16() for name, each in published.finetuned.state_dict().items()}
    found = llama_tensors(vlm)
    assert found and all(
        torch.equal(found[name], each) and found[name].dtype == torch.bfloat16 for name, each in expected.items()
    )
    assert vlm.adapter[0].weight.dtype == torch.float32, "Groma's is in float32"


def test_tokens_added_after_the_vocabulary_are_plain_text(published: Published, llm: Path) -> None:
    """LLaVA and Groma give `<image>` an id that belongs to one of this project's new tokens."""
    llava = AutoTokenizer.from_pretrained(NANO / "vlm_tokenizer")
    llava.add_tokens([f"<filler_{index}>" for index in range(1024 - len(llava))])
    llava.add_tokens(["<image>"])
    llava.save_pretrained(llm)
    config = replace(PAPERLIKE, vlm=replace(PAPERLIKE.vlm, vocab_size=1024))
    convert(published.paths(llm=llm), config, llm.parent / "out")
    tokenizer = load(llm.parent / "out", ("vlm_tokenizer",)).vlm_tokenizer
    assert max(llava("<image>").input_ids) == 1024 and max(tokenizer("<image>").input_ids) < 1024
    assert tokenizer("make it red").input_ids == llava("make it red").input_ids and tokenizer.eos_token == "</s>"


def test_tokenizer_model_alone_is_enough(published: Published, plain: FireEditPipeline) -> None:
    """Vicuna and LLaVA-1.5 are published so; the token ids are SentencePiece's own."""
    tokenizer = plain.vlm_tokenizer
    assert [path.name for path in (published.root / "vicuna-7b-v1.5").glob("*token*")] == ["tokenizer.model"]
    for text in ("make the red hat green", "USER: make\nthe ü ASSISTANT:", "</s>"):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == published.sentences.encode(text), text
    assert (tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_id) == ("<s>", 1, 2)


def test_another_precision_of_gromas_llm_is_no_other_llm(
    published: Published, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = published.llm.state_dict()
    for path in llm.glob("pytorch_model*"):
        path.unlink()
    write(llm / "pytorch_model.bin", {name: tensor.float() for name, tensor in tensors.items()})
    convert(published.paths(llm=llm), PAPERLIKE, llm.parent / "out")
    assert "warning" not in capsys.readouterr().err
    write(
        llm / "pytorch_model.bin", {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    )
    convert(published.paths(llm=llm), PAPERLIKE, llm.parent / "out")
    (warning,) = re.findall("^warning: .*", capsys.readouterr().err, re.M)
    assert warning.startswith(
        f"warning: region_encoder: that of {published.paths().groma} was trained with another LLM"
    )
    assert re.search(r"\d+% of llm\S+ differ; give --llm lmsys/vicuna-7b-v1.5 to groma-7b-pretrain, and none", warning)


def test_large_parts_are_in_shards(published: Published, plain: FireEditPipeline, tmp_path: Path) -> None:
    convert(published.paths(), PAPERLIKE, tmp_path, shard_bytes=500_000)
    written = {path.name: path.stat().st_size for path in (tmp_path / "vlm").glob("*.safetensors")}
    assert len(written) > 3 and sorted(written.values())[-3] < 550_000, "but for the two tables"
    assert len({*(tmp_path / "text_encoder").glob("*.safetensors")}) > 1
    check_pipeline(tmp_path, PARTS)
    for sharded in (load(tmp_path), FireEditPipeline.from_pretrained(tmp_path)):
        for name in PARTS:
            own, other = getattr(plain, name).state_dict(), getattr(sharded, name).state_dict()
            assert own.keys() == other.keys()
            assert all(torch.equal(tensor.float(), other[each].float()) for each, tensor in own.items()), name
    next((tmp_path / "vlm").glob("*-00002-*")).unlink()
    with pytest.raises(CheckpointFileError, match="-00002-of-"):
        load(tmp_path, ("vlm",))


def test_gromas_added_tokens_are_left_out(published: Published, tmp_path: Path) -> None:
    """Its folders hold a tokenizer.model and an added_tokens.json, in which `<roi>` has another id than here."""
    vocab_size = published.sentences.vocab_size()
    config = replace(PAPERLIKE, vlm=replace(PAPERLIKE.vlm, vocab_size=vocab_size))
    convert(published.paths(llm=None), config, tmp_path)
    tokenizer = load(tmp_path, ("vlm_tokenizer",)).vlm_tokenizer
    own = read_tokenizer(published.root / "groma-7b-pretrain")
    assert len(own) == vocab_size + 114 and max(own("<roi> <r7>").input_ids) >= vocab_size
    assert len(tokenizer) == vocab_size and max(tokenizer("<roi> <r7>").input_ids) < vocab_size
    for text in ("make the red hat", "<roi>red"):
        assert tokenizer(text, add_special_tokens=False).input_ids == published.sentences.encode(text), text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token) == (1, 2, "</s>")


def test_stable_diffusions_source_channels_are_reported_as_fresh(published: Published, tmp_path: Path) -> None:
    folder = tmp_path / "stable-diffusion"
    shutil.copytree(published.root / "instruct-pix2pix", folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    write(path, state | {"conv_in.weight": state["conv_in.weight"][:, :4]})
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    report = convert(published.paths(instruct_pix2pix=folder), PAPERLIKE, tmp_path / "out")["unet"]
    assert report.partly == ("conv_in.weight (4 of 8 channels fresh)",) and report.loaded == len(state) - 1
