"""Damaged files in every reader of the catalog, in all its forms: a bad row or a CorpusError with the file's name."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fireedit.platform.data import catalog
from fireedit.platform.data.corpora import pairs, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import (
    cc12m,
    cocostuff,
    emu_edit,
    grefcoco,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    ultraedit,
)

HTML = b"<!DOCTYPE html>\n<html>\n\t<body>https://example.invalid\tNot Found</body>\n</html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1342177280\n" % 0


@dataclasses.dataclass(frozen=True)
class Form:
    """Published form of a corpus and patterns of the files that its reader opens."""

    corpus: str
    write: Callable
    files: tuple[str, ...]
    split: str = "train"


def write_pairs(metadata: str, folder: Path, seeds: range, size: int, where: world.World) -> None:
    """Write edit pairs as an imagefolder."""
    reasonedit.write(folder, seeds, size, where)
    records = json.loads((folder / "SyntheticData_info_new.json").read_text()).values()
    paths = [(record["origin_img_path"], record["target_img_path"]) for record in records]
    if metadata.endswith(".jsonl"):
        lines = [json.dumps({"source": first, "prompt": "Edit.", "target": second}) for first, second in paths]
    else:
        lines = ["source,prompt,target", *(f"{first},Edit.,{second}" for first, second in paths)]
    (folder / metadata).write_text("\n".join(lines))


REFS = ("instances.json", "train2014/*.jpg")
FORMS = {
    "cc12m": Form("cc12m", cc12m.write, ("cc12m.tsv",)),
    "cc12m:tars": Form("cc12m", cc12m.write_webdataset, ("*.tar",)),
    "instructpix2pix": Form("instructpix2pix", instructpix2pix.write, ("data/*.parquet",)),
    "instructpix2pix:folders": Form(
        "instructpix2pix", instructpix2pix.write_folders, ("seeds.json", "0000000/prompt.json", "0000000/*.jpg")
    ),
    "instructpix2pix:zips": Form("instructpix2pix", instructpix2pix.write_zips, ("seeds.json", "*.zip")),
    "cocostuff": Form(
        "cocostuff", cocostuff.write, ("labels.txt", "annotations/train2017/*.png", "images/train2017/*.jpg")
    ),
    "cocostuff:json": Form("cocostuff", cocostuff.write_json, ("annotations/*.json", "images/train2017/*.jpg")),
    "llava_instruct": Form("llava_instruct", llava_instruct.write, ("*.json", "train2017/*.jpg")),
    "refcoco": Form("refcoco", refcoco.write, (*REFS, "refs(unc).p")),
    "refcoco+": Form("refcoco+", functools.partial(refcoco.write, corpus="refcoco+"), (*REFS, "refs(unc).p")),
    "refcocog": Form("refcocog", functools.partial(refcoco.write, corpus="refcocog"), (*REFS, "refs(umd).p")),
    "grefcoco": Form("grefcoco", grefcoco.write, (*REFS, "grefs(unc).json")),
    "magicbrush": Form("magicbrush", magicbrush.write, ("data/*.parquet",)),
    "magicbrush:test": Form(
        "magicbrush",
        magicbrush.write_folder,
        (
            "test/edit_sessions.json",
            "test/*_descriptions.json",
            *(f"test/images/*/*-{n}*.png" for n in ("i", "m", "o")),
        ),
        split="test",
    ),
    "ultraedit": Form("ultraedit", ultraedit.write, ("data/FreeForm*.parquet", "data/RegionBase*.parquet")),
    "reasonedit": Form("reasonedit", reasonedit.write, ("*.json", "images/*_origin.png", "images/*_target.png")),
    "reasonedit:test": Form(
        "reasonedit", reasonedit.write_benchmark, ("4-Color/*.txt", "4-Color/*.png", "4-Color/*_mask.jpg"), split="test"
    ),
    "emu_edit": Form("emu_edit", emu_edit.write, ("data/*.parquet",), split="test"),
    "pairs:jsonl": Form("pairs", functools.partial(write_pairs, "metadata.jsonl"), ("metadata.jsonl", "images/*.png")),
    "pairs:csv": Form("pairs", functools.partial(write_pairs, "metadata.csv"), ("metadata.csv", "images/*.png")),
    "pairs:parquet": Form("pairs", ultraedit.write, ("data/FreeForm*.parquet",)),
}


def truncate(path: Path) -> None:
    """Cut a file by half, and lines inside the last one's first field: between lines a cut cannot be seen."""
    data = path.read_bytes()
    lines = path.suffix in (".tsv", ".jsonl", ".csv")
    path.write_bytes(data[: data.rstrip().rindex(b"\n") + 8 if lines else len(data) // 2])


def replace_by(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "empty": functools.partial(replace_by, b""),
    "garbage": functools.partial(replace_by, bytes(range(7, 256)) * 40),
    "html": functools.partial(replace_by, HTML),
    "lfs": functools.partial(replace_by, LFS_POINTER),
    "missing": link_to_nowhere,
    "folder": replace_by_folder,
}
CASES = [(form, pattern) for form in FORMS for pattern in FORMS[form].files]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write each form once."""

    @functools.cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name.replace(":", "-"))
        FORMS[name].write(folder, range(6), 16, world.TRAIN)
        return folder

    return write


def read(form: Form, folder: Path) -> list[Sample]:
    if form.corpus == "pairs":
        return list(pairs.read(str(folder), corpus="mine", columns={}))
    return list(catalog.open_corpus(form.corpus, str(folder), form.split))


def errors_of(form: Form, folder: Path) -> list[str]:
    """Errors of the corpus or of its bad rows, which hold no picture."""
    try:
        samples = read(form, folder)
    except rows.CorpusError as error:
        return [str(error)]
    assert not [sample for sample in samples if sample.error and (sample.source or sample.target)]
    return [sample.error for sample in samples if sample.error]


def test_every_corpus_of_the_catalog_is_in_the_suite() -> None:
    assert {form.corpus for form in FORMS.values()} == {*catalog.CORPORA, "pairs"}


@pytest.mark.parametrize("name", FORMS)
def test_whole_files_make_no_bad_row(name: str, written: Callable[[str], Path]) -> None:
    samples = read(FORMS[name], written(name))
    assert samples and not [sample.error for sample in samples if sample.error]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "pattern"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_damaged_file_is_named(
    name: str, pattern: str, damage: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(written(name), folder)
    path = min(folder.glob(pattern))
    DAMAGES[damage](path)
    errors = errors_of(FORMS[name], folder)
    assert any(path.name in error for error in errors), (path, errors)


@pytest.mark.parametrize(
    ("name", "subfolder"),
    [
        ("instructpix2pix", "data"),
        ("cocostuff", "annotations/train2017"),
        ("cocostuff", "images/train2017"),
        ("refcoco", "train2014"),
        ("llava_instruct", "train2017"),
        ("magicbrush:test", "test"),
        ("reasonedit:test", "4-Color"),
        ("pairs:jsonl", "images"),
        ("pairs:parquet", "data"),
    ],
)
def test_a_folder_that_is_a_link_to_nowhere_is_named(
    name: str, subfolder: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(written(name), folder)
    (folder / subfolder).rename(tmp_path / "moved")
    (folder / subfolder).symlink_to(tmp_path / "nowhere")
    errors = errors_of(FORMS[name], folder)
    assert errors and all(subfolder in error for error in errors), errors
