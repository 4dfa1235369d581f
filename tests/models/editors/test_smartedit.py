"""SmartEdit as an editor: a tiny folder in the published layout, its prompt, LLaMA's states and its pictures."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerBase,
)

from fireedit.models.checkpoint_files import CheckpointFileError, read_tokenizer
from fireedit.models.editors import smartedit
from fireedit.models.editors.editor import EditorError, EditorName, load_editor
from fireedit.models.editors.smartedit import PromptBuilder, SmartEdit, check_layout
from fireedit.models.editors.smartedit_model import BIM, BIMConfig
from fireedit.models.model import NANO
from fireedit.models.qformer import QFormer, QFormerConfig
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.tokens import PromptError
from fireedit.models.weights import WeightsError
from tests.factories import picture, shaken
from tests.models.published_pipelines import tiny_instruct_pix2pix

SIDE, VIEW, STEPS, LAYERS, WIDTH = 32, 32, 3, 2, 64
TEXTS = ["make the red circle blue", "remove the cube"]
NEW = ["<img>", "<im_start>", "<im_end>", *(f"<img_{index}>" for index in range(32))]
CONVERSATION = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant can generate <img>. The "
    "assistant needs to conduct the image to image translation task based on given image and text information. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions. USER: Could you produce an image "
    'based on the previous image and text description "<im_start> <img_0> <im_end>{}"? ASSISTANT: Certainly, I can '
    f"create the image you requested {' '.join(NEW[3:])}"
)
"""Conversation of the authors' training on their first template."""


def llm_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(NANO / "vlm_tokenizer")


def llama(vocab_size: int) -> LlamaModel:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    return LlamaModel(LlamaConfig(vocab_size=vocab_size, rms_norm_eps=1e-5, **sizes)).eval()


def write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.clone() for name, tensor in state.items()}, path)


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_llava(root: Path, vocab_size: int) -> None:
    """Write LLaVA 1.1: three rows more than the vocabulary, a projector, two shards."""
    state = {f"model.{name}": tensor for name, tensor in shaken(llama(vocab_size + 3), seed=5).state_dict().items()}
    state |= {"model.mm_projector.weight": torch.zeros(WIDTH, 32), "model.mm_projector.bias": torch.zeros(WIDTH)}
    state["lm_head.weight"] = torch.zeros(vocab_size + 3, WIDTH)
    shards = [f"pytorch_model-0000{index}-of-00002.bin" for index in (1, 2)]
    names = sorted(state)
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        write_tensors(root / shard, {name: state[name] for name in part})
    places = {name: shards[index % 2] for index, name in enumerate(names)}
    write_json(root / "pytorch_model.bin.index.json", {"weight_map": places})
    sizes = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    config = {"model_type": "llava", "vocab_size": vocab_size + 3, "rms_norm_eps": 1e-5, "mm_vision_select_layer": -2}
    write_json(root / "config.json", {**config, "max_position_embeddings": 512, **sizes})


def write_clip(root: Path) -> None:
    """Write openai's folder: a config of both towers, and a tensor of the text tower."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"image_size": VIEW, "patch_size": 8}
    clip = shaken(CLIPVisionModel(CLIPVisionConfig(**sizes)), scale=0.2)
    state = {f"vision_model.{name}": tensor for name, tensor in clip.state_dict().items()}
    write_tensors(root / "pytorch_model.bin", {**state, "text_model.final_layer_norm.bias": torch.zeros(4)})
    write_json(root / "config.json", {"model_type": "clip", "vision_config": sizes})


def write_smartedit(root: Path, vocab_size: int, unet: nn.Module) -> None:
    """Write SmartEdit's five files; the first rows of its tables are useless, as its code never reads them."""
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"}
    write_json(root / "adapter_config.json", lora)
    llm = shaken(llama(vocab_size + len(NEW)), seed=6).state_dict()
    llm["embed_tokens.weight"][:vocab_size] = 9.0
    for layer in range(LAYERS):
        llm[f"layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        for target in ("q_proj", "v_proj"):
            name = f"layers.{layer}.self_attn.{target}"
            llm[f"{name}.lora_A.default.weight"] = torch.randn(2, WIDTH)
            llm[f"{name}.lora_B.default.weight"] = torch.randn(WIDTH, 2)
    named = {f"model.base_model.model.{name}": tensor for name, tensor in llm.items()}
    write_tensors(root / "LLM-15000/adapter_model.bin", named)

    sizes = QFormerConfig(width=32, layers=2, heads=1, mlp_width=48, input_width=WIDTH)
    qformer = shaken(QFormer(sizes), scale=0.2).state_dict()
    renames = ((r"^blip2\.", "sd_qformer."), (r"^query_tokens", "sd_query_tokens"))
    renames += (
        (r"attention\.attention\.", "attention.self."),
        (r"^sd_qformer\.layernorm", "sd_qformer.embeddings.LayerNorm"),
    )
    state = {"mm_projector.weight": torch.randn(WIDTH, 32), "mm_projector.bias": torch.randn(WIDTH)}
    state["lm_head.weight"] = torch.zeros(vocab_size + len(NEW), WIDTH)
    for name, tensor in qformer.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    write_tensors(root / "embeddings_qformer/checkpoint-15000_embeddings_qformer.bin", state)

    write_tensors(root / "modulate-15000/adapter_model.bin", published_bim())
    named = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    write_tensors(root / "unet-15000/adapter_model.bin", named)


def published_bim() -> dict[str, Tensor]:
    """Make BIM's tensors under their published names."""
    state = shaken(BIM(BIMConfig(width=32, text_width=32, mlp_width=48, output_width=32)), scale=0.2).state_dict()
    heads = {"query_head": "modulate_head", "transformer": "modulate_transformer"}
    heads |= {"image_head": "dimension_reduction_head_zeroconv", "text_head": "dimension_reduction_head_qformer_out"}
    published = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        rest = re.sub(r"layer_norm(\d)", r"norm\1", rest).replace("layer_norm_final_attn", "norm_final_attn")
        published[f"{heads.get(first)}.{rest}"] = tensor
    published["pe_layer.positional_encoding_gaussian_matrix"] = published.pop("None.positional_embedding")
    return published


@pytest.fixture(scope="module")
def painter() -> StableDiffusionInstructPix2PixPipeline:
    return tiny_instruct_pix2pix()


@pytest.fixture(scope="module")
def folder(painter: StableDiffusionInstructPix2PixPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, tokenizer = tmp_path_factory.mktemp("smartedit"), llm_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        write_llava(root / "LLaVA-7B-v1", len(tokenizer))
        write_clip(root / "clip-vit-large-patch14")
        painter.save_pretrained(root / "instruct-pix2pix")
        write_smartedit(root / "SmartEdit-7B", len(tokenizer), painter.unet)
    (root / "instruct-pix2pix/unet/diffusion_pytorch_model.safetensors").unlink()  # SmartEdit's own is read
    tokenizer.save_pretrained(root / "vicuna-7b-v1-1")
    return root


@pytest.fixture(scope="module")
def editor(folder: Path) -> SmartEdit:
    editor = load_editor(EditorName("smartedit", str(folder)))
    assert isinstance(editor, SmartEdit)
    editor.side = SIDE
    return editor


def reference_ids(instruction: str, llama: sentencepiece.SentencePieceProcessor | None = None) -> tuple[list[int], int]:
    """Tokenize as transformers 4.28, with spaces around added tokens trimmed; returns the place of the picture too."""
    nano = llm_tokenizer()
    vocab_size = len(llama or nano)
    ids = [llama.bos_id() if llama else nano.bos_token_id]
    for piece in re.split(r"(<img_\d+>|<img>|<im_start>|<im_end>)", CONVERSATION.format(instruction)):
        if piece in NEW:
            ids.append(vocab_size + NEW.index(piece))
        elif text := piece.strip():
            ids += llama.encode(text) if llama else nano(text, add_special_tokens=False).input_ids
    place = ids.index(vocab_size + NEW.index("<img_0>"))
    return ids[:place] + ids[place + 1 :], place


def test_prompts_are_the_authors_without_their_first_placeholder(editor: SmartEdit) -> None:
    for text in (*TEXTS, "zoom in, \nplease "):
        prompt = editor.prompts(text)
        ids, place = reference_ids(text.replace("\n", "").strip())
        assert [*prompt.before, *prompt.after] == ids and len(prompt.before) == place
    with pytest.raises(PromptError, match=r"'make make .*\.\.\. makes a prompt of \d+ tokens; at most 496 fit"):
        editor.prompts("make " * 500)


@pytest.mark.parametrize("text", ["make the red circle blue", '"quoted"  text. 12 dogs', "größer, bitte: ü"])
def test_prompts_of_a_llama_tokenizer_are_those_of_sentencepiece(text: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join([CONVERSATION.format("make the blue dog red, please")] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    prompt = PromptBuilder(read_tokenizer(tmp_path), len(reference), 2048, 256)(text)
    ids, place = reference_ids(text, reference)
    assert [*prompt.before, *prompt.after] == ids and len(prompt.before) == place


def test_user_text_is_not_parsed_for_added_tokens(editor: SmartEdit) -> None:
    prompt, added = editor.prompts("draw <img_3> and <im_start>"), editor.prompts.img_ids
    assert prompt.after[-32:] == added and not {*added, editor.prompts.start} & {*prompt.after[1:-32]}


@torch.no_grad()
def test_one_prefill_gives_the_states_of_a_loop_token_by_token(editor: SmartEdit, folder: Path) -> None:
    """The reference reads the files anew and merges the LoRA, of scale 4 / 2."""
    state = {
        name.removeprefix("model.base_model.model."): tensor.double()
        for name, tensor in torch.load(folder / "SmartEdit-7B/LLM-15000/adapter_model.bin").items()
    }
    for name in [name for name in state if name.endswith("lora_A.default.weight")]:
        base = name.replace("lora_A.default.weight", "weight")
        state[base] += 2 * state.pop(name.replace("lora_A", "lora_B")) @ state.pop(name)
    parts = [torch.load(path) for path in sorted((folder / "LLaVA-7B-v1").glob("*.bin"))]
    old = {**parts[0], **parts[1]}["model.embed_tokens.weight"][:-3].double()
    state["embed_tokens.weight"][: len(old)] = old
    plain = llama(len(old) + len(NEW)).double()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if "rotary" not in name})

    ids, place = reference_ids(TEXTS[0])
    patches = torch.randn(1, 16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    projector = torch.load(folder / "SmartEdit-7B/embeddings_qformer/checkpoint-15000_embeddings_qformer.bin")
    seen = patches @ projector["mm_projector.weight"].double().T + projector["mm_projector.bias"].double()
    embedded = state["embed_tokens.weight"][torch.tensor(ids)][None]
    before = torch.cat([embedded[:, :place], seen, embedded[:, place:-32]], dim=1)
    cache, states = DynamicCache(), []
    plain(inputs_embeds=before, past_key_values=cache, use_cache=True)
    for token in ids[-32:]:
        output = plain(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        states.append(output.last_hidden_state)

    model = editor.model.double()
    found = model.img_states(patches, editor.prompts(TEXTS[0]))
    model.float()
    expected = torch.cat(states, dim=1)
    assert found.shape == (1, 32, WIDTH) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_patches_are_clips_last_but_one_states(editor: SmartEdit) -> None:
    view, seen = picture(4, VIEW, VIEW), editor.model.clip
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.tensor((view / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    states: list[Tensor] = []
    hook = seen.encoder.layers[-1].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    seen(pixels)
    hook.remove()
    found = editor.model.patches(torch.tensor(view))
    assert found.shape == (1, 16, 32)
    torch.testing.assert_close(found, states[0][:, 1:], rtol=1e-5, atol=1e-5)


class Sum(nn.Module):
    """Layer whose output is that of another plus a constant."""

    def __init__(self, layer: nn.Module, constant: Tensor):
        super().__init__()
        self.layer, self.constant = layer, constant

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.constant


@torch.no_grad()
def expected(
    pipe: StableDiffusionInstructPix2PixPipeline, editor: SmartEdit, source: np.ndarray, seed: int
) -> np.ndarray:
    """Edit one picture, each branch in a forward of its own; [S, S, 3] in [0, 1]."""
    squashed = np.asarray(Image.fromarray(source).resize((VIEW, VIEW), Image.Resampling.BICUBIC))
    patches = editor.model.patches(torch.tensor(squashed))
    e = editor.model.qformer(editor.model.img_states(patches, editor.prompts(TEXTS[0])))
    text, feature = editor.model.bim(e, patches, (8, 8))
    text = e + 0.5 * text
    nothing = text_states(pipe.text_encoder, tokenize_text(pipe.tokenizer, [""], 77))
    canvas = np.asarray(Image.fromarray(source).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = pipe.vae.encode(torch.tensor(canvas / 127.5 - 1).float().permute(2, 0, 1)[None]).latent_dist.mode()
    scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(image.shape, generator=generator) * scheduler.init_noise_sigma
    plain = pipe.unet.conv_in
    pipe.unet.conv_in = Sum(plain, feature)
    for time in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, time)
        full = pipe.unet(torch.cat([noisy, image], dim=1), time, text).sample
        shown = pipe.unet(torch.cat([noisy, image], dim=1), time, nothing).sample
        neither = pipe.unet(torch.cat([noisy, 0 * image], dim=1), time, nothing).sample
        predicted = neither + 7.5 * (full - shown) + 1.5 * (shown - neither)
        latents = scheduler.step(predicted, time, latents, generator=generator).prev_sample
    pipe.unet.conv_in = plain
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    return ((decoded + 1) / 2).clamp(0, 1).numpy()


def test_pictures_follow_the_authors_pipeline(
    editor: SmartEdit, painter: StableDiffusionInstructPix2PixPipeline
) -> None:
    source = picture(1)
    (edited,) = editor.edit([source], TEXTS[:1], [4], editor.settings.but(num_inference_steps=STEPS))
    wanted = expected(painter, editor, source, 4)
    assert wanted.std() > 0.05, "an edit that shows something"
    assert np.abs(edited / 255 - wanted).max() < 0.5 / 255 + 1e-4, "equal but for the rounding to 8 bits"


def test_a_batch_changes_nothing(editor: SmartEdit) -> None:
    pictures, settings = [picture(1), picture(2, 50, 90)], editor.settings.but(num_inference_steps=2)
    together = editor.edit(pictures, TEXTS, [1, 2], settings)
    for index in range(2):
        alone = editor.edit(pictures[index : index + 1], TEXTS[index : index + 1], [1 + index], settings)
        assert np.array_equal(together[index], alone[0])
    assert not np.array_equal(*together)
    other = editor.edit(pictures[:1], TEXTS[1:], [1], settings)
    assert not np.array_equal(together[0], other[0]), "the instruction changes the picture"


def test_no_features_are_left_on_the_unet_and_guidance_may_be_off(editor: SmartEdit) -> None:
    settings = editor.settings.but(num_inference_steps=1, guidance_scale=1, image_guidance_scale=1)
    (edited,) = editor.edit([picture(1)], TEXTS[:1], [1], settings)
    assert edited.shape == (SIDE, SIDE, 3) and not editor.pipeline.unet.conv_in._forward_hooks


def test_settings_are_the_published_ones(editor: SmartEdit) -> None:
    found = editor.settings
    assert (found.num_inference_steps, found.guidance_scale, found.image_guidance_scale) == (100, 7.5, 1.5)
    assert smartedit.SIDE == 256 and len(editor.weights) == 8
    with pytest.raises(EditorError, match=r"smartedit has no keep_below: found 0.1; leave it at 0.0"):
        editor.edit([picture(1)], TEXTS[:1], [0], found.but(keep_below=0.1))


PARTS = (
    *("LLaVA-7B-v1/config.json", "clip-vit-large-patch14/config.json", "instruct-pix2pix/unet/config.json"),
    *("SmartEdit-7B/adapter_config.json", "SmartEdit-7B/LLM-15000/adapter_model.bin"),
    "SmartEdit-7B/embeddings_qformer/checkpoint-15000_embeddings_qformer.bin",
    *("SmartEdit-7B/modulate-15000/adapter_model.bin", "SmartEdit-7B/unet-15000/adapter_model.bin"),
    *("LLaVA-7B-v1/pytorch_model-00002-of-00002.bin", "clip-vit-large-patch14/pytorch_model.bin"),
    *("vicuna-7b-v1-1/tokenizer.json", "instruct-pix2pix/vae/config.json"),
)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(part: str, folder: Path) -> None:
    moved = folder / "moved"
    (folder / part).rename(moved)
    stem = part.replace("tokenizer.json", "tokenizer").replace("clip-vit-large-patch14/pytorch_model.bin", "clip-vit")
    try:
        with pytest.raises(CheckpointFileError, match=stem):
            smartedit.load(folder, "cpu")
    finally:
        moved.rename(folder / part)


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError) as error:
        check_layout(tmp_path)
    for name in (*smartedit.FILES, "vicuna-7b-v1-1/tokenizer.model", "it should hold SmartEdit-7B/"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("part", "lost", "message"),
    [
        ("LLM-15000/adapter_model.bin", "model.base_model.model.embed_tokens.weight", "embeddings of 920 and 0 tokens"),
        ("LLM-15000/adapter_model.bin", "layers.1.self_attn.v_proj.lora_B.default.weight", "v_proj.lora_B.default"),
        ("unet-15000/adapter_model.bin", "unet.conv_in.weight", "found no unet.conv_in.weight"),
        ("modulate-15000/adapter_model.bin", "modulate_head.weight", "found no modulate_head.weight among dimension_"),
        ("modulate-15000/adapter_model.bin", "modulate_head.bias", "query_head.bias"),
        ("embeddings_qformer/checkpoint-15000_embeddings_qformer.bin", "sd_query_tokens", "found no sd_query_tokens"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(part: str, lost: str, message: str, folder: Path) -> None:
    path = folder / "SmartEdit-7B" / part
    original = path.read_bytes()
    write_tensors(path, {name: tensor for name, tensor in torch.load(path).items() if not name.endswith(lost)})
    try:
        with pytest.raises(WeightsError, match=message):
            smartedit.load(folder, "cpu")
    finally:
        path.write_bytes(original)


def test_a_file_of_lora_alone_takes_the_rest_from_llava(editor: SmartEdit, folder: Path) -> None:
    path = folder / "SmartEdit-7B/LLM-15000/adapter_model.bin"
    original, state = path.read_bytes(), torch.load(path)
    write_tensors(path, {name: each for name, each in state.items() if "lora_" in name or "embed_tokens" in name})
    try:
        llm = smartedit.load_model(folder).llm
    finally:
        path.write_bytes(original)
    shards = [torch.load(shard) for shard in sorted((folder / "LLaVA-7B-v1").glob("*.bin"))]
    assert torch.equal(llm.norm.weight, {**shards[0], **shards[1]}["model.norm.weight"])
    assert not torch.equal(llm.norm.weight, editor.model.llm.norm.weight)


def test_an_unmerged_llava_is_refused(folder: Path) -> None:
    shards = {path: path.read_bytes() for path in (folder / "LLaVA-7B-v1").glob("*.bin")}
    for path in shards:
        state = torch.load(path)
        write_tensors(path, {name: 0 * each if name.endswith("norm.weight") else each for name, each in state.items()})
    try:
        with pytest.raises(WeightsError, match=r"LLaVA-7B-v1: found a delta.*`python -m llava.model.apply_delta"):
            smartedit.load_model(folder)
    finally:
        for path, original in shards.items():
            path.write_bytes(original)
