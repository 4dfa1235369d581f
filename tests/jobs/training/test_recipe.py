"""A command line becomes a whole recipe, or a sentence that says what to write."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from fireedit.benchmarks.tiny_detectors import save_tiny_sam
from fireedit.jobs.pretrain import TRAINED
from fireedit.jobs.training.recipe import CONFIGS, TrainRecipe, ValidationConfig, read_recipe
from fireedit.models.detectors.sam import SAMConfig
from fireedit.models.model import preset
from fireedit.models.stages import STAGES
from fireedit.platform import config
from fireedit.platform.data.catalog import CORPORA
from fireedit.platform.data.shards import Index, Shard, write_index


@pytest.mark.parametrize("file", sorted(path.stem for path in CONFIGS.glob("*-stage?.yaml")))
def test_every_recipe_that_ships_can_be_read(file: str) -> None:
    name, _, number = file.rpartition("-stage")
    stage = int(number)
    recipe = read_recipe(["--stage", number, "--config", name])
    assert (recipe.model.preset, recipe.stage) == (name.partition("-")[0], stage)
    assert set(recipe.mixture) <= set(CORPORA)
    paper = {1: (2e-4, 120_000, 0.0), 2: (1e-5, 5_000, 0.001), 3: (1e-5, 25_000, 0.001)}
    if recipe.model.preset == "nano":
        shares = {name: weight / sum(recipe.mixture.values()) for name, weight in recipe.mixture.items()}
        assert recipe.minutes and recipe.ema
        assert stage == 1 or (shares["llava_instruct"] >= 0.12 and shares["refcoco"] + shares["grefcoco"] >= 0.15)
    if recipe.model.preset == "paper":
        assert (recipe.optimizer.lr, recipe.steps, recipe.optimizer.warmup_ratio) == paper[stage]
        assert recipe.optimizer.weight_decay == 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_sections_of_the_recipes_that_ship_have_their_classes_own_defaults(path: Path) -> None:
    """No field of theirs has another default than its class, so that a section needs nothing of the field's."""
    _, _, part = path.stem.partition("-")
    recipe, _ = TRAINED.get(part, (TrainRecipe, None))
    raw = yaml.safe_load(path.read_text()) | ({"stage": 1} if recipe is TrainRecipe else {})
    (expected,) = TypeAdapter(list[recipe], config=config.STRICT).validate_python([raw])
    assert config.parse(recipe, raw, where=path.name) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stepz=3"], "nano-stage2.yaml: unknown key 'stepz'; did you mean 'steps'?"),
        (
            ["--config", "nanoo"],
            "nanoo: no such recipe of stage 2; write nano, paper, paper-771k, or the path of a .yaml file",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such recipe of stage 2; write nano, paper"),
        (
            ["--config", str(CONFIGS / "nano-stage3.yaml")],
            "nano-stage3.yaml: a recipe of stage 3, not 2; write --stage 3",
        ),
        (["log_every=0"], "log_every: Input should be greater than 0, found 0"),
        (["minutes=null"], "found no end of the run; write steps=N, minutes=M, or both"),
        (["ema=1"], "ema: Input should be less than 1, found 1"),
        (["seed=-1"], "seed: Input should be greater than or equal to 0, found -1"),
        (["run=@latest"], "found '@latest'"),
        (["run=%date%"], "found '%date%'"),
        (["run=../other"], "found '../other'"),
        (["optimizer.warmup_ratio=500"], "optimizer.warmup_ratio: Input should be less than or equal to 1, found 500"),
        (["optimizer.warmup_ratio=0.9"], "optimizer: warmup_ratio and cooldown_ratio: found 0.9 and 0.4"),
        (["optimizer.betas=[0.9, 1]"], "optimizer.betas.1: Input should be less than 1, found 1"),
        (["optimizer.lr_scale={model.uned.: 0.1}"], "no trained parameter begins with 'model.uned.'"),
        (["dropout={text: 0.5, image: 0.4, both: 0.3}"], "dropout: found text, image and both that sum to 1.2"),
        (["workers.cpus=1.5"], "workers.cpus: found 1.5"),
        (["mixture={}"], "mixture: no corpus"),
        (["mixture={cocostuf: 1}"], "no corpus or folder of shards is called 'cocostuf'; did you mean 'cocostuff'?"),
        (["mixture.cocostuff=-1"], "cocostuff: found weight -1"),
        (["model.preset=papr"], "model: no preset is called 'papr'; write 'paper' or 'nano'"),
        (["model.vlm.lora_rang=16"], "unknown key 'model.vlm.lora_rang'; did you mean 'lora_rank'?"),
        (["model.vlm.lora_rank=-1"], "model: no model has these sizes"),
        (["model.vlm.heads=0"], "model: no model has these sizes"),
        (["model.detector.kind=san"], "model.detector: found kind 'san'; write ddetr, sam, hf:NAME or yolov10"),
        (["model.detector.kind=sam"], "model.detector.folder: Field required"),
        (
            ["model.detector={kind: sam, folder: /none}"],
            "model.detector: /none: no such folder; write model.detector.folder=FOLDER of a SamModel",
        ),
        (
            ["model.detector.kind=hf:/none"],
            "model.detector: /none: no such folder; write model.detector.kind=hf:FOLDER",
        ),
        (
            ["model.detector={kind: sam, folder: /none, points_per_sid: 3}"],
            "unknown key 'model.detector.points_per_sid'; did you mean 'points_per_side'?",
        ),
        (["engine.zero_stage=2"], "muon_lr: found ZeRO 2, which flattens matrices; write"),
        (["engine.zero_stage=0"], "engine.zero_stage: Input should be 1, 2 or 3, found 0"),
        (["workers.count=[3, 1]"], "workers: count: found [3, 1]; write the smaller number first"),
        (["workers.count=[0, 1]"], "workers.count"),
        (["validate_every=0"], "validate_every: Input should be greater than 0, found 0"),
    ],
)
def test_a_wrong_command_says_what_to_write(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_recipe(["--stage", "2", *arguments])
    assert exit_.value.code == 2 and message in capsys.readouterr().err


def test_options_can_stand_anywhere_in_the_command() -> None:
    recipe = read_recipe(["steps=3", "--stage", "2", "seed=4"])
    assert (recipe.stage, recipe.steps, recipe.seed) == (2, 3, 4)


def test_a_step_has_the_samples_of_the_most_workers_however_few_there_are() -> None:
    fixed, elastic = (
        read_recipe(["--stage", "2", f"workers.count={count}", "validate_every=null"]) for count in ("3", "[1, 3]")
    )
    for recipe in (fixed, elastic):
        assert (recipe.passes, recipe.samples_per_step) == (3, 3 * recipe.engine.micro_batch)
    assert len(fixed.bundles) == 6 and len(elastic.bundles) == 2, "as many workers as it can begin with"
    validated = replace(elastic, validate_every=1, validation=ValidationConfig(cpus=4, gpus=1))
    assert validated.bundles == [*elastic.bundles, {"CPU": 4, "GPU": 1}], "and its validation's task"


def test_a_mixture_can_name_shards_that_no_catalog_lists(tmp_path: Path) -> None:
    write_index(str(tmp_path / "shards" / "mine"), Index("mine", "train", "", [Shard("000000-000", 3)]))
    recipe = read_recipe(["--stage", "2", f"home={tmp_path}", "mixture.mine=0.5"])
    assert recipe.mixture["mine"] == 0.5 and "cocostuff" in recipe.mixture


@pytest.mark.parametrize("override", ["model.vlm.lora_rank=16", "model={preset: nano, vlm: {lora_rank: 16}}"])
def test_sizes_are_overridden_and_the_saved_recipe_is_whole(
    tmp_path: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    recipe = read_recipe(["--stage", "2", override])
    nano = preset("nano")
    assert recipe.model.vlm.lora_rank == 16 and recipe.model.vlm.width == nano.vlm.width
    assert recipe.model.unet == nano.unet
    path.write_text(config.dump(recipe))
    assert "lora_rank: 16" in path.read_text() and "block_out_channels" in path.read_text()
    assert read_recipe(["--stage", "2", "--config", str(path)]) == recipe
    with pytest.raises(SystemExit):
        read_recipe(["--stage", "3", "--config", str(path)])
    assert "mine.yaml: a recipe of stage 2, not 3; write --stage 2" in capsys.readouterr().err


def test_a_published_detector_is_named_and_the_saved_recipe_is_whole(tmp_path: Path) -> None:
    folder, path = save_tiny_sam(tmp_path / "sam"), tmp_path / "mine.yaml"
    recipe = read_recipe(["--stage", "2", "model.detector.kind=sam", f"model.detector.folder={folder}"])
    assert recipe.model.detector == SAMConfig(folder=str(folder), proposals=preset("nano").detector.proposals)
    path.write_text(config.dump(recipe))
    assert "points_per_side: 32" in path.read_text()
    assert read_recipe(["--stage", "2", "--config", str(path)]) == recipe


def test_the_paper_is_trained_on_both_mixtures_of_its_table() -> None:
    less, more = (read_recipe(["--stage", "2", "--config", name]).mixture for name in ("paper-771k", "paper"))
    assert sum(less.values()) == pytest.approx(1) and set(more) - set(less) == {"ultraedit"}
    assert more["ultraedit"] == more["instructpix2pix"] == more["magicbrush"]
    assert {name: more[name] for name in less} == less


def test_a_fourth_stage_takes_an_entry_and_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, 4, replace(STAGES[3], number=4))
    path = tmp_path / "nano-stage4.yaml"
    path.write_text((CONFIGS / "nano-stage3.yaml").read_text())
    recipe = read_recipe(["--stage", "4", "--config", str(path)])
    assert recipe.stage == 4 and config.parse(type(recipe), config.to_plain(recipe), "saved") == recipe
