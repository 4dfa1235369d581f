"""FireEdit: presets, fresh weights, and the four steps of the forward pass."""

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from fireedit.models.detectors.proposals import select_proposals
from fireedit.models.model import NANO, FireEdit, FireEditConfig, Percepts, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import PromptTokenizer
from fireedit.models.vae import PatchCodecConfig, VAEConfig
from tests.factories import PAPERLIKE, features_of, parameter_count, picture

PAPER = {
    "vision": 304_368_640 + 303_179_776,
    "detector": 11_377_833,
    "region_encoder": 288_653_056,
    "qformer": 65_015_040,
    "tati": 30_251_520,
    "hvca": 37_528_832,
    "unet": 878_701_764,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "vlm": 6_738_415_616 + 4_194_304 + 33_562_624 + 2 * 36 * 4096,
}


def percepts_equal(first: Percepts, second: Percepts) -> bool:
    def flat(percepts: Percepts) -> list[torch.Tensor]:
        return [
            percepts.image_tokens,
            *percepts.region_tokens,
            *percepts.boxes,
            *percepts.scores,
            *percepts.detail,
        ]

    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def views(count: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(picture(seed, 64, 64)) for seed in range(count)])


def peak_memory() -> int:
    """Read the largest memory of this process since the last reading, in bytes."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_the_paper_preset_has_the_papers_sizes() -> None:
    assert preset("paper") == FireEditConfig()
    with torch.device("meta"):
        model = FireEdit.from_config(preset("paper"))
    assert {name: parameter_count(part) for name, part in model.named_children()} == PAPER


def test_fresh_weights_have_one_precision_but_for_the_detectors() -> None:
    model = FireEdit.fresh(preset("paper"), seed=0, dtype=torch.bfloat16, device="meta")
    dtypes = {name: {x.dtype for x in part.parameters()} for name, part in model.named_children()}
    assert dtypes.pop("detector") == {torch.float32}
    assert [*dtypes.values()] == len(dtypes) * [{torch.bfloat16}]
    assert torch.get_default_dtype() == torch.float32


def test_fresh_weights_are_drawn_alike_in_any_precision() -> None:
    whole, half = (FireEdit.fresh(PAPERLIKE, 1, dtype) for dtype in (torch.float32, torch.bfloat16))
    for name, drawn in half.named_parameters():
        parameter = whole.get_parameter(name)
        if parameter.numel() > 1000:
            assert float(drawn.float().std()) == pytest.approx(float(parameter.std()), rel=0.1, abs=1e-6), name
            assert drawn.abs().max() <= 1.5 * parameter.abs().max(), name
    assert torch.equal(half.vlm.llm.model.rotary_emb.inv_freq, whole.vlm.llm.model.rotary_emb.inv_freq)


def test_fresh_weights_in_bfloat16_never_take_the_memory_of_float32() -> None:
    wide = replace(PAPERLIKE, vlm=replace(PAPERLIKE.vlm, width=512))
    before = peak_memory()
    model = FireEdit.fresh(wide, 0, torch.bfloat16)
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert size > 5e7 and peak_memory() - before < 1.4 * size


def test_every_size_in_nanos_file_is_a_field() -> None:
    def check(written: dict[str, Any], config: Any) -> None:
        for name, value in written.items():
            assert name in {field.name for field in dataclasses.fields(config)}, f"config.yaml: unknown key {name!r}"
            if isinstance(value, dict):
                check(value, getattr(config, name))

    check(yaml.safe_load((NANO / "config.yaml").read_text()), preset("nano"))


def test_nano_is_the_same_classes_hundreds_of_times_smaller() -> None:
    with torch.device("meta"):
        model = FireEdit.from_config(preset("nano"))
    assert {name for name, _ in model.named_children()} == set(PAPER)
    assert parameter_count(model) < sum(PAPER.values()) / 600


@pytest.mark.parametrize("sizes", ["paper", "nano"])
def test_widths_of_adjacent_components_agree(sizes: str) -> None:
    config = preset(sizes)
    assert config.vlm.image_width == 4 * config.vision.dino_width
    assert config.detector.feature_width == config.region_encoder.width == config.vision.dino_width
    assert config.region_encoder.width_out == config.vlm.width == config.qformer.input_width
    assert config.qformer.width == config.tati.width == config.hvca.text_width == config.text.width
    assert config.qformer.queries == config.tati.queries == config.text.tokens == 77
    assert config.hvca.output_width == config.tati.width == config.unet.cross_attention_dim
    assert config.hvca.queries == config.unet.detail_tokens == 16
    side, channels = config.unet.sample_size, config.unet.out_channels
    assert config.vae.moments_shape == (2 * channels, side, side) and config.unet.in_channels == 2 * channels
    longest = config.vlm.prompt.max_tokens + config.detector.proposals.max_regions
    assert longest + (config.vision.image_size // config.vision.patch_size) ** 2 // 4 <= config.vlm.max_positions


def test_the_paper_has_a_vae_and_nano_a_codec() -> None:
    assert type(preset("paper").vae) is VAEConfig and preset("paper").vae == VAEConfig()
    assert preset("nano").vae == PatchCodecConfig(patch_size=4, sample_size=64)
    for written, kind in (({"sample_size": 64}, VAEConfig), ({"patch_size": 8}, PatchCodecConfig)):
        assert type(TypeAdapter(FireEditConfig).validate_python({"vae": written}).vae) is kind


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="'papr'.*'nano'"):
        preset("papr")


def test_components_may_be_none() -> None:
    assert list(FireEdit().parameters()) == []


def test_perceiving_keeps_the_regions_that_the_config_allows(nano: FireEditPipeline) -> None:
    percepts = nano.model.perceive(views(3))
    most = nano.detector.proposal_config.max_regions
    assert len(percepts) == 3 and percepts.image_tokens.shape == (3, 16, 384)
    for boxes, scores, tokens in zip(percepts.boxes, percepts.scores, percepts.region_tokens, strict=True):
        assert 1 <= len(boxes) == len(scores) == len(tokens) <= most
        assert boxes.shape[1] == 4 and tokens.shape[1] == 192
        assert (scores.diff() <= 0).all() and (boxes[:, 2:] >= boxes[:, :2]).all()


@torch.no_grad()
def test_the_detector_reads_the_mean_of_four_states_and_the_region_encoder_the_last_three(
    nano: FireEditPipeline,
) -> None:
    features = nano.vision(views(2))
    mean_map = features_of(sum(features.maps) / 4)
    proposals, percepts = nano.detector(mean_map), nano.model.perceive(views(2))
    for row in range(2):
        best = select_proposals(proposals.boxes[row], proposals.scores[row], nano.detector.proposal_config)
        assert torch.allclose(percepts.boxes[row], proposals.boxes[row][best], atol=1e-5)
        assert torch.allclose(percepts.scores[row], proposals.scores[row][best], atol=1e-5)
    tokens = nano.region_encoder(features_of(*features.maps[1:]), percepts.boxes)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(tokens, percepts.region_tokens, strict=True))


def test_given_boxes_replace_the_detectors(nano: FireEditPipeline) -> None:
    proposed = nano.model.perceive(views(3))
    given = nano.model.perceive(views(3), [proposed.boxes[0], None, torch.zeros(0, 4)])
    assert all(torch.equal(given.boxes[index], proposed.boxes[index]) for index in (0, 1))
    assert torch.allclose(given.region_tokens[0], proposed.region_tokens[0], atol=1e-5)
    assert given.scores[0].tolist() == [1.0] * len(proposed.boxes[0])
    assert torch.equal(given.scores[1], proposed.scores[1])
    assert given.boxes[2].shape == (0, 4) and given.region_tokens[2].shape == (0, 192)


def test_a_model_without_a_detector_perceives_no_regions(nano: FireEditPipeline) -> None:
    percepts = FireEdit(vision=nano.vision).perceive(views(2))
    assert [len(tokens) for tokens in percepts.region_tokens] == [0, 0]
    assert torch.equal(percepts.image_tokens, nano.model.perceive(views(2)).image_tokens)


@torch.no_grad()
def test_the_forward_pass_reads_in_four_steps(nano: FireEditPipeline) -> None:
    model, config = nano.model, preset("nano")
    percepts = model.perceive(views(2))
    prompt = PromptTokenizer(nano.vlm_tokenizer, config.vlm.vocab_size, config.vlm.prompt).edit("make it red")
    ids, labels = (torch.tensor([values] * 2) for values in (prompt.input_ids, prompt.labels))
    edit_tokens, output = model.understand(percepts, ids, labels)
    assert edit_tokens.shape == (2, 77, config.qformer.width) and output.losses.shape == (2,)
    conditions = model.condition(edit_tokens, torch.tensor([0, 999]), percepts)
    assert conditions.timed_tokens.shape == edit_tokens.shape
    assert conditions.detail_tokens is not None and conditions.detail_tokens.shape == (2, 16, config.hvca.output_width)
    latents = torch.randn(2, config.unet.out_channels, 16, 16)
    assert model.predict(latents, latents, torch.tensor([0, 999]), conditions).shape == latents.shape


def test_without_tati_and_hvca_the_unet_reads_edit_tokens_alone(nano: FireEditPipeline) -> None:
    edit_tokens, percepts = torch.randn(1, 77, 96), nano.model.perceive(views(1))
    conditions = FireEdit(unet=nano.unet).condition(edit_tokens, torch.tensor([3]), percepts)
    assert conditions.timed_tokens is edit_tokens and conditions.detail_tokens is None


def test_a_lower_threshold_gives_more_regions_up_to_the_limit(nano: FireEditPipeline) -> None:
    config = dataclasses.replace(nano.detector.proposal_config, min_score=0.0, nms_iou=1.0, max_regions=5)
    before, nano.detector.proposal_config = nano.detector.proposal_config, config
    try:
        assert [len(boxes) for boxes in nano.model.perceive(views(2)).boxes] == [5, 5]
    finally:
        nano.detector.proposal_config = before


def test_percepts_split_and_join_without_loss(nano: FireEditPipeline) -> None:
    percepts = nano.model.perceive(views(3))
    each = percepts.split()
    assert [len(image) for image in each] == [1, 1, 1]
    assert percepts_equal(Percepts.join(each), percepts)
    repeated = Percepts.join([each[1], each[1], each[0]])
    assert torch.equal(repeated.image_tokens, percepts.image_tokens[[1, 1, 0]])
    assert torch.equal(repeated.region_tokens[1], percepts.region_tokens[1])
    assert percepts_equal(Percepts.join(repeated.split()), repeated)


def test_percepts_without_details_split_and_join_too(nano: FireEditPipeline) -> None:
    percepts = FireEdit(vision=nano.vision).perceive(views(2))
    assert percepts.detail == () and percepts_equal(Percepts.join(percepts.split()), percepts)
    assert percepts.to("meta").image_tokens.is_meta


def test_perceiving_computes_no_gradient(nano: FireEditPipeline) -> None:
    percepts = nano.model.perceive(views(1))
    assert not percepts.image_tokens.requires_grad and not percepts.region_tokens[0].requires_grad
