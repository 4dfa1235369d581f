"""A run's newest checkpoint leaves as a pipeline, with the LoRA merged or not, or as an adapter that PEFT loads."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from fireedit.jobs import export
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vlm import VLM
from fireedit.platform import storage
from fireedit.platform.train.runs import Run
from tests.factories import write_checkpoint

LORA = "model.vlm.llm.model.layers.0.self_attn.q_proj.lora_B.default.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(str(tmp_path_factory.mktemp("home")), "third")


@pytest.fixture(scope="module")
def trained(run: Run) -> dict[str, torch.Tensor]:
    """Trained weights, not averaged, of a run whose newest checkpoint is that of step 20."""
    recipe = recipe_of(run, "ema=0.9")
    write_checkpoint(recipe, run, step=10)
    storage.write_bytes(storage.join(run.folder, "step-00000030", "shard-00000-of-00001-a.safetensors"), b"begun")
    return write_checkpoint(recipe, run, step=20)


def recipe_of(run: Run, *overrides: str, stage: int = 3) -> TrainRecipe:
    return read_recipe(["--stage", str(stage), f"home={run.home}", f"init_from={NANO}", *overrides])


def take(run: Run, out: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert export.main([run.name, "--home", run.home, "--out", str(out), *flags]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def img_states(vlm: VLM) -> torch.Tensor:
    """States e of a prompt of text that ends with all [IMG] tokens."""
    prompt = torch.tensor([[5, 6, 7, *range(vlm.first_img, vlm.first_img + vlm.prompt_config.img_tokens)]])
    with torch.no_grad():
        return vlm.eval()(prompt).img_states


def test_the_newest_complete_checkpoint_becomes_a_pipeline(
    run: Run, trained: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = take(run, tmp_path / "last", capsys, "--weights", "last")
    assert (report["step"], report["kind"], report["weights"]) == (20, "pipeline", "last")
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "last").rglob("*") if path.is_file())
    last = dict(FireEditPipeline.from_pretrained(tmp_path / "last").model.named_parameters())
    for name, values in trained.items():
        assert last[name.removeprefix("model.")].equal(values), name
    assert not [file for file in (tmp_path / "last").rglob("*.json") if str(NANO) in file.read_text()]

    report = take(run, tmp_path / "averages", capsys, "--dtype", "fp16")
    averaged = FireEditPipeline.from_pretrained(tmp_path / "averages", dtype="auto")
    assert report["weights"] == "averages" and averaged.unet.dtype == averaged.vlm.dtype == torch.float16
    assert averaged.detector.dtype == torch.float32, "rounding would change the ranks of its queries"
    moved = averaged.vlm.state_dict()[LORA.removeprefix("model.vlm.")]
    assert not moved.equal(trained[LORA].half())


def test_a_merged_pipeline_has_no_lora_and_the_same_img_states(
    run: Run, trained: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take(run, tmp_path / "whole", capsys)
    assert take(run, tmp_path / "merged", capsys, "--merge-lora")["kind"] == "merged pipeline"
    whole, merged = (
        FireEditPipeline.from_pretrained(tmp_path / name, parts=("vlm",)).vlm for name in ("whole", "merged")
    )
    assert not [name for name in merged.state_dict() if "lora_" in name or "base_layer" in name]
    expected = img_states(whole)
    torch.testing.assert_close(img_states(merged), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert not torch.allclose(img_states(whole), expected, rtol=1e-2, atol=1e-2), "the LoRA matters"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which PEFT reads
def test_peft_loads_the_adapter_on_the_bare_llm(
    run: Run, trained: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = take(run, tmp_path / "adapter", capsys, "--adapter", "--weights", "last")
    assert report["kind"] == "adapter" and report["bytes"] < 1e6
    assert sorted(storage.names(str(tmp_path / "adapter"))) == ["adapter_config.json", "adapter_model.safetensors"]

    vlm = FireEditPipeline.from_pretrained("nano", parts=("vlm",)).vlm
    state = {name.replace(".base_layer.", "."): x for name, x in vlm.llm.state_dict().items() if "lora_" not in name}
    bare = LlamaForCausalLM(vlm.llm.config)
    bare.load_state_dict(state)
    adapted = peft.PeftModel.from_pretrained(bare, str(tmp_path / "adapter")).eval()
    vlm.load_state_dict({name.removeprefix("model.vlm."): x for name, x in trained.items() if ".vlm." in name}, False)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, vlm.llm.eval()(input_ids=ids).logits)


def test_what_cannot_be_exported_is_refused_in_a_sentence(
    run: Run, trained: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, resized, empty = (Run(run.home, name) for name in ("first", "resized", "empty"))
    write_checkpoint(recipe_of(first, stage=1), first, step=5)
    write_checkpoint(recipe_of(resized, "model.vlm.lora_rank=16", "ema=0"), resized, step=5)
    storage.write_bytes(empty.recipe, storage.read_bytes(run.recipe))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    new = str(tmp_path / "new")
    for arguments, message in (
        (["third", "--out", str(tmp_path / "full")], "full holds files; write a folder that is empty or not there"),
        (["fourth", "--out", new], "fourth/recipe.yaml is missing; write a run's address, or its name in"),
        (["empty", "--out", new], "holds no complete checkpoint yet"),
        (["resized", "--out", new, "--weights", "averages"], "the run keeps none (its recipe has ema 0)"),
        (["resized", "--out", new, "--adapter"], "merged into its LLM, as lora_rank differs; write --merge-lora"),
        ([first.folder, "--out", new, "--adapter"], "stage 1 of this run trains no LoRA"),
    ):
        assert export.main([*arguments, "--home", run.home]) == 1
        assert message in capsys.readouterr().err
    assert not Path(new).exists()
