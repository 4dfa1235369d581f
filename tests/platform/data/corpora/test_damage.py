"""Damaged files in every reader of the catalog, in all its forms: a bad row or a CorpusError with the file's name."""

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
from fireedit.platform.scenes.writers import reasonedit

HTML = b"<!DOCTYPE html>\n<html>\n\t<body>https://example.invalid\tNot Found</body>\n</html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1342177280\n" % 0


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


PAIRS = {
    "pairs:jsonl": functools.partial(write_pairs, "metadata.jsonl"),
    "pairs:csv": functools.partial(write_pairs, "metadata.csv"),
    "pairs:parquet": catalog.SCENE_FORMS["ultraedit"].write,
}
PICTURES = "train2014/*.jpg"
FILES: dict[str, tuple[str, ...]] = {
    "cc12m": ("cc12m.tsv",),
    "cc12m:tars": ("*.tar",),
    "instructpix2pix": ("data/*.parquet",),
    "instructpix2pix:folders": ("seeds.json", "0000000/prompt.json", "0000000/*.jpg"),
    "instructpix2pix:zips": ("seeds.json", "*.zip"),
    "cocostuff": ("labels.txt", "annotations/train2017/*.png", "images/train2017/*.jpg"),
    "cocostuff:json": ("annotations/*.json", "images/train2017/*.jpg"),
    "llava_instruct": ("*.json", "train2017/*.jpg"),
    "refcoco": ("instances.json", PICTURES, "refs(unc).p"),
    "refcoco+": ("instances.json", PICTURES, "refs(unc).p"),
    "refcocog": ("instances.json", PICTURES, "refs(umd).p"),
    "grefcoco": ("instances.json", PICTURES, "grefs(unc).json"),
    "magicbrush": ("data/*.parquet",),
    "magicbrush:test": (
        "test/edit_sessions.json",
        "test/*_descriptions.json",
        *(f"test/images/*/*-{letter}*.png" for letter in ("i", "m", "o")),
    ),
    "ultraedit": ("data/FreeForm*.parquet", "data/RegionBase*.parquet"),
    "reasonedit": ("*.json", "images/*_origin.png", "images/*_target.png"),
    "reasonedit:test": ("4-Color/*.txt", "4-Color/*.png", "4-Color/*_mask.jpg"),
    "emu_edit": ("data/*.parquet",),
    "pairs:jsonl": ("metadata.jsonl", "images/*.png"),
    "pairs:csv": ("metadata.csv", "images/*.png"),
    "pairs:parquet": ("data/FreeForm*.parquet",),
}
"""Patterns of the files that a reader opens, by corpus or CORPUS:FORM."""
TEST_SETS = ("emu_edit", "magicbrush:test", "reasonedit:test")


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
CASES = [(form, pattern) for form in FILES for pattern in FILES[form]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write each form once."""

    @functools.cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name.replace(":", "-"))
        write_form = PAIRS[name] if name in PAIRS else catalog.SCENE_FORMS[name].write
        write_form(folder, range(6), 16, world.TRAIN)
        return folder

    return write


def read(form: str, folder: Path) -> list[Sample]:
    corpus = form.partition(":")[0]
    if corpus == "pairs":
        return list(pairs.read(str(folder), corpus="mine", columns={}))
    return list(catalog.open_corpus(corpus, str(folder), "test" if form in TEST_SETS else "train"))


def errors_of(form: str, folder: Path) -> list[str]:
    """Errors of the corpus or of its bad rows, which hold no picture."""
    try:
        samples = read(form, folder)
    except rows.CorpusError as error:
        return [str(error)]
    assert not [sample for sample in samples if sample.error and (sample.source or sample.target)]
    return [sample.error for sample in samples if sample.error]


def test_every_corpus_of_the_catalog_is_in_the_suite() -> None:
    assert {form.partition(":")[0] for form in FILES} == {*catalog.CORPORA, "pairs"}


@pytest.mark.parametrize("name", FILES)
def test_whole_files_make_no_bad_row(name: str, written: Callable[[str], Path]) -> None:
    samples = read(name, written(name))
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
    errors = errors_of(name, folder)
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
    errors = errors_of(name, folder)
    assert errors and all(subfolder in error for error in errors), errors
