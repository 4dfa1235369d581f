"""Benchmark of jobs/plan.py: its memory beside the tensors that DeepSpeed's workers really hold, at nano on CPUs.

Two workers train stage 3 under ZeRO 1, 2 and 3. In the middle of an accumulation, once the optimizer has moments, the
first lists its tensors: weights, gradients, float32 masters, moments; and what autograd saves in a forward pass. Each
must be within BAR of the plan.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import gc
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fireedit.jobs.planning.choices import ZEROS
from fireedit.jobs.planning.example_batch import example_batch
from fireedit.jobs.planning.memory import Sharding, memory_of, weights_of
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.jobs.planning.step_cost import build_on_meta, measure_step
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform.console import say
from fireedit.platform.train.sharded import ShardedEngine

BAR = 0.10
WORKERS, MICRO_BATCH, ACCUMULATE = 2, 2, 2


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    levels = {}
    for zero in args.zero:
        recipe = recipe_at(zero, args.precision)
        planned, found = plan_parts(recipe, zero), listed_parts(zero, args.precision)
        levels[zero] = {part: {"planned_mb": planned[part] / 1e6, "found_mb": found[part] / 1e6} for part in found}
        for part, figures in levels[zero].items():
            figures["ratio"] = figures["planned_mb"] / figures["found_mb"]
            say(f"ZeRO {zero} {part:10s}" + "".join(f"{name:>12s} {value:7.3f}" for name, value in figures.items()))
    worst = max(abs(figures["ratio"] - 1) for parts in levels.values() for figures in parts.values())
    print(json.dumps({"precision": args.precision, "zero": levels, "worst": worst, "bar": BAR}))
    return int(worst > BAR)


def recipe_at(zero: int, precision: str) -> TrainRecipe:
    """Read nano's recipe of stage 3, with the paper's optimizer under ZeRO."""
    engine = f"engine.micro_batch={MICRO_BATCH} engine.accumulate={ACCUMULATE} engine.precision={precision}"
    changes = f"{engine} engine.zero_stage={zero} workers.count={WORKERS} optimizer.muon_lr=null ema=0"
    return read_recipe(["--stage", "3", "--config", "nano", *changes.split()])


def plan_parts(recipe: TrainRecipe, zero: int) -> dict[str, float]:
    """Compute the bytes that the plan says of one worker."""
    cost = measure_step(recipe, recipe.gradient_checkpointing)
    memory = memory_of(weights_of(build_on_meta(recipe), recipe), cost, recipe, zero, MICRO_BATCH, WORKERS)
    return {
        "weights": memory.frozen + memory.trained,
        "gradients": memory.gradients,
        "masters": memory.masters,
        "moments": memory.moments,
        "saved": memory.saved + memory.logits,
    }


def listed_parts(zero: int, precision: str) -> dict[str, float]:
    """Train for a step and a half on real workers; returns the bytes that the first one holds."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(_work, (zero, precision, port, folder), nprocs=WORKERS)
        return json.loads((pathlib.Path(folder) / "parts.json").read_text())


def _work(rank: int, zero: int, precision: str, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    logging.disable(logging.WARNING)
    recipe = recipe_at(zero, precision)
    module = recipe.staged(FireEditPipeline.fresh(seed=0))
    propose_most_regions(module.model.detector)
    engine = ShardedEngine(module, recipe.engine, recipe.optimizer, module.exact, ema=0.0)
    batch, saved = example_batch(recipe, MICRO_BATCH), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in _storages(parameter.data for parameter in module.parameters()):
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    for step in range(ACCUMULATE + 1):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = engine.model(batch).total
        saved_bytes = sum(saved.values())
        engine.step(total, done=step / 10)
        del total
    parts = _parts(module, engine, recipe, _storages(vars(batch).values()))
    if rank == 0:
        (pathlib.Path(folder) / "parts.json").write_text(json.dumps({**parts, "saved": saved_bytes}))
    torch.distributed.barrier()


def _parts(module: nn.Module, engine: ShardedEngine, recipe: TrainRecipe, batch: Mapping[int, int]) -> dict[str, float]:
    """Sort every tensor of this process by its use; gradients are those that no other use claims, buckets apart."""
    optimizer = cast(Any, engine.model).optimizer.optimizer
    parameters = [*module.parameters(), *(each for part in cast(Any, module).exact for each in part.parameters())]
    weights = _storages(parameter.data for parameter in parameters)
    weights |= _storages(parameter.ds_tensor.data for parameter in parameters if hasattr(parameter, "ds_tensor"))
    masters = _storages(optimizer.state)
    moments = _storages(value for state in optimizer.state.values() for value in state.values() if value.ndim)
    buffers = _storages([*module.buffers(), *vars(module.noise_schedule).values()])
    gc.collect()
    listed = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    listed += [parameter.grad for parameter in parameters if parameter.grad is not None]  # Python holds none of these
    bucket = Sharding.of(recipe, recipe.engine.zero_stage).bucket
    known = weights | masters | moments | buffers | dict(batch)
    rest = _storages(each for each in listed if each.untyped_storage().nbytes() < bucket * each.element_size())
    return {
        "weights": sum(weights.values()),
        "gradients": sum(size for storage, size in rest.items() if storage not in known),
        "masters": sum(size for storage, size in masters.items() if storage not in weights),
        "moments": sum(moments.values()),
    }


def _storages(values: Iterable[object]) -> dict[int, int]:
    """List the storages of the tensors among some values: address and bytes."""
    storages = (value.untyped_storage() for value in values if isinstance(value, Tensor))
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zero", type=int, nargs="*", choices=ZEROS, default=ZEROS, help="levels (default: all)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
