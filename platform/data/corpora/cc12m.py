"""CC12M: web captions, read from its official `cc12m.tsv` (url, tab, caption; no header).

Stage 1 learns from the captions alone, so the pictures behind the urls are never fetched.
Source: github.com/google-research-datasets/conceptual-12m.
"""

import functools
import io
from collections.abc import Iterator
from typing import Any

import ray.data

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "cc12m"
FILE = "cc12m.tsv"
CHUNK_BYTES = 4 << 20
"""What one task reads: about 20,000 captions; the 2.5 GB file makes some 600 tasks."""
HEADER = b"url\tcaption"
"""img2dataset's recipe writes it into the file as a first line; the official file has none."""


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every caption of ROOT/cc12m.tsv as a row; the file has one split."""
    rows.require_split(CORPUS, split, ["train"])
    path = rows.require(root, FILE, "the caption file of CC12M, one `url<tab>caption` a line")
    files, inner = storage.filesystem(path)
    size = files.get_file_info(inner).size
    if not size:
        raise rows.CorpusError(f"{path} is empty; fetch it again")
    chunks = [{"start": start} for start in range(0, size, CHUNK_BYTES)]
    to_rows = functools.partial(_chunk_rows, path=path)
    return ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(to_rows, num_cpus=rows.MAP_CPUS)


def read_chunk(path: str, start: int, size: int = CHUNK_BYTES) -> Iterator[Sample]:
    """The samples of all lines that begin in bytes [start, start + size) of the file.

    The byte that a line begins at is its id. Quotes mean nothing here: a caption may well begin with one.
    """
    files, inner = storage.filesystem(path)
    with io.BufferedReader(files.open_input_file(inner)) as file:
        if start:
            file.seek(start - 1)
            file.readline()  # the rest of a line that began before, or just its newline
        while (at := file.tell()) < start + size and (line := file.readline()):
            text = line.rstrip(b"\r\n")
            if text and not (at == 0 and text == HEADER):
                yield _sample(at, text)


def _sample(at: int, line: bytes) -> Sample:
    _, tab, caption = line.decode(errors="replace").partition("\t")
    error = ""
    if not tab or not caption.strip():
        error = f"{FILE}, byte {at}: found {line[:60]!r}; a line is `url<tab>caption`"
    elif "\ufffd" in caption:
        error = f"{FILE}, byte {at}: found {line[:60]!r}, which is not UTF-8"
    return Sample(
        id=f"{CORPUS}/train/{at:012d}", corpus=CORPUS, task="caption", instruction=caption.strip(), error=error
    )


def _chunk_rows(chunk: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    return (sample.row() for sample in read_chunk(path, chunk["start"]))
