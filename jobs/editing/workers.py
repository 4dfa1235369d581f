"""Edits with weights of one's own, in Ray Data: read -> perceive -> understand -> paint -> write.

Each of the three stages is a pool of actors with components of its own, so that each scales and has its GPUs alone.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.exceptions import RayError, RayTaskError

from fireedit.jobs.editing.actors import (
    Job,
    Paint,
    Perceive,
    Read,
    System,
    Together,
    Understand,
    Write,
)
from fireedit.jobs.editing.manifest import Record
from fireedit.jobs.editing.many import ManyEdits, Todo, run
from fireedit.jobs.editing.pools import PoolConfig, PoolsConfig
from fireedit.jobs.editing.sources import Sources
from fireedit.jobs.evaluation.editor_facts import read_facts
from fireedit.models.editors.editor import EditorName, require_taken
from fireedit.models.model import NANO
from fireedit.models.settings import PaintSettings, SettingValue
from fireedit.platform import storage
from fireedit.platform.cluster import ResourcesError, require_resources, start_ray
from fireedit.platform.provenance import fingerprint

FIT = "write pools that fit, for example --set paint.cpus=0.25 --set task_cpus=0.1"


class EditingError(OSError):
    """The job ended early; started again, it goes on."""


@dataclass(frozen=True)
class Weights:
    """Facts of a pipeline folder, read without loading it."""

    settings: PaintSettings
    """Sampler settings of these weights, with the job's changes."""
    side: int
    """Pixels of the canvas; 0 for another system, which has its own rule."""
    fingerprint: str


def edit_many(edits: ManyEdits, weights: str, pools: PoolsConfig, editor: str = "") -> dict[str, Any]:
    """Edit many pictures with the weights in a pipeline folder; see `many.run`.

    Args:
        editor: `NAME=FOLDER` of another system, in place of the weights; it runs in the pool `paint` alone.
    Raises:
        EditingError: the pools take more than the cluster has, or the job ended early.
        EditorError: the editor is unknown or cannot be loaded.
    """
    name = EditorName.parse(editor) if editor else None
    pools = dataclasses.replace(pools, together=True) if name else pools
    facts = _read_system(name, pools, edits.changes) if name else read_weights(weights, edits.changes)
    made_with = {
        "weights": facts.fingerprint,
        "settings": dataclasses.asdict(facts.settings),
        "device": pools.device,
        "precision": pools.precision,
    }
    made_with |= {"editor": name.name} if name else {}
    shared = (facts.fingerprint, edits.out, edits.file_format, edits.size, facts.side, name)
    job = Job(weights, pools, facts.settings, *shared)
    return run(edits, made_with, lambda sources, todo: edit_rows(job, sources, todo))


def edit_rows(job: Job, sources: Sources, todo: Todo) -> Iterator[Sequence[Record]]:
    """Edit rows in pools of actors and write their pictures; yields the records of each batch."""
    pools = job.pools
    start_ray()
    try:
        require_resources(pools.bundles, FIT)
    except ResourcesError as error:
        raise EditingError(str(error)) from None
    items = [{"group": json.dumps(dataclasses.asdict(group)), "places": list(places)} for group, places in todo]
    sources = dataclasses.replace(sources, groups=())  # each task gets its own group
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.context.target_max_block_size = 1  # so that each batch, a row of the block, leaves its task at once
    dataset.context.enable_fallback_to_arrow_object_ext_type = True  # batches are Python objects; without a warning
    batches = dataset.flat_map(Read(sources, job), num_cpus=pools.task_cpus)
    if job.editor:
        batches = _in_pool(batches, System, {"job": job}, pools.paint)
    elif pools.together:
        batches = _in_pool(batches, Together, {"job": job}, pools.paint)
    else:
        for stage, pool in ((Perceive, pools.perceive), (Understand, pools.understand), (Paint, pools.paint)):
            batches = _in_pool(batches, stage, {"job": job, "pool": pool}, pool)
    try:
        for row in batches.map(Write(job), num_cpus=pools.task_cpus).iter_rows():
            yield json.loads(row["records"])
    except RayTaskError as error:
        raise EditingError(f"a task failed: {error.cause!r}; mend it and start again: what is done is kept") from error
    except RayError as error:
        raise EditingError(f"Ray failed: {error}; start again: what is done is kept") from error


def _in_pool(batches: ray.data.Dataset, actor: type, arguments: dict[str, Any], pool: PoolConfig) -> ray.data.Dataset:
    return batches.map(
        actor,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )


def read_weights(weights: str, changes: Mapping[str, SettingValue | None]) -> Weights:
    """Read the facts of a pipeline folder, local or s3://; `nano` names the shipped one.

    Raises:
        FileNotFoundError: it is no pipeline folder.
        EditorError: it is one of another system.
        ValueError: a change is out of its range.
    """
    folder = str(NANO) if weights == "nano" else storage.absolute(weights)
    file = storage.join(folder, "model_index.json")
    if not storage.exists(file):
        raise FileNotFoundError(f"--weights {weights}: found no {file}; write a pipeline's folder, or nano")
    index = json.loads(storage.read_bytes(file))
    require_taken("fireedit", folder, index.get("_class_name"))
    vae = json.loads(storage.read_bytes(storage.join(folder, "vae", "config.json")))
    settings = PaintSettings(**index.get("settings", {})).but(**changes)
    return Weights(settings, vae["sample_size"], fingerprint(folder))


def _read_system(name: EditorName, pools: PoolsConfig, changes: Mapping[str, SettingValue | None]) -> Weights:
    """Describe another system, with the settings that are changed."""
    facts = read_facts(name, pools.paint.cpus, changes, FIT)
    return Weights(facts.settings, 0, facts.weights)
