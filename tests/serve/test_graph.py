"""The whole service: its recipe, and that its images are the pipeline's."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
import yaml

from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import config, images
from fireedit.serve.graph import GraphRecipe, build
from tests.serve.conftest import Client

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["config.yaml", "config-a100.yaml"])
def test_config_files_are_valid_recipes(name: str) -> None:
    deploy = yaml.safe_load((ROOT / "serve" / name).read_text())
    (application,) = deploy["applications"]
    recipe = config.parse(GraphRecipe, application["args"], where=name)
    assert deploy["http_options"]["host"] == "127.0.0.1"
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    for part in (recipe.detector, recipe.vlm, recipe.unet):
        assert part.max_ongoing_requests > part.max_batch_size and part.max_replicas >= part.min_replicas
        assert (part.gpus > 0) == (recipe.device == "cuda")


def test_nano_fits_on_two_cores() -> None:
    args = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())["applications"][0]["args"]
    recipe = config.parse(GraphRecipe, args, where="config.yaml")
    deployments = (recipe.gateway, recipe.detector, recipe.vlm, recipe.unet)
    assert sum(deployment.cpus * deployment.max_replicas for deployment in deployments) <= 1.5


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"weigths": "x"}, "'weigths'.*'weights'"),
        ({"unet": {"max_batchsize": 2}}, "unet.max_batchsize'.*'max_batch_size'"),
        ({"gateway": {"max_batch_size": 2}}, "gateway.max_batch_size'"),
        ({"precision": "int4"}, "precision.*int4"),
        ({"vlm": {"cpus": "many"}}, "vlm.cpus.*many"),
    ],
)
def test_wrong_key_or_value_of_a_recipe_is_named(args: dict[str, Any], key: str) -> None:
    with pytest.raises(config.RecipeError, match=f"^args: .*{key}"):
        build(args)


def images_of(response: requests.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    return [images.decode(base64.b64decode(item["b64_json"])) for item in response.json()["data"]]


def reference(pipeline: FireEditPipeline, image: np.ndarray, prompt: str, seeds: list[int]) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(prompt, image, num_inference_steps=4, num_images_per_prompt=len(seeds), generator=generators)


@pytest.mark.ray
def test_served_images_are_the_pipelines(client: Client, pipeline: FireEditPipeline, photos: list[np.ndarray]) -> None:
    expected = reference(pipeline, photos[0], "make it red", [5, 6])
    response = client.edit(photos[0], n=2, seed=5, num_inference_steps=4, regions="true")
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
        # Sums over a larger batch round differently: a pixel in thousands differs by one level.
        assert np.abs(served.astype(int) - np.asarray(expected)).max() <= 1
