"""A person sees what a corpus holds."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fireedit.jobs import show
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.data.writers import cc12m, cocostuff


@pytest.mark.ray
def test_a_sheet_shows_pictures_and_words(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, writer in (("cc12m", cc12m), ("cocostuff", cocostuff)):
        (tmp_path / name).mkdir()
        writer.write(tmp_path / name, range(4), size=32, world=TRAIN)
    out = tmp_path / "sheet.png"
    show.main(["cc12m", "cocostuff", "--corpora", str(tmp_path), "--rows", "2", "--out", str(out)])
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]) == {"sheet": str(out), "samples": 4, "bad": 0}
    assert said.err.count("caption") == 2 and said.err.count("edit ") == 2
    with Image.open(out) as page:
        assert page.width > 4 * 192

    with pytest.raises(SystemExit, match="no corpus is called 'cocostuf'; did you mean 'cocostuff'"):
        show.main(["cocostuf", "--corpora", str(tmp_path)])


def test_a_bad_row_is_shown_as_one() -> None:
    row = {"id": "x", "corpus": "c", "task": "edit", "error": "x.jpg: truncated", "source": b"", "target": b""}
    assert show.words(row) == "SET ASIDE: x.jpg: truncated"
    assert [panel.title for panel in show.panels(row)] == ["SET ASIDE: x.jpg: truncated", "c, edit"]
