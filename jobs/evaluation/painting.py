"""Pictures of an evaluation: painted by replicas of an editor in Ray Data, each once, also after an interruption."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import ray.data
import torch
from ray.exceptions import RayError

from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, Turn
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import Editor, EditorName, load_editor
from fireedit.models.editors.fireedit import FireEdit
from fireedit.models.settings import PaintSettings
from fireedit.platform import images, storage
from fireedit.platform.cluster import ResourcesError, require_resources, start_ray
from fireedit.platform.picture_progress import PictureProgress

Regions = Literal["predicted", "true", "none"]
PICTURES = "pictures"
"""Folder of an evaluation's pictures."""
SECONDS = "seconds"
"""Folder of the seconds that pictures took: JSON Lines, a file for each replica, so that each has one writer."""
FIT = "write --cpus, --gpus and --replicas that fit, for example --cpus 0.25"


class PaintingError(RuntimeError):
    """Pictures are missing; started again, the evaluation goes on with them."""


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Editor, as each replica loads it, and the folder that its pictures go to."""

    editor: EditorName
    settings: PaintSettings
    seed: int
    """Seed of every picture's noise."""
    out: str
    device: str = "cpu"
    threads: int = 1
    regions: Regions = "predicted"
    """Regions of FireEdit's VLM: its detector's, the true ones of a set that knows them, or none."""

    def path(self, output: str) -> str:
        return storage.join(self.out, PICTURES, output)


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """Pool of replicas, and what each takes."""

    most: int = 64
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = 1
    """Chains that are painted together; 1 gives the same pictures whatever was painted before."""


def paint_missing(painter: Painter, edits: EvaluationSet, replicas: Replicas) -> dict[str, str]:
    """Paint the turns whose pictures are not there yet; returns reasons by output of those that failed.

    Raises:
        PaintingError: the cluster has no room for a replica, or Ray failed.
    """
    made = sum(storage.exists(painter.path(turn.output)) for turn in edits.turns)
    if made == len(edits.turns):
        return {}
    start_ray()
    try:
        require_resources([{"CPU": replicas.cpus} | ({"GPU": replicas.gpus} if replicas.gpus else {})], FIT)
    except ResourcesError as error:
        raise PaintingError(str(error)) from None
    progress, failed = PictureProgress(len(edits.turns), made), dict[str, str]()
    missing = [chain for chain in edits.chains if not all(storage.exists(painter.path(turn.output)) for turn in chain)]
    groups = [missing[first : first + replicas.batch] for first in range(0, len(missing), replicas.batch)]
    rows = [{"chains": json.dumps([[asdict(turn) for turn in chain] for chain in group])} for group in groups]
    painted = map_in_replicas(rows, Replica, {"painter": painter}, replicas)
    try:
        for row in painted.iter_rows():
            failed |= json.loads(row["failed"])
            made += row["painted"]
            progress.update(made, len(failed))
    except RayError as error:
        raise PaintingError(f"Ray failed: {error}; start again: pictures that are painted are kept") from error
    progress.close()
    return failed


def read_seconds(out: str) -> dict[str, float]:
    """Read the wall seconds that the editor took for each output in an evaluation's folder."""
    folder = storage.join(out, SECONDS)
    files = [storage.join(folder, name) for name in storage.names(folder) if name.endswith(".jsonl")]
    lines = [json.loads(line) for file in files for line in storage.read_bytes(file).splitlines()]
    return {line["output"]: line["seconds"] for line in lines}


def map_in_replicas(
    rows: Sequence[dict[str, Any]], actor: type, arguments: dict[str, Any], replicas: Replicas
) -> ray.data.Dataset:
    """Call an actor, made with `arguments`, on rows in a pool of replicas; each row leaves it at once."""
    return ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=replicas.most),
        num_cpus=replicas.cpus,
        num_gpus=replicas.gpus or None,
    )


class Replica:
    """Editor of one process, as Ray Data calls it: a few chains of turns in, their pictures written."""

    def __init__(self, painter: Painter):
        quiet_loading()
        self.painter, self.editor = painter, load_editor(painter.editor, painter.device)
        self.seconds = list[dict[str, Any]]()
        self.seconds_file = storage.join(painter.out, SECONDS, f"{uuid.uuid4().hex}.jsonl")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(self.painter.threads)
        chains = [[Turn(**turn) for turn in chain] for chain in json.loads(row["chains"])]
        failed = dict[str, str]()
        painted = sum(self._paint(turns, failed) for turns in _rounds(chains))
        return {"painted": painted, "failed": json.dumps(failed)}

    def _paint(self, turns: Sequence[Turn], failed: dict[str, str]) -> int:
        """Paint turns of different chains together, those that are missing; returns how many, and notes failures."""
        turns = [turn for turn in turns if not storage.exists(self.painter.path(turn.output))]
        loaded = [self._load(turn, failed) for turn in turns]
        pairs = [(turn, source) for turn, source in zip(turns, loaded, strict=True) if source is not None]
        if not pairs:
            return 0
        began = time.perf_counter()
        try:
            edited = edit_turns(self.editor, pairs, self.painter)
        except Exception as error:  # an editor may fail in any way; the others of the batch should not
            if len(pairs) > 1:
                return sum(self._paint([turn], failed) for turn, _ in pairs)
            torch.zeros(1, device=self.painter.device).cpu()  # raises if the device is lost, which ends the evaluation
            failed[pairs[0][0].output] = f"{type(error).__name__}: {error}".partition("\n")[0]
            return 0
        self._record([turn.output for turn, _ in pairs], time.perf_counter() - began)
        for (turn, _), picture in zip(pairs, edited, strict=True):
            storage.write_bytes(self.painter.path(turn.output), images.encode_png(picture))
        return len(pairs)

    def _record(self, outputs: Sequence[str], seconds: float) -> None:
        """Write the seconds of pictures painted together, before the pictures: one that is there has its seconds."""
        share = round(seconds / len(outputs), 6)
        self.seconds += [{"output": output, "seconds": share} for output in outputs]
        storage.write_bytes(self.seconds_file, "".join(f"{json.dumps(each)}\n" for each in self.seconds).encode())

    def _load(self, turn: Turn, failed: dict[str, str]) -> np.ndarray | None:
        """Decode the picture that a turn edits."""
        address = self.painter.path(turn.source) if turn.chained else turn.source
        if self.painter.editor.name == "vae":
            address = turn.target
        try:
            return images.decode(storage.read_bytes(address))
        except (OSError, images.ImageError) as error:
            failed[turn.output] = f"{address}: {error}"
            return None


def edit_turns(editor: Editor, pairs: Sequence[tuple[Turn, np.ndarray]], painter: Painter) -> list[np.ndarray]:
    """Edit the sources of turns, each from noise of the evaluation's seed and its own."""
    sources, texts = [source for _, source in pairs], [turn.instruction for turn, _ in pairs]
    seeds = [painter.seed + turn.seed for turn, _ in pairs]
    if painter.regions == "predicted":
        return editor.edit(sources, texts, seeds, painter.settings)
    assert isinstance(editor, FireEdit), editor.name
    boxes = [turn.boxes or [] if painter.regions == "true" else [] for turn, _ in pairs]
    return editor.edit(sources, texts, seeds, painter.settings, [np.reshape(each, (-1, 4)) for each in boxes])


def _rounds(chains: Sequence[Sequence[Turn]]) -> Iterator[list[Turn]]:
    """Yield the first turns of all chains, then the second ones."""
    for number in range(max(map(len, chains))):
        yield [chain[number] for chain in chains if len(chain) > number]
