"""The Q-Former is SmartEdit's: size, cross-attentions, output in the shape of CLIP's text states."""

import torch

from fireedit.models.model import preset
from fireedit.models.qformer import QFormer, QFormerConfig


def test_every_second_layer_reads_the_img_states() -> None:
    with torch.device("meta"):
        qformer = QFormer(QFormerConfig())
    reading = {name.split(".")[3] for name, _ in qformer.named_parameters() if "crossattention" in name}
    assert reading == {"0", "2", "4"}


def test_its_output_depends_on_every_img_state() -> None:
    torch.manual_seed(0)
    qformer, states = QFormer(preset("nano").qformer).eval(), torch.randn(2, 32, 192)
    before = qformer(states)
    assert before.shape == (2, 77, 96)
    for index in (0, 15, 31):
        changed = states.clone()
        changed[1, index] += 1
        after = qformer(changed)
        assert torch.allclose(after[0], before[0], atol=1e-6)
        assert not torch.allclose(after[1], before[1], atol=1e-6)
