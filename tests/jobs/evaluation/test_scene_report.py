"""The report tabulates rows, judges and bars; galleries show the first edits."""

from pathlib import Path

import numpy as np
from PIL import Image

from fireedit.jobs.evaluation.cases import Cases
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.measuring import Found
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig
from fireedit.jobs.evaluation.scene_report import HEADER, PICTURE, gallery, markdown, results_of, save_galleries
from fireedit.jobs.evaluation.sets import scenes
from fireedit.jobs.evaluation.tables import Baseline, Evaluation
from fireedit.models.settings import PaintSettings
from tests.jobs.evaluation.test_scene_results import results


def test_the_report_has_a_line_for_each_family_with_relative_success_and_bars() -> None:
    judges = Judges(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4, artworks=("openmoji",))))
    text = markdown(results(), judges)
    assert "| family | edits | target | copy | fireedit | fireedit, relative | wanted | met |" in text
    assert "| remove | 2 | 50 (0 to 100) | 0 (0 to 0) | 50 (0 to 100) | 100 (100 to 100) | 80 | met |" in text
    assert "`fireedit` meets 3 of 5 bars" in text
    assert "| L1 outside the mask, edits of things | 0.0100 (0.0100 to 0.0100) | at most 0.005 | not met |" in text
    assert "nano-DINO" in text.split("Not measured")[1].splitlines()[0]
    assert "in the artwork openmoji." in text and "steps 2, s_T 1, s_I 1" in text
    assert "Lead of `fireedit`" in text and "copy 100 (100 to 100)" in text
    assert "L1 outside all masks after turn 3 | last turn over first" in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_the_gallery_has_a_line_for_each_family_under_its_title() -> None:
    shown = {
        family: [(case, case.source) for case in Cases(32).of("unseen_seeds", family, 2)]
        for family in ("add", "remove")
    }
    page = gallery(shown, "unselected")
    assert page.width > 6 * PICTURE and 2 * PICTURE + HEADER < page.height < 3 * PICTURE + HEADER
    assert np.array(page)[:HEADER].min() < 100, "the title is drawn"
    assert gallery(shown, "side by side", columns=4).height < 2 * PICTURE + HEADER


def evaluation(folder: Path) -> Evaluation:
    """Evaluation of two families, whose first edit fails."""
    choice = scenes.SceneChoice(families=("add", "remove"), edits=3, sessions=1)
    edits = scenes.open_set(str(folder / "set"), choice)
    for turn in edits.turns:
        path = folder / "pictures" / turn.output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(turn.target).read_bytes())
    values = [{"success": float(number % 3 > 0), "l1_outside": 0.01, "reader": 1.0} for number in range(6)]
    values += [{"success": success, "l1_outside": 0.01, "reader": np.nan} for success in (np.nan, np.nan, 1.0)]
    return Evaluation(
        editor="fireedit",
        weights="ab12",
        settings=vars(PaintSettings()) | {"seed": 0, "regions": "none"},
        edits=edits,
        columns=scenes.COLUMNS,
        absent={},
        measured=Found(values=values, weights={"parser": "cd"}),
    )


def test_rows_are_the_reader_the_baselines_and_the_editor(tmp_path: Path) -> None:
    own = evaluation(tmp_path)
    same = Baseline("fireedit", "ef34", {}, own.measured.values)
    found = results_of(own, [Baseline("copy", "", {}, own.measured.values), same])
    assert [row.name for row in found.rows] == ["target", "copy", "fireedit ef34", "fireedit ab12"]
    assert found.rows[-1].painting == "steps 100, s_T 7.5, s_I 1.5, none regions" and not found.rows[1].painting
    assert found.mean("unseen_seeds", ["add", "remove"], "fireedit ab12").mean == 4 / 6
    assert found.last_scene("unseen_seeds", "copy").mean == 1


def test_edits_that_one_editor_has_not_painted_are_left_out_of_all(tmp_path: Path) -> None:
    own = evaluation(tmp_path)
    values = [{}, *own.measured.values[1:]]
    found = results_of(own, [Baseline("copy", "", {}, values)])
    assert [len(scores) for scores in found.scores["unseen_seeds"]["add"].values()] == [2, 2, 2]
    assert found.lead("unseen_seeds", ["add"], "fireedit", "copy").mean == 0


def test_galleries_show_the_first_edits_and_the_first_that_passed(tmp_path: Path) -> None:
    own, out = evaluation(tmp_path), tmp_path / "out"
    save_galleries(own, str(tmp_path / "pictures"), str(out))
    assert {path.name for path in out.iterdir()} == {"unseen_seeds-gallery.png", "unseen_seeds-passed.png"}
    with Image.open(out / "unseen_seeds-gallery.png") as page:
        assert page.height > 2 * PICTURE + HEADER
    with Image.open(out / "unseen_seeds-passed.png") as page:
        assert page.height < 2 * PICTURE + HEADER, "two families beside each other"
