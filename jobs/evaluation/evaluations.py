"""Evaluation of an editor on a set, from the set's files to tables: paint what is missing, measure all, write."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fireedit.jobs.evaluation import scene_report, tables
from fireedit.jobs.evaluation.editor_facts import EditorFacts, read_facts
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.measuring import Found, Measuring, check_backbones, measure
from fireedit.jobs.evaluation.painting import PICTURES, Painter, PaintingError, Regions, Replicas, paint_missing
from fireedit.jobs.evaluation.scene_measuring import SceneReplica
from fireedit.jobs.evaluation.scene_reader import load_reader
from fireedit.jobs.evaluation.sets import emu_edit, magicbrush, reasonedit, scenes
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, SetError
from fireedit.jobs.evaluation.turns import save_turns
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import EditorError, EditorName
from fireedit.models.model import NANO
from fireedit.models.settings import SettingValue
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.job_folder import require_settings, save_settings

SCENES = "scenes"
SETS = ("magicbrush-dev", "magicbrush-test", "emu-edit", "reasonedit", SCENES)
SET = "set"
"""Folder of a set's unpacked or drawn pictures, below that of an evaluation."""
BESIDE = "beside"
"""Folder of the evaluations of other editors, below that of an evaluation."""
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
    """Folder of the set; empty for scenes, which are drawn."""
    out: str
    unpacked: str = ""
    """Folder for pictures that a set keeps in archives, or that are drawn; empty for `SET` in `out`."""
    backbones: str = ""
    """Folder of the backbones of measures, each in a folder of its name."""
    baselines: Sequence[str] = ()
    """Folders of other editors' evaluations, for their rows and paired differences."""
    beside: Sequence[str] = ()
    """Other editors that are evaluated first, by the same settings, as baselines."""
    emu_set: emu_edit.Part = "3589"
    against: str = ""
    """`generations` compares with Emu Edit's own pictures too."""
    drawn: scenes.SceneChoice = field(default_factory=scenes.SceneChoice)
    judges: str = "nano"
    """Folder of the judges of scenes."""
    regions: Regions = "predicted"
    """Regions of the VLM, of the editor fireedit."""
    first: int = 0
    """Number of edits and sessions that are taken, from the first; 0 takes all."""
    partial: bool = False
    """Take a set that is not complete, and outputs of which some failed."""
    seed: int = 0
    device: str = "cpu"
    replicas: Replicas = Replicas()
    changes: Mapping[str, SettingValue | None] = field(default_factory=dict)
    """Sampler settings; None or left out, the editor's own."""


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Run or resume an evaluation; returns the means by table and measure, of scenes a summary.

    Raises:
        EditorError, SetError, CorpusError, JobFolderError: editor, set or folder cannot be used.
        OSError, WeightsError: backbones or judges cannot be used.
        PaintingError: pictures failed or are missing.
    """
    edits, baselines = open_edits(config), list(config.baselines)
    _require_baselines(config, edits)
    for name, beside in _beside(config).items():
        say(f"beside: {name}")
        _evaluate(beside, edits, ())
        baselines.append(beside.out)
    return _evaluate(config, edits, baselines)


def _beside(config: EvaluationConfig) -> dict[str, EvaluationConfig]:
    """List the evaluations of the other editors by name.

    Raises:
        EditorError: two have one name.
    """
    found = dict[str, EvaluationConfig]()
    for editor in config.beside:
        name, out = editor.partition("=")[0], storage.join(config.out, BESIDE, editor.partition("=")[0])
        if name in found:
            raise EditorError(f"--beside {name}: found it twice; evaluate one alone, and write its --out in --baseline")
        found[name] = replace(config, editor=editor, out=out, regions="predicted")
    return found


def _evaluate(config: EvaluationConfig, edits: EvaluationSet, baselines: Sequence[str]) -> dict[str, Any]:
    """Paint what is missing, measure all, write the tables."""
    if config.editor.startswith(FOLDER):
        pictures, facts = storage.absolute(config.editor.removeprefix(FOLDER)), None
        settings = dict[str, Any]()
    else:
        pictures, facts = storage.join(config.out, PICTURES), _facts(config, edits)
        settings = asdict(facts.settings) | {"seed": config.seed} | _regions(config)
    judges = config.judges if config.set == SCENES else ""
    measuring = Measuring(tuple(edits.columns), config.backbones, pictures, config.device, judges)
    check_backbones(measuring)
    if judges:
        load_reader(NANO if judges == "nano" else Path(judges))
    if facts:
        paint(config, edits, facts)
    edits = _with_pictures(edits, pictures, config.partial)
    measured = measure(measuring, edits.comparisons, config.replicas, SceneReplica if judges else None)
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
    others = [tables.read_baseline(evaluation, folder) for folder in baselines]
    if not judges:
        figures = {"baselines": tables.compared(evaluation, others)}
        return tables.save(evaluation, tables.markdown(evaluation, others), config.out, figures)
    quiet_loading()
    results = scene_report.results_of(evaluation, others)
    summary = scene_report.summary(results)
    tables.save(evaluation, scene_report.markdown(results, Judges.load(judges)), config.out, {"scenes": summary})
    scene_report.save_galleries(evaluation, pictures, config.out)
    return summary


def _regions(config: EvaluationConfig) -> dict[str, Any]:
    """Return the regions as a setting, if they are not the detector's.

    Raises:
        EditorError: the editor has no regions.
        SetError: the set does not know the true ones.
    """
    if config.regions == "predicted":
        return {}
    if EditorName.parse(config.editor).name != "fireedit":
        raise EditorError(f"--regions {config.regions}: {config.editor} has no regions; leave it out")
    if config.regions == "true" and config.set != SCENES:
        raise SetError(f"--regions true: found --set {config.set}; only those of scenes are known")
    return {"regions": config.regions}


def open_edits(config: EvaluationConfig) -> EvaluationSet:
    """Open the set that a config names, or the first edits of it.

    Raises:
        SetError, CorpusError: it cannot be used, has no edits, or a flag is of another set.
    """
    _require_flags_of_set(config)
    edits = _open_set(config)
    if not edits.comparisons:
        drawn = config.drawn
        where = f"--data {config.data}" if config.data else f"--edits {drawn.edits}, --sessions {drawn.sessions}"
        raise SetError(f"{where}: found no edits of {edits.name}; write what has some")
    if not config.first:
        return edits
    turns = [turn for chain in edits.chains[: config.first] for turn in chain]
    outputs = {turn.output for turn in turns}
    kept = [each for each in edits.comparisons if each.output in outputs]
    return replace(edits, turns=turns, comparisons=kept, partial=True)


def _open_set(config: EvaluationConfig) -> EvaluationSet:
    unpacked = config.unpacked or storage.join(config.out, SET)
    if config.set == SCENES:
        return scenes.open_set(unpacked, config.drawn)
    if not config.data:
        raise SetError(f"--set {config.set}: found no folder of it; write --data FOLDER")
    if config.set.startswith("magicbrush-"):
        return magicbrush.open_set(config.data, config.set.removeprefix("magicbrush-"), config.partial)
    if config.set == "emu-edit":
        return emu_edit.open_set(config.data, unpacked, config.emu_set, config.against, config.partial)
    return reasonedit.open_set(config.data, config.partial)


def _require_flags_of_set(config: EvaluationConfig) -> None:
    """Raise SetError if a flag differs from its default that only another set has."""
    default = EvaluationConfig(editor="", set="", data="", out="")
    for name, flags, owner in (
        ("emu_set", "--emu-set", "emu-edit"),
        ("against", "--against", "emu-edit"),
        ("drawn", "--splits, --families, --edits, --sessions", SCENES),
        ("judges", "--judges", SCENES),
    ):
        if config.set != owner and getattr(config, name) != getattr(default, name):
            raise SetError(f"{flags}: found --set {config.set}, which has no such choice; only --set {owner} has it")


def _require_baselines(config: EvaluationConfig, edits: EvaluationSet) -> None:
    """Raise SetError unless all baselines are evaluations of the same edits, before any work is done."""
    nothing = tables.Evaluation(
        editor="", weights="", settings={}, edits=edits, columns=(), absent={}, measured=Found(values=[], weights={})
    )
    for folder in config.baselines:
        for file in (tables.RESULT, tables.ROWS):
            if not storage.exists(storage.join(folder, file)):
                raise SetError(f"--baseline {folder}: found no {file}; write the --out of another evaluation")
        tables.read_baseline(nothing, folder)


def _facts(config: EvaluationConfig, edits: EvaluationSet) -> EditorFacts:
    """Read what describes the editor, with the settings that the evaluation changes.

    Raises:
        EditorError: it is unknown or cannot be loaded.
        SetError: the set has not what it needs.
        ValueError: a setting is out of its range.
    """
    name = EditorName.parse(config.editor)
    if name.name == "vae" and not all(turn.target for turn in edits.turns):
        raise SetError(f"--editor vae: {edits.name} has no targets to reconstruct; write another editor")
    return read_facts(name, config.replicas.cpus, config.changes)


def paint(config: EvaluationConfig, edits: EvaluationSet, facts: EditorFacts) -> None:
    """Paint the pictures that are missing in the folder of the evaluation, which is begun if it is new."""
    made_with = {
        "editor": config.editor.partition("=")[0],
        "weights": facts.weights,
        "settings": asdict(facts.settings),
        "seed": config.seed,
        "set": edits.name,
        "fingerprint": edits.fingerprint,
        **_regions(config),
    }
    if not require_settings(config.out, made_with, PICTURES):
        save_settings(config.out, made_with)
    name = EditorName.parse(config.editor)
    painter = Painter(
        editor=name,
        settings=facts.settings,
        seed=config.seed,
        out=config.out,
        device=config.device,
        regions=config.regions,
    )
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
        found = f"{pictures}: {len(missing)} of {len(outputs)} pictures are missing, first {missing[0]}"
        advice = "write --partial to leave them out" if len(missing) < len(outputs) else "write another folder"
        raise PaintingError(f"{found}; {advice}")
    kept = [each for each in edits.comparisons if outputs[each.output]]
    return replace(edits, comparisons=kept, partial=edits.partial or bool(missing))
