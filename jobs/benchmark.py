"""How well editors edit: `python jobs/benchmark.py [--weights FOLDER] [--rows target,copy,vae,full] [--edits 500] ...`.

Held-out scenes by split and family, judged by a parser that reads the edited pictures, beside baselines that show what
a figure is worth. Rows: `target` (the judge's own rate), `copy` (does nothing), `vae` (the ceiling of all that paint
its latents), any other name: the pipeline in --weights, or `NAME=FOLDER`. A folder without a VLM,
or a row called `ip2p`, is a UNet that reads CLIP's text states, InstructPix2Pix's way.
`NAME=FOLDER@none` hides all regions from the VLM, `@true` shows it those of the scene. Pictures that were made before
with the same weights and settings are taken from $FIREEDIT_HOME/benchmark, so a run that was broken off goes on.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fireedit.jobs.benchmarking.cases import FAMILIES, SPLITS, Case, Cases, families_of
from fireedit.jobs.benchmarking.editors import REGION_SOURCES, EditorError, FireEditor, RowName, make_editor
from fireedit.jobs.benchmarking.judges import Judges
from fireedit.jobs.benchmarking.report import GALLERY, contact_sheet, gallery, markdown
from fireedit.jobs.benchmarking.results import Results, Row, Settings
from fireedit.jobs.benchmarking.run import Contestant, edited_pictures, play
from fireedit.models.fireedit import NANO, preset
from fireedit.models.schedule import PaintSettings
from fireedit.platform import storage
from fireedit.platform.data.scenes import assets

ROWS = "target,copy,vae,full"
PAINTING = preset("nano").painting


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "default: %(default)s"
    parser.add_argument("--weights", default="nano", help=f"folder of a pipeline ({default}, what ships)")
    parser.add_argument("--rows", default=ROWS, help=f"NAME[=FOLDER][@REGIONS], ... ({default})")
    parser.add_argument("--splits", default="unseen_seeds", help=f"of {', '.join(SPLITS)} ({default})")
    parser.add_argument("--families", default=",".join(FAMILIES), help="default: all")
    parser.add_argument("--edits", type=int, default=500, help=f"of each family ({default})")
    parser.add_argument("--sessions", type=int, default=100, help=f"of three turns, in each split ({default})")
    parser.add_argument("--steps", type=int, default=PAINTING.num_inference_steps, help=default)
    parser.add_argument("--guidance-scale", type=float, default=PAINTING.guidance_scale, help=default)
    parser.add_argument("--image-guidance-scale", type=float, default=PAINTING.image_guidance_scale, help=default)
    parser.add_argument("--keep-below", type=float, default=PAINTING.keep_below, help=default)
    parser.add_argument("--regions", choices=REGION_SOURCES, default="predicted", help=f"that a VLM sees ({default})")
    parser.add_argument("--judges", type=Path, default=NANO, help=f"folder with judges/ and vision/ ({default})")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"), help=default)
    parser.add_argument("--home", default=storage.home(), help=f"where edited pictures are kept ({default})")
    parser.add_argument("--device", default="cpu", help=default)
    asked = parser.parse_args(argv)
    try:
        print(json.dumps(run(asked)))
    except (EditorError, FileNotFoundError, assets.MissingAssetsError) as error:
        sys.exit(f"benchmark.py: {error}")


def run(asked: argparse.Namespace) -> dict[str, object]:
    """Edit, judge, and write benchmark.md, benchmark.json, sheets and galleries; what the job reports."""
    began = time.monotonic()
    paint = PaintSettings(
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        image_guidance_scale=asked.image_guidance_scale,
        keep_below=asked.keep_below,
    )
    sizes = preset("nano")
    contestants = [
        _contestant(RowName.parse(text, asked.weights, asked.regions), asked, paint) for text in asked.rows.split(",")
    ]
    if len({one.row.name for one in contestants}) < len(contestants):
        raise EditorError(f"--rows {asked.rows}: two rows have one name")
    judges = Judges.load(asked.judges)
    settings = Settings(
        splits=_known("splits", asked.splits, SPLITS),
        families=_known("families", asked.families, FAMILIES),
        edits=asked.edits,
        sessions=asked.sessions,
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        image_guidance_scale=asked.image_guidance_scale,
        keep_below=asked.keep_below,
        side=sizes.vae.sample_size,
    )
    results = Results(settings, [one.row for one in contestants], judges.weights)
    cases = Cases(settings.side)
    asked.out.mkdir(parents=True, exist_ok=True)
    for split in settings.splits:
        shown = {
            family: _judge_family(cases, split, family, contestants, judges, results, asked)
            for family in settings.families
            if family in families_of(split)
        }
        gallery(shown).save(asked.out / f"{split}-gallery.png")
        if settings.sessions:
            sessions = cases.sessions(split, settings.sessions)
            results.sessions[split] = {
                one.row.name: play(one, sessions, judges.parser, asked.home, tell=_tell) for one in contestants
            }
    told = ("rows", "splits", "edits", "sessions", "steps", "guidance_scale", "image_guidance_scale", "keep_below")
    words = [f"--{name.replace('_', '-')} {getattr(asked, name)}" for name in (*told, "regions")]
    command = f"python jobs/benchmark.py {' '.join(words)}"
    (asked.out / "benchmark.md").write_text(markdown(results, judges, command))
    (asked.out / "benchmark.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    return {
        "out": str(asked.out),
        "success": {
            row.name: {
                split: round(results.mean(split, list(found), row.name, "success").mean, 4)
                for split, found in results.scores.items()
            }
            for row in results.rows
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _contestant(name: RowName, asked: argparse.Namespace, paint: PaintSettings) -> Contestant:
    editor = make_editor(name, preset("nano"), paint, asked.device)
    regions = editor.regions if isinstance(editor, FireEditor) else ""
    return Contestant(Row(name.name, editor.weights, regions), editor, paint)


def _judge_family(
    cases: Cases,
    split: str,
    family: str,
    contestants: Sequence[Contestant],
    judges: Judges,
    results: Results,
    asked: argparse.Namespace,
) -> list[tuple[Case, np.ndarray]]:
    """Add a family to the results and draw its sheet; the first cases with what the last row made of them."""
    drawn = cases.of(split, family, asked.edits)
    pictures = {one.row.name: edited_pictures(one, drawn, asked.home, tell=_tell) for one in contestants}
    scores = {row: judges.scores(drawn, made) for row, made in pictures.items()}
    for row, found in scores.items():
        results.add(split, family, row, found)
    contact_sheet(drawn, pictures, scores).save(asked.out / f"{split}-{family}.png")
    rates = "  ".join(
        f"{row} {100 * sum(one.success for one in found) / len(found):.0f}%" for row, found in scores.items()
    )
    _tell(f"{split}  {family}  {rates}")
    return list(zip(drawn, pictures[contestants[-1].row.name], strict=True))[:GALLERY]


def _known(what: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise EditorError(f"--{what}: {name!r}; write some of {', '.join(known)}")
    return names


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
