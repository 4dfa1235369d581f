import json
import zipfile
from pathlib import Path

from fireedit.platform import images
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.writers import instructpix2pix


def test_folders_have_the_published_files(tmp_path: Path) -> None:
    instructpix2pix.write_folders(tmp_path, [0, 7], 32, world.TRAIN)
    assert json.loads((tmp_path / "seeds.json").read_text()) == [["0000000", ["0", "1"]], ["0000007", ["14", "15"]]]
    folder = tmp_path / "0000007"
    pictures = ["14_0.jpg", "14_1.jpg", "15_0.jpg", "15_1.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == [*pictures, "metadata.jsonl", "prompt.json"]
    prompt = json.loads((folder / "prompt.json").read_text())
    assert set(prompt) == {"input", "edit", "output", "url"}
    assert prompt["edit"] == families.training_edit(world.TRAIN, 7).instruction
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [pair["seed"] for pair in lines] == [14, 15] and set(lines[0]) == {"seed", *instructpix2pix.UNMEASURED}
    assert all(images.decode((folder / name).read_bytes()).shape == (32, 32, 3) for name in pictures)


def test_zips_hold_the_same_files_as_the_folders(tmp_path: Path) -> None:
    instructpix2pix.write_folders(tmp_path / "folders", range(5), 16, world.TRAIN)
    instructpix2pix.write_zips(tmp_path / "zips", range(5), 16, world.TRAIN, folders_per_zip=3)
    names = [path.name for path in sorted((tmp_path / "zips").iterdir())]
    assert names == ["seeds.json", "shard-00.zip", "shard-01.zip"]
    held = {"seeds.json": (tmp_path / "zips" / "seeds.json").read_bytes()}
    for name in names[1:]:
        with zipfile.ZipFile(tmp_path / "zips" / name) as archive:
            assert archive.testzip() is None
            held |= {member: archive.read(member) for member in archive.namelist()}
    files = (path for path in (tmp_path / "folders").rglob("*") if path.is_file())
    assert held == {str(path.relative_to(tmp_path / "folders")): path.read_bytes() for path in files}
