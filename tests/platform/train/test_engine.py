"""Engines train as one plain loop does, in every layout, precision and number of workers, also after a resume."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fireedit.platform.train import checkpoints
from fireedit.platform.train.checkpoints import CheckpointError, CheckpointFiles, Snapshot
from fireedit.platform.train.engine import Engine, EngineConfig, build_engine, check_engine
from fireedit.platform.train.optimizer import (
    AveragedWeights,
    OptimizerConfig,
    build_optimizers,
    named_trained,
    rate_at,
)
from fireedit.platform.train.session import process_group
from fireedit.platform.train.sharded import require_outputs
from tests.factories import spawn

STEPS, SAVED_AT, RESIZED_AT = 6, 2, 4
"""Steps of a run; it is resumed after SAVED_AT, and in the resized run by one worker, then by two after RESIZED_AT."""
PASSES = 4
"""Forward passes of a step, on all workers together."""
EMA, CLIP = 0.7, 0.25
ADAMW = OptimizerConfig(
    lr=0.01, warmup_ratio=0.4, cooldown_ratio=0.3, weight_decay=0.1, lr_scale={"answer.": 0.5, "edit.bias": 2}
)
MUON = OptimizerConfig(lr=0.01, warmup_ratio=0.4, muon_lr=0.02)
Kind = tuple[str, int | None, OptimizerConfig]
KINDS: dict[str, Kind] = {
    **{f"{precision}-{zero}": (precision, zero, ADAMW) for precision in ("fp32", "bf16") for zero in (1, 2, 3, None)},
    "fp32-muon": ("fp32", None, MUON),
    "bf16-muon": ("bf16", None, MUON),
}
"""Engines by name: precision, ZeRO stage and optimizer."""
BOUNDS = {"fp32": 1e-5, "bf16": 2**-7}
"""Largest relative difference of losses to those of a plain loop in float32: two roundings of bfloat16."""


class Editor(nn.Module):
    """Two trained layers between frozen ones, one of which is exact; dialogue does not train the second one.

    As in the stages, the loss of dialogue reaches it with weight 0: ZeRO reduces gradients as backward goes, so all
    workers have to have them all.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.exact = nn.Linear(8, 8), nn.Linear(8, 8)
        self.answer, self.edit = nn.Linear(8, 16), nn.Linear(16, 8)
        for part in (self.frozen, self.exact):
            part.requires_grad_(False)
        self.register_buffer("positions", torch.arange(8) / 3, persistent=False)

    def forward(self, x: Tensor, is_edit: bool) -> Tensor:
        exact = self.exact(x)
        hidden = checkpoint(self._answer, self.frozen(x.to(self.frozen.weight.dtype)), use_reentrant=False)
        answered = hidden.float().square().mean()
        return answered + is_edit * (self.edit(hidden).float() - exact).square().mean()

    def _answer(self, x: Tensor) -> Tensor:
        return self.answer(x).tanh()


def batch(step: int, number: int) -> tuple[Tensor, bool]:
    """Make a pass's batch; those of odd numbers, all that the second of two workers gets, are dialogue."""
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + number)), number % 2 == 0


def build(kind: Kind, module: nn.Module, workers: int) -> Engine:
    precision, zero, optimizer = kind
    config = EngineConfig(
        micro_batch=4,
        accumulate=PASSES // workers,
        precision=precision,  # type: ignore[arg-type]
        zero_stage=zero,  # type: ignore[arg-type]
        clip=CLIP,
    )
    return build_engine(module, config, optimizer, [module.exact], EMA)  # type: ignore[list-item]


def resume(engine: Engine, folder: str, step: int) -> int:
    if step == 0:
        return 0
    address = checkpoints.path_of(folder, step)
    assert checkpoints.is_complete(address)
    with CheckpointFiles.open(address) as files:
        engine.load(files)
        return files.state.step


def save(engine: Engine, folder: str, step: int) -> None:
    snapshot = Snapshot()
    snapshot.take(engine.owned())
    snapshot.write(checkpoints.path_of(folder, step), engine.state(step, "only", {}), engine.rank)
    dist.barrier()


def train(kind: Kind, source: str, start: int, folder: str, stop: int) -> dict[str, Any]:
    """Resume the run in `source` after step `start` and train to step `stop`; saves to `folder`.

    Returns:
        what there is to compare.
    """
    module = Editor()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    engine = build(kind, module, dist.get_world_size())
    masters = [torch.equal(part.tensors["weights"], _run(before, part)) for part in engine.held]
    losses, norms = {}, {}
    for step in range(resume(engine, source, start) + 1, stop + 1):
        total = torch.zeros(())
        for turn in range(engine.config.accumulate):
            loss = engine.model(*batch(step, turn * engine.workers + engine.rank))
            engine.step(loss, step / (STEPS + 1))
            total += loss.detach().float() / PASSES
        dist.all_reduce(total)
        losses[step], norms[step] = total.item(), engine.grad_norm
        if step in (SAVED_AT, stop):
            save(engine, folder, step)
    return {
        "losses": losses,
        "norms": norms,
        "masters": all(masters),
        "exact": torch.equal(module.exact.weight, before["exact.weight"]),
        "buffer": torch.equal(module.positions, torch.arange(8) / 3),
        "frozen": torch.equal(module.frozen.weight, before["frozen.weight"].to(module.frozen.weight.dtype)),
        "dtypes": [str(part.weight.dtype) for part in (module.exact, module.frozen)],
    }


def _run(values: Mapping[str, Tensor], part: checkpoints.Fragment) -> Tensor:
    """Cut the values of a fragment out of a whole parameter."""
    weights = part.tensors["weights"]
    return values[part.name].flatten()[part.start : part.start + weights.numel()].view(weights.shape)


def work(rank: int, folder: Path, turns: Any) -> None:
    """Train on one of three processes: a pair of workers, and a third that is a worker alone.

    Args:
        turns: barrier of the three.
    """
    workers, alone = (1, True) if rank == 2 else (2, False)
    place = {"RANK": 0, "WORLD_SIZE": 1} if alone else {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in place.items()}
    file = f"file://{folder}/rendezvous-{workers}"
    dist.init_process_group("gloo", init_method=file, rank=place["RANK"], world_size=workers)
    results: dict[str, dict[str, Any]] = {name: {} for name in KINDS}

    def sit(sitting: str, source: str, start: int, stop: int) -> None:
        for name, kind in KINDS.items():
            results[name][sitting] = train(kind, f"{folder}/{name}/{source}", start, f"{folder}/{name}/{sitting}", stop)

    if not alone:
        sit("whole", "", 0, STEPS)
        sit("again", "whole", SAVED_AT, STEPS)
    turns.wait()
    if alone:
        sit("alone", "whole", SAVED_AT, RESIZED_AT)
    turns.wait()
    if not alone:
        sit("pair", "alone", RESIZED_AT, STEPS)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of all kinds of engines, made in one go: processes take longer to start than to train."""
    folder = tmp_path_factory.mktemp("engines")
    turns = torch.multiprocessing.get_context("spawn").Barrier(3)
    spawn(work, (folder, turns), 3)
    return folder


def result(runs: Path, name: str, sitting: str) -> dict[str, Any]:
    """Read the result of an engine's sitting, which the workers agree upon."""
    of = [torch.load(runs / f"{rank}.pt")[name].get(sitting) for rank in range(3)]
    present = [member for member in of if member is not None]
    assert present and all(member == present[0] for member in present)
    return present[0]


def tensors(runs: Path, name: str, sitting: str, kind: str) -> dict[str, Tensor]:
    """Values of all trained parameters in the last checkpoint of a sitting."""
    address = checkpoints.latest(str(runs / name / sitting))
    assert address is not None
    with CheckpointFiles.open(address) as files:
        return dict(files.tensors(kind))


def plain_loop(optimizer_config: OptimizerConfig, stop: int) -> tuple[dict[int, float], dict[int, float], Any, Any]:
    """Train in float32 without an engine; returns losses and gradient norms by step, weights and averages by name."""
    module = Editor()
    named = dict(named_trained(module))
    optimizers = build_optimizers(named.items(), optimizer_config)
    rates = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    averages = AveragedWeights(named.values(), EMA)
    losses, norms = {}, {}
    for step in range(1, stop + 1):
        loss = torch.stack([module(*batch(step, number)) for number in range(PASSES)]).mean()
        module.zero_grad()
        loss.backward()
        norms[step] = float(nn.utils.clip_grad_norm_(named.values(), CLIP))
        for group, rate in rates:
            group["lr"] = rate * rate_at(step / (STEPS + 1), optimizer_config)
        for optimizer in optimizers:
            optimizer.step()
        averages.update()
        losses[step] = loss.item()
    weights = {name: parameter.detach() for name, parameter in named.items()}
    return losses, norms, weights, dict(zip(named, averages.means, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_engine_trains_as_a_plain_loop_does(runs: Path, name: str) -> None:
    precision, _, optimizer = KINDS[name]
    losses, norms, weights, averages = plain_loop(optimizer, STEPS)
    whole = result(runs, name, "whole")
    assert whole["losses"] == pytest.approx(losses, rel=BOUNDS[precision])
    assert max(norms.values()) > CLIP, "gradients are clipped"
    assert whole["norms"] == pytest.approx(norms, rel=1e-4 if precision == "fp32" else 0.1)
    if precision == "fp32":
        for kind, expected in (("weights", weights), ("averages", averages)):
            found = tensors(runs, name, "whole", kind)
            for parameter, values in expected.items():
                torch.testing.assert_close(found[parameter], values, rtol=1e-4, atol=1e-6, msg=f"{kind} of {parameter}")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_trained_weights_stay_in_float32_and_frozen_ones_as_they_were(runs: Path, name: str) -> None:
    precision, zero, _ = KINDS[name]
    for sitting in ("whole", "again", "alone", "pair"):
        found = result(runs, name, sitting)
        assert found["masters"], "the held weights are the module's, not their rounded values"
        assert found["exact"] and found["frozen"] and found["buffer"], "also tables of positions, which are buffers"
        frozen = "torch.bfloat16" if precision == "bf16" and zero is not None else "torch.float32"
        assert found["dtypes"] == ["torch.float32", frozen]
    for kind in ("weights", "averages"):
        for values in tensors(runs, name, "whole", kind).values():
            assert values.dtype == torch.float32
            assert not torch.equal(values, values.bfloat16().float()), "they are no rounded ones"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_same_number_of_workers_repeats_everything_bit_for_bit_after_a_resume(runs: Path, name: str) -> None:
    again, whole = (result(runs, name, sitting)["losses"] for sitting in ("again", "whole"))
    assert again == {step: whole[step] for step in range(SAVED_AT + 1, STEPS + 1)}
    for kind in ("weights", "averages", *(() if name.endswith("muon") else ("exp_avg", "exp_avg_sq"))):
        found, expected = (tensors(runs, name, sitting, kind) for sitting in ("again", "whole"))
        assert all(torch.equal(found[parameter], values) for parameter, values in expected.items()), kind


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_two_workers_then_one_then_two_train_as_two_do(runs: Path, name: str) -> None:
    precision, _, _ = KINDS[name]
    whole, alone, pair = (result(runs, name, sitting)["losses"] for sitting in ("whole", "alone", "pair"))
    assert [*alone, *pair] == [*range(SAVED_AT + 1, STEPS + 1)]
    assert alone | pair == pytest.approx({step: whole[step] for step in alone | pair}, rel=BOUNDS[precision])
    for kind in ("weights", "averages"):
        found, expected = (tensors(runs, name, sitting, kind) for sitting in ("pair", "whole"))
        for parameter, values in expected.items():
            tolerance = 1e-6 if precision == "fp32" else 1e-3
            torch.testing.assert_close(found[parameter], values, rtol=1e-4, atol=tolerance)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    with process_group(gpus=False):
        yield


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    kind = KINDS["fp32-None"]
    save(build(kind, Editor(), 1), str(tmp_path), 1)
    wider = Editor()
    wider.edit = nn.Linear(16, 9)
    with pytest.raises(
        CheckpointError, match=r"edit.bias has shape \[8\] there and \[9\] here; resume with the recipe"
    ):
        resume(build(kind, wider, 1), str(tmp_path), 1)
    more = Editor()
    more.frozen.requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"frozen.bias has shape None there and \[8\] here"):
        resume(build(kind, more, 1), str(tmp_path), 1)


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    save(build(KINDS["fp32-None"], Editor(), 1), str(tmp_path), 1)
    with pytest.raises(CheckpointError, match="found 0 of 128 momentum of answer.weight"):
        resume(build(KINDS["fp32-muon"], Editor(), 1), str(tmp_path), 1)


@dataclass
class Output:
    total: Tensor


def test_an_output_where_deepspeed_finds_no_tensor_is_refused() -> None:
    """DeepSpeed would skip the start of backward, which in bf16 adds the gradients of earlier passes again."""
    module = Editor()
    module.register_forward_hook(require_outputs)
    module(*batch(0, 0))
    module.forward = lambda x, is_edit: Output(x.mean())  # type: ignore[assignment]
    with pytest.raises(TypeError, match="Editor.forward returns Output, where DeepSpeed finds no tensor; return a"):
        module(*batch(0, 0))


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_muon_is_refused_where_zero_flattens_matrices(zero_stage: int) -> None:
    engine = EngineConfig(micro_batch=1, zero_stage=zero_stage)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"muon_lr: found ZeRO {zero_stage}.*engine.zero_stage=null"):
        check_engine(engine, OptimizerConfig(lr=1, muon_lr=1))
    check_engine(engine, OptimizerConfig(lr=1))
    check_engine(EngineConfig(micro_batch=1, zero_stage=None), OptimizerConfig(lr=1, muon_lr=1))
