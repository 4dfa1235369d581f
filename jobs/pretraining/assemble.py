"""All that was pretrained as one pipeline: what stage 1 starts from."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from fireedit.models.fireedit import preset
from fireedit.models.pipeline import FireEditPipeline

PRETRAINED = ("vision", "detector", "region_encoder", "vlm", "unet", "vae", "text_encoder")
MADE_BY = {"detector": "vision", "region_encoder": "vision", "vlm": "llm", "text_encoder": "clip"}
"""Parts of pretrain.py that are called otherwise than what they make."""


def assemble(out: Path, seed: int = 0) -> dict[str, Any]:
    """Put Q-Former, TATI and HVCA, fresh, and a sampler beside the parts in `out`, so that it is a pipeline's folder.

    Returns:
        which parts are fresh, and how many MB the folder's weights are.
    """
    missing = [MADE_BY.get(name, name) for name in PRETRAINED if not (out / name / "config.json").is_file()]
    if missing:
        sys.exit(f"{out} lacks parts; run: python jobs/pretrain.py {missing[0]} --out {out}")
    tokenizers = {name: AutoTokenizer.from_pretrained(out / name) for name in ("vlm_tokenizer", "tokenizer")}
    pipeline = FireEditPipeline.from_config_with(preset("nano"), **tokenizers, seed=seed)
    for name in PRETRAINED:
        pipeline.register_modules(**{name: type(getattr(pipeline, name)).from_pretrained(out / name)})
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "detector":  # its queries go by the rank of scores
            part.half()
    pipeline.save_pretrained(out)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
    fresh = [name for name, part in pipeline.model.named_children() if name not in PRETRAINED]
    return {"part": "pipeline", "weights": str(out), "fresh": fresh, "megabytes": round(size / 1e6, 1)}
