"""InstructPix2Pix: machine-made edit pairs, read from the parquet files of its Hugging Face set or as first published.

The first form is a folder for each prompt, as files or in the `shard-NN.zip` of the download: `seeds.json` lists the
folders and the seeds of each one's pairs; a folder NNNNNNN holds prompt.json, and SEED_0.jpg before and SEED_1.jpg
after the edit.
Source: huggingface.co/datasets/timbrooks/instructpix2pix-clip-filtered, `data/train-000NN-of-00262-*.parquet`;
github.com/timothybrooks/instruct-pix2pix, edit_dataset.py.
"""

import contextlib
import dataclasses
import functools
import io
import json
import posixpath
import random
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = "instructpix2pix"
COLUMNS = {"source": "original_image", "instruction": "edit_prompt", "target": "edited_image"}
"""Columns that are read; the captions before and after are not."""
FILE = "seeds.json"
SPLITS = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}
"""Percent of the list of folders, by position, as published."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
"""Errors that zipfile was seen to raise on damaged zips."""

OpenFile = Callable[[str], bytes]
"""Function that reads a file `NNNNNNN/prompt.json`; raises BadRow where there is none."""


@dataclasses.dataclass(frozen=True)
class PromptFolder:
    """Folder of one prompt, before any file of it is read."""

    name: str
    seeds: tuple[str, ...]


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every pair of ROOT/data/SPLIT-*.parquet; without ROOT/data, one pair of each folder in ROOT/seeds.json."""
    if not storage.exists(storage.join(root, "data")):
        if storage.exists(storage.join(root, FILE)):
            return read_folders(root, split)
        wanted = f"neither data/{split}-*.parquet nor {FILE} beside its folders or shard-*.zip"
        raise rows.CorpusError(f"{root} has {wanted}; found {rows.listing(root)}")
    return parquet.open_pairs(root, (f"{split}-",), parquet.PairReader(f"{CORPUS}/{split}", COLUMNS))


def read_folders(root: str, split: str) -> rows.Corpus:
    """Open the folders that ROOT/seeds.json lists, from ROOT/shard-*.zip where there are such files."""
    rows.require_split(CORPUS, split, list(SPLITS))
    folders, skipped = read_list(storage.join(root, FILE), split), Counter[str]()
    names = rows.data_names(root, skipped)
    zips = [name for name in names if name.startswith("shard-") and name.endswith(".zip")]
    if not zips:
        return rows.in_parts(folders, functools.partial(read_folder, functools.partial(rows.read_bytes, root)), skipped)
    parts = list(_by_zip(root, zips, folders, skipped))
    return rows.Corpus(parts, functools.partial(read_zipped, root), skipped=skipped)


def read_list(path: str, split: str) -> list[rows.Item]:
    """Read the folders of a split by id; an entry that cannot be used is a BadRow.

    Raises:
        CorpusError: the file is no list, or holds nothing of this split.
    """
    entries = rows.read_json(path)
    if not isinstance(entries, list):
        raise rows.CorpusError(f"{path}: found a {type(entries).__name__}; it holds a list of [name, seeds]")
    first, last = (len(entries) * percent // 100 for percent in SPLITS[split])
    if first == last:
        raise rows.CorpusError(f"{path}: found {len(entries)} folders, of which none is of split {split!r}")
    seen: set[str] = set()
    return [_folder(f"{CORPUS}/{split}", index, entries[index], seen) for index in range(first, last)]


def read_folder(open_file: OpenFile, name: str, folder: PromptFolder) -> Iterator[Sample]:
    """Make one folder a sample; its pair is drawn by its id, so it is the same at every visit."""
    instruction = _instruction(open_file(f"{folder.name}/prompt.json"))
    seed = random.Random(name).choice(folder.seeds)
    files = [f"{folder.name}/{seed}_{side}.jpg" for side in (0, 1)]
    source, target = (rows.check_picture(open_file(file), file) for file in files)
    yield Sample(id=name, corpus=CORPUS, task="edit", instruction=instruction, source=source, target=target)


def read_zipped(root: str, part: tuple[str, Sequence[rows.Item]]) -> Iterator[Sample]:
    """Read the samples of some folders of one zip in place."""
    name, folders = part
    with _opened(storage.join(root, name)) as archive:
        yield from rows.read_items(functools.partial(read_folder, functools.partial(_member, archive, name)), folders)


def _folder(prefix: str, index: int, entry: Any, seen: set[str]) -> rows.Item:
    try:
        name, seeds = entry
        if not isinstance(seeds, list) or not seeds or not all(text.isdecimal() for text in (name, *seeds)):
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        error = f"{FILE}: found {entry!r:.40}; write [NNNNNNN, [SEED, ...]], all of them texts of digits"
        return f"{prefix}/at-{index}", rows.BadRow(error)
    if name in seen:
        return f"{prefix}/at-{index}", rows.BadRow(f"{FILE}: the folder {name} stands twice")
    seen.add(name)
    return f"{prefix}/{name}", PromptFolder(name, tuple(seeds))


def _instruction(data: bytes) -> str:
    try:
        prompt = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise rows.BadRow(f"prompt.json is not JSON: {error}") from None
    text = prompt.get("edit") if isinstance(prompt, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise rows.BadRow(f"prompt.json: found {prompt!r:.40}; write an object whose 'edit' is a text")
    return text.strip()


def _by_zip(
    root: str, zips: Sequence[str], folders: Sequence[rows.Item], skipped: Counter[str]
) -> Iterator[tuple[str, Sequence[rows.Item]]]:
    """Cut the folders into parts of one zip each; those that are in none are bad rows beside the last."""
    rest = dict(folders)
    for name in zips:
        with _opened(storage.join(root, name)) as archive:
            members = archive.namelist()
        if clutter := sum(rows.is_clutter(member) for member in members):
            skipped[rows.CLUTTER_REASON] += clutter
        paths = [posixpath.dirname(member) for member in members if not rows.is_clutter(member)]
        by_name = {posixpath.basename(path): path for path in paths}
        of_zip = [
            (row_id, dataclasses.replace(folder, name=by_name[folder.name]))
            for row_id, folder in rest.items()
            if isinstance(folder, PromptFolder) and folder.name in by_name
        ]
        for row_id, _ in of_zip:
            del rest[row_id]
        yield from ((name, part) for part in rows.sliced(of_zip))
    lost = rows.BadRow(f"found in none of {', '.join(zips)}; fetch the zip that holds it")
    missing = [(row_id, lost if isinstance(folder, PromptFolder) else folder) for row_id, folder in rest.items()]
    yield from ((zips[-1], part) for part in rows.sliced(missing))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    files, inner = storage.filesystem(path)
    with rows.opening(path, path, rows.CorpusError):
        file = io.BufferedReader(files.open_input_file(inner))
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise rows.CorpusError(f"{path} is cut, or no zip: {error}; {rows.advice(path)}") from None
        with archive:
            yield archive


def _member(archive: zipfile.ZipFile, zip_name: str, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise rows.BadRow(f"{zip_name}: no {name} in it") from None
    except _DAMAGE as error:
        raise rows.BadRow(f"{zip_name}: {name} is damaged ({error}); fetch the zip again") from None
