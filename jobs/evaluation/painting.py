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

from fireedit.jobs.evaluation.picture_files import read_picture
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
    """Pictures are missing or cannot be measured; started again, the evaluation goes on."""


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
    """Chains that are painted together."""


def paint_missing(painter: Painter, edits: EvaluationSet, replicas: Replicas) -> dict[str, str]:
    """Paint the turns whose pictures are not there yet; returns reasons by output of those that failed.

    Raises:
        PaintingError: as `map_in_replicas`.
    """
    made = sum(storage.exists(painter.path(turn.output)) for turn in edits.turns)
    if made == len(edits.turns):
        return {}
    progress, failed = PictureProgress(len(edits.turns), made), dict[str, str]()
    groups = missing_groups(edits, painter, replicas.batch)
    rows = [{"chains": json.dumps([[asdict(turn) for turn in chain] for chain in group])} for group in groups]
    for row in map_in_replicas(rows, Replica, {"painter": painter}, replicas):
        failed |= json.loads(row["failed"])
        made += row["painted"]
        progress.update(made, len(failed))
    progress.close()
    return failed


def missing_groups(edits: EvaluationSet, painter: Painter, batch: int) -> list[list[list[Turn]]]:
    """Group the chains of a set, `batch` together, and list the groups of which a picture is missing.

    A chain is in the same group whatever was painted before, as pictures may depend on those of their batch.
    """
    chains = edits.chains
    groups = [chains[first : first + batch] for first in range(0, len(chains), batch)]
    return [
        group
        for group in groups
        if not all(storage.exists(painter.path(turn.output)) for chain in group for turn in chain)
    ]


def read_seconds(out: str) -> dict[str, float]:
    """Read the wall seconds that the editor took for each output in an evaluation's folder."""
    folder = storage.join(out, SECONDS)
    files = [storage.join(folder, name) for name in storage.names(folder) if name.endswith(".jsonl")]
    lines = [json.loads(line) for file in files for line in storage.read_bytes(file).splitlines()]
    return {line["output"]: line["seconds"] for line in lines}


def map_in_replicas(
    rows: Sequence[dict[str, Any]], actor: type, arguments: dict[str, Any], replicas: Replicas
) -> Iterator[dict[str, Any]]:
    """Call an actor, made with `arguments`, on rows in a pool of replicas; yields each answer at once.

    Raises:
        PaintingError: the cluster has no room for a replica, or Ray or the actor failed.
    """
    start_ray()
    try:
        require_resources([{"CPU": replicas.cpus} | ({"GPU": replicas.gpus} if replicas.gpus else {})], FIT)
    except ResourcesError as error:
        raise PaintingError(str(error)) from None
    answers = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=replicas.most),
        num_cpus=replicas.cpus,
        num_gpus=replicas.gpus or None,
    )
    try:
        yield from answers.iter_rows()
    except RayError as error:
        raise PaintingError(
            f"Ray failed: {failure_reason(error)}; start again: pictures that are painted are kept"
        ) from error


def failure_reason(error: RayError) -> str:
    """Pick the line of Ray's report that says what went wrong: that behind the first traceback, else the first."""
    first, *_ = str(error).split("\n\nThe above exception")
    _, found, traceback = first.rpartition('\n  File "')
    behind = [line for line in traceback.splitlines()[1:] if found and line.strip() and not line.startswith(" ")]
    return [*behind, *first.splitlines(), type(error).__name__][0]


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
        """Paint turns of different chains together, unless all are there; returns how many were not, notes failures."""
        missing = {turn.output for turn in turns if not storage.exists(self.painter.path(turn.output))}
        if not missing:
            return 0
        loaded = [self._load(turn, failed) for turn in turns]
        pairs = [(turn, source) for turn, source in zip(turns, loaded, strict=True) if source is not None]
        if missing.isdisjoint(turn.output for turn, _ in pairs):
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
        fresh = {turn.output: each for (turn, _), each in zip(pairs, edited, strict=True) if turn.output in missing}
        self._record(list(fresh), (time.perf_counter() - began) / len(pairs))
        for output, picture in fresh.items():
            storage.write_bytes(self.painter.path(output), images.encode_png(picture))
        return len(fresh)

    def _record(self, outputs: Sequence[str], seconds: float) -> None:
        """Write the seconds that each picture took, before the pictures: one that is there has its seconds."""
        self.seconds += [{"output": output, "seconds": round(seconds, 6)} for output in outputs]
        storage.write_bytes(self.seconds_file, "".join(f"{json.dumps(each)}\n" for each in self.seconds).encode())

    def _load(self, turn: Turn, failed: dict[str, str]) -> np.ndarray | None:
        """Decode the picture that a turn edits."""
        address = self.painter.path(turn.source) if turn.chained else turn.source
        if self.painter.editor.name == "vae":
            address = turn.target
        try:
            return read_picture(address)
        except images.ImageError as error:
            failed[turn.output] = str(error)
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
