"""Quick check of the weights in a folder: a few edits of every family, without a cache or a report."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPTextModel

from fireedit.jobs.evaluation.bars import SPLIT
from fireedit.jobs.evaluation.cases import FAMILIES, Cases, EditCase, edit_cases, stacked
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.scene_reader import FOLDER, WEIGHTS, load_reader
from fireedit.jobs.evaluation.scene_report import gallery, unselected
from fireedit.jobs.evaluation.scene_results import Results
from fireedit.models.checkpoint_files import check_folder
from fireedit.models.editors.editor import Editor
from fireedit.models.editors.fireedit import FireEdit
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix, text_pipeline, without_vlm
from fireedit.models.model import NANO, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.schedule import sampler
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.unet import EditUNet
from fireedit.models.vae import load_vae
from fireedit.platform.scenes.families import NO_OP


def quick(folder: Path, edits: int = 8, device: str = "cpu") -> tuple[dict[str, float], Image.Image]:
    """Edit the first `edits` held-out cases of each family with the weights in a folder.

    The folder needs a UNet; a VLM is used if it has one, and its scene reader or else the shipped one.

    Returns:
        Figures prefixed by row, `full_` with the VLM and `ip2p_` without: `l1_inside`, `l1_outside`,
        `inside_over_copy` (1: no better than a copy), `success`, `relative` (to its pass rate on true targets), the
        last two also by family, as `success_FAMILY`, and `distance_to_text` (MSE of edit tokens to the text states of
        the instruction or of the plain one). Then a gallery of the first row's edits.
    """
    cases = Cases(preset("nano").vae.sample_size)
    judges = Judges(load_reader(folder if (folder / FOLDER / WEIGHTS).is_file() else NANO).to(device))
    editors: dict[str, Editor] = {}
    if (folder / "model_index.json").is_file() and (folder / "vlm").is_dir():
        editors["full"] = FireEdit(FireEditPipeline.from_pretrained(folder).to(device))
    editors["ip2p"] = _text_editor(folder, device)
    shown, distances, results = {}, list[float](), Results([], {}, {SPLIT: {}})
    for family in FAMILIES:
        family_cases = cases.of(SPLIT, family, edits)
        edited = {"copy": stacked(family_cases, "source"), "target": stacked(family_cases, "target")}
        edited |= {row: edit_cases(editor, family_cases) for row, editor in editors.items()}
        scores = {row: judges.scores(family_cases, pictures) for row, pictures in edited.items()}
        results.scores[SPLIT][family] = {row: [each.measures for each in scored] for row, scored in scores.items()}
        first, editor = next(iter(editors.items()))
        shown[family] = unselected(family_cases, edited[first])
        if isinstance(editor, FireEdit):
            distances += distances_to_text(editor.pipeline, family_cases)
    figures = {f"{row}_{name}": value for row in editors for name, value in _figures(results, row).items()}
    figures |= {"full_distance_to_text": sum(distances) / len(distances)} if distances else {}
    return figures, gallery(shown, "First held-out edits of every family, unselected: source, edited, target")


@torch.no_grad()
def distances_to_text(pipeline: FireEditPipeline, cases: Sequence[EditCase]) -> list[float]:
    """Return the MSE of each case's edit tokens to CLIP's states of its instruction or of the plain instruction,
    whichever is smaller."""
    instructions, plain = [case.instruction for case in cases], [case.edit.plain for case in cases]
    tokens = pipeline.understand(pipeline.perceive([case.source for case in cases]), instructions)
    length, distances = pipeline.text_encoder.config.max_position_embeddings, []
    for texts in (instructions, plain):
        ids = tokenize_text(pipeline.tokenizer, texts, length).to(tokens.device)
        distances.append((tokens - text_states(pipeline.text_encoder, ids)).square().mean(dim=(1, 2)))
    return torch.minimum(*distances).tolist()


def _text_editor(folder: Path, device: str) -> InstructPix2Pix:
    """Load the UNet of a folder on its text encoder's states; components that the folder lacks are nano's."""
    sizes = preset("nano")
    vae, text_encoder, tokenizer = (
        check_folder((folder if (folder / name).is_dir() else NANO) / name)
        for name in ("vae", "text_encoder", "tokenizer")
    )
    parts = {
        "unet": EditUNet.from_pretrained(check_folder(folder / "unet"), dtype=torch.float32).eval(),
        "vae": load_vae(vae),
        "text_encoder": CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32).eval(),
        "tokenizer": AutoTokenizer.from_pretrained(tokenizer),
        "scheduler": sampler(sizes.schedule),
    }
    return without_vlm(text_pipeline(parts, sizes.painting).to(device), sizes.painting)


def _figures(results: Results, row: str) -> dict[str, float]:
    """Figures of a row; errors are those of edits that change something."""
    changed = [family for family in FAMILIES if family != NO_OP]
    figures = {name: results.mean(SPLIT, changed, row, name).mean for name in ("l1_inside", "l1_outside")}
    figures["inside_over_copy"] = figures["l1_inside"] / results.mean(SPLIT, changed, "copy", "l1_inside").mean
    for suffix, families in {"": FAMILIES, **{f"_{family}": (family,) for family in FAMILIES}}.items():
        figures[f"success{suffix}"] = results.mean(SPLIT, families, row).mean
        if (relative := results.relative(SPLIT, families, row)).count:
            figures[f"relative{suffix}"] = relative.mean
    return figures
