"""Tiny random pipelines in the layouts of the published ones: InstructPix2Pix's, its checkpoint's, UltraEdit's."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from fireedit.models.model import NANO
from fireedit.models.text import TextConfig, build_text_encoder
from tests.factories import shaken

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TEXT = TextConfig(
    vocab_size=len(AutoTokenizer.from_pretrained(NANO / "tokenizer")), width=32, mlp_width=64, layers=2, heads=4
)


def tiny_instruct_pix2pix() -> StableDiffusionInstructPix2PixPipeline:
    """Make a pipeline of Stable Diffusion 1's architecture, whose latents have a fourth of the pictures' sides."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            sample_size=256,  # of its training: pictures of this UNet have 32
        )
        parts = {"unet": unet, "vae": vae, "text_encoder": build_text_encoder(TEXT)}
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **{name: shaken(part).eval() for name, part in parts.items()},
        tokenizer=AutoTokenizer.from_pretrained(NANO / "tokenizer"),
        scheduler=EulerAncestralDiscreteScheduler(**SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ldm_state(pipeline: StableDiffusionInstructPix2PixPipeline) -> dict[str, Tensor]:
    """Name a pipeline's weights as CompVis' training code does, one layer for each block; without averages."""
    unet = {
        _ldm_unet_name(name, pipeline.unet.config.down_block_types): tensor
        for name, tensor in pipeline.unet.state_dict().items()
    }
    vae = dict(
        _ldm_vae(name, tensor, len(pipeline.vae.config.block_out_channels))
        for name, tensor in pipeline.vae.state_dict().items()
    )
    text = {f"text_model.{name}": tensor for name, tensor in pipeline.text_encoder.state_dict().items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    groups = {"model.diffusion_model": unet, "first_stage_model": vae, "cond_stage_model.transformer": text}
    return {f"{group}.{name}": tensor.clone() for group, state in groups.items() for name, tensor in state.items()}


def _ldm_unet_name(name: str, blocks: tuple[str, ...]) -> str:
    """Translate diffusers' name of a UNet with one layer a block to CompVis'."""
    levels = len(blocks)
    renames = {
        r"time_embedding\.linear_1": "time_embed.0",
        r"time_embedding\.linear_2": "time_embed.2",
        r"conv_in": "input_blocks.0.0",
        r"conv_norm_out": "out.0",
        r"conv_out": "out.2",
        r"mid_block\.resnets\.0": "middle_block.0",
        r"mid_block\.attentions\.0": "middle_block.1",
        r"mid_block\.resnets\.1": "middle_block.2",
    }
    for level in range(levels):
        attends = level > 0  # the first level on the way up has no attention
        renames |= {
            rf"down_blocks\.{level}\.resnets\.0": f"input_blocks.{2 * level + 1}.0",
            rf"down_blocks\.{level}\.attentions\.0": f"input_blocks.{2 * level + 1}.1",
            rf"down_blocks\.{level}\.downsamplers\.0\.conv": f"input_blocks.{2 * level + 2}.0.op",
            rf"up_blocks\.{level}\.upsamplers\.0\.conv": f"output_blocks.{2 * level + 1}.{1 + attends}.conv",
        }
        for layer in range(2):
            renames |= {
                rf"up_blocks\.{level}\.resnets\.{layer}": f"output_blocks.{2 * level + layer}.0",
                rf"up_blocks\.{level}\.attentions\.{layer}": f"output_blocks.{2 * level + layer}.1",
            }
    for old, new in renames.items():
        name, count = re.subn(rf"^{old}\.", f"{new}.", name)
        if count:
            break
    parts = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    parts |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    if "transformer_blocks" not in name:
        for old, new in parts.items():
            name = name.replace(f".{old}.", f".{new}.")
    return name


def _ldm_vae(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """Translate diffusers' name of a tensor of the VAE to CompVis'; projections of attention become convolutions."""
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        name = re.sub(r"\.to_([qkv])\.", r".\1.", name).replace("to_out.0", "proj_out")
        tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
    return name, tensor


def with_averages(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the UNet's moving averages as Lightning's code names them, and make the weights themselves useless."""
    flat = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor
        for name, tensor in state.items()
        if name.startswith("model.")
    }
    useless = {name: torch.full_like(state[name], 9.0) for name in state if name.startswith("model.")}
    return {**state, **useless, **flat, "model_ema.decay": torch.tensor(0.9999)}


def tiny_ultraedit(folder: Path, has_mask: bool) -> StableDiffusion3Pipeline:
    """Write UltraEdit's folder, with all three text encoders; returns its parts."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=24 if has_mask else 16,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=8,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        config = CLIPTextConfig(
            vocab_size=TEXT.vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=32,
            eos_token_id=AutoTokenizer.from_pretrained(NANO / "tokenizer").eos_token_id,
        )
        encoders = [CLIPTextModelWithProjection(config) for _ in range(2)]
        t5 = T5EncoderModel(T5Config(vocab_size=32, d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=2))
    words = {
        word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", "make", "the", "circle", "red", "blue"))
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    clip = AutoTokenizer.from_pretrained(NANO / "tokenizer")
    pipeline = StableDiffusion3Pipeline(
        transformer=shaken(transformer).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=shaken(vae).eval(),
        text_encoder=shaken(encoders[0]).eval(),
        tokenizer=clip,
        text_encoder_2=shaken(encoders[1]).eval(),
        tokenizer_2=clip,
        text_encoder_3=shaken(t5).eval(),
        tokenizer_3=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
    )
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusion3Pipeline", "StableDiffusion3InstructPix2PixPipeline"))
    return pipeline
