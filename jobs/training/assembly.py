"""The small model as one folder: what stage 1 starts from, and what stage 3 has made of it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from fireedit.jobs.training.saved import alone
from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import storage
from fireedit.platform.train import runs

PRETRAINED = ("vision", "detector", "region_encoder", "vlm", "text_encoder")
PAINTER = ("unet", "vae")
"""What may still be missing: stage 1 needs neither."""
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
    with alone(out):
        made = [name for name in (*PRETRAINED, *PAINTER) if (out / name / "config.json").is_file()]
        for name in made:
            pipeline.register_modules(**{name: type(getattr(pipeline, name)).from_pretrained(out / name)})
        fresh = [name for name, _ in pipeline.model.named_children() if name not in made]
        return {"part": "pipeline", "weights": str(out), "fresh": fresh, "megabytes": _save(pipeline, out)}


def finish(home: str, out: Path) -> dict[str, Any]:
    """Put what the last finished run of stage 3, or else of stage 2, trained into `out`.

    Returns:
        the run, and how many MB the folder's weights are.
    """
    run = runs.latest_finished(home, "nano", 3) or runs.latest_finished(home, "nano", 2)
    if run is None:
        sys.exit(f"{home}/runs holds no finished run of nano stage 3; run: python jobs/train.py --stage 3")
    with storage.reading_folder(run.weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder, dtype=torch.float32)
    return {"part": "finish", "weights": str(out), "run": run.name, "megabytes": _save(pipeline, out)}


def _save(pipeline: FireEditPipeline, out: Path) -> float:
    """In float16, painting as nano's sizes say; returns the MB of all weights in the folder."""
    pipeline.register_to_config(settings=asdict(preset("nano").painting))
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "detector":  # its queries go by the rank of scores
            part.half()
    pipeline.save_pretrained(out)
    for file in (*out.glob("*/config.json"), *out.glob("*/tokenizer_config.json"), out / "model_index.json"):
        config = json.loads(file.read_text())
        for key in ("_name_or_path", "is_local", "local_files_only"):  # where it was loaded from, on this machine
            config.pop(key, None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return round(sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 1e6, 1)
