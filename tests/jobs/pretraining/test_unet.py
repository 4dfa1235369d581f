"""The UNet before the stages: its pool of encoded edits, its loss, and what it leaves for the stages."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.pretraining import unet as unet_job
from fireedit.jobs.pretraining.unet import Pool, UNetPart, UNetRecipe
from fireedit.models.fireedit import NANO, FireEditConfig, preset
from fireedit.models.schedule import PaintSettings
from fireedit.models.unet import EditUNet
from fireedit.platform.data.scenes.families import FAMILIES, NO_OP
from fireedit.platform.train.optimizer import OptimizerConfig


@pytest.fixture(scope="module")
def sizes() -> FireEditConfig:
    nano = preset("nano")
    unet = replace(nano.unet, block_out_channels=(16, 16), attention_head_dim=2)
    vae = replace(nano.vae, block_out_channels=(8, 8, 8, 8))
    return replace(nano, unet=unet, vae=vae, painting=PaintSettings(num_inference_steps=2))


@pytest.fixture
def part(sizes: FireEditConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UNetPart:
    monkeypatch.setattr(unet_job, "PART", 16)
    monkeypatch.setattr(unet_job, "ENCODED", 8)
    return made(sizes, tmp_path)


def made(sizes: FireEditConfig, folder: Path, **fields: object) -> UNetPart:
    shutil.copytree(NANO / "tokenizer", folder / "out" / "tokenizer", dirs_exist_ok=True)
    usual = {"steps": 4, "batch": 4, "pool": 20, "workers": 1, "held_out": 1, "home": str(folder)}
    usual["optimizer"] = OptimizerConfig(lr=1e-3)
    torch.manual_seed(0)
    return UNetPart(sizes, UNetRecipe(**(usual | fields)), folder / "out")  # type: ignore[arg-type]


def test_batches_are_a_function_of_the_step_and_every_epoch_has_its_own_order(part: UNetPart) -> None:
    batches = list(part.batches(0, 10))
    again = list(part.batches(7, 9))
    for name in ("source", "target", "text_ids"):
        assert torch.equal(torch.stack([batch[name] for batch in batches[7:9]]), torch.stack([b[name] for b in again]))
    first, second = (torch.cat([batch["source"] for batch in epoch]) for epoch in (batches[:5], batches[5:]))
    assert not torch.equal(first, second)
    assert torch.allclose(first.float().sum(), second.float().sum(), rtol=1e-3), "both see the same 20 edits"


def test_a_pool_that_was_broken_off_goes_on_and_one_that_grows_keeps_what_it_has(
    sizes: FireEditConfig, part: UNetPart, tmp_path: Path
) -> None:
    list(part.batches(0, 1))
    files = sorted(tmp_path.glob("pretraining/unet/pool-*/*.npy"))
    assert len(files) == 2
    whole = [np.load(file) for file in files]
    files[1].unlink()
    kept = files[0].stat().st_mtime_ns
    list(made(sizes, tmp_path, pool=33).batches(0, 1))
    assert files[0].stat().st_mtime_ns == kept
    assert [len(np.load(file)) for file in sorted(files[0].parent.glob("*.npy"))] == [16, 16, 16]
    again = np.load(files[1])
    assert np.array_equal(again["text_ids"], whole[1]["text_ids"])
    assert np.array_equal(again["source"], whole[1]["source"])


def test_a_pool_hands_out_rows_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet_job, "PART", 4)
    row = np.dtype([("number", np.int32)])
    pool = Pool(tmp_path, row)
    pool.fill(10, lambda first, last: (np.array([(n,), (n + 1,)], row) for n in range(first, last, 2)))
    assert pool.rows([9, 0, 5, 0])["number"].tolist() == [9, 0, 5, 0]


def test_the_loss_falls_and_the_image_attention_is_left_alone(part: UNetPart) -> None:
    model = part.model
    before = {name: value.clone() for name, value in model.state_dict().items() if "_ip." in name}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    batch, losses = next(iter(part.batches(0, 1))), []
    for _ in range(12):
        torch.manual_seed(0)
        loss = part.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert before and all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_what_changes_weighs_more_and_clear_pictures_less(sizes: FireEditConfig, tmp_path: Path) -> None:
    plain = made(sizes, tmp_path, changed_weight=0.0, min_snr_gamma=None)
    batch = {
        "source": torch.zeros(2, *latents_shape(sizes)),
        "target": torch.randn(2, *latents_shape(sizes)),
        "text_ids": plain.null_ids.expand(2, -1),
    }
    losses = plain.losses(plain.model, batch)
    assert torch.isclose(losses["loss"], losses["mse"])
    weighed = made(sizes, tmp_path, min_snr_gamma=5.0)
    importance = weighed._importance(torch.tensor([0, 999]))
    assert importance[0] < 0.01 and importance[1] == 1


def test_figures_name_every_family_beside_copy_and_ceiling(part: UNetPart) -> None:
    with torch.no_grad():
        figures = part.figures(part.model.eval())
    for family in FAMILIES:
        assert {f"{family}_inside", f"{family}_vae_inside", f"{family}_copy_inside"} <= set(figures)
    assert f"{NO_OP}_outside" in figures and f"{NO_OP}_inside" not in figures
    assert all(0 <= value <= 1 for value in figures.values())


def test_the_sheet_shows_the_first_held_out_edits(part: UNetPart) -> None:
    with torch.no_grad():
        assert part.look(part.model.eval()).width > 2 * 3 * 128


def test_saved_weights_load_and_their_image_attention_is_still_a_no_op(
    sizes: FireEditConfig, part: UNetPart, tmp_path: Path
) -> None:
    model = part.model.eval()
    assert isinstance(model, EditUNet)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    part.save(model, tmp_path / "saved")
    loaded = EditUNet.from_pretrained(tmp_path / "saved" / "unet").float().eval()
    shape = latents_shape(sizes)
    noisy, source, tokens = torch.randn(1, *shape), torch.randn(1, *shape), torch.randn(1, 77, sizes.text.width)
    detail = torch.randn(1, sizes.unet.detail_tokens, sizes.unet.cross_attention_dim)
    with torch.no_grad():
        timestep = torch.tensor([500])
        without = loaded.predict(noisy, source, timestep, tokens, None)
        assert torch.equal(loaded.predict(noisy, source, timestep, tokens, detail), without)


def latents_shape(sizes: FireEditConfig) -> tuple[int, int, int]:
    moments, height, width = sizes.vae.moments_shape
    return moments // 2, height, width
