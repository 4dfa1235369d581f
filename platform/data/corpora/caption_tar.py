"""Tars of captioned pictures as img2dataset writes them; only the captions are read, the pictures are passed over.

The members of a sample stand together: KEY.jpg, KEY.json, KEY.txt. What failed to download has none.
Source: github.com/rom1504/img2dataset, `--output_format webdataset`.
"""

import dataclasses
import itertools
import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Self

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned:
    """What a tar tells of one sample."""

    key: str
    caption: str = ""
    error: str = ""


def read(path: str) -> Iterator[Captioned]:
    """The captions of a tar, one by one; where it is cut or damaged, an error under the tar's own name is the last."""
    files, inner = storage.filesystem(path)
    name, seen = inner.rpartition("/")[2], set[str]()
    with files.open_input_stream(inner) as stream:
        walk = _Walk(stream)
        for key, members in itertools.groupby(walk.members(), key=lambda member: member.key):
            again, place = key in seen, f"{name}-at-{len(seen)}"
            seen.add(place if again else key)
            try:
                caption = _caption(key, list(members))
                if again:
                    raise rows.BadRow(f"the key {key} stands twice")
                yield Captioned(key=key, caption=caption)
            except rows.BadRow as bad:
                if not walk.damage:  # else this is what was left of a sample at the cut
                    yield Captioned(key=place if again else key, error=f"{name}: {bad}")
    if walk.damage:
        yield Captioned(key=name, error=f"{name}: {walk.damage}; fetch it again")


@dataclasses.dataclass(frozen=True)
class _Member:
    key: str
    suffix: str
    data: bytes
    """Empty for a picture."""


class _Walk:
    """One walk through a tar, as far as it can be read."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.damage = ""
        """Set at the end of the walk, if that is not the end that a tar should have."""

    def members(self) -> Iterator[_Member]:
        last = "its first member"
        try:
            with tarfile.open(
                fileobj=self.stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="replace"
            ) as tar:
                while info := tar.next():
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps the headers of all 30,000
                    if not info.isfile():
                        continue
                    last = info.name
                    key, _, suffix = last.removeprefix("./").partition(".")
                    file = tar.extractfile(info) if suffix in ("txt", "json") else None
                    yield _Member(key, suffix, file.read() if file else b"")
        except tarfile.ReadError as error:
            self.damage = f"cut or damaged in {last} or behind it ({error})"


class _Header(tarfile.TarInfo):
    """A header that cannot be read is damage; tarfile itself takes it for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise  # the block of zeros that ends every whole tar
            raise tarfile.ReadError(str(error)) from None


def _caption(key: str, members: list[_Member]) -> str:
    """The text of KEY.txt; KEY.json's caption where there is no such file."""
    found = {member.suffix: member.data for member in members}
    if len(found) < len(members):
        raise rows.BadRow(f"two members of {key} have one name")
    try:
        caption = found["txt"].decode() if "txt" in found else json.loads(found["json"])["caption"]
    except (KeyError, TypeError, ValueError) as error:
        raise rows.BadRow(f"{key}: found no caption ({error!r:.60}); write {key}.txt") from None
    if not isinstance(caption, str) or not caption.strip():
        raise rows.BadRow(f"{key}: found the caption {caption!r:.40}; write a text into {key}.txt")
    return caption.strip()
