"""The detector is Groma's: sizes, fixed references, learned queries, scores."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrModel,
    DeformableDetrSinePositionEmbedding,
    inverse_sigmoid,
)

from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.layers.boxes import to_cxcywh, to_xyxy
from fireedit.models.vision import VisionFeatures
from tests.factories import features_of

NANO = DetectorConfig(
    feature_width=96, width=64, encoder_layers=2, decoder_layers=3, heads=4, ffn_width=128, queries=20
)
SIDE = 8


@pytest.fixture
def detector() -> Detector:
    """A small detector without zero weights, so that every part affects the output."""
    torch.manual_seed(0)
    detector = Detector(NANO).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector


@pytest.fixture
def features() -> VisionFeatures:
    """Features whose mean map is their only map."""
    return features_of(torch.randn(2, 96, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))


def groma_step_by_step(detector: Detector, features: VisionFeatures) -> tuple[list[Tensor], Tensor]:
    """Compute cxcywh boxes of each layer and coco logits in Groma's steps, with transformers' stock functions."""
    projected = detector.input_proj[0](features.maps[0])
    batch, _, height, width = projected.shape
    mask = torch.ones(batch, height, width, dtype=torch.bool)
    sine = DeformableDetrSinePositionEmbedding(NANO.width // 2, normalize=True)
    positions = sine(projected.shape, projected.device, projected.dtype, mask).flatten(2).transpose(1, 2)
    one_level = {
        "spatial_shapes": torch.tensor([[height, width]]),
        "spatial_shapes_list": [(height, width)],
        "level_start_index": torch.tensor([0]),
    }
    memory = detector.encoder(
        inputs_embeds=projected.flatten(2).transpose(1, 2),
        attention_mask=mask.flatten(1),
        spatial_position_embeddings=positions + detector.level_embed[0],
        valid_ratios=torch.ones(batch, 1, 2),
        **one_level,
    ).last_hidden_state

    parts: Any = SimpleNamespace(enc_output=detector.enc_output, enc_output_norm=detector.enc_output_norm)
    parts.config = SimpleNamespace(d_model=NANO.width)
    objects, anchors = DeformableDetrModel.gen_encoder_output_proposals(
        parts, memory, ~mask.flatten(1), [(height, width)]
    )
    best = detector.class_embed_enc(objects)[..., 0].topk(NANO.queries, dim=1).indices
    chosen = (detector.bbox_embed[-1](objects) + anchors).gather(1, best[..., None].repeat(1, 1, 4))
    codes = DeformableDetrModel.get_proposal_pos_embed(parts, chosen)
    query_positions = detector.pos_trans_norm(detector.pos_trans(codes))[..., : NANO.width]

    reference = chosen.sigmoid()
    queries = detector.query_position_embeddings.weight[None].repeat(batch, 1, 1)  # learned, not from the encoder
    boxes, before = [], reference
    for index, layer in enumerate(detector.decoder.layers):
        fixed = reference[:, :, None]  # the same in every layer
        queries = layer(
            queries, query_positions, fixed, encoder_hidden_states=memory, encoder_attention_mask=None, **one_level
        )
        move = detector.bbox_embed[index](queries)
        boxes.append((move + inverse_sigmoid(before)).sigmoid())
        before = (move + inverse_sigmoid(reference)).sigmoid()
    return boxes, detector.class_embed_coco[-1](queries)[..., 0]


def test_every_layer_agrees_with_groma_step_by_step(detector: Detector, features: VisionFeatures) -> None:
    with torch.no_grad():
        detections = detector.detect(features)
        boxes, coco_logits = groma_step_by_step(detector, features)
    assert detections.boxes.shape == (3, 2, 20, 4)
    for layer, expected in enumerate(boxes):
        torch.testing.assert_close(detections.boxes[layer], to_xyxy(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(detections.coco_logits[-1], coco_logits, atol=1e-5, rtol=1e-5)


def test_the_score_weighs_coco_by_two_fifths_and_sa1b_by_three(detector: Detector, features: VisionFeatures) -> None:
    with torch.no_grad():
        detections, proposals = detector.detect(features), detector(features)
    coco, sa1b = detections.coco_logits[-1].sigmoid(), detections.sa1b_logits[-1].sigmoid()
    torch.testing.assert_close(proposals.scores, coco**0.4 * sa1b**0.6)
    torch.testing.assert_close(proposals.boxes, detections.boxes[-1])


def test_a_new_detector_proposes_small_boxes_of_low_score(features: VisionFeatures) -> None:
    with torch.no_grad():
        proposals = Detector(NANO).eval()(features)
    centers, sizes = to_cxcywh(proposals.boxes).split(2, dim=-1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.05), atol=1e-4, rtol=0)
    cells = centers * SIDE - 0.5
    torch.testing.assert_close(cells, cells.round(), atol=1e-3, rtol=0)
    assert proposals.scores.max() < 0.15


def test_gradients_reach_every_parameter(detector: Detector, features: VisionFeatures) -> None:
    detections = detector.train().detect(features)
    outputs = [detections.boxes, detections.coco_logits, detections.sa1b_logits]
    outputs += [detections.anchor_boxes, detections.anchor_logits]
    torch.stack([(part * torch.randn_like(part)).sum() for part in outputs]).sum().backward()
    untrained = [
        name for name, weight in detector.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert untrained == []


def test_an_image_gets_the_same_proposals_in_any_batch(detector: Detector, features: VisionFeatures) -> None:
    with torch.no_grad():
        together = detector(features)
        for index in range(len(features)):
            alone = detector(features[index : index + 1])
            torch.testing.assert_close(alone.boxes[0], together.boxes[index], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.scores[0], together.scores[index], atol=1e-5, rtol=1e-5)


def test_bfloat16_weights_still_give_float32_boxes_close_by(detector: Detector, features: VisionFeatures) -> None:
    with torch.no_grad():
        exact = detector.detect(features)
        rounded = detector.bfloat16().detect(features)
    # The anchors come before the choice of the best ones, which rounding may swap.
    torch.testing.assert_close(rounded.anchor_boxes, exact.anchor_boxes, atol=0.02, rtol=0)
    proposals = detector(features)
    assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    assert proposals.boxes.isfinite().all()


def test_too_small_a_map_is_refused_by_name(detector: Detector) -> None:
    with pytest.raises(AssertionError, match="20 queries.*4 x 4"):
        detector(features_of(torch.zeros(1, 96, 4, 4)))


def test_no_tensor_is_left_on_the_cpu() -> None:
    """The meta device, like a GPU, refuses to work with tensors of the CPU."""
    with torch.device("meta"):
        detector = Detector(NANO).eval()
    proposals = detector(features_of(torch.empty(2, 96, SIDE, SIDE, device="meta")))
    assert proposals.boxes.shape == (2, 20, 4)
    assert proposals.boxes.is_meta and proposals.scores.is_meta
