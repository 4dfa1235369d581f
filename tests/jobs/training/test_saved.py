"""Parts that are read back are those that were saved."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.saved import fill, frozen
from fireedit.models.model import preset
from fireedit.models.qformer import QFormer

SIZES = preset("nano").qformer


def test_a_frozen_part_is_the_saved_one_or_else_a_fresh_one_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, fresh = QFormer(SIZES), QFormer(SIZES)
    saved.half().save_pretrained(tmp_path / "qformer")
    loaded = frozen(fresh, tmp_path / "qformer")
    assert torch.equal(loaded.query_tokens, saved.query_tokens.float())
    assert not capsys.readouterr().err
    assert frozen(fresh, tmp_path / "nowhere") is fresh and "pretrain that part first" in capsys.readouterr().err
    assert not any(parameter.requires_grad for parameter in fresh.parameters())


def test_a_part_is_filled_with_saved_weights_or_not_at_all(tmp_path: Path) -> None:
    saved, part = QFormer(SIZES), QFormer(SIZES)
    saved.save_pretrained(tmp_path / "qformer")
    fill(part, tmp_path / "qformer")
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in part.state_dict().items())
    with pytest.raises(OSError, match="nowhere"):
        fill(part, tmp_path / "nowhere")
