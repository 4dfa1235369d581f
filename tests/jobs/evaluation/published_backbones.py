"""Tiny random backbones of measures under the names and in the layouts of the published ones."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, ViTConfig, ViTModel

from fireedit.models.model import NANO
from tests.jobs.evaluation.measures.plain import draw_weights

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
Tensors = dict[str, torch.Tensor]
ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Output and input channels and side of the convolutions of AlexNet's trunk, by index."""
SQUEEZE = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
SQUEEZE |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
"""Input, squeezed and expanded channels of SqueezeNet's blocks, by index."""
CHANNELS = {"alex": (64, 192, 384, 256, 256), "squeeze": (64, 128, 256, 384, 384, 512, 512)}
LPIPS_TRUNKS = {"alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


def write_backbones(folder: Path) -> Path:
    """Write every backbone that measures take."""
    save_clip(folder / "clip-vit-base-patch32")
    save_clip(folder / "clip-vit-large-patch14", patch_size=14)
    save_dino(folder / "dino-vits16")
    save_lpips(folder / "lpips")
    return folder


def save_clip(path: Path, **options: int) -> Path:
    text = TOWER | {"vocab_size": 1024, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = TOWER | {"image_size": 224, "patch_size": 32} | options
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    draw_weights(model)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(NANO / "tokenizer").save_pretrained(path)
    return path


def save_dino(path: Path, pooler: bool = True, **options: int) -> Path:
    model = ViTModel(ViTConfig(**(TOWER | options)), add_pooling_layer=pooler)
    draw_weights(model)
    model.save_pretrained(path)
    return path


def save_lpips(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for net, file in LPIPS_TRUNKS.items():
        torch.save(random_trunk(net), path / file)
        torch.save(random_heads(net), path / f"{net}.pth")
    return path


def random_trunk(net: str) -> Tensors:
    shapes: dict[str, tuple[int, int, int]] = {}
    if net == "alex":
        shapes |= {f"features.{index}": shape for index, shape in ALEX.items()}
    else:
        shapes["features.0"] = (64, 3, 3)
        for index, (channels, squeezed, width) in SQUEEZE.items():
            shapes[f"features.{index}.squeeze"] = (squeezed, channels, 1)
            shapes[f"features.{index}.expand1x1"] = (width, squeezed, 1)
            shapes[f"features.{index}.expand3x3"] = (width, squeezed, 3)
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, (channels, incoming, side) in shapes.items():
        spread = (2 / (incoming * side * side)) ** 0.5
        tensors[f"{name}.weight"] = torch.randn(channels, incoming, side, side, generator=generator) * spread
        tensors[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
    return tensors | {"classifier.1.weight": torch.zeros(2, 2), "classifier.1.bias": torch.zeros(2)}


def random_heads(net: str) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{level}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for level, channels in enumerate(CHANNELS[net])
    }
