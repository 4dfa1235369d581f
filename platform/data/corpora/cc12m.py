"""CC12M: web captions, read from its official `cc12m.tsv` (url, tab, caption; no header) or from img2dataset's tars.

Where both lie in one folder the tsv is read. Stage 1 learns from the captions alone, so the pictures behind the urls
are never fetched, and those in the tars never decoded.
Source: github.com/google-research-datasets/conceptual-12m; huggingface.co/datasets/pixparse/cc12m-wds has tars.
"""

import functools
import io
from collections.abc import Iterator

from fireedit.platform import storage
from fireedit.platform.data.corpora import caption_tar, rows
from fireedit.platform.data.sample import Sample

CORPUS = "cc12m"
FILE = "cc12m.tsv"
CHUNK_BYTES = 4 << 20
"""What one task reads: about 20,000 captions; the 2.5 GB file makes some 600 tasks."""
HEADER = b"url\tcaption"
"""img2dataset's recipe writes it into the file as a first line; the official file has none."""


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every caption of ROOT/cc12m.tsv, or of all ROOT/*.tar; there is one split."""
    rows.require_split(CORPUS, split, ["train"])
    path = storage.join(root, FILE)
    files, inner = storage.filesystem(path)
    size = files.get_file_info(inner).size
    if size:
        return rows.Corpus(range(0, size, CHUNK_BYTES), functools.partial(read_chunk, path), light=True)
    if size == 0:
        raise rows.CorpusError(f"{path} is empty; fetch it again")
    tars = [storage.join(root, name) for name in storage.names(root) if name.endswith(".tar")]
    if not tars:
        wanted = f"neither {FILE}, one `url<tab>caption` a line, nor img2dataset's *.tar"
        raise rows.CorpusError(f"{root} has {wanted}; found {rows.listing(root)}")
    return rows.Corpus(tars, read_tar, light=True)


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
                yield _of_line(at, text)


def read_tar(path: str) -> Iterator[Sample]:
    """The samples of one tar; a last bad row tells where it is cut or damaged."""
    for one in caption_tar.read(path):
        yield _sample(one.key, one.caption, one.error)


def _of_line(at: int, line: bytes) -> Sample:
    _, tab, caption = line.decode(errors="replace").partition("\t")
    error = ""
    if not tab or not caption.strip():
        error = f"{FILE}, byte {at}: found {line[:60]!r}; a line is `url<tab>caption`"
    elif "\ufffd" in caption:
        error = f"{FILE}, byte {at}: found {line[:60]!r}, which is not UTF-8"
    return _sample(f"{at:012d}", caption.strip(), error)


def _sample(key: str, caption: str, error: str) -> Sample:
    return Sample(id=f"{CORPUS}/train/{key}", corpus=CORPUS, task="caption", instruction=caption, error=error)
