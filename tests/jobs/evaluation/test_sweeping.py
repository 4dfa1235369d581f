"""Sweeps: values of their type, one evaluation for each, a table, a plot and a grid."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from fireedit.jobs.evaluation import sweeping
from fireedit.jobs.evaluation.evaluations import EvaluationConfig, open_edits
from fireedit.jobs.evaluation.painting import Replicas
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.sweeping import Sweep, parse_sweep, run_sweep
from tests.factories import picture
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush


def test_values_have_the_type_of_their_setting() -> None:
    assert parse_sweep("num_inference_steps=20,30,20") == Sweep(name="num_inference_steps", values=(20, 30))
    assert parse_sweep("image_guidance_scale=1,1.5").values == (1.0, 1.5)
    assert parse_sweep("seed=0,100000").values == (0, 100000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "steps=1,2",
            r"--vary steps=1,2: write NAME=VALUE,VALUE,... with a name of num_inference_steps, .*, seed, weights",
        ),
        ("seed", "write NAME=VALUE"),
        ("seed=one", "found 'one' for seed; write a whole number"),
        ("num_inference_steps=20,0", "found '0' for num_inference_steps; write a whole number from 1 to 1000"),
        ("weights=", "found ''; write weights=LABEL=FOLDER,LABEL=FOLDER"),
        ("weights=nano", "found 'nano'; write weights=LABEL=FOLDER"),
        ("weights=a=nano,a=nano", "found 'a=nano'; write weights=.* with different labels of letters"),
        ("weights=a/b=nano", "found 'a/b=nano'; write weights="),
        ("weights=a=nano,b=/nowhere", "/nowhere is no folder; write one of weights for b"),
        ("image_guidance_scale=1,x", "found 'x' for image_guidance_scale; write a number from 0"),
    ],
)
def test_wrong_values_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(SetError, match=message):
        parse_sweep(text)


def asked(folder: Path) -> EvaluationConfig:
    pool = Replicas(most=1, cpus=0.25, gpus=0, batch=1)
    places = {"data": str(folder / "data"), "out": str(folder / "sweep")}
    return EvaluationConfig(editor="copy", set="magicbrush-test", partial=True, first=3, replicas=pool, **places)


def test_weights_are_folders_with_labels(tmp_path: Path) -> None:
    sweep = parse_sweep(f"weights=full=nano,no-tati={tmp_path}")
    assert sweep.values == ("full", "no-tati") and sweep.categorical
    config = sweep.config(asked(tmp_path), "no-tati")
    assert config.editor == f"copy={tmp_path}" and config.out == str(tmp_path / "sweep/weights-no-tati")
    assert parse_sweep("seed=0,1").categorical and not parse_sweep("num_inference_steps=2,3").categorical


def test_a_value_is_a_setting_or_the_seed(tmp_path: Path) -> None:
    config = asked(tmp_path)
    steps = parse_sweep("num_inference_steps=20").config(config, 20)
    assert steps.changes == {"num_inference_steps": 20} and steps.out == str(tmp_path / "sweep/num_inference_steps-20")
    seed = parse_sweep("seed=7").config(config, 7)
    assert seed.seed == 7 and not seed.changes and seed.out.endswith("seed-7")


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EvaluationConfig]:
    """Evaluations that a sweep has asked for."""
    write_magicbrush(tmp_path / "data")
    evaluated = list[EvaluationConfig]()

    def evaluate(config: EvaluationConfig) -> dict[str, Any]:
        """Write an evaluation's pictures and means in the place of painting and measuring."""
        evaluated.append(config)
        for turn in open_edits(config).turns:
            path = Path(config.out) / "pictures" / turn.output
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(config.seed, 30, 20)).save(path)
        if config.editor.endswith("nano"):
            seconds = Path(config.out) / "seconds" / "1.jsonl"
            seconds.parent.mkdir()
            seconds.write_text("".join(f'{{"output": "{n}.png", "seconds": {n}}}\n' for n in (1, 2, 30)))
        means = {"l1": {"mean": 0.1 * config.seed, "low": 0.0, "high": 0.5, "count": 3}}
        tables = {table: means for table in ("single-turn", "multi-turn")}
        settings = {"guidance_scale": 2.0, "seed": config.seed, "num_inference_steps": 3 + len(evaluated)}
        facts = {"editor": "copy", "weights": "ab12", "settings": settings, "set": "magicbrush-test", "partial": True}
        (Path(config.out) / "evaluation.json").write_text(json.dumps({**facts, "totals": [], "tables": tables}))
        return {}

    monkeypatch.setattr(sweeping, "evaluate", evaluate)
    return evaluated


def test_each_value_is_evaluated_and_shown(tmp_path: Path, evaluated: list[EvaluationConfig]) -> None:
    rows = run_sweep(parse_sweep("seed=1,2,4"), asked(tmp_path), shown=2)
    assert [config.seed for config in evaluated] == [1, 2, 4] and len(rows) == 6
    assert {config.unpacked for config in evaluated} == {str(tmp_path / "sweep" / "set")}, "a set is unpacked once"
    table = list(csv.DictReader(io.StringIO((tmp_path / "sweep" / "sweep.csv").read_text())))
    assert table[2] == {
        "value": "2",
        "table": "single-turn",
        "measure": "l1",
        "mean": "0.2",
        "low": "0.0",
        "high": "0.5",
        "count": "3",
    }
    with Image.open(tmp_path / "sweep" / "sweep.png") as plot, Image.open(tmp_path / "sweep" / "grid.png") as grid:
        assert plot.width > 300 and grid.width > 4 * 256
    report = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "| seed | L1 ↓ |\n" in report and "| 2 | 0.2000 (0.0000..0.5000) |\n" in report and "Seconds" not in report


def test_weights_have_a_row_each_with_their_hash_own_settings_and_seconds(
    tmp_path: Path, evaluated: list[EvaluationConfig]
) -> None:
    (tmp_path / "weights").mkdir()
    rows = run_sweep(parse_sweep(f"weights=full=nano,none={tmp_path / 'weights'}"), asked(tmp_path), shown=2)
    assert [config.editor for config in evaluated] == ["copy=nano", f"copy={tmp_path / 'weights'}"]
    assert [row["value"] for row in rows] == ["full", "full", "none", "none"]
    report = (tmp_path / "sweep" / "sweep.md").read_text()
    assert report.startswith(
        "# weights of copy on magicbrush-test, part of the published set\n\ncopy: guidance_scale 2.0"
    )
    table = """## multi-turn

| weights | L1 ↓ | seconds per picture |
| --- | --- | --- |
| full `ab12` (num_inference_steps 4) | 0.0000 (0.0000..0.5000) | 2 |
| none `ab12` (num_inference_steps 5) | 0.0000 (0.0000..0.5000) |  |
"""
    assert table in report and "Seconds per picture: the median" in report and "95 % bootstrap" in report
    with Image.open(tmp_path / "sweep" / "sweep.png") as plot, Image.open(tmp_path / "sweep" / "grid.png") as grid:
        assert plot.width > 300 and grid.width > 3 * 256


def test_totals_stand_for_their_tables() -> None:
    means = {"l1": {"mean": 0.1, "low": 0.0, "high": 0.5, "count": 3}}
    facts = {"editor": "copy", "weights": "ab12", "settings": {}, "set": "scenes", "partial": False}
    result = {**facts, "totals": ["all"], "tables": {"all": means, "add": means, "remove": means}}
    report = sweeping.markdown(Sweep(name="seed", values=(1,)), [result], [None])
    assert "## all" in report and "## add" not in report


def test_labels_get_points_and_numbers_get_lines() -> None:
    drawn = list[tuple[int, int]]()
    for sweep in (Sweep(name="weights", values=("a", "b")), Sweep(name="num_inference_steps", values=(20, 50))):
        axes = Figure().add_subplot()
        points = [{"value": value, "mean": 0.5, "low": 0.4, "high": None} for value in sweep.values]
        sweeping.draw(axes, sweep, points, "single-turn", shift=0.1)
        drawn.append((len(axes.containers), len(axes.lines)))
        if sweep.categorical:
            assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert drawn == [(1, 3), (0, 1)]


def test_the_first_edits_and_sessions_are_taken(tmp_path: Path) -> None:
    write_magicbrush(tmp_path / "data")
    edits = open_edits(asked(tmp_path))
    assert [turn.output for turn in edits.turns] == [
        "40000/40000_1.png",
        "40017/40017_1.png",
        "40017/40017_iter_2.png",
        "40017/40017_inde_2.png",
    ]
    assert {each.output for each in edits.comparisons} == {turn.output for turn in edits.turns} and edits.partial


def test_texts_name_folders_below_that_of_the_sweep(tmp_path: Path) -> None:
    sweep = parse_sweep("negative_prompt=../../x,blurry,.. .. x,low quality,")
    outs = [Path(sweep.config(asked(tmp_path), value).out) for value in sweep.values]
    assert len({*outs}) == 5 and {out.parent for out in outs} == {tmp_path / "sweep"}
    assert outs[1].name == "negative_prompt-blurry" and outs[3].name.startswith("negative_prompt-low-quality-")
    assert sweep.config(asked(tmp_path), "../../x").changes == {"negative_prompt": "../../x"}
    numbers = parse_sweep("image_guidance_scale=1,7.5")
    names = [Path(numbers.config(asked(tmp_path), value).out).name for value in numbers.values]
    assert names == ["image_guidance_scale-1.0", "image_guidance_scale-7.5"]
