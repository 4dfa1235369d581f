"""Each stage trains the paper's parameters with the paper's losses; no other tensor changes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from fireedit.models.draws import Draws
from fireedit.models.hvca import HVCA
from fireedit.models.model import FireEdit, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch
from fireedit.models.qformer import query_diversity
from fireedit.models.schedule import training_noise
from fireedit.models.stages import (
    STAGES,
    DropoutConfig,
    Idea,
    Losses,
    ObjectiveConfig,
    StagedFireEdit,
    change_weights,
    choose_timesteps,
    edit_errors,
)
from fireedit.models.text import text_states
from fireedit.models.vae import encode_pixels, target_latents
from fireedit.models.vision import Sources
from tests.factories import batch_of, caption_sample, diffusers_sizes, edit_sample, vqa_sample

KEEP_ALL = DropoutConfig(text=0.0, image=0.0, both=0.0)
LLM = "vlm.llm.model.layers"
SCHEDULE = preset("nano").schedule


def staged(
    number: int, seed: int = 0, dropout: DropoutConfig = KEEP_ALL, without: tuple[Idea, ...] = ()
) -> StagedFireEdit:
    """Build a stage, or its ablation, on fresh nano weights of the components that it names."""
    pipeline, stage = FireEditPipeline.fresh(seed), STAGES[number].without(without)
    model = FireEdit(**{name: getattr(pipeline, name) for name in stage.parts})
    return StagedFireEdit(model, stage, SCHEDULE, dropout)


def no_copy(module: StagedFireEdit) -> StagedFireEdit:
    """Give the UNet a residual that is not zero, as after the first step."""
    torch.nn.init.normal_(module.model.unet.conv_out.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return module


def mixed(nano: FireEditPipeline, stage: int) -> Batch:
    if stage == 1:
        return batch_of(nano, caption_sample(1), caption_sample(2, "two green squares"))
    return batch_of(nano, edit_sample(1), vqa_sample(2))


def expected_names(stage: int) -> set[str]:
    """List the parameters that a stage should train at nano size, independent of the code's patterns."""
    with torch.device("meta"):
        model = FireEdit.from_config(preset("nano"))
        plain = UNet2DConditionModel(**diffusers_sizes(preset("nano").unet))
        plain_unet = {f"unet.{name}" for name, _ in plain.named_parameters()}
    all_names = {name for name, _ in model.named_parameters()}
    parts = {part: {name for name in all_names if name.split(".")[0] == part} for part in ("qformer", "tati", "hvca")}
    lora = {
        f"{LLM}.{layer}.self_attn.{which}_proj.lora_{matrix}.default.weight"
        for layer in range(4)
        for which in "qv"
        for matrix in "AB"
    }
    new_rows = {"vlm.new_embeddings.weight", "vlm.new_head.weight"}
    adapter = {f"vlm.adapter.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    image_attention = {name for name in all_names if name.startswith("unet.")} - plain_unet
    assert len(image_attention) == 2 * 6, "keys and values of the 6 cross-attentions"
    return {
        1: new_rows | parts["qformer"],
        2: adapter | lora | new_rows | parts["qformer"] | plain_unet,
        3: lora | new_rows | parts["qformer"] | plain_unet | image_attention | parts["tati"] | parts["hvca"],
    }[stage]


def tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers, non-persistent ones included."""
    return {name: tensor.detach().clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


def missing_gradients(module: StagedFireEdit, batch: Batch, steps: int) -> list[set[str]]:
    """List, after each optimizer step, the trainable parameters without a nonzero gradient so far."""
    trained = {name: parameter for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0)
    missing, history = set(trained), []
    for step in range(steps):
        torch.manual_seed(step)
        module(batch).total.backward()
        missing -= {name for name, p in trained.items() if p.grad is not None and p.grad.abs().max() > 0}
        history.append(set(missing))
        optimizer.step()
        optimizer.zero_grad()
    return history


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_parameters_by_name_and_no_other_tensor_changes(nano: FireEditPipeline, stage: int) -> None:
    module = staged(stage)
    expected, before = expected_names(stage), tensors(module.model)
    assert {name for name, p in module.model.named_parameters() if p.requires_grad} == expected
    history = missing_gradients(module, mixed(nano, stage), steps=3)
    changed = {name for name, now in tensors(module.model).items() if not torch.equal(now, before[name])}
    assert changed == expected
    assert history[-1] == set()


@pytest.mark.parametrize("without", [("tati",), ("regions", "tati", "hvca")])
def test_an_ablation_trains_the_remaining_components(nano: FireEditPipeline, without: tuple[Idea, ...]) -> None:
    module = staged(3, without=without)
    expected = {name for name in expected_names(3) if not name.startswith(tuple(f"{idea}." for idea in without))}
    if "hvca" in without:
        expected -= {name for name in expected if ".image_attention." in name}
    assert {name for name, p in module.model.named_parameters() if p.requires_grad} == expected
    assert missing_gradients(module, mixed(nano, 3), steps=3)[-1] == set()


@pytest.mark.parametrize("sources", ["coarse", "fine"])
def test_hvca_trains_on_one_view_alone(nano: FireEditPipeline, sources: Sources) -> None:
    module = staged(3)
    module.model.hvca = HVCA(replace(preset("nano").hvca, sources=sources))
    assert missing_gradients(module, mixed(nano, 3), steps=3)[-1] == set()
    assert len(module.model.perceive(mixed(nano, 3).view).detail) == 2 and not module.model.hvca.untrained


def test_without_a_detector_the_vlm_reads_no_regions(nano: FireEditPipeline) -> None:
    percepts = staged(3, without=("regions",)).model.perceive(mixed(nano, 3).view)
    assert [tokens.numel() for tokens in percepts.region_tokens] == [0, 0] and len(percepts.detail) == 4


@pytest.mark.parametrize("stage", [2, 3])
def test_a_copy_has_the_loss_of_a_copy_and_moves_the_unets_last_layer_first(nano: FireEditPipeline, stage: int) -> None:
    module, batch = staged(stage), batch_of(nano, edit_sample(1))
    losses = module(batch)
    losses.total.backward()
    copy, clean = (latents_of(nano, pixels) for pixels in (batch.source_pixels, batch.target_pixels))
    assert torch.allclose(losses.denoise, F.mse_loss(copy, clean), rtol=1e-5)
    gradients = {name: p.grad for name, p in module.model.unet.named_parameters() if p.grad is not None}
    nonzero = {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
    assert nonzero == {"conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize("stage", [2, 3])
def test_a_batch_of_dialogue_alone_denoises_nothing_and_stays_finite(nano: FireEditPipeline, stage: int) -> None:
    module = staged(stage)
    losses = module(batch_of(nano, vqa_sample(1), vqa_sample(2)))
    losses.total.backward()
    assert losses.denoise == 0 and losses.img > 0
    gradients = [p.grad for p in module.model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert module.model.vlm.new_head.weight.grad.abs().max() > 0
    trained = [p.grad for p in module.model.unet.parameters() if p.requires_grad]
    assert trained and all(gradient.abs().max() == 0 for gradient in trained)


def test_stage_3_starts_exactly_where_stage_2_ended(nano: FireEditPipeline) -> None:
    """TATI and HVCA draw no random numbers, so both stages have the same noise, timesteps and dropout."""
    second = no_copy(staged(2, dropout=DropoutConfig(text=0.3, image=0.3, both=0.3)))
    fresh = FireEditPipeline.fresh(seed=7)
    model = FireEdit(**dict(second.model.named_children()), tati=fresh.tati, hvca=fresh.hvca)
    third = StagedFireEdit(model, STAGES[3], SCHEDULE, second.dropout)
    batch = batch_of(nano, edit_sample(1), edit_sample(3), vqa_sample(2))
    before, after = seeded_losses(second, batch), seeded_losses(third, batch)
    assert torch.equal(before.denoise, after.denoise) and torch.equal(before.img, after.img)


def test_dropping_the_image_also_drops_its_details(nano: FireEditPipeline) -> None:
    """The UNet then reads neither source nor detail; dropped text is replaced by the text states of \"\"."""
    module = staged(3, dropout=DropoutConfig(text=0.0, image=0.0, both=1.0)).eval()
    read: list[Tensor] = []

    def record(_unet: torch.nn.Module, inputs: tuple, keywords: dict) -> None:
        tokens, (detail,) = keywords["encoder_hidden_states"]
        read.extend([inputs[0], tokens, detail])

    module.model.unet.register_forward_pre_hook(record, with_kwargs=True)
    batch = batch_of(nano, edit_sample(1))
    module(batch)
    latents, tokens, detail = read
    assert latents.chunk(2, dim=1)[1].abs().max() == 0 and detail.abs().max() == 0
    assert torch.equal(tokens, module.model.text_encoder(batch.null_text_ids).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("null_detail", [False, True])
def test_dropped_text_has_the_detail_of_its_instruction_or_of_the_null_tokens(
    nano: FireEditPipeline, null_detail: bool
) -> None:
    module = staged(3, dropout=DropoutConfig(text=0.5, image=0.0, both=0.0)).eval()
    model, batch = module.model, batch_of(nano, *(edit_sample(seed, f"add {seed} cars") for seed in range(6)))
    model.hvca.register_to_config(null_detail=null_detail)
    read: list[tuple[Tensor, Tensor]] = []
    model.unet.register_forward_pre_hook(
        lambda _, inputs, keywords: read.append(keywords["encoder_hidden_states"]), with_kwargs=True
    )
    seeded_losses(module, batch)
    tokens, detail = read[0]
    null = text_states(model.text_encoder, batch.null_text_ids)
    dropped = (tokens == null).all(dim=(1, 2))
    assert 0 < dropped.sum() < 6
    percepts = model.perceive(batch.view)
    edit_tokens, _ = model.understand(percepts, batch.input_ids)
    expected = model.hvca(percepts.detail, edit_tokens)
    if null_detail:
        of_null = model.hvca(percepts.detail, null.expand(6, -1, -1))
        assert not torch.allclose(of_null, expected, atol=1e-2)
        expected[dropped] = of_null[dropped]
    assert torch.allclose(detail, expected, atol=1e-5)


def test_dropout_drops_text_image_and_both_at_five_percent_each() -> None:
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    text, image = DropoutConfig().masks(uniform)
    shares = torch.stack([text & ~image, text & image, ~text & image]).float().mean(dim=1)
    assert torch.allclose(shares, torch.full((3,), 0.05), atol=0.003)


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_parts_stay_in_eval_mode(stage: int) -> None:
    module = staged(stage)
    for _ in range(2):
        training = {name for name, part in module.model.named_children() if part.training}
        assert training == {name.split(".")[0] for name in expected_names(stage)}
        module.eval().train()


def test_stage_1_needs_neither_vision_nor_unet(nano: FireEditPipeline) -> None:
    module = staged(1)
    assert {name for name, _ in module.model.named_children()} == {"vlm", "qformer", "text_encoder"}
    losses = module(mixed(nano, 1))
    assert [name for name, _ in losses.named()] == ["loss", "img", "align", "diversity"]
    assert torch.equal(losses.total, losses.img + losses.align)


@pytest.mark.parametrize("stage", [2, 3])
def test_edit_tokens_can_be_aligned_with_the_text_of_an_edit(nano: FireEditPipeline, stage: int) -> None:
    """Alignment is for edits only: dialogue has no text for CLIP."""
    module, batch = staged(stage).eval(), batch_of(nano, edit_sample(1), vqa_sample(2))
    paper = seeded_losses(module, batch)
    module.objective = ObjectiveConfig(align_weight=0.5)
    losses = seeded_losses(module, batch)
    assert [name for name, _ in losses.named()] == ["loss", "img", "align", "denoise", "diversity"]
    assert torch.allclose(losses.total, paper.total + 0.5 * losses.align)

    alone = seeded_losses(module, batch_of(nano, edit_sample(1))).align
    assert torch.allclose(losses.align, alone / 2, rtol=1e-5)  # divides by both, as `denoise`
    assert torch.allclose(losses.each - paper.each, torch.stack([0.5 * alone, torch.zeros(())]), rtol=1e-3, atol=1e-5)
    other = replace(batch, text_ids=batch.null_text_ids.expand(2, -1))
    assert not torch.allclose(seeded_losses(module, other).align, losses.align, rtol=5e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_without_denoising_a_stage_trains_vlm_and_qformer_alone(nano: FireEditPipeline, stage: int) -> None:
    fresh = FireEditPipeline.fresh(0)
    parts = {name: getattr(fresh, name) for name in STAGES[stage].parts}
    objective = ObjectiveConfig(denoise_weight=0, align_weight=1)
    module = StagedFireEdit(FireEdit(**parts), STAGES[stage], preset("nano").schedule, objective=objective)
    losses = seeded_losses(module, mixed(nano, stage))
    assert [name for name, _ in losses.named()] == ["loss", "img", "align", "diversity"]
    assert torch.allclose(losses.total, losses.img + losses.align)
    trained = {name.split(".")[1] for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"vlm", "qformer"}


def test_it_trains_in_bfloat16_beside_an_exact_detector(nano: FireEditPipeline) -> None:
    module = staged(3)
    module.bfloat16()
    for part in module.exact:
        part.float()
    dtypes = {name: {p.dtype for p in part.parameters()} for name, part in module.model.named_children()}
    assert dtypes.pop("detector") == {torch.float32}
    losses = module(mixed(nano, 3))
    assert losses.total.isfinite() and losses.denoise.dtype == torch.float32


@torch.no_grad()
def test_in_bfloat16_even_the_first_timesteps_add_their_noise(nano: FireEditPipeline) -> None:
    """Rounded to bfloat16 the schedule's first two signals are 1, and leave no noise."""
    module = staged(2)
    module.bfloat16()
    module.model.detector.float()
    seeds = torch.arange(4000)
    early = seeds[Draws.of_seeds(seeds, (1, 1, 1)).uniform[:, 0] < 0.002][:4]
    batch = replace(batch_of(nano, *(edit_sample(seed) for seed in range(4))), seeds=early)
    read: list[Tensor] = []
    module.model.unet.conv_in.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    module(batch)
    draws = Draws.of_seeds(early, (48, 16, 16))
    timesteps = (draws.uniform[:, 0] * 1000).long()
    assert set(timesteps.tolist()) == {0, 1}
    clean = target_latents(nano.vae, encode_pixels(module.model.vae, batch.target_pixels), draws.target_noise)
    deviation = (1 - module.noise_schedule.alphas_cumprod.double()[timesteps]).sqrt()
    added = (read[0][:, :48].double() - clean).std(dim=(1, 2, 3))
    assert read[0].dtype == torch.bfloat16 and torch.allclose(added, deviation, rtol=0.1)


def seeded_losses(module: StagedFireEdit, batch: Batch, seed: int = 0) -> Losses:
    """Compute the losses with noise, timesteps and dropout of a seed."""
    torch.manual_seed(seed)
    return module(batch)


def test_each_caption_has_the_loss_that_it_has_alone(nano: FireEditPipeline) -> None:
    module, samples = staged(1).eval(), [caption_sample(1), caption_sample(2, "two green squares")]
    alone = [module(batch_of(nano, sample)).total for sample in samples]
    assert torch.allclose(module(batch_of(nano, *samples)).each, torch.stack(alone), rtol=1e-5)


ALL_TERMS = ObjectiveConfig(changed_weight=4, copy_floor=0.15, snr_cap=4, pure_noise=0.3, align_weight=0.5)


@pytest.mark.parametrize(("stage", "objective"), [(1, ObjectiveConfig()), (3, ALL_TERMS)])
def test_gradients_do_not_depend_on_the_split_of_a_step(
    nano: FireEditPipeline, stage: int, objective: ObjectiveConfig
) -> None:
    """Eight samples of different lengths as 1 x 8, 2 x 4 and 8 x 1 micro-batches, without dropout of activations."""
    module = staged(stage, dropout=DropoutConfig(text=0.2, image=0.2, both=0.2)).eval()
    module.objective = objective
    if stage == 1:
        samples = [caption_sample(seed, "a red circle " * (1 + seed % 4)) for seed in range(8)]
    else:
        no_copy(module)
        samples = [edit_sample(seed, "a red circle " * (1 + seed % 4)) for seed in range(5)]
        samples += [vqa_sample(seed) for seed in range(5, 8)]  # the last batches have no edits
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = []
    for count in (1, 2, 8):
        for part in range(count):
            own = slice(part * 8 // count, (part + 1) * 8 // count)
            batch = replace(batch_of(nano, *samples[own]), seeds=torch.arange(8)[own])
            (module(batch).total / count).backward()
        gradients.append([parameter.grad.clone() for parameter in trained])
        module.zero_grad()
    whole, *splits = gradients
    scale = max(float(gradient.abs().max()) for gradient in whole)
    assert scale > 1e-3
    for split in splits:
        for gradient, expected in zip(split, whole, strict=True):
            assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("stage", [2, 3])
def test_losses_of_a_sample_do_not_depend_on_the_rest_of_the_batch(nano: FireEditPipeline, stage: int) -> None:
    """LM losses equal those of each sample alone; the noise depends on the batch's shape."""
    module, edit, dialogue = staged(stage).eval(), edit_sample(1), vqa_sample(2)
    img_of_edit, img_of_dialogue = (module(batch_of(nano, sample)).img for sample in (edit, dialogue))
    assert not torch.allclose(img_of_edit, img_of_dialogue, rtol=1e-4)
    mixed = seeded_losses(module, batch_of(nano, edit, dialogue))
    expected = torch.stack([img_of_edit + 2 * mixed.denoise, img_of_dialogue])  # `denoise` divides by both
    assert torch.allclose(mixed.each, expected, rtol=1e-5)

    edits = seeded_losses(module, batch_of(nano, edit, edit_sample(5)))
    assert torch.allclose(edits.each[0], mixed.each[0], rtol=1e-5)
    assert torch.allclose(edits.each.mean(), edits.total) and torch.allclose(mixed.each.mean(), mixed.total)
    assert not torch.allclose(edits.each[0], edits.each[1], rtol=0.001)


def latents_of(nano: FireEditPipeline, pixels: Tensor) -> Tensor:
    moments = encode_pixels(nano.vae, pixels)
    return target_latents(nano.vae, moments, torch.zeros(()))


@torch.no_grad()
def with_encodings(nano: FireEditPipeline, batch: Batch) -> Batch:
    """Encode a batch as an encoding job does, but not rounded; dialogue has zeros."""
    if batch.view.shape[1] == 1:
        return replace(batch, text_states=text_states(nano.text_encoder, batch.text_ids))
    is_edit = batch.is_edit[:, None, None, None]
    pixels = (batch.source_pixels, batch.target_pixels)
    source, target = ((encode_pixels(nano.vae, image) * is_edit).contiguous() for image in pixels)
    return replace(batch, source_pixels=None, target_pixels=None, source_moments=source, target_moments=target)


@pytest.mark.parametrize("stage", STAGES)
def test_stored_encodings_give_the_losses_of_images_and_text(
    nano: FireEditPipeline, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = staged(stage, dropout=DropoutConfig(text=0.3, image=0.3, both=0.3))
    plain = mixed(nano, stage)
    encoded = with_encodings(nano, plain)
    calls: list[int] = []
    if stage == 1:
        module.model.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    else:
        encode = module.model.vae.encode
        monkeypatch.setattr(module.model.vae, "encode", lambda pictures: calls.append(1) or encode(pictures))
    for seed in range(3):
        expected, losses = seeded_losses(module, plain, seed), seeded_losses(module, encoded, seed)
        assert torch.allclose(losses.total, expected.total, rtol=1e-6)
        assert torch.allclose(losses.each, expected.each, rtol=1e-6)
    assert len(calls) == 3 * (1 if stage == 1 else 2), "the encoder runs for the plain batch only"


def test_changed_cells_weigh_more_and_all_samples_weigh_the_same() -> None:
    source = torch.randn(3, 4, 8, 8)
    target = source + 0.01 * torch.randn_like(source)
    target[0, :, :2, :2] += 2
    target[1] += torch.randn(4, 8, 8)
    weights = change_weights(source, target, weight=4.0)
    assert weights.shape == (3, 1, 8, 8) and torch.allclose(weights.mean(dim=(1, 2, 3)), torch.ones(3))
    changed, unchanged = weights[0, 0, :2, :2].mean(), weights[0, 0, 2:, 2:].mean()
    assert changed / unchanged == pytest.approx(5, rel=0.05)
    assert weights[2].max() < 1.05 and torch.equal(change_weights(source, target, 0.0), torch.ones(3, 1, 8, 8))


def latents_before_and_after() -> tuple[Tensor, Tensor]:
    """Draw latents [4, 48, 16, 16] of four edits with changes of scale 0.3, 3, 0.03 and 0."""
    source = torch.randn(4, 48, 16, 16, generator=torch.Generator().manual_seed(0))
    change = torch.randn(4, 48, 16, 16, generator=torch.Generator().manual_seed(1))
    return source, source + change * torch.tensor([0.3, 3.0, 0.03, 0.0])[:, None, None, None]


def test_without_an_objective_errors_are_plain_mean_squares() -> None:
    source, clean = latents_before_and_after()
    predicted, target, snr = torch.randn_like(clean), torch.randn_like(clean), torch.rand(4)
    errors = edit_errors(predicted, target, source, clean, snr, ObjectiveConfig())
    assert errors.shape == (4,) and errors.dtype == torch.float32
    assert torch.equal(errors, (predicted - target).square().mean(dim=(1, 2, 3)))
    assert torch.allclose(errors.mean(), F.mse_loss(predicted, target))
    half = edit_errors(predicted.half(), target.half(), source, clean, snr, ObjectiveConfig())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("changed_weight", [0.0, 4.0])
def test_with_a_floor_edits_of_any_size_weigh_the_same(changed_weight: float) -> None:
    """A copy has a loss near 1, an edit that is two thirds done a ninth of it; a copy for an edit of nothing 0."""
    source, clean = latents_before_and_after()
    objective = ObjectiveConfig(copy_floor=1e-4, changed_weight=changed_weight)
    copies = edit_errors(source, clean, source, clean, torch.zeros(4), objective)
    assert torch.allclose(copies[:2], torch.ones(2), atol=2e-3) and 0.85 < copies[2] < 1 and copies[3] == 0
    halfway = edit_errors(clean + (source - clean) / 3, clean, source, clean, torch.zeros(4), objective)
    assert torch.allclose(halfway, copies / 9, atol=1e-5)
    damaged = edit_errors(source + 0.1, clean, source, clean, torch.zeros(4), objective)
    assert damaged[3] == pytest.approx(0.01 / 1e-4, rel=1e-3)


def test_samples_with_little_noise_weigh_more_up_to_the_cap() -> None:
    source, clean = latents_before_and_after()
    args = torch.randn_like(clean), clean, source, clean, torch.tensor([0.0, 1.0, 4.0, 1e6])
    plain, capped = (edit_errors(*args, ObjectiveConfig(snr_cap=cap)) for cap in (None, 5.0))
    assert torch.allclose(capped / plain, torch.tensor([1.0, 4.0, 5.0, 5.0]))


def test_pure_noise_has_its_fraction_and_the_rest_is_uniform() -> None:
    schedule = training_noise(SCHEDULE)
    uniform = torch.rand(100_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = choose_timesteps(schedule, ObjectiveConfig(), uniform)
    assert torch.equal(plain, (uniform[:, 0] * 1000).floor().long()), "the paper's: every timestep alike"
    timesteps = choose_timesteps(schedule, ObjectiveConfig(pure_noise=0.4), uniform)
    assert timesteps.shape == (100_000,) and timesteps.dtype == torch.int64
    assert float((timesteps == 999).float().mean()) == pytest.approx(0.4006, abs=0.01)
    others = timesteps[timesteps < 999].float()
    assert float(others.mean()) == pytest.approx(499, abs=5) and others.min() == 0 and others.max() == 998


@torch.no_grad()
def test_at_pure_noise_the_input_does_not_depend_on_the_target(nano: FireEditPipeline) -> None:
    module, batch = staged(2), batch_of(nano, edit_sample(1))
    module.objective = ObjectiveConfig(pure_noise=1.0)
    read: list[Tensor] = []
    module.model.unet.conv_in.register_forward_pre_hook(lambda _, args: read.append(args[0][:, :48]))
    for target in (batch.target_pixels, batch.source_pixels):
        seeded_losses(module, replace(batch, target_pixels=target))
    assert torch.equal(*read)


def test_losses_are_weighted_one_to_one() -> None:
    img, errors = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([4.0, 2.0], requires_grad=True)
    losses = Losses.begin(img, torch.eye(96)[None, :77]).plus("denoise", errors)
    assert losses.total == 5 and losses.each.tolist() == [5, 5] and not losses.each.requires_grad
    assert {name: float(value) for name, value in losses.named()} == {
        "loss": 5.0,
        "img": 2.0,
        "denoise": 3.0,
        "diversity": 1.0,
    }
    losses.total.backward()
    assert img.grad.tolist() == errors.grad.tolist() == [0.5, 0.5]


def test_the_diversity_is_zero_for_equal_edit_tokens_and_counts_edits_alone() -> None:
    tokens = torch.randn(2, 77, 96, generator=torch.Generator().manual_seed(0))
    tokens[1] = tokens[1, :1]
    each = query_diversity(tokens)
    assert each[0] > 0.9 and each[1].abs() < 1e-6
    for made, expected in (([True, False], each[0]), ([False, True], each[1]), ([False, False], each.mean())):
        losses = Losses.begin(torch.ones(2), tokens, made=torch.tensor(made))
        assert torch.allclose(losses.diversity, expected, atol=1e-6)
    assert torch.allclose(Losses.begin(torch.ones(2), tokens).diversity, each.mean())


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_looks_at_no_value_on_its_device(
    nano: FireEditPipeline, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the meta device have no values: code that would wait for a GPU's fails. Only proposals are fetched."""
    module = staged(stage, dropout=DropoutConfig(text=0.3, image=0.3, both=0.3)).to("meta")
    module.objective = replace(ALL_TERMS, align_weight=1.0)
    boxes = [torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.0, 0.2, 0.3, 0.9]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
    monkeypatch.setattr(module.model, "perceive", partial(module.model.perceive, boxes=boxes))
    losses = module(mixed(nano, stage).to("meta"))
    losses.total.backward()
    assert all(value.is_meta for _, value in losses.named()) and losses.each.shape == (2,)
