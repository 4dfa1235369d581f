"""FireEditPipeline: diffusers' interface, the paper's guidance, output sizes, samplers, arguments."""

import copy
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin
from PIL import Image
from torch import Tensor

from fireedit.jobs.evaluation.cases import Cases
from fireedit.models.hvca import HVCA
from fireedit.models.model import NANO, Percepts, preset
from fireedit.models.pipeline import FireEditPipeline, FireEditPipelineOutput
from fireedit.models.processor import squash
from fireedit.models.sampling import SamplingState
from fireedit.models.settings import PaintSettings
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.vae import NotFiniteError, encode_pixels, source_latents
from fireedit.models.vision import Sources
from fireedit.platform.images import Picture
from tests.factories import PAPERLIKE, files_of, picture, shaken

QUICK = {"num_inference_steps": 3}


@pytest.fixture(scope="module")
def saved(editor: FireEditPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    editor.save_pretrained(folder)
    return folder


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loaded(folder: Path, **settings: Any) -> FireEditPipeline:
    pipeline = FireEditPipeline.from_pretrained(folder, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit(pipeline: FireEditPipeline, seed: int = 0, **settings: Any) -> FireEditPipelineOutput:
    return pipeline("make it red", Image.fromarray(picture(1)), generator=seeded(seed), **{**QUICK, **settings})


def with_null_detail(pipeline: FireEditPipeline) -> FireEditPipeline:
    """Replace HVCA by one of the same weights that reads the null tokens where text is dropped."""
    hvca = copy.deepcopy(pipeline.hvca)
    hvca.register_to_config(null_detail=True)
    changed = FireEditPipeline(**{**pipeline.components, "hvca": hvca})
    changed.set_progress_bar_config(disable=True)
    return changed


def source_of(pipeline: FireEditPipeline, pixels: Tensor) -> Tensor:
    return source_latents(encode_pixels(pipeline.vae, pixels))


# Saving and loading


def test_a_saved_pipeline_gives_the_same_pixels_each_time_it_is_loaded(editor: FireEditPipeline, saved: Path) -> None:
    pictures = [edit(pipeline, output_type="np").images for pipeline in (loaded(saved), loaded(saved), editor)]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.allclose(pictures[0], pictures[2], atol=1e-5), "loaded tensors are aligned otherwise"


def test_a_saved_pipeline_has_named_components_and_no_pickles(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    parts = {name for name in index if not name.startswith("_")} - {"settings"}
    assert index["_class_name"] == "FireEditPipeline"
    assert parts == {*FireEditPipeline.PERCEIVING, *FireEditPipeline.UNDERSTANDING, *FireEditPipeline.PAINTING}
    assert index["tati"] == ["fireedit.models.tati", "TATI"]
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    with_weights = {path.parent.name for path in saved.rglob("*.safetensors")}
    assert with_weights == parts - {"scheduler", "tokenizer", "vlm_tokenizer"}


def test_perceiving_understanding_and_painting_load_separately(saved: Path) -> None:
    """Run an edit as three deployments do."""
    groups = [FireEditPipeline.PERCEIVING, FireEditPipeline.UNDERSTANDING, FireEditPipeline.PAINTING]
    perceiving, understanding, painting = (loaded(saved, parts=group) for group in groups)
    for pipeline, group in zip((perceiving, understanding, painting), groups, strict=True):
        assert {name for name, part in pipeline.components.items() if part is not None} == set(group)
    source = Picture(picture(1))
    canvases = [source.canvas(64)]
    percepts = perceiving.perceive(canvases)
    edit_tokens = understanding.understand(percepts, ["make it red"])
    settings = painting.settings.but(num_inference_steps=3)
    state = painting.prepare(canvases, percepts, edit_tokens, settings, seeded(0))
    (separate,) = painting.restore(state, painting.paint(state), [source], canvases)
    assert np.array_equal(separate, np.asarray(edit(loaded(saved)).images[0]))


@pytest.mark.parametrize("sources", ["coarse", "fine"])
def test_a_process_without_hvca_computes_the_sources_that_the_saved_one_reads(
    editor: FireEditPipeline, tmp_path: Path, sources: Sources
) -> None:
    hvca = shaken(HVCA(replace(preset("nano").hvca, sources=sources)))
    FireEditPipeline(**{**editor.components, "hvca": hvca}).save_pretrained(tmp_path)
    whole, part = loaded(tmp_path), loaded(tmp_path, parts=FireEditPipeline.PERCEIVING)
    own, served = (pipeline.perceive([picture(1, 64, 64)]).detail for pipeline in (whole, part))
    assert len(own) == 2 and all(torch.equal(*pair) for pair in zip(own, served, strict=True))
    edit_tokens = torch.randn(1, 77, 96, generator=seeded(0))
    assert whole.hvca(served, edit_tokens).shape == (1, 16, 96)


def test_an_ablation_without_hvca_computes_no_sources(editor: FireEditPipeline, tmp_path: Path) -> None:
    FireEditPipeline(**{**editor.components, "hvca": None}).save_pretrained(tmp_path)
    for pipeline in (loaded(tmp_path), loaded(tmp_path, parts=FireEditPipeline.PERCEIVING)):
        assert pipeline.perceive([picture(1, 64, 64)]).detail == ()


def test_settings_are_saved_with_the_weights(nano: FireEditPipeline, saved: Path) -> None:
    assert loaded(saved).settings == nano.settings == preset("nano").painting != PaintSettings()


def test_a_pipeline_of_anothers_components_keeps_its_settings(editor: FireEditPipeline, saved: Path) -> None:
    own = {**editor.config.settings, "num_inference_steps": 7}
    other = FireEditPipeline(**editor.components, settings=own)
    assert FireEditPipeline(**other.components).settings == other.settings != editor.settings
    assert FireEditPipeline(**editor.components).settings == editor.settings
    assert FireEditPipeline.from_pipe(other).settings == other.settings
    assert loaded(saved).to(torch.float32).settings == editor.settings


def test_every_part_is_loaded_in_float32_unless_another_precision_is_asked_for() -> None:
    for asked, expected in (({}, torch.float32), ({"dtype": torch.bfloat16}, torch.bfloat16)):
        pipeline = FireEditPipeline.from_pretrained("nano", parts=("text_encoder", "tati", "vae"), **asked)
        assert {part.dtype for part in pipeline.components.values() if part is not None} == {expected}


def test_a_pipeline_of_many_precisions_is_loaded_and_saved_as_it_is(saved: Path, tmp_path: Path) -> None:
    pipeline = loaded(saved, dtype=torch.bfloat16)
    pipeline.unet.float()
    pipeline.vlm.new_head.float()
    pipeline.save_pretrained(tmp_path)
    before, after = pipeline.model.state_dict(), loaded(tmp_path, dtype="auto").model.state_dict()
    assert {tensor.dtype for tensor in before.values()} == {torch.float32, torch.bfloat16}
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name
    assert all(file.startswith(str(tmp_path)) for file in files_of(after).values()), "no tensor is copied"


def test_switches_of_the_attention_keep_the_picture_and_the_weights(saved: Path) -> None:
    pipeline = loaded(saved)
    before, weights = edit(pipeline, output_type="latent").images, set(pipeline.unet.state_dict())
    for switch in ("enable_attention_slicing", "disable_attention_slicing", "fuse_qkv_projections"):
        getattr(pipeline, switch)()
        assert (edit(pipeline, output_type="latent").images - before).abs().max() < 1e-3, switch
        assert weights <= set(pipeline.unet.state_dict())
    pipeline.unfuse_qkv_projections()
    with pytest.raises(ModuleNotFoundError, match="xformers"):
        pipeline.enable_xformers_memory_efficient_attention()
    assert set(pipeline.unet.state_dict()) == weights
    assert torch.equal(edit(pipeline, output_type="latent").images, before)


def test_the_shipped_weights_are_small_and_follow_instructions() -> None:
    assert sum(path.stat().st_size for path in NANO.rglob("*.safetensors")) <= 30e6, "with the judges"
    editor = FireEditPipeline.from_pretrained("nano", dtype=torch.float32)
    editor.set_progress_bar_config(disable=True)
    cases = Cases(64).of("unseen_seeds", "remove", 8)
    source, target = (np.stack([getattr(case, side) for case in cases]) / 255 for side in ("source", "target"))
    noise = [seeded(case.seed) for case in cases]
    edited = editor(
        [case.instruction for case in cases], [case.source for case in cases], generator=noise, output_type="np"
    ).images
    changed = (source != target).any(axis=-1)
    errors, before = (np.abs(pictures - target).mean(axis=-1) for pictures in (edited, source))
    assert errors[changed].mean() < 0.8 * before[changed].mean(), "closer to the target than the source is"
    assert errors[~changed].mean() < 0.06


def test_fresh_weights_give_a_square_picture_back_pixel_for_pixel(nano: FireEditPipeline) -> None:
    image = picture(1, 64, 64)
    edited = nano("make it red", image, generator=seeded(0)).images[0]
    assert np.array_equal(np.asarray(edited), image)


def test_fresh_weights_are_the_same_for_the_same_seed() -> None:
    torch.manual_seed(5)
    first = FireEditPipeline.fresh(seed=1).model.state_dict()
    undisturbed = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), undisturbed), "the caller's random numbers go on"
    second = FireEditPipeline.fresh(seed=1).model.state_dict()
    other = FireEditPipeline.fresh(seed=2).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["unet.conv_in.weight"], other["unet.conv_in.weight"])


def test_fresh_weights_of_the_papers_parts_edit_in_bfloat16() -> None:
    pipeline = FireEditPipeline.fresh(0, PAPERLIKE, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("make it red", picture(1), num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 60, 80, 3) and np.isfinite(image).all()


def test_fresh_parts_are_frozen_and_in_eval_mode(editor: FireEditPipeline) -> None:
    assert not any(parameter.requires_grad for parameter in editor.model.parameters())
    assert not any(module.training for module in editor.model.children())


def test_it_runs_in_bfloat16(saved: Path) -> None:
    pipeline = loaded(saved, dtype=torch.bfloat16)
    dtypes = {name: {x.dtype for x in part.parameters()} for name, part in pipeline.model.named_children()}
    assert dtypes.pop("detector") == {torch.float32}, "rounding would swap the ranks of its queries"
    assert dtypes.pop("vae") == set() and pipeline.vae.dtype == torch.bfloat16, "the codec has no parameters"
    assert all(dtype == {torch.bfloat16} for dtype in dtypes.values())
    image = edit(pipeline, output_type="np").images
    assert image.dtype == np.float32 and np.isfinite(image).all()


# Output


def test_the_output_has_images_and_the_regions_that_the_vlm_read(editor: FireEditPipeline) -> None:
    output = edit(editor)
    assert isinstance(output.images[0], Image.Image) and output.images[0].size == (80, 60)
    regions = output.regions[0]
    assert len(output.regions) == 1 and regions.boxes.shape == (len(regions.scores), 4)
    assert ((regions.boxes >= 0) & (regions.boxes <= 1)).all() and ((regions.scores > 0) & (regions.scores < 1)).all()


def test_without_return_dict_it_is_a_tuple(editor: FireEditPipeline) -> None:
    pictures, regions = edit(editor, return_dict=False)
    assert pictures[0].size == (80, 60) and len(regions) == 1


def test_output_types_agree(editor: FireEditPipeline) -> None:
    pil, array, tensor, latents = (edit(editor, output_type=kind).images for kind in ("pil", "np", "pt", "latent"))
    assert array.shape == (1, 60, 80, 3) and tensor.shape == (1, 3, 60, 80) and latents.shape == (1, 48, 16, 16)
    assert np.abs(np.asarray(pil[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    assert np.allclose(tensor[0].permute(1, 2, 0), array[0])
    canvas = edit(editor, output_type="np", size=(64, 64), keep_below=0.0).images[0]
    assert canvas.shape == (64, 64, 3)


def test_the_result_is_the_edited_canvas_where_source_and_canvas_are_of_one_size(editor: FireEditPipeline) -> None:
    source = picture(1, 64, 64)
    for below in (0.0, 0.03):
        how = {"generator": seeded(0), "keep_below": below, **QUICK}
        result = np.asarray(editor("make it red", source, **how).images[0])
        latents = editor("make it red", source, output_type="latent", **how | {"generator": seeded(0)}).images
        (canvas,) = editor.decode(latents)
        change = (latents - source_of(editor, torch.tensor(source)[None])).square().mean(dim=1)[0]
        changed = np.kron(change.numpy() >= below, np.ones((4, 4))) > 0
        assert np.array_equal(result[changed], canvas[changed]) and np.array_equal(result[~changed], source[~changed])
        assert changed.all() if below == 0 else 0 < changed.mean() <= 1


def test_a_photo_comes_back_upright_in_its_size_with_its_transparency(editor: FireEditPipeline) -> None:
    pixels = np.dstack([picture(1, 90, 60), np.full((60, 90), 255, np.uint8)])
    pixels[:, :30, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    result = editor("make it red", Image.open(file), generator=seeded(0), **QUICK).images[0]
    assert (result.mode, result.size) == ("RGBA", (60, 90))
    assert np.array_equal(np.asarray(result)[..., 3], np.rot90(pixels[..., 3], -1))


def test_outside_a_mask_the_source_keeps_its_pixels(editor: FireEditPipeline) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:50, 10:40] = 255
    result = np.asarray(edit(editor, mask_image=Image.fromarray(mask), keep_below=0.0).images[0])
    changed = (result != picture(1)).any(axis=-1)
    assert not changed[mask == 0].any() and changed[mask == 255].mean() > 0.5
    with pytest.raises(ValueError, match="mask_image: found 80 x 59; .*80 x 60"):
        edit(editor, mask_image=mask[:-1])


def test_regions_given_replace_the_detectors(editor: FireEditPipeline) -> None:
    box = np.array([[0.1, 0.2, 0.6, 0.9]], np.float32)
    output = edit(editor, regions=[box])
    assert np.array_equal(output.regions[0].boxes, box) and output.regions[0].scores.tolist() == [1]
    free = edit(editor, regions=[None]).images[0]
    assert np.array_equal(np.asarray(free), np.asarray(edit(editor).images[0]))


def test_pictures_of_several_shapes_come_back_in_their_own(editor: FireEditPipeline) -> None:
    images = [Image.fromarray(picture(1, 90, 30)), picture(2, 40, 70)]
    edited = editor(["make it red", "add a dog"], images, num_inference_steps=1).images
    assert [image.size for image in edited] == [(90, 30), (40, 70)]


# Seeds and batches


def test_images_of_one_prompt_are_adjacent_and_equal_single_runs(editor: FireEditPipeline) -> None:
    generators = [seeded(seed) for seed in range(4)]
    images = [picture(1), picture(2)]
    prompts = ["make it red", "a much longer instruction: put a dog beside it"]
    output = editor(prompts, images, num_images_per_prompt=2, generator=generators, output_type="np", **QUICK)
    assert len(output.images) == 4 and len(output.regions) == 2
    for index in range(4):
        prompt, image = prompts[index // 2], index // 2 + 1
        alone = editor(prompt, picture(image), generator=seeded(index), output_type="np", **QUICK).images
        assert np.abs(output.images[index] - alone[0]).max() < 1 / 255
    assert np.abs(output.images[3] - output.images[2]).max() > 1 / 255


def test_one_seed_gives_one_picture(editor: FireEditPipeline) -> None:
    first, again, other = (edit(editor, seed, output_type="np").images for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_generators_may_be_a_tuple_and_numbers_numpys(editor: FireEditPipeline) -> None:
    def run(number: Any, kind: Any) -> Tensor:
        noise = kind(seeded(seed) for seed in range(2))
        counts = {"num_images_per_prompt": number(2), "num_inference_steps": number(2)}
        return editor("make it red", picture(1), generator=noise, output_type="latent", **counts).images

    assert torch.equal(run(np.int64, tuple), run(int, list))


def test_given_latents_replace_the_initial_noise(editor: FireEditPipeline) -> None:
    noise = torch.randn(1, 48, 16, 16, generator=seeded(0))
    generator = seeded(0)
    expected = edit(editor, output_type="latent").images
    torch.randn(1, 48, 16, 16, generator=generator)
    result = editor("make it red", picture(1), latents=noise, generator=generator, output_type="latent", **QUICK).images
    assert torch.equal(result, expected)


def test_copies_of_a_source_share_its_encodings(editor: FireEditPipeline) -> None:
    """Vision, HVCA, VAE and TATI run on sources, not on outputs; null text on one prompt."""
    sizes = dict[str, set[int]]()
    hooks = [
        getattr(editor, name).register_forward_pre_hook(
            lambda _, args, name=name: sizes.setdefault(name, set()).add(len(args[-1])), with_kwargs=False
        )
        for name in ("vision", "hvca", "text_encoder")
    ]
    edit(editor, num_images_per_prompt=3, guidance_scale=2.0)
    for hook in hooks:
        hook.remove()
    assert sizes == {"vision": {1}, "hvca": {1}, "text_encoder": {1}}


def test_samplings_can_be_stepped_in_turns(editor: FireEditPipeline) -> None:
    percepts, edit_tokens = understood(editor, "make it red")
    settings = [editor.settings.but(num_inference_steps=steps) for steps in (2, 3)]

    def prepared(settings: PaintSettings) -> SamplingState:
        return editor.prepare([squash(picture(1), 64)], percepts, edit_tokens, settings, [seeded(0)])

    expected = [editor.paint(prepared(each)) for each in settings]
    short, long = map(prepared, settings)
    for state in (long, short, short, long, long):
        editor.denoise(state)
    assert (short.step, long.step) == (2, 3)
    assert torch.equal(editor.finish(short), expected[0]) and torch.equal(editor.finish(long), expected[1])


def test_samplings_stepped_together_are_as_alone(editor: FireEditPipeline) -> None:
    percepts, edit_tokens = understood(editor, "make it red")
    settings = [
        editor.settings.but(num_inference_steps=steps, guidance_scale=scale)
        for steps, scale in ((2, 1.0), (3, 4.0), (2, 4.0))
    ]

    def prepared(index: int) -> SamplingState:
        return editor.prepare([squash(picture(index), 64)], percepts, edit_tokens, settings[index], [seeded(index)])

    states = [prepared(index) for index in range(3)]
    editor.denoise(*states)
    editor.denoise(*states)
    editor.denoise(states[1])
    for index, state in enumerate(states):
        assert state.steps_left == 0
        assert torch.equal(editor.finish(state), editor.paint(prepared(index)))


# Guidance


def understood(editor: FireEditPipeline, prompt: str) -> tuple[Percepts, Tensor]:
    percepts = editor.perceive([picture(1)])
    return percepts, editor.understand(percepts, [prompt])


@torch.no_grad()
@pytest.mark.parametrize(
    ("s_text", "s_image", "null_detail"), [(6.0, 1.3, False), (6.0, 1.3, True), (1.0, 1.3, False), (1.0, 1.0, True)]
)
def test_guidance_is_the_papers_formula_step_by_step(
    editor: FireEditPipeline, s_text: float, s_image: float, null_detail: bool
) -> None:
    """Compute e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, c) - e(I, 0)), one UNet call at a time."""
    editor = with_null_detail(editor) if null_detail else editor
    percepts, edit_tokens = understood(editor, "make it red")
    source = source_of(editor, torch.tensor(squash(picture(1), 64))[None])
    null = text_states(editor.text_encoder, tokenize_text(editor.tokenizer, ["blurry"], 77))
    detail = editor.hvca(percepts.detail, edit_tokens)
    detail_of_null = editor.hvca(percepts.detail, null) if null_detail else detail
    no_source, no_detail = torch.zeros_like(source), torch.zeros_like(detail)
    scheduler, generator = type(editor.scheduler).from_config(editor.scheduler.config), seeded(4)
    scheduler.set_timesteps(4)
    latents = torch.randn(1, 48, 16, 16, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        noisy, timed = scheduler.scale_model_input(latents, t), editor.tati(edit_tokens, t[None])
        full = editor.unet.predict(noisy, source, t, timed, detail)
        image_only = editor.unet.predict(noisy, source, t, null, detail_of_null)
        unconditional = editor.unet.predict(noisy, no_source, t, null, no_detail)
        noise = unconditional + s_image * (image_only - unconditional) + s_text * (full - image_only)
        latents = scheduler.step(noise, t, latents, generator=generator).prev_sample
    settings = {
        "guidance_scale": s_text,
        "image_guidance_scale": s_image,
        "negative_prompt": "blurry",
        "keep_below": 0.0,
    }
    result = edit(editor, 4, num_inference_steps=4, output_type="latent", **settings).images
    assert torch.allclose(result, latents, rtol=1e-3, atol=1e-3)


def read_by_the_unet(editor: FireEditPipeline, **settings: float) -> tuple[Tensor, Tensor, Tensor]:
    """Record latents, tokens and details of the last step of an edit."""
    with patch.object(editor.unet, "predict", wraps=editor.unet.predict) as predict:
        edit(editor, **settings)
    noisy, source, _, tokens, details, *_ = predict.call_args.args
    return torch.cat([noisy, source], dim=1), tokens, details


@torch.no_grad()
def test_a_saved_pipeline_keeps_the_detail_of_dropped_text(editor: FireEditPipeline, tmp_path: Path) -> None:
    with_null_detail(editor).save_pretrained(tmp_path)
    kept = loaded(tmp_path)
    percepts, edit_tokens = understood(kept, "make it red")
    states = [
        pipeline.prepare([squash(picture(1), 64)], percepts, edit_tokens, pipeline.settings.but(guidance_scale=scale))
        for pipeline, scale in ((kept, 4.0), (kept, 1.0), (editor, 4.0))
    ]
    null = text_states(kept.text_encoder, tokenize_text(kept.tokenizer, [""], 77))
    assert torch.allclose(states[0].null_detail, kept.hvca(percepts.detail, null), atol=1e-6)
    assert states[1].null_detail is None, "nothing is dropped without guidance"
    assert states[2].null_detail is None, "the default"


def test_at_scales_of_one_only_the_first_branch_is_computed(editor: FireEditPipeline) -> None:
    latents, tokens, details = read_by_the_unet(editor, guidance_scale=1.0, image_guidance_scale=1.0)
    assert len(latents) == len(tokens) == len(details) == 1
    alone = edit(editor, guidance_scale=1.0, image_guidance_scale=1.0, output_type="latent").images
    formula = edit(editor, guidance_scale=1.0, image_guidance_scale=1.0 + 1e-12, output_type="latent").images
    assert torch.allclose(alone, formula, atol=1e-4)


# Samplers


def with_sampler(saved: Path, editor: FireEditPipeline, sampler: type[SchedulerMixin]) -> FireEditPipeline:
    """Replace the sampler by another class with the saved scheduler config."""
    scheduler = sampler.from_config(sampler.load_config(saved / "scheduler"))
    changed = FireEditPipeline(**{**editor.components, "scheduler": scheduler}, settings=editor.config.settings)
    changed.set_progress_bar_config(disable=True)
    return changed


def error_of_an_oracle(pipeline: FireEditPipeline, steps: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Compute the root mean square error of the latents if every prediction is the clean image."""
    percepts, edit_tokens = understood(pipeline, "make it red")
    with torch.no_grad():
        clean = source_of(pipeline, torch.tensor(squash(picture(2), 64))[None])
    monkeypatch.setattr(pipeline.unet, "predict", lambda noisy, *_: clean.expand_as(noisy))
    settings = pipeline.settings.but(num_inference_steps=steps)
    latents = pipeline.paint(pipeline.prepare([squash(picture(1), 64)], percepts, edit_tokens, settings, [seeded(3)]))
    return float((latents - clean).square().mean().sqrt())


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize(
    "sampler",
    [
        diffusers.DDIMScheduler,
        diffusers.DDPMScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.EulerDiscreteScheduler,
        diffusers.LMSDiscreteScheduler,
        diffusers.UniPCMultistepScheduler,
    ],
)
def test_the_saved_schedule_fits_every_sampler_of_clean_latents(
    editor: FireEditPipeline, saved: Path, sampler: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tolerance 0.001: Euler starts at 4096 times the latents, where float32 rounds to 0.0002."""
    assert error_of_an_oracle(with_sampler(saved, editor, sampler), steps, monkeypatch) < 1e-3


# Callbacks and invalid arguments


def test_a_callback_sees_every_step(editor: FireEditPipeline) -> None:
    seen: list[tuple[int, float, Sequence[str]]] = []

    def record(pipe: FireEditPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is editor
        seen.append((step, float(timestep), list(tensors)))
        return tensors

    plain = edit(editor, output_type="latent").images
    recorded = edit(editor, output_type="latent", callback_on_step_end=record).images
    assert torch.equal(recorded, plain)
    assert [step for step, _, _ in seen] == [0, 1, 2] and all(names == ["latents"] for _, _, names in seen)
    assert [timestep for _, timestep, _ in seen] == [999, 666, 332]


def test_a_callback_may_change_the_latents(editor: FireEditPipeline) -> None:
    def clear(_: FireEditPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    edited = edit(editor, output_type="latent", keep_below=0.0, callback_on_step_end=clear)
    assert edited.images.abs().max() == 0


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "noise.*latents"),
        ({"prompt": ["one", "two"]}, "2 prompts for 1 images"),
        ({"prompt": "paint " * 300}, "prompt of [0-9]+ tokens"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": [], "image": []}, "prompt is empty"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "array of float32"),
        ({"size": "large"}, "size is 'large'"),
        ({"image": np.zeros((0, 0, 3), np.uint8)}, "^image: found 0 x 0 pixels"),
        ({"mask_image": [None]}, "^mask_image is a NoneType"),
        ({"mask_image": np.ones((64, 64), np.uint8)}, "^mask_image: .*send 255, or bool"),
        ({"prompt": 5}, "^prompt is 5"),
        ({"latents": 5}, "^latents: found a int"),
        ({"callback_on_step_end": 5}, "^callback_on_step_end is a int; write a function"),
        ({"callback_on_step_end_tensor_inputs": 5}, "^callback_on_step_end_tensor_inputs is 5; write a list"),
        ({"regions": [[[0, 0, 2, 1]]]}, "regions hold"),
        ({"regions": [None, None]}, "regions for 2 images"),
        ({"image": torch.zeros(3, 8, 8)}, "image is a Tensor"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"num_images_per_prompt": 2, "generator": [torch.Generator()]}, "1 generators for 2 pictures"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, r"latents.*\[1, 4, 16, 16\].*\[1, 48, 16, 16\]"),
        ({"output_type": "jpg"}, "output_type.*jpg"),
    ],
)
def test_an_invalid_argument_is_refused_with_its_value(
    editor: FireEditPipeline, invalid: dict[str, Any], message: str
) -> None:
    valid = {"prompt": "Remove the dog.", "image": np.zeros((64, 64, 3), np.uint8), "num_inference_steps": 1}
    with pytest.raises(ValueError, match=message):
        editor(**{**valid, **invalid})


@pytest.mark.parametrize("keep_below", [0, 0.03])
def test_an_edit_that_is_not_finite_is_no_copy_of_the_source(editor: FireEditPipeline, keep_below: float) -> None:
    with pytest.raises(NotFiniteError, match="found .* NaN or infinite; write smaller guidance scales"):
        edit(editor, guidance_scale=1e38, keep_below=keep_below)


def test_keep_below_draws_cells_that_hardly_change_back_to_the_source(editor: FireEditPipeline) -> None:
    """Cells at a distance of `keep_below` or more stay unchanged."""
    canvas = torch.tensor(squash(picture(1), editor.vae.config.sample_size))[None]
    with torch.no_grad():
        source = source_of(editor, canvas) * editor.vae.config.scaling_factor
    sampled = edit(editor, output_type="latent", keep_below=0.0).images
    below = float((sampled - source).square().mean(dim=1).median())
    kept = edit(editor, output_type="latent", keep_below=below).images
    unchanged = (sampled - source).square().mean(dim=1, keepdim=True).expand_as(sampled) >= below
    assert 0 < unchanged.float().mean() < 1 and torch.allclose(kept[unchanged], sampled[unchanged], atol=1e-5)
    assert ((kept - source).abs() < (sampled - source).abs())[~unchanged].float().mean() > 0.99
