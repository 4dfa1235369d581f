"""Evaluation of an editor on a set, from the set's files to tables: paint what is missing, measure all, write."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from fireedit.jobs.evaluation import tables
from fireedit.jobs.evaluation.measuring import Measuring, measure
from fireedit.jobs.evaluation.painting import (
    PICTURES,
    Painter,
    PaintingError,
    Replicas,
    paint_missing,
)
from fireedit.jobs.evaluation.sets import emu_edit, magicbrush, reasonedit
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, SetError
from fireedit.jobs.evaluation.turns import save_turns
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import EditorError, EditorName, load_editor
from fireedit.models.settings import PaintSettings, SettingValue
from fireedit.platform import storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.console import say
from fireedit.platform.job_folder import require_settings, save_settings

SETS = ("magicbrush-dev", "magicbrush-test", "emu-edit", "reasonedit")
FOLDER = "folder="
"""Beginning of the editor that stands for pictures made elsewhere."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation as it is asked for."""

    editor: str
    """`NAME=FOLDER` as `EditorName` parses it, or `folder=PICTURES`."""
    set: str
    """Name of `SETS`."""
    data: str
    """Folder of the set."""
    out: str
    backbones: str = ""
    """Folder of the backbones of measures, each in a folder of its name."""
    baseline: str = ""
    """Folder of another editor's evaluation, for paired differences."""
    emu_set: emu_edit.Part = "3589"
    against: str = ""
    """`generations` compares with Emu Edit's own pictures too."""
    first: int = 0
    """Number of edits and sessions that are taken, from the first; 0 takes all."""
    partial: bool = False
    """Take a set that is not complete, and outputs of which some failed."""
    seed: int = 0
    device: str = "cpu"
    replicas: Replicas = Replicas()
    changes: Mapping[str, SettingValue | None] = field(default_factory=dict)
    """Sampler settings; None or left out, the editor's own."""


@dataclass(frozen=True)
class EditorFacts:
    """Editor as tables describe it."""

    weights: str
    settings: PaintSettings


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Run or resume an evaluation; returns the means by table and measure.

    Raises:
        EditorError, SetError, CorpusError, JobFolderError: editor, set or folder cannot be used.
        PaintingError: pictures failed or are missing.
    """
    edits = open_edits(config)
    if config.editor.startswith(FOLDER):
        pictures, facts = storage.absolute(config.editor.removeprefix(FOLDER)), None
        settings = dict[str, Any]()
    else:
        pictures, facts = storage.join(config.out, PICTURES), read_facts(config, edits)
        settings = dataclasses.asdict(facts.settings) | {"seed": config.seed}
        paint(config, edits, facts)
    edits = _with_pictures(edits, pictures, config.partial)
    measuring = Measuring(tuple(edits.columns), config.backbones, pictures, config.device)
    measured = measure(measuring, edits.comparisons, config.replicas)
    evaluation = tables.Evaluation(
        editor=config.editor.partition("=")[0],
        weights=facts.weights if facts else "",
        settings=settings,
        edits=edits,
        columns=measuring.present,
        absent=measuring.absent,
        measured=measured,
    )
    save_turns(edits, pictures, config.out)
    return tables.save(evaluation, config.out, config.baseline)


def open_edits(config: EvaluationConfig) -> EvaluationSet:
    """Open the set that a config names, or the first edits of it."""
    edits = _open_set(config)
    if not config.first:
        return edits
    turns = [turn for chain in edits.chains[: config.first] for turn in chain]
    outputs = {turn.output for turn in turns}
    kept = [each for each in edits.comparisons if each.output in outputs]
    return dataclasses.replace(edits, turns=turns, comparisons=kept, partial=True)


def _open_set(config: EvaluationConfig) -> EvaluationSet:
    if config.set.startswith("magicbrush-"):
        return magicbrush.open_set(config.data, config.set.removeprefix("magicbrush-"), config.partial)
    if config.set == "emu-edit":
        unpacked = storage.join(config.out, "set")
        return emu_edit.open_set(config.data, unpacked, config.emu_set, config.against, config.partial)
    return reasonedit.open_set(config.data)


def read_facts(config: EvaluationConfig, edits: EvaluationSet) -> EditorFacts:
    """Load the editor once, in a process of its own, for its settings and the hash of its weights.

    Raises:
        EditorError: it is unknown or cannot be loaded.
        SetError: the set has not what it needs.
    """
    name = EditorName.parse(config.editor)
    if name.name == "vae" and not all(turn.target for turn in edits.turns):
        raise SetError(f"--editor vae: {edits.name} has no targets to reconstruct; write another editor")
    start_ray()
    task = ray.remote(num_cpus=config.replicas.cpus, max_retries=0)(_facts).options(name="read weights")
    try:
        facts = ray.get(task.remote(name))
    except ray.exceptions.RayTaskError as error:
        raise EditorError(f"--editor {config.editor}: {error.cause}") from None
    return EditorFacts(facts.weights, facts.settings.but(**config.changes))


def _facts(name: EditorName) -> EditorFacts:
    quiet_loading()
    editor = load_editor(name)
    return EditorFacts(editor.weights, editor.settings)


def paint(config: EvaluationConfig, edits: EvaluationSet, facts: EditorFacts) -> None:
    """Paint the pictures that are missing in the folder of the evaluation, which is begun if it is new."""
    made_with = {
        "editor": config.editor.partition("=")[0],
        "weights": facts.weights,
        "settings": dataclasses.asdict(facts.settings),
        "seed": config.seed,
        "set": edits.name,
        "fingerprint": edits.fingerprint,
    }
    if not require_settings(config.out, made_with, PICTURES):
        save_settings(config.out, made_with)
    name = EditorName.parse(config.editor)
    painter = Painter(editor=name, settings=facts.settings, seed=config.seed, out=config.out, device=config.device)
    if failed := paint_missing(painter, edits, config.replicas):
        output, reason = next(iter(failed.items()))
        found = f"{len(failed)} of {len(edits.turns)} pictures failed, first {output}: {reason}"
        if not config.partial:
            raise PaintingError(f"{found}; start again, or write --partial to leave them out")
        say(found)


def _with_pictures(edits: EvaluationSet, pictures: str, partial: bool) -> EvaluationSet:
    """Leave out the comparisons without a picture.

    Raises:
        PaintingError: there are such, or nothing else.
    """
    outputs = {each.output: storage.exists(storage.join(pictures, each.output)) for each in edits.comparisons}
    missing = [output for output, exists in outputs.items() if not exists]
    if missing and (not partial or len(missing) == len(outputs)):
        raise PaintingError(f"{pictures}: {len(missing)} of {len(outputs)} pictures are missing, first {missing[0]}")
    kept = [each for each in edits.comparisons if outputs[each.output]]
    return dataclasses.replace(edits, comparisons=kept, partial=edits.partial or bool(missing))
