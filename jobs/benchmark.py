"""How well editors edit: `python jobs/benchmark.py [--weights FOLDER] [--rows copy,ip2p,full] [--edits 500] ...`.

Held-out scenes by split and family, judged by a scene reader, beside baselines that show what
a figure is worth, and the bars that the last row is held to. Rows: `target` (the judge's own rate, always there),
`copy` (does nothing), `vae` (the ceiling of all that paint its latents), any other name: the pipeline in --weights, or
`NAME=FOLDER`. A folder without a VLM, or a row called `ip2p`, is a UNet that reads CLIP's text states,
InstructPix2Pix's way; `ip2p_plain` reads those of words that name the object where an instruction does not.
`NAME=FOLDER@none` hides all regions from the VLM, `@true` shows it those of the scene. Steps and guidance are those
saved with the weights. Pictures that were made before with the same weights and settings are taken from
$FIREEDIT_HOME/benchmark, so a run that was broken off goes on; the verdict on every edit is written there too.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fireedit.jobs.evaluation.bars import all_bars
from fireedit.jobs.evaluation.cases import FAMILIES, SPLITS, Cases, families_of
from fireedit.jobs.evaluation.editors import (
    REGION_SOURCES,
    Changes,
    EditorError,
    FireEditor,
    RowName,
    TextEditor,
    make_editor,
)
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.evaluation.report import GALLERY, Shown, contact_sheet, gallery, markdown, passed
from fireedit.jobs.evaluation.results import REFERENCE, Results, Row, Settings, compact, score_lines
from fireedit.jobs.evaluation.run import Contestant, edited_pictures, play
from fireedit.models.model import NANO, preset
from fireedit.platform import storage
from fireedit.platform.scenes import assets

ROWS = "target,copy,ip2p,full"
PAINTING = ("steps", "guidance_scale", "image_guidance_scale", "keep_below")
"""Options in the place of what was saved with the weights."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default, saved = "default: %(default)s", "default: as saved with the weights"
    parser.add_argument("--weights", default="nano", help=f"folder of a pipeline ({default}, what ships)")
    parser.add_argument("--rows", default=ROWS, help=f"NAME[=FOLDER][@REGIONS], ... ({default})")
    parser.add_argument("--splits", default="unseen_seeds", help=f"of {', '.join(SPLITS)} ({default})")
    parser.add_argument("--families", default=",".join(FAMILIES), help="default: all")
    parser.add_argument("--edits", type=int, default=500, help=f"of each family ({default})")
    parser.add_argument("--sessions", type=int, default=100, help=f"of three turns, in each split ({default})")
    parser.add_argument("--steps", type=int, help=saved)
    parser.add_argument("--guidance-scale", type=float, help=saved)
    parser.add_argument("--image-guidance-scale", type=float, help=saved)
    parser.add_argument("--keep-below", type=float, help=saved)
    parser.add_argument("--regions", choices=REGION_SOURCES, default="predicted", help=f"that a VLM sees ({default})")
    parser.add_argument("--judges", type=Path, default=NANO, help=f"folder with judges/ and vision/ ({default})")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"), help=default)
    parser.add_argument("--home", default=storage.home(), help=f"where edited pictures are kept ({default})")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=default)
    asked = parser.parse_args(argv)
    try:
        print(json.dumps(run(asked), allow_nan=False))
    except (EditorError, FileNotFoundError, assets.MissingAssetsError) as error:
        sys.exit(f"benchmark.py: {error}")


def run(asked: argparse.Namespace) -> dict[str, object]:
    """Edit, judge, and write benchmark.md, benchmark.json, sheets and galleries; what the job reports."""
    began = time.monotonic()
    names = [RowName.parse(text, asked.weights, asked.regions) for text in asked.rows.split(",")]
    if REFERENCE not in {name.name for name in names}:
        names.insert(0, RowName.parse(REFERENCE, asked.weights, asked.regions))
    if len({name.name for name in names}) < len(names):
        raise EditorError(f"--rows {asked.rows}: two rows have one name")
    settings = Settings(
        splits=_known("splits", asked.splits, SPLITS),
        families=_known("families", asked.families, FAMILIES),
        edits=asked.edits,
        sessions=asked.sessions,
        side=preset("nano").vae.sample_size,
    )
    judges = Judges.load(asked.judges, asked.device)
    contestants = [_contestant(name, asked) for name in names]
    results = Results(settings, [one.row for one in contestants], judges.weights)
    asked.out.mkdir(parents=True, exist_ok=True)
    for split in settings.splits:
        _judge_split(Cases(settings.side), split, contestants, judges, results, asked)
    (asked.out / "benchmark.md").write_text(markdown(results, judges, _command(asked)))
    (asked.out / "benchmark.json").write_text(compact(results.as_json()) + "\n")
    return {"out": str(asked.out), **_summary(results), "seconds": round(time.monotonic() - began, 1)}


def _contestant(name: RowName, asked: argparse.Namespace) -> Contestant:
    changes: Changes = {"num_inference_steps": asked.steps} | {
        option: getattr(asked, option) for option in PAINTING[1:]
    }
    editor = make_editor(name, preset("nano"), changes, asked.device)
    regions = editor.regions if isinstance(editor, FireEditor) else ""
    painting = ""
    if isinstance(editor, FireEditor | TextEditor):
        how = editor.settings
        painting = f"steps {how.num_inference_steps}, s_T {how.guidance_scale:g}, s_I {how.image_guidance_scale:g}"
        painting += f", keep below {how.keep_below:g}" if how.keep_below else ""
    return Contestant(Row(name.name, editor.weights, regions, painting), editor)


def _judge_split(
    cases: Cases,
    split: str,
    contestants: Sequence[Contestant],
    judges: Judges,
    results: Results,
    asked: argparse.Namespace,
) -> None:
    """Add a split to the results; draw its sheets and galleries, and write the verdict on every edit."""
    first, right, lines = dict[str, Shown](), dict[str, Shown](), list[str]()
    for family in (family for family in results.settings.families if family in families_of(split)):
        drawn = cases.of(split, family, asked.edits)
        pictures = {one.row.name: edited_pictures(one, drawn, asked.home, tell=_tell) for one in contestants}
        scores = {row: judges.scores(drawn, made) for row, made in pictures.items()}
        for row, found in scores.items():
            results.add(split, family, row, found)
            lines.append(score_lines(split, family, row, drawn, found))
        contact_sheet(drawn, pictures, scores).save(asked.out / f"{split}-{family}.png")
        rates = [f"{row} {100 * sum(one.success for one in found) / len(found):.0f}%" for row, found in scores.items()]
        _tell("  ".join((split, family, *rates)))
        last = contestants[-1].row.name
        first[family] = list(zip(drawn, pictures[last], strict=True))[:GALLERY]
        right[family] = passed(drawn, pictures[last], scores[last])
    told = "source, edited, target"
    page = gallery(first, f"{split}: the first edits of every family, picked by nobody ({told})")
    page.save(asked.out / f"{split}-gallery.png")
    if any(right.values()):
        page = gallery(right, f"{split}: the first edit of every family that the judge passed ({told})", columns=4)
        page.save(asked.out / f"{split}-passed.png")
    else:
        (asked.out / f"{split}-passed.png").unlink(missing_ok=True)
    if sessions := cases.sessions(split, asked.sessions):
        results.sessions[split] = {
            one.row.name: play(one, sessions, judges.reader, asked.home, tell=_tell) for one in contestants
        }
    run_key = hashlib.blake2b(repr((results.settings, results.rows, results.judges)).encode(), digest_size=6)
    path = storage.join(asked.home, "benchmark", "scores", run_key.hexdigest(), f"{split}.jsonl")
    storage.write_bytes(path, "".join(lines).encode())
    _tell(f"{split}  every edit with its verdict: {path}")


def _command(asked: argparse.Namespace) -> str:
    """The options that say what was measured, as one would write them; no folder of this machine but those of rows."""
    told = ("rows", "splits", "edits", "sessions", *PAINTING, "regions")
    words = [f"--{name.replace('_', '-')} {getattr(asked, name)}" for name in told if getattr(asked, name) is not None]
    return f"python jobs/benchmark.py {' '.join(words)}"


def _summary(results: Results) -> dict[str, object]:
    """Success of each row, plain and relative, over all families of each split; L1, sessions, and the bars."""
    rows, last = [row.name for row in results.rows], results.rows[-1].name
    every = {split: list(found) for split, found in results.scores.items()}
    bars = all_bars(results)
    return {
        "success": {
            row: {split: _figure(results.mean(split, every[split], row, "success")) for split in every} for row in rows
        },
        "relative": {
            row: {split: _figure(results.relative(split, every[split], row)) for split in every} for row in rows
        },
        "l1_outside": {split: _figure(results.outside(split, last)) for split in every},
        "sessions": {
            split: {
                "last_turn_over_first": _figure(results.growth(split, last)),
                "last_scene": _figure(results.last_scene(split, last)),
            }
            for split in results.sessions
        },
        "bars": {bar.name: {"found": _figure(bar.found), "wanted": bar.wanted, "met": bar.met} for bar in bars},
        "bars_met": sum(bar.met for bar in bars),
        "bars_of": len(bars),
    }


def _figure(found: Interval) -> float | None:
    return round(found.mean, 4) if found.count else None


def _known(option: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise EditorError(f"--{option}: {name!r}; write some of {', '.join(known)}")
    return names


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
