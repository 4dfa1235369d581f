"""The schedule of the small model: ends of parts, and their commands on each machine."""

from pathlib import Path

import pytest

from fireedit.jobs.training.nano_plan import PARTS, NanoPlan, stretched


def command_of(part: str, device: str = "cpu", *overrides: str) -> tuple[str, ...]:
    plan = NanoPlan(out=Path("/out/nano"), device=device, minutes=20, overrides=overrides)
    return plan.task(part, 0.5).command


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_chosen_parts_fill_the_whole_box(device: str) -> None:
    ends = {part: getattr(planned, device) for part, planned in PARTS.items()}
    assert stretched(ends, list(PARTS)) == ends
    assert stretched(ends, ["stage2", "stage3"])["stage3"] == 1.0
    assert stretched(ends, ["clip", "painter"])["painter"] == 1.0


def test_the_needs_of_a_part_end_before_it() -> None:
    for part, planned in PARTS.items():
        for need in planned.needs:
            assert PARTS[need].cuda < planned.cuda and PARTS[need].cpu < planned.cpu, (part, need)


def test_an_override_for_one_part_comes_after_those_of_the_machine() -> None:
    command = command_of("painter", "cuda", "painter:batch=32", "clip:batch=8")
    assert command.index("batch=32") > command.index("batch=768") and "batch=8" not in command


def test_a_short_box_on_cpus_draws_fewer_scenes() -> None:
    assert command_of("corpora")[-2:] == ("scenes.rows=500", "1:scenes.rows=4000")
    assert not [word for word in command_of("corpora", "cuda") if "scenes.rows" in word]


def test_stage_2_starts_from_stage_1_and_the_current_unet(tmp_path: Path) -> None:
    plan, weights = NanoPlan(out=tmp_path / "nano", device="cpu"), tmp_path / "home" / "runs" / "nano-1" / "weights"
    (plan.out / "unet").mkdir(parents=True)
    (plan.out / "unet" / "config.json").write_text("{}")
    weights.mkdir(parents=True)
    task = plan.task("stage2", 0.5)
    assert f"init_from={weights}" in task.command and set(task.needs) == {"stage1", "painter"}
    assert task.before is not None
    task.before()
    assert (weights / "unet" / "config.json").read_text() == "{}"
