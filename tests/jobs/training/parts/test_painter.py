"""The UNet before the stages: its supervision, its loss, and its weights for the stages."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fireedit.jobs.training.parts.painter import (
    CELL_CONTENTS,
    CELL_LOOKS,
    FIRST_OBJECT,
    PainterRecipe,
    PainterTask,
    UNetWithProbes,
)
from fireedit.jobs.training.pretraining import pretrain
from fireedit.models.model import NANO, FireEditConfig, preset
from fireedit.models.settings import PaintSettings
from fireedit.models.stages import ObjectiveConfig
from fireedit.models.unet import EditUNet
from fireedit.models.vae import load_vae
from fireedit.platform.scenes.families import FAMILIES, NO_OP, training_edit
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig


@pytest.fixture(scope="module")
def sizes() -> FireEditConfig:
    nano = preset("nano")
    unet = replace(nano.unet, block_out_channels=(16, 16), layers_per_block=1, attention_head_dim=2)
    return replace(
        nano, unet=unet, painting=PaintSettings(num_inference_steps=1, guidance_scale=1, image_guidance_scale=1)
    )


@pytest.fixture
def task(sizes: FireEditConfig, tmp_path: Path) -> PainterTask:
    return make_task(sizes, tmp_path)


def make_task(sizes: FireEditConfig, folder: Path) -> PainterTask:
    for name in ("tokenizer", "text_encoder"):
        shutil.copytree(NANO / name, folder / "out" / name, dirs_exist_ok=True)
    optimizer = OptimizerConfig(lr=1e-3, muon_lr=2e-3, adamw_only=("unet.conv_in", "unet.conv_out"))
    objective = ObjectiveConfig(changed_weight=4, copy_floor=0.15, snr_cap=4, pure_noise=0.3)
    recipe = PainterRecipe(
        steps=4, batch=4, workers=0, pool=20, held_out=1, home=str(folder), optimizer=optimizer, objective=objective
    )
    torch.manual_seed(0)
    return PainterTask(sizes, recipe, folder / "out")


def test_every_cell_is_labelled_with_its_content_and_look(task: PainterTask) -> None:
    for seed in range(12):
        edit, shown = training_edit(TRAIN, seed), task.draw(seed)["shown"]
        assert shown.shape == (2, 2, 16, 16) and shown.dtype == torch.uint8
        for scene, (contents, looks) in zip((edit.source, edit.target), shown, strict=True):
            names = {CELL_CONTENTS[index] for index in contents.unique().tolist()}
            assert names <= {*(placed.name for placed in scene.objects), scene.background, "mirror"}
            ground = contents < FIRST_OBJECT
            assert {CELL_LOOKS[index] for index in looks[ground].unique().tolist()} <= {scene.effect or "plain"}


def test_a_fresh_unet_copies_and_its_loss_falls(task: PainterTask) -> None:
    batch, losses = default_collate([task.draw(seed) for seed in range(8)]), []
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    for _ in range(30):
        torch.manual_seed(0)
        terms: Mapping[str, Tensor] = task.losses(task.model, batch)
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    assert losses[0]["inside"] == pytest.approx(1, abs=1e-3) and losses[0]["outside"] < 1e-6, "a copy at first"
    assert losses[-1]["painting"] < 0.9 * losses[0]["painting"] and losses[-1]["reading"] < losses[0]["reading"]


def test_the_image_attention_is_not_trained(task: PainterTask, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in task.model.state_dict().items() if ".image_attention." in name}
    pretrain(task, task.recipe, tmp_path / "out")
    assert before and all(torch.equal(task.model.state_dict()[name], value) for name, value in before.items())


def test_figures_compare_every_family_with_a_copy(task: PainterTask) -> None:
    with torch.no_grad():
        figures = task.figures(task.model.eval())
        assert task.preview(task.model).width > 2 * 3 * 128
    for family in FAMILIES:
        assert {f"{family}_inside", f"{family}_copy_inside"} <= set(figures)
    assert figures["over_copy"] == pytest.approx(1, abs=0.01) and f"{NO_OP}_inside" not in figures
    assert figures["outside"] < 1e-3


def test_saved_weights_load_and_their_image_attention_is_still_a_no_op(
    sizes: FireEditConfig, task: PainterTask, tmp_path: Path
) -> None:
    model = task.model.eval()
    assert isinstance(model, UNetWithProbes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    task.save(model, tmp_path / "saved")
    loaded = EditUNet.from_pretrained(tmp_path / "saved" / "unet").float().eval()
    shape = (1, sizes.unet.out_channels, 16, 16)
    noisy, source, tokens = torch.randn(shape), torch.randn(shape), torch.randn(1, 77, sizes.text.width)
    detail = torch.randn(1, sizes.unet.detail_tokens, sizes.unet.cross_attention_dim)
    with torch.no_grad():
        timestep = torch.tensor([500])
        without = loaded.predict(noisy, source, timestep, tokens, None)
        assert torch.equal(loaded.predict(noisy, source, timestep, tokens, detail), without)
    assert load_vae(tmp_path / "saved" / "vae").config.patch_size == 4
    again = make_task(sizes, tmp_path)
    again.load(tmp_path / "saved")
    assert torch.allclose(again.model.state_dict()["unet.conv_in.weight"], model.unet.conv_in.weight.float(), atol=1e-3)


@pytest.mark.slow
def test_the_unet_compiles_into_one_graph(task: PainterTask) -> None:
    latents, tokens = torch.randn(2, 48, 16, 16), torch.randn(2, 77, 96)
    inputs = latents, latents, torch.tensor([999, 5]), tokens
    compiled = torch.compile(task.model, backend="aot_eager", fullgraph=True)
    for plain, fast in zip(task.model(*inputs), compiled(*inputs), strict=True):
        assert torch.allclose(plain, fast, atol=1e-5)
