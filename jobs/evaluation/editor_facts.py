"""Settings of an editor and the hash of its weights, read once in another process."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import ray

from fireedit.jobs.evaluation.painting import FIT, failure_reason
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import EditorError, EditorName, load_editor
from fireedit.models.settings import PaintSettings, SettingValue
from fireedit.platform.cluster import ResourcesError, require_resources, start_ray


@dataclass(frozen=True)
class EditorFacts:
    """Editor as tables and folders of jobs describe it."""

    weights: str
    """Fingerprint."""
    settings: PaintSettings


def read_facts(
    name: EditorName, cpus: float, changes: Mapping[str, SettingValue | None], advice: str = FIT
) -> EditorFacts:
    """Load an editor in another process, as its weights may be most of the driver's memory.

    Args:
        cpus: logical CPUs of that process.
        changes: sampler settings in place of the editor's own, checked before a process starts; None leaves one.
        advice: what to write so that the process takes less.
    Raises:
        EditorError: it cannot be loaded, or the cluster has no room for the process.
        ValueError: a setting is out of its range.
    """
    PaintSettings().but(**changes)  # raises
    start_ray()
    try:
        require_resources([{"CPU": cpus}], advice)
    except ResourcesError as error:
        raise EditorError(str(error)) from None
    task = ray.remote(num_cpus=cpus, max_retries=0)(_load).options(name="read weights")
    try:
        facts = ray.get(task.remote(name))
    except ray.exceptions.RayTaskError as error:
        raise EditorError(f"--editor {name.name}={name.folder}: {error.cause}") from None
    except ray.exceptions.RayError as error:
        raise EditorError(f"--editor {name.name}={name.folder}: {failure_reason(error)}; start again") from None
    return replace(facts, settings=facts.settings.but(**changes))


def _load(name: EditorName) -> EditorFacts:
    quiet_loading()
    editor = load_editor(name)
    return EditorFacts(editor.weights, editor.settings)
