"""The job that plans a run, on nano."""

import json

import pytest

from fireedit.jobs.plan import main

ARGUMENTS = ("--stage", "3", "--config", "nano", "steps=100", "optimizer.muon_lr=null", "ema=0", "engine.zero_stage=2")


def test_a_recipe_that_does_not_fit_is_refused_after_its_plan(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("engine.micro_batch=4096", "workers.count=2", "engine.precision=bf16")
    assert main([*ARGUMENTS, *changes, "--gpus", "2xl40s", "--mfu", "0.3"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["config"] == "nano" and report["gpus"] == "2xl40s" and not report["fits"]
    assert report["setting"]["micro_batch"] == 4096 and report["setting"]["gb"] > 48 * 0.92
    assert report["recommended"]["gb"] < 1 and report["recommended"]["checkpointing"] is False
    assert {row["zero"] for row in report["memory"]} == {1, 2, 3} and len(report["memory"]) == 30
    assert report["flops"]["unet"][0] > 0 and report["cost"]["steps"] == 100 and report["utilization"] == 0.3
    assert report["levers"] == []
    assert "plan.py: micro-batch 4096 without gradient checkpointing takes" in err
    assert report["recommended"]["overrides"] in err
    assert all(part in err for part in ("ZeRO 3", "TFLOP a sample", "g6e.48xlarge", "storage:"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "16xa100-80gb"), "did you mean 'a100-80g'"),
        (("--gpus", "many"), "such as 16xa100-80g"),
    ],
)
def test_unknown_gpus_end_with_a_sentence(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*ARGUMENTS, *arguments])


@pytest.mark.parametrize("share", ["0", "1.5", "many"])
def test_a_share_of_the_peak_is_between_0_and_1(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*ARGUMENTS, "--gpus", "2xl40s", "--mfu", share])
    assert "--mfu" in capsys.readouterr().err
