"""Frozen encoders whose outputs `jobs/prepare.py shards --encode` stores beside the shards."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import PreTrainedTokenizerBase

from fireedit.jobs.training.sizes import differences
from fireedit.models.model import NANO, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.vae import encode_pixels
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.config import to_plain
from fireedit.platform.data.encoding import Arrays, Encoder, EncodersConfig, encode
from fireedit.platform.data.preparation import PrepareError
from fireedit.platform.data.sample import Sample
from fireedit.platform.images import decode


def latents(model: str, weights: str) -> Encoder:
    """Make the encoder of VAE moments of source and target, for rows that are edits."""
    sizes = preset(model).vae
    return Encoder(
        fingerprint=fingerprint(_load_component(weights, "vae")),
        columns=dict.fromkeys(("source_moments", "target_moments"), sizes.moments_shape),
        load=functools.partial(_load_canvases, sizes.sample_size),
        make=functools.partial(_Latents, weights),
    )


def text(model: str, weights: str) -> Encoder:
    """Make the encoder of CLIP's text states, for rows that are captions."""
    sizes = preset(model).text
    return Encoder(
        fingerprint=fingerprint(_load_component(weights, "text_encoder")),
        columns={"text_states": (sizes.tokens, sizes.width)},
        load=functools.partial(_load_text_ids, _load_component(weights, "tokenizer"), sizes.tokens),
        make=functools.partial(_TextStates, weights),
    )


ENCODERS: dict[str, Callable[[str, str], Encoder]] = {"latents": latents, "text": text}
"""Encoders by their name in `--encode`; each takes a preset's name and a pipeline folder."""


READS = {"latents": ("vae",), "text": ("text_encoder", "tokenizer")}
"""Components that each encoder reads."""


def check_encoders(encoders: Sequence[str], model: str, weights: str) -> str:
    """Find the pipeline folder of encoders; `nano` names the shipped one.

    Raises:
        PrepareError: an encoder is unknown, or the folder has none of the preset's sizes.
    """
    for name in encoders:
        if name not in ENCODERS:
            raise PrepareError(f"--encode: found {name!r}; write {' or '.join(ENCODERS)}, or both with a comma")
    if encoders and not weights:
        raise PrepareError("--encode needs --weights FOLDER, a saved pipeline that holds the encoders")
    folder, config = str(NANO) if weights == "nano" else weights, preset(model)
    text = {"hidden_size": config.text.width, "max_position_embeddings": config.text.tokens}
    sizes: dict[str, Any] = {"vae": to_plain(config.vae), "text_encoder": text}
    for component in (component for name in encoders for component in READS[name]):
        file = "tokenizer_config.json" if component == "tokenizer" else "config.json"
        path = storage.join(folder, component, file)
        if not storage.exists(path):
            raise PrepareError(f"--weights: {path} is missing; write nano, or the folder of a saved pipeline")
        for key, found, wanted in differences(json.loads(storage.read_bytes(path)), sizes.get(component, {})):
            raise PrepareError(
                f"--weights: {weights} has {component}.{key} {found}, --model {model} {wanted}; write the --model of "
                "these weights"
            )
    return folder


def encode_shards(
    out: str, names: Sequence[str], encoders: Sequence[str], model: str, weights: str, config: EncodersConfig
) -> dict[str, Any]:
    """Run frozen encoders over the shards of corpora under `out` and store their outputs beside them, or go on with it.

    Args:
        encoders: keys of ENCODERS.
        weights: pipeline folder, or `nano`.
    Returns:
        Report of each corpus and encoder.
    """
    weights = check_encoders(encoders, model, weights)
    reports: dict[str, Any] = {}
    for kind in encoders:
        encoder = ENCODERS[kind](model, weights)
        for name in names:
            reports[f"{name}/{kind}"] = encode(storage.join(out, name), kind, encoder, config)
    return {"encoded": reports}


class _Latents:
    def __init__(self, weights: str):
        self.vae = _load_component(weights, "vae").to(_device())

    @torch.no_grad()
    def __call__(self, canvases: Arrays) -> Arrays:
        """Encode uint8 [N, S, S, 3] of source and target to float16 [N, 2 C, h, w]."""
        tensors = {name: torch.from_numpy(canvas).to(self.vae.device) for name, canvas in canvases.items()}
        return {f"{name}_moments": encode_pixels(self.vae, x).half().cpu().numpy() for name, x in tensors.items()}


class _TextStates:
    def __init__(self, weights: str):
        self.text_encoder = _load_component(weights, "text_encoder").to(_device())

    @torch.no_grad()
    def __call__(self, inputs: Arrays) -> Arrays:
        """Encode ids [N, T] to float16 [N, T, W]."""
        ids = torch.from_numpy(inputs["text_ids"]).to(self.text_encoder.device)
        return {"text_states": text_states(self.text_encoder, ids).half().cpu().numpy()}


def _load_canvases(side: int, sample: Sample) -> Arrays | None:
    if sample.task != "edit":
        return None
    pictures = {"source": sample.source, "target": sample.target}
    return {name: squash(decode(data, draft=side), side) for name, data in pictures.items()}


def _load_text_ids(tokenizer: PreTrainedTokenizerBase, length: int, sample: Sample) -> Arrays | None:
    if sample.task != "caption":
        return None
    return {"text_ids": tokenize_text(tokenizer, [sample.instruction], length)[0].numpy()}


def _load_component(weights: str, name: str) -> Any:
    """Load one component of a saved pipeline, in float32."""
    diffusers.utils.logging.disable_progress_bar()
    with storage.reading_folder(weights) as folder:
        return getattr(FireEditPipeline.from_pretrained(Path(folder), parts=(name,)), name)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
