"""CC12M: web captions from its official `cc12m.tsv` (url, tab, caption; no header) or from img2dataset's tars.

The tsv is read where a folder has both. Stage 1 learns from the captions alone, so the pictures behind the urls are
never fetched, and those in the tars never decoded. In a tar the members of a sample are neighbors: KEY.jpg, KEY.json,
KEY.txt; a failed download has none.
Source: github.com/google-research-datasets/conceptual-12m; huggingface.co/datasets/pixparse/cc12m-wds has tars;
github.com/rom1504/img2dataset, `--output_format webdataset`.
"""

import dataclasses
import functools
import io
import itertools
import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, Self

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "cc12m"
FILE = "cc12m.tsv"
CHUNK_BYTES = 4 << 20
"""Bytes of the tsv that one task reads: about 20,000 captions; the 2.5 GB file makes some 600 tasks."""
COLUMNS = ("url", "caption")
"""Columns of the official tsv; img2dataset's recipe writes them into the file as a header."""
NO_CAPTION = "samples with an empty caption"
NO_SAMPLE = "tar members without a suffix"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every caption of ROOT/cc12m.tsv, or of all ROOT/*.tar; there is one split."""
    rows.require_split(CORPUS, split, ["train"])
    path = storage.join(root, FILE)
    if storage.exists(path):
        read_part = functools.partial(read_chunk, path, columns=read_columns(path))
        return rows.Corpus(range(0, storage.info(path).size, CHUNK_BYTES), read_part, light=True)
    skipped: Counter[str] = Counter()
    tars = [storage.join(root, name) for name in rows.data_names(root, skipped) if name.endswith(".tar")]
    if not tars:
        wanted = f"neither {FILE}, one `url<tab>caption` a line, nor img2dataset's *.tar"
        raise rows.CorpusError(f"{root} has {wanted}; found {rows.listing(root)}")
    return rows.Corpus(tars, read_tar, light=True, skipped=skipped)


def read_columns(path: str) -> tuple[str, ...]:
    """Name the tsv's columns: by its header, or as published where its first line is a sample.

    Raises:
        CorpusError: the first line is neither.
    """
    files, inner = storage.filesystem(path)
    with rows.opening(path, path, rows.CorpusError), io.BufferedReader(files.open_input_file(inner)) as file:
        line = file.readline(1 << 20)
    fields = _fields(line)
    if set(COLUMNS) <= set(fields):
        return fields
    if len(fields) >= len(COLUMNS) and "://" in fields[0]:
        return COLUMNS
    found = f"the first line {line[:60]!r}" if line else "an empty file"
    wanted = "write lines `url<tab>caption`, below a header that names both or below none"
    raise rows.CorpusError(f"{path}: found {found}; {wanted}, or {rows.advice(path)}")


def read_chunk(path: str, start: int, size: int = CHUNK_BYTES, columns: tuple[str, ...] = COLUMNS) -> Iterator[Sample]:
    """Read the samples of all lines that begin in bytes [start, start + size) of the tsv.

    The byte that a line begins at is its id. Quotes have no meaning: a caption may well begin with one.
    """
    files, inner = storage.filesystem(path)
    with io.BufferedReader(files.open_input_file(inner)) as file:
        if start:
            file.seek(start - 1)
            file.readline()  # the rest of a line that began before, or just its newline
        while (at := file.tell()) < start + size and (line := file.readline()):
            text = line.rstrip(b"\r\n")
            if text and not (at == 0 and _fields(text) == columns):
                yield _parse_line(at, text, columns)


def read_tar(path: str) -> Iterator[Sample | rows.Skip]:
    """Read the samples of one tar; where it is cut or damaged, an error under the tar's own name is the last."""
    files, inner = storage.filesystem(path)
    name = inner.rpartition("/")[2]
    try:
        with rows.opening(path, name, rows.BadRow):
            stream = files.open_input_stream(inner)
    except rows.BadRow as bad:
        yield _sample(name, "", str(bad))
        return
    with stream:
        yield from _TarReader(name, stream, path).samples()


def _fields(line: bytes) -> tuple[str, ...]:
    """Split a line as a header; a byte-order mark is not part of it."""
    return tuple(field.strip().lower() for field in line.decode("utf-8-sig", errors="replace").split("\t"))


def _parse_line(at: int, line: bytes, columns: tuple[str, ...]) -> Sample:
    """Make one line a sample; a last column takes further tabs as its text."""
    fields = line.decode("utf-8-sig" if at == 0 else "utf-8", errors="replace").split("\t", len(columns) - 1)
    place, error, caption = f"{FILE}, byte {at}: found {line[:60]!r}", "", ""
    if len(fields) == len(columns):
        caption = fields[columns.index("caption")].strip()
    if not caption or "://" not in fields[columns.index("url")]:
        error = f"{place}; a line is `{'<tab>'.join(columns)}`"
    elif "\ufffd" in caption:
        error = f"{place}, which is not UTF-8"
    return _sample(f"{at:012d}", caption, error)


def _sample(key: str, caption: str, error: str) -> Sample:
    return Sample(id=f"{CORPUS}/train/{key}", corpus=CORPUS, task="caption", instruction=caption, error=error)


@dataclasses.dataclass(frozen=True)
class _Member:
    key: str
    """Folder and name up to the first dot of the file's own name."""
    suffix: str
    data: bytes | rows.BadRow = b""
    """Text of a .txt or .json file, or the reason why it has none; empty for a picture."""


class _TarReader:
    """Pass over a tar, as far as it can be read."""

    def __init__(self, name: str, stream: BinaryIO, path: str):
        self.name, self.stream, self.path = name, stream, path
        self.damage = ""
        """Set at the end of the pass, if the tar is not complete there."""
        self.skipped: Counter[str] = Counter()
        self.texts: dict[str, bytes] = {}
        """Contents by member name, for the links to them."""

    def samples(self) -> Iterator[Sample | rows.Skip]:
        seen: set[str] = set()
        for key, members in itertools.groupby(self._members(), key=lambda member: member.key):
            repeated, place = key in seen, f"{self.name}-at-{len(seen)}"
            seen.add(place if repeated else key)
            try:
                caption = _caption(key, list(members))
                if repeated:
                    raise rows.BadRow(f"the key {key} stands twice")
                if caption:
                    yield _sample(key, caption, "")
                else:
                    self.skipped[NO_CAPTION] += 1
            except rows.BadRow as bad:
                if not self.damage:  # else this is what was left of a sample at the cut
                    yield _sample(place if repeated else key, "", f"{self.name}: {bad}")
        yield from itertools.starmap(rows.Skip, self.skipped.items())
        if self.damage:
            yield _sample(self.name, "", f"{self.name}: {self.damage}; {rows.advice(self.path)}")

    def _members(self) -> Iterator[_Member]:
        last = "its first member"
        try:
            with tarfile.open(
                fileobj=self.stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="replace"
            ) as tar:
                while info := tar.next():
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps the headers of all 30,000
                    if info.isdir():
                        continue
                    last = info.name
                    folder, name = posixpath.split(info.name.removeprefix("./"))
                    stem, _, suffix = name.partition(".")
                    if rows.is_clutter(info.name):
                        self.skipped[rows.CLUTTER_REASON] += 1
                    elif not suffix:
                        self.skipped[NO_SAMPLE] += 1
                    else:
                        yield self._member(tar, info, posixpath.join(folder, stem), suffix)
        except tarfile.ReadError as error:
            self.damage = f"cut or damaged in {last} or behind it ({error})"

    def _member(self, tar: tarfile.TarFile, info: tarfile.TarInfo, key: str, suffix: str) -> _Member:
        if suffix not in ("txt", "json"):
            return _Member(key, suffix)
        name = posixpath.normpath(info.name)
        if info.islnk() or info.issym():
            folder = posixpath.dirname(name) if info.issym() else ""
            target = posixpath.normpath(posixpath.join(folder, info.linkname))
            if target not in self.texts:
                lost = rows.BadRow(f"{info.name} links to {info.linkname}, which is not before it")
                return _Member(key, suffix, lost)
            self.texts[name] = self.texts[target]
        else:
            file = tar.extractfile(info)
            self.texts[name] = file.read() if file else b""
        return _Member(key, suffix, self.texts[name])


class _Header(tarfile.TarInfo):
    """A header that counts as damage where it cannot be read; tarfile itself takes it for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise  # the block of zeros that ends every whole tar
            raise tarfile.ReadError(str(error)) from None


def _caption(key: str, members: list[_Member]) -> str:
    """Return the text of KEY.txt, or KEY.json's caption where there is no such file; empty where it has none."""
    by_suffix = {member.suffix: member for member in members}
    if len(by_suffix) < len(members):
        raise rows.BadRow(f"two members of {key} have one name")
    member = by_suffix.get("txt") or by_suffix.get("json") or _Member(key, "json", b"{}")
    if isinstance(member.data, rows.BadRow):
        raise member.data
    try:
        caption = member.data.decode("utf-8-sig") if member.suffix == "txt" else json.loads(member.data)["caption"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise rows.BadRow(f"{key}: found no caption ({error!r:.60}); write {key}.txt") from None
    if not isinstance(caption, str | None):
        raise rows.BadRow(f"{key}: found the caption {caption!r:.40}; write a text into {key}.txt")
    return (caption or "").strip()
