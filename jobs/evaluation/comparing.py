"""Pictures of several editors side by side: sheets of single edits and sessions, and a page with sliders."""

import html
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fireedit.jobs.evaluation.picture_files import read_picture
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, SetError, Turn
from fireedit.platform import images, storage
from fireedit.platform.sheet import Panel, sheet

PAGE = Path(__file__).with_name("compare.html")
"""Page of a comparison; `$rows` and `$title` are filled in."""
HEIGHT = 256
"""Pixels of every picture's height in a sheet."""
LARGEST = 768
"""Pixels of the longest side of a picture on the page."""
SHEET, SESSIONS, INDEX = "edits.png", "sessions.png", "index.html"


@dataclass(frozen=True, kw_only=True)
class ComparedEdit:
    """Edit painted by several editors."""

    name: str
    """Output without its suffix."""
    instruction: str
    source: str
    outputs: Mapping[str, str]
    """Pictures by editor."""
    target: str = ""
    """True result; empty where the set has none. All are addresses."""

    @property
    def results(self) -> dict[str, str]:
        """Pictures by title: the editors', then the target."""
        return {**self.outputs, **({"target": self.target} if self.target else {})}


def compared_edits(edits: EvaluationSet, pictures: Mapping[str, str]) -> list[ComparedEdit]:
    """List the edits that start from a picture of the set, as far as every editor painted them.

    Args:
        pictures: folder of the pictures of each editor.
    """
    return [edit for turn in edits.turns if not turn.chained and (edit := _compared(turn, turn.source, pictures))]


def chosen_edits(edits: EvaluationSet, pictures: Mapping[str, str], names: Sequence[str]) -> list[ComparedEdit]:
    """List the compared edits of these names, in the set's order; all without names.

    Raises:
        SetError: a folder has no picture of the set, no edit was painted by all editors, or a name is none of them.
    """
    for editor, folder in pictures.items():
        if not any(storage.exists(storage.join(folder, turn.output)) for turn in edits.turns):
            wanted = f"write a folder that has some, such as {edits.turns[0].output}"
            raise SetError(f"--pictures {editor}={folder}: found no picture of {edits.name}; {wanted}")
    found = {edit.name: edit for edit in compared_edits(edits, pictures)}
    if not found:
        raise SetError(f"--pictures: found no edit of {edits.name} that all of {', '.join(pictures)} painted")
    if unknown := [name for name in names if name not in found]:
        wanted = f"write names such as {next(iter(found))}"
        raise SetError(f"--names {unknown[0]}: found no such edit of {edits.name} that all have painted; {wanted}")
    return [edit for name, edit in found.items() if name in names or not names]


def compared_sessions(edits: EvaluationSet, pictures: Mapping[str, str]) -> list[list[ComparedEdit]]:
    """List the sessions of several turns, each of which edits the editor's own output, that every editor painted."""
    sessions = []
    for chain in edits.chains:
        turns = [_compared(turn, chain[0].source, pictures) for turn in chain]
        if len(chain) > 1 and all(turns):
            sessions.append([turn for turn in turns if turn])
    return sessions


def _compared(turn: Turn, source: str, pictures: Mapping[str, str]) -> ComparedEdit | None:
    outputs = {editor: storage.join(folder, turn.output) for editor, folder in pictures.items()}
    if not all(storage.exists(address) for address in outputs.values()):
        return None
    name = turn.output.rpartition(".")[0]
    return ComparedEdit(name=name, instruction=turn.instruction, source=source, outputs=outputs, target=turn.target)


def edit_sheet(compared: Sequence[ComparedEdit]) -> Image.Image:
    """Draw a row for each edit: source below its instruction, editors, target."""
    panels = [panel for edit in compared for panel in _row(edit)]
    return sheet(panels, columns=1 + len(compared[0].results), height=HEIGHT)


def _row(edit: ComparedEdit) -> Iterator[Panel]:
    yield Panel(image=read_picture(edit.source), title=edit.instruction)
    for title, address in edit.results.items():
        yield Panel(image=read_picture(address), title=title)


def session_sheet(session: Sequence[ComparedEdit]) -> Image.Image:
    """Draw a row for each editor and one for the targets: the source, then every turn below its instruction."""
    panels = []
    for title in session[0].results:
        panels.append(Panel(image=read_picture(session[0].source), title=title))
        panels += [Panel(image=read_picture(turn.results[title]), title=turn.instruction) for turn in session]
    return sheet(panels, columns=1 + len(session), height=HEIGHT)


def write_comparison(
    out: str, title: str, edits: Sequence[ComparedEdit], sessions: Sequence[Sequence[ComparedEdit]]
) -> None:
    """Write the sheets, and the page with its pictures, into a folder.

    Args:
        edits, sessions: those to show; a session has a sheet of its own.
    """
    storage.write_bytes(storage.join(out, SHEET), images.encode_png(np.asarray(edit_sheet(edits))))
    for number, session in enumerate(sessions, start=1):
        name = SESSIONS.replace(".", f"-{number}.")
        storage.write_bytes(storage.join(out, name), images.encode_png(np.asarray(session_sheet(session))))
    rows = [_written_row(out, number, edit) for number, edit in enumerate(edits, start=1)]
    page = string.Template(PAGE.read_text()).substitute(title=html.escape(title), rows="\n".join(rows))
    storage.write_bytes(storage.join(out, INDEX), page.encode())


def _written_row(out: str, number: int, edit: ComparedEdit) -> str:
    """Write the pictures of an edit beside the page; returns its part of the page."""
    before = _write(out, f"{number}-source", edit.source)
    figures = []
    for place, (title, address) in enumerate(edit.results.items()):
        after = _write(out, f"{number}-{place}", address)
        label = html.escape(title)
        figures.append(
            f'<figure><div class="pair"><img src="{before}" alt="source"><img class="after" src="{after}" '
            f'alt="{label}"><input type="range" value="100" aria-label="share of {label} shown"></div>'
            f"<figcaption>{label}</figcaption></figure>"
        )
    heading = f"<h2>{html.escape(edit.instruction)} <small>{html.escape(edit.name)}</small></h2>"
    return f'<section>{heading}<div class="row">{"".join(figures)}</div></section>'


def _write(out: str, name: str, address: str) -> str:
    """Write a picture of the page, without what its file says of its origin; returns its path from the page."""
    picture = Image.fromarray(read_picture(address))
    picture.thumbnail((LARGEST, LARGEST))
    path = f"pictures/{name}.png"
    storage.write_bytes(storage.join(out, path), images.encode_png(np.asarray(picture)))
    return path
