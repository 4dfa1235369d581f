"""The whole service: its recipe, and that its images are the pipeline's."""

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
import yaml
from ray.serve._private.build_app import build_app

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig
from fireedit.platform import config, images
from fireedit.serve.graph import GraphRecipe, ReplicasConfig, build
from tests.serve.conftest import Client

ROOT = Path(__file__).parents[2]


def recipe_of(name: str) -> GraphRecipe:
    args = yaml.safe_load((ROOT / "serve" / name).read_text())["applications"][0]["args"]
    return config.parse(GraphRecipe, args, where=name)


def deployments_of(recipe: GraphRecipe) -> list[ReplicasConfig]:
    return [recipe.gateway, recipe.detector, recipe.vlm, recipe.text, recipe.unet]


@pytest.mark.parametrize("name", ["config.yaml", "config-a100.yaml"])
def test_config_files_are_valid_recipes(name: str) -> None:
    deploy = yaml.safe_load((ROOT / "serve" / name).read_text())
    (application,) = deploy["applications"]
    recipe = recipe_of(name)
    assert deploy["http_options"]["host"] == "127.0.0.1" and deploy["proxy_location"] == "EveryNode"
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert recipe.gateway.min_replicas >= 2, "one answers while the other is replaced"
    for part in (recipe.detector, recipe.vlm, recipe.unet):
        assert (part.gpus > 0) == (recipe.device == "cuda")
    longest = deploy["http_options"]["request_timeout_s"]
    assert all(part.graceful_shutdown_timeout_s >= longest for part in deployments_of(recipe))


def test_twice_the_replicas_of_nano_fit_on_two_cores() -> None:
    """A change starts all new replicas of a deployment before its old ones stop."""
    recipe = recipe_of("config.yaml")
    assert sum(2 * part.cpus * part.max_replicas for part in deployments_of(recipe)) <= 2
    assert recipe.device == "cpu" and recipe.detector.max_batch_size == recipe.vlm.max_batch_size == 1


def test_the_other_defaults_of_a_section_survive_one_key() -> None:
    args = {"gateway": {"cpus": 0.1}, "unet": {"max_replicas": 2}, "detector": {"max_batch_size": 2}}
    recipe = config.parse(GraphRecipe, args, where="args")
    assert recipe.gateway == replace(GraphRecipe().gateway, cpus=0.1)
    assert recipe.unet == replace(GraphRecipe().unet, max_replicas=2)
    assert recipe.detector == replace(GraphRecipe().detector, max_batch_size=2)
    speed = config.parse(GraphRecipe, {"speed": {"compile": {"unet": [3, 6], "encoder": [1]}}}, where="args").speed
    assert speed == SpeedConfig(compile={"unet": (3, 6), "encoder": (1,)})


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"weigths": "x"}, "'weigths'.*'weights'"),
        ({"unet": {"max_replica": 2}}, "unet.max_replica'.*'max_replicas'"),
        ({"gateway": {"max_batch_size": 2}}, "gateway.max_batch_size'"),
        ({"gateway": {"min_replicas": 0}}, "gateway.min_replicas.*0"),
        ({"unet": {"min_replicas": 2}}, "unet.*max_replicas is 1; write 2"),
        ({"precision": "int4"}, "precision.*int4"),
        ({"editor": "smartedit"}, "editor.*smartedit"),
        ({"vlm": {"cpus": "many"}}, "vlm.cpus.*many"),
        ({"unet": {"patience": 0}}, "unet.patience.*0"),
        ({"unet": {"max_branches": 0}}, "unet.max_branches.*0"),
        ({"detector": {"threads": 0}}, "detector.threads.*0"),
        ({"limits": {"min_body_bytes_per_s": 0}}, "limits.min_body_bytes_per_s.*0"),
        ({"limits": {"unit_s": 0}}, "limits.unit_s.*0"),
        ({"edits": {"keep_s": 0}}, "edits.keep_s.*0"),
        ({"speed": {"reuse_every": 0}}, "speed.reuse_every.*0"),
        ({"speed": {"compile": {"tati": []}}}, "speed.*found no sizes for tati; write some, such as tati: .1, 3."),
        ({"speed": {"compile": ["unet"]}}, "speed.compile"),
        ({"speed": {"guidance_interval": [0.8, 0.2]}}, "speed.*write the smaller share first"),
    ],
)
def test_wrong_key_or_value_of_a_recipe_is_named(args: dict[str, Any], key: str) -> None:
    with pytest.raises(config.RecipeError, match=f"^args: .*{key}"):
        build(args)


@pytest.mark.parametrize("editor", ["fireedit", "instruct-pix2pix"])
def test_weights_that_are_missing_or_of_another_system_are_named(editor: str, tmp_path: Path) -> None:
    args = {"weights": str(tmp_path), "editor": editor}
    found = f"^args: weights: {tmp_path}: {tmp_path}/model_index.json is missing; write a folder of weights, or nano$"
    with pytest.raises(config.RecipeError, match=found):
        build(args)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3InstructPix2PixPipeline"}')
    with pytest.raises(config.RecipeError, match=f"^args: weights: {tmp_path}: .* which {editor} does not take; .*"):
        build(args)


def deployed(args: dict[str, Any]) -> dict[str, Any]:
    """Build an application; returns the config of each of its deployments by name."""
    application = build_app(build(args), name="fireedit")
    return {each.name: each._deployment_config for each in application.deployments}


def test_stages_may_stop_when_unused_and_replicas_change_one_version_after_the_other() -> None:
    deployments = deployed({"unet": {"min_replicas": 0, "target_queue_s": 7}})
    assert list(deployments) == ["Detector", "VLM", "UNet", "Gateway"]
    for name, deployment in deployments.items():
        assert deployment.max_surge_percent == 100 and deployment.max_queued_requests == -1
        assert deployment.graceful_shutdown_timeout_s == 600 and deployment.max_ongoing_requests >= 10_000
        assert (deployment.autoscaling_config.min_replicas == 0) == (name == "UNet")
    policy = deployments["UNet"].autoscaling_config.policy
    assert policy.get_policy()(**policy.policy_kwargs).target_queue_s == 7
    assert deployments["Gateway"].autoscaling_config.policy.is_default_policy_function()


def test_instruct_pix2pix_has_a_text_encoder_in_place_of_detector_and_vlm() -> None:
    assert list(deployed({"editor": "instruct-pix2pix"})) == ["Text", "UNet", "Gateway"]


def images_of(response: requests.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    return [images.decode(base64.b64decode(item["b64_json"])) for item in response.json()["data"]]


def reference(pipeline: FireEditPipeline, image: np.ndarray, prompt: str, seeds: list[int]) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(prompt, image, num_inference_steps=4, num_images_per_prompt=len(seeds), generator=generators)


@pytest.mark.ray
def test_served_images_are_the_pipelines(client: Client, pipeline: FireEditPipeline, photos: list[np.ndarray]) -> None:
    expected = reference(pipeline, photos[0], "make it red", [5, 6])
    response = client.edit(photos[0], n=2, seed=5, num_inference_steps=4, return_regions="true")
    served = images_of(response)
    assert all(np.array_equal(*pair) for pair in zip(served, map(np.asarray, expected.images), strict=True))
    assert not np.array_equal(*served)
    body = response.json()
    height, width = served[0].shape[:2]
    assert (body["seed"], body["size"]) == (5, f"{width}x{height}")
    assert np.allclose([region["box"] for region in body["regions"]], expected.regions[0].boxes)
    assert np.allclose([region["score"] for region in body["regions"]], expected.regions[0].scores)


@pytest.mark.ray
def test_concurrent_edits_each_get_their_own_image(
    client: Client, pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    prompts, seeds = ["make it red", "remove the cat", "add snow to all of it"], [3, 4, 5]
    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(client.edit, image, prompt, seed=seed, num_inference_steps=4)
            for image, prompt, seed in zip(photos, prompts, seeds, strict=True)
        ]
    for future, image, prompt, seed in zip(futures, photos, prompts, seeds, strict=True):
        (served,) = images_of(future.result())
        (expected,) = reference(pipeline, image, prompt, [seed]).images
        assert np.array_equal(served, np.asarray(expected))
