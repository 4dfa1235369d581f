"""The quick check measures a folder's edits, judged by the folder's own scene reader or the shipped one."""

import shutil
from pathlib import Path

import pytest
import torch

from fireedit.jobs.evaluation.cases import Cases
from fireedit.jobs.evaluation.quick import distances_to_text, quick
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig, save_reader
from fireedit.jobs.evaluation.scene_report import PICTURE
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.text import text_states, tokenize_text


def test_a_quick_check_measures_the_edits_of_a_folder(tmp_path: Path) -> None:
    FireEditPipeline.fresh(seed=0).save_pretrained(tmp_path)
    figures, page = quick(tmp_path, edits=1)
    names = {f"{row}_{name}" for row in ("full", "ip2p") for name in ("l1_inside", "l1_outside", "inside_over_copy")}
    assert names | {"full_distance_to_text"} <= set(figures)
    assert figures["full_success_no_op"] == 1, "the shipped reader reads the unchanged picture"
    assert figures["full_inside_over_copy"] == pytest.approx(1, abs=0.05), "fresh weights return the source"
    assert page.height > 8 * PICTURE, "two families in each line"
    torch.manual_seed(0)
    save_reader(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)), tmp_path)
    shutil.rmtree(tmp_path / "vlm")
    judged, _ = quick(tmp_path, edits=1)
    assert judged["ip2p_success"] == judged["ip2p_success_remove"] == 0 and "full_success" not in judged
    assert judged["ip2p_inside_over_copy"] == figures["ip2p_inside_over_copy"]


def test_edit_tokens_are_compared_with_the_nearer_of_both_instructions() -> None:
    pipeline, cases = FireEditPipeline.fresh(seed=0), Cases(32).of("knowledge", "reasoning", 3)
    instructions, plain = [case.instruction for case in cases], [case.edit.plain for case in cases]
    tokens = pipeline.understand(pipeline.perceive([case.source for case in cases]), instructions)
    ids = [tokenize_text(pipeline.tokenizer, texts, 77) for texts in (instructions, plain)]
    distances = [(tokens - text_states(pipeline.text_encoder, each)).square().mean((1, 2)) for each in ids]
    nearer = torch.stack(distances).amin(dim=0)
    assert distances_to_text(pipeline, cases) == pytest.approx(nearer.tolist(), rel=1e-4) and instructions != plain
