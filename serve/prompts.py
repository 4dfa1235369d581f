"""Facts of the served weights that requests are checked against, from their small files. Imports no torch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from fireedit.models import settings
from fireedit.models.editors.editor import require_taken
from fireedit.models.settings import PaintSettings
from fireedit.models.tokens import PromptConfig, PromptError, PromptTokenizer
from fireedit.platform import storage
from fireedit.platform.provenance import fingerprint
from fireedit.serve.schema import BadRequest

T = TypeVar("T")
Editor = Literal["fireedit", "instruct-pix2pix"]
NANO = Path(settings.__file__).parent / "nano"
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class ServedModel:
    """Facts of the served weights."""

    settings: PaintSettings
    """Sampler settings of an edit that names none."""
    side: int
    """Side of the canvas, pixels."""
    fingerprint: str
    """Hash of the weights' files, as `platform.provenance.fingerprint`."""
    max_regions: int
    """Regions that the VLM looks at, at most; 0 for an editor without."""
    count: Callable[[str], object] | None
    """Tokenizes a prompt, or raises PromptError; None for weights without `tokenizer.json`, which check it later."""
    count_negative: Callable[[str], object] | None
    """The same for a negative prompt, which CLIP reads; None for weights without CLIP's tokenizer."""

    def check(self, prompt: str, negative_prompt: str) -> None:
        """Raise BadRequest if the model would not read the whole of both."""
        if self.count is not None:
            check_text(self.count, "prompt", prompt)
        if self.count_negative is not None:
            check_text(self.count_negative, "negative_prompt", negative_prompt)


def check_text(count: Callable[[str], T], name: str, text: str) -> T:
    """Tokenize the text of a field; raises BadRequest if it is too long."""
    try:
        return count(text)
    except PromptError as error:
        raise BadRequest(f"{name}: {error}", name, "string_above_max_length") from None


def served_model(weights: str, editor: Editor = "fireedit") -> ServedModel:
    """Read the facts of a folder of weights, local or s3://, file by file; `nano` names the shipped one.

    Raises:
        FileNotFoundError: the folder lacks one of the files.
        EditorError: it holds another pipeline than the editor takes.
    """
    folder = str(NANO) if weights == "nano" else weights
    index = _json(folder, "model_index.json")
    require_taken(editor, folder, index.get("_class_name"))
    vae = _json(folder, "vae", "config.json")
    side = vae.get("sample_size", 512)
    if "settings" not in index:  # diffusers' own folder, whose VAE names the size of its training instead
        side = _json(folder, "unet", "config.json")["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    has_clip = any(storage.exists(storage.join(folder, "tokenizer", name)) for name in ("tokenizer.json", "merges.txt"))
    clip = _clip_prompts(folder) if has_clip or editor == "instruct-pix2pix" else None
    count = _vlm_prompts(folder) if editor == "fireedit" else clip
    settings = PaintSettings(**index.get("settings", {}))
    return ServedModel(settings, side, fingerprint(folder), _max_regions(folder, editor), count, clip)


def _max_regions(folder: str, editor: Editor) -> int:
    if editor != "fireedit" or not storage.exists(storage.join(folder, "detector", "config.json")):
        return 0
    return _json(folder, "detector", "config.json")["proposals"]["max_regions"]


class Tokens(NamedTuple):
    """Tokens of a text, as transformers returns them."""

    input_ids: list[int]


class FastTokenizer:
    """Part of a transformers tokenizer that `PromptTokenizer` uses, without torch."""

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any]):
        self._tokenizer = tokenizer
        self.bos_token_id, self.eos_token_id = (self._id(config.get(f"{name}_token")) for name in ("bos", "eos"))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def __call__(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> Tokens:
        self._tokenizer.encode_special_tokens = split_special_tokens  # set at each call, as it is lost in pickles
        return Tokens(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def _id(self, token: str | dict[str, Any] | None) -> int | None:
        return self._tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token or "")


@dataclass(frozen=True)
class ClipPrompts:
    """Counts a prompt's tokens for CLIP's text encoder, which would cut the prompt where diffusers warns only."""

    tokenizer: Tokenizer
    limit: int
    """Tokens of a text, its start and end counted."""

    def __call__(self, prompt: str) -> None:
        """Raise PromptError if the prompt is too long."""
        length = len(self.tokenizer.encode(prompt, add_special_tokens=False).ids) + 2
        if length > self.limit:
            message = f"{prompt[:40]!r}... has {length} tokens; CLIP reads at most {self.limit}: write a shorter text"
            raise PromptError(message)


def _vlm_prompts(folder: str) -> Callable[[str], object] | None:
    tokenizer = _tokenizer(folder, "vlm_tokenizer")
    if tokenizer is None:
        return None
    vlm = _json(folder, "vlm", "config.json")
    fast: Any = FastTokenizer(tokenizer, _json(folder, "vlm_tokenizer", "tokenizer_config.json"))
    return PromptTokenizer(fast, vlm["vocab_size"], PromptConfig(**vlm["prompt"])).edit


def _clip_prompts(folder: str) -> Callable[[str], object]:
    limit = _json(folder, "text_encoder", "config.json")["max_position_embeddings"]
    return ClipPrompts(_tokenizer(folder, "tokenizer") or _clip_tokenizer(folder), limit)


def _tokenizer(folder: str, part: str) -> Tokenizer | None:
    file = storage.join(folder, part, "tokenizer.json")
    if not storage.exists(file):
        return None
    tokenizer = Tokenizer.from_str(storage.read_bytes(file).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _clip_tokenizer(folder: str) -> Tokenizer:
    """Build CLIP's tokenizer from its first files, as transformers does; InstructPix2Pix was published with these."""
    merges = storage.read_bytes(storage.join(folder, "tokenizer", "merges.txt")).decode().splitlines()[1:]
    pairs = [(first, second) for first, _, second in (line.partition(" ") for line in merges) if second]
    vocabulary = _json(folder, "tokenizer", "vocab.json")
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return tokenizer


def _json(folder: str, *names: str) -> dict[str, Any]:
    path = storage.join(folder, *names)
    try:
        return json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
