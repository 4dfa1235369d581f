"""Tables of an evaluation: means over turns with intervals over sessions, paired differences, what was not measured."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.evaluation import tables
from fireedit.jobs.evaluation.measuring import Found
from fireedit.jobs.evaluation.published_values import FIREEDIT, PUBLISHED
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError
from fireedit.jobs.evaluation.tables import Evaluation

NAN = math.nan
VALUES = {"a": [0.1, 0.2, 0.3], "b": [0.9], "c": [NAN]}
"""L1 of the turns of three sessions."""


def evaluation(shift: float = 0.0, **fields: Any) -> Evaluation:
    comparisons = [
        Comparison(table="single-turn", unit=unit, output=f"{unit}/{number}.png", reference="r")
        for unit, values in VALUES.items()
        for number in range(len(values))
    ]
    edits = EvaluationSet(
        name="magicbrush-test", fingerprint="f1", turns=[], comparisons=comparisons, columns=("l1", "clip_i")
    )
    values = [{"l1": value + shift} for values in VALUES.values() for value in values]
    described = {"editor": "fireedit", "weights": "ab12", "settings": {"num_inference_steps": 50, "seed": 0}}
    absent = {"clip_i": "BACKBONES/clip-vit-base-patch32"}
    return Evaluation(
        **(described | fields),
        edits=edits,
        columns=["l1"],
        absent=absent,
        measured=Found(values=values, weights={"dino-vits16": "sha256:0123"}, truncated=("one", "two")),
    )


def save(own: Evaluation, folder: Path, *baselines: Path) -> dict[str, Any]:
    others = [tables.read_baseline(own, str(each)) for each in baselines]
    return tables.save(own, tables.markdown(own, others), str(folder))


def test_the_mean_is_over_turns_and_its_interval_over_sessions() -> None:
    mean = evaluation().means("single-turn")["l1"]
    assert mean.mean == pytest.approx((0.1 + 0.2 + 0.3 + 0.9) / 4) and mean.count == 2, "of the sessions with values"
    assert mean.low == pytest.approx(0.2) and mean.high == pytest.approx(0.9), "two sessions are drawn, turns together"


def test_a_paired_difference_of_a_constant_is_certain(tmp_path: Path) -> None:
    save(evaluation(), tmp_path / "other")
    save(evaluation(shift=0.1, editor="copy", weights=""), tmp_path / "copy")
    found = save(evaluation(shift=-0.05), tmp_path / "own", tmp_path / "other", tmp_path / "copy")
    assert found["single-turn"]["l1"] == pytest.approx(0.325)
    report = (tmp_path / "own" / "evaluation.md").read_text()
    assert "| fireedit `ab12` | 0.3750 (" in report, "the baseline's own row"
    assert "| less fireedit `ab12`, paired | -0.0500 (-0.0500..-0.0500) |" in report
    assert "| less copy, paired | -0.1500 (-0.1500..-0.1500) |" in report


def test_rows_of_one_editor_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    save(evaluation(shift=0.1, settings={"num_inference_steps": 100, "seed": 0}), tmp_path / "other")
    save(evaluation(editor="ip2p", weights="cd", settings={"guidance_scale": 7.5}), tmp_path / "ip2p")
    own = evaluation()
    baselines = [tables.read_baseline(own, str(tmp_path / name)) for name in ("other", "ip2p")]
    tables.save(own, tables.markdown(own, baselines), str(tmp_path), {"baselines": tables.compared(own, baselines)})
    report = (tmp_path / "evaluation.md").read_text()
    assert "\nfireedit `ab12` (num_inference_steps 50): num_inference_steps 50, seed 0.\n" in report
    assert "| fireedit `ab12` (num_inference_steps 50), 5 pictures | 0.3750 (" in report
    assert "| fireedit `ab12` (num_inference_steps 100) | 0.4750 (" in report
    assert "| less fireedit `ab12` (num_inference_steps 100), paired | -0.1000 (" in report
    assert "\nip2p `cd`: guidance_scale 7.5.\n" in report and "| ip2p `cd` | 0.3750 (" in report
    first = json.loads((tmp_path / "evaluation.json").read_text())["baselines"][0]
    assert first["settings"]["num_inference_steps"] == 100 and first["tables"]["single-turn"]["l1"]["mean"] == 0.475
    assert first["less"]["single-turn"]["l1"] == {"mean": -0.1, "low": -0.1, "high": -0.1, "count": 2}


def test_a_baseline_of_other_edits_is_refused(tmp_path: Path) -> None:
    save(evaluation(), tmp_path / "other")
    result = tmp_path / "other" / "evaluation.json"
    result.write_text(result.read_text().replace('"f1"', '"f2"'))
    with pytest.raises(SetError, match="found an evaluation of magicbrush-test with other edits"):
        save(evaluation(), tmp_path / "own", tmp_path / "other")


def test_published_figures_stand_beside_and_absences_are_named(tmp_path: Path) -> None:
    save(evaluation(), tmp_path)
    report = (tmp_path / "evaluation.md").read_text()
    assert f"| {FIREEDIT} | 0.0701 |" in report and "| fireedit `ab12`, 5 pictures | 0.3750 (" in report
    assert "Not measured, for want of the backbone's folder: CLIP-I (BACKBONES/clip-vit-base-patch32)." in report
    assert "2 captions were longer than CLIP reads, and cut." in report and "dino-vits16 `sha256:0123`" in report
    assert "num_inference_steps 50, seed 0" in report


def test_rows_and_result_hold_all_values(tmp_path: Path) -> None:
    save(evaluation(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "measures.jsonl").read_text().splitlines()]
    assert rows[0] == {"table": "single-turn", "output": "a/0.png", "values": {"l1": 0.1}}
    assert rows[-1]["values"] == {"l1": None}
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["tables"]["single-turn"]["l1"]["mean"] == 0.375 and result["weights"] == "ab12"
    lines = (tmp_path / "evaluation.json").read_text().splitlines()
    assert sum('"l1": {"mean"' in line for line in lines) == 1 and len(lines) < 30, "each interval is on a line"


def test_figures_of_the_papers_are_theirs() -> None:
    assert PUBLISHED["emu-edit-3589"]["all edits"][FIREEDIT]["clip_t"] == 0.2783
    multi = PUBLISHED["magicbrush-test"]["multi-turn"]
    assert [values["dino"] for values in multi.values()] == [0.8010, 0.8273]


def test_a_total_takes_several_tables_together(tmp_path: Path) -> None:
    own = evaluation()
    comparisons = [replace(each, table=f"{each.unit}s") for each in own.edits.comparisons]
    edits = replace(own.edits, comparisons=comparisons, totals={"both": ["as", "bs"]})
    own = replace(own, edits=edits)
    assert own.tables == ["both", "as", "bs", "cs"]
    assert own.means("both")["l1"].mean == pytest.approx((0.1 + 0.2 + 0.3 + 0.9) / 4)
    assert save(own, tmp_path)["as"]["l1"] == pytest.approx(0.2)
    assert "| fireedit `ab12`, 4 pictures |" in (tmp_path / "evaluation.md").read_text()
    assert json.loads((tmp_path / "evaluation.json").read_text())["totals"] == ["both"]


def test_pictures_that_a_baseline_lacks_are_in_no_difference(tmp_path: Path) -> None:
    save(evaluation(), tmp_path / "other")
    rows = (tmp_path / "other" / "measures.jsonl").read_text().splitlines()
    (tmp_path / "other" / "measures.jsonl").write_text("\n".join(rows[1:]))
    save(evaluation(shift=0.1), tmp_path / "own", tmp_path / "other")
    report = (tmp_path / "own" / "evaluation.md").read_text()
    assert "| less fireedit `ab12`, paired | 0.1000 (0.1000..0.1000) |" in report
    (tmp_path / "other" / "measures.jsonl").write_text("")
    with pytest.raises(SetError, match="its tables are others"):
        save(evaluation(), tmp_path / "own", tmp_path / "other")
