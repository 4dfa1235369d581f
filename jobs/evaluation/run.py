"""Benchmark run: edits all cases with every editor, judges them, and writes verdicts, sheets and galleries."""

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fireedit.jobs.evaluation.cases import BATCH, Cases, EditCase, batches, families_of, stacked
from fireedit.jobs.evaluation.editors import (
    Changes,
    Editor,
    FireEditor,
    OtherSystem,
    PipelineEditor,
    RowName,
    make_editor,
)
from fireedit.jobs.evaluation.judges import Judges, Score
from fireedit.jobs.evaluation.metrics import edit_mask, pixel_scores
from fireedit.jobs.evaluation.report import Gallery, contact_sheet, first_passed, save_galleries, unselected
from fireedit.jobs.evaluation.results import BenchmarkConfig, Results, Row, SessionScores, score_lines
from fireedit.jobs.evaluation.scene_reader import SceneReader
from fireedit.jobs.evaluation.success import faults
from fireedit.models.model import FireEditConfig
from fireedit.platform import storage
from fireedit.platform.console import say


@dataclass(frozen=True)
class Contestant:
    """Editor with its row."""

    row: Row
    editor: Editor

    @classmethod
    def make(cls, name: RowName, sizes: FireEditConfig, changes: Changes, device: str) -> "Contestant":
        """Make the editor of a row and describe it.

        Raises:
            EditorError: the row has no editor.
        """
        editor, painting = make_editor(name, sizes, changes, device), ""
        if isinstance(editor, PipelineEditor | OtherSystem):
            used = editor.settings
            painting = f"steps {used.num_inference_steps}, s_T {used.guidance_scale:g}"
            painting += f", s_I {used.image_guidance_scale:g}"
            painting += f", keep below {used.keep_below:g}" if used.keep_below else ""
        regions = editor.regions if isinstance(editor, FireEditor) else ""
        return cls(Row(name.name, editor.weights, regions, painting), editor)

    @property
    def key(self) -> str:
        """Hash of everything that its pictures depend on, except the cases."""
        text = f"{self.editor.weights} {self.editor.manner}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Benchmark:
    """Benchmark of several editors."""

    config: BenchmarkConfig
    contestants: Sequence[Contestant]
    judges: Judges
    out: Path
    """Folder of the sheets and galleries."""
    home: str
    """Folder or URL of edited pictures and verdicts."""

    def run(self) -> Results:
        """Edit and judge the cases of all splits; pictures that are cached in `home` are not edited again."""
        self.out.mkdir(parents=True, exist_ok=True)
        results = Results(self.config, [contestant.row for contestant in self.contestants], self.judges.weights)
        cases = Cases(self.config.side)
        for split in self.config.splits:
            self._run_split(split, cases, results)
        return results

    def _run_split(self, split: str, cases: Cases, results: Results) -> None:
        first, passed, lines = dict[str, Gallery](), dict[str, Gallery](), list[str]()
        for family in (family for family in self.config.families if family in families_of(split)):
            family_cases = cases.of(split, family, self.config.edits)
            edited = {each.row.name: edited_pictures(each, family_cases, self.home) for each in self.contestants}
            scores = {row: self.judges.scores(family_cases, pictures) for row, pictures in edited.items()}
            results.scores.setdefault(split, {})[family] = scores
            for row, row_scores in scores.items():
                lines.append(score_lines(split, family, row, family_cases, row_scores))
            contact_sheet(family_cases, edited, scores).save(self.out / f"{split}-{family}.png")
            say("  ".join((split, family, *(f"{row} {_percent(row_scores)}" for row, row_scores in scores.items()))))
            last = self.contestants[-1].row.name
            first[family] = unselected(family_cases, edited[last])
            passed[family] = first_passed(family_cases, edited[last], scores[last])
        save_galleries(self.out, split, first, passed)
        if sessions := cases.sessions(split, self.config.sessions):
            results.sessions[split] = {
                each.row.name: run_sessions(each, sessions, self.judges.reader, self.home) for each in self.contestants
            }
        path = storage.join(self.home, "benchmark", "scores", results.key, f"{split}.jsonl")
        storage.write_bytes(path, "".join(lines).encode())
        say(f"{split}  verdicts on all edits: {path}")


def edited_pictures(contestant: Contestant, cases: Sequence[EditCase], home: str, size: int = BATCH) -> np.ndarray:
    """Edit cases of one split and family to uint8 RGB [B, S, S, 3], in batches of `size` cached in `home`."""
    if not contestant.editor.weights:
        return contestant.editor.edit(cases)
    numbered = enumerate(batches(cases, size))
    return np.concatenate([_cached_batch(contestant, batch, number * size, home) for number, batch in numbered])


def run_sessions(
    contestant: Contestant, sessions: Sequence[Sequence[EditCase]], reader: SceneReader, home: str
) -> SessionScores:
    """Edit and judge sessions, each turn of which edits the picture that the turn before returned."""
    turns = list(zip(*sessions, strict=True))
    pictures, l1_outside = stacked(turns[0], "source"), list[list[float]]()
    first = torch.from_numpy(pictures)
    arrays = [(stacked(turn, "source"), stacked(turn, "target")) for turn in turns]
    masks = [edit_mask(torch.from_numpy(source), torch.from_numpy(target)) for source, target in arrays]
    for turn in turns:
        cases = [replace(case, source=picture) for case, picture in zip(turn, pictures, strict=True)]
        pictures = edited_pictures(contestant, cases, home)
        scores = pixel_scores(torch.from_numpy(pictures), first, torch.stack(masks).any(dim=0))
        l1_outside.append(scores["l1_outside"].tolist())
    readings = zip(sessions, reader.read(pictures), strict=True)
    success = [not faults([case.edit for case in session], reading) for session, reading in readings]
    return SessionScores(l1_outside, success)


def _cached_batch(contestant: Contestant, cases: Sequence[EditCase], start: int, home: str) -> np.ndarray:
    """Edit a batch, or load it if the same cases were edited before."""
    split, family = cases[0].split, cases[0].family
    name = f"{start:06d}-{_hash(cases)}.npy"
    path = storage.join(home, "benchmark", "edited", contestant.key, split, family, name)
    if storage.exists(path):
        return np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False)
    began = time.monotonic()
    edited, buffer = contestant.editor.edit(cases), io.BytesIO()
    np.save(buffer, edited)
    storage.write_bytes(path, buffer.getvalue())
    seconds = (time.monotonic() - began) / len(cases)
    say(f"{contestant.row.name}  {split}  {family}  {start + len(cases)} edits  {seconds:.2f} s each")
    return edited


def _hash(cases: Sequence[EditCase]) -> str:
    """Hash all that editors get of cases, so that pictures of differently rendered scenes are not reused."""
    digest = hashlib.blake2b(digest_size=6)
    for case in cases:
        digest.update(f"{case.instruction} {case.seed} {case.boxes}".encode())
        digest.update(case.source.tobytes() + case.target.tobytes())
    return digest.hexdigest()


def _percent(scores: Sequence[Score]) -> str:
    return f"{100 * sum(score.success for score in scores) / len(scores):.0f}%"
