"""The whole service: its recipe, and that it paints what the pipeline paints."""

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
def test_the_configs_are_recipes(name: str) -> None:
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
    ("args", "message"),
    [
        ({"weigths": "x"}, "args: unknown key 'weigths'; did you mean 'weights'?"),
        ({"unet": {"max_batchsize": 2}}, "args: unet: unknown key 'max_batchsize'; did you mean 'max_batch_size'?"),
        ({"gateway": {"max_batch_size": 2}}, "args: gateway: unknown key 'max_batch_size'"),
        ({"precision": "int4"}, "args: precision: "),
        ({"vlm": {"cpus": "many"}}, "args: vlm.cpus: "),
    ],
)
def test_a_wrong_recipe_says_what_to_write(args: dict[str, Any], message: str) -> None:
    with pytest.raises(config.RecipeError) as caught:
        build(args)
    assert str(caught.value).startswith(message)


def pictures_of(answer: requests.Response) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    return [images.decode(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


def painted(pipeline: FireEditPipeline, image: np.ndarray, prompt: str, seeds: list[int]) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(prompt, image, num_inference_steps=4, num_images_per_prompt=len(seeds), generator=generators)


@pytest.mark.ray
def test_served_pixels_are_the_pipelines(client: Client, pipeline: FireEditPipeline, photos: list[np.ndarray]) -> None:
    expected = painted(pipeline, photos[0], "make it red", [5, 6])
    answer = client.edit(photos[0], n=2, seed=5, num_inference_steps=4, regions="true")
    served = pictures_of(answer)
    assert [np.array_equal(one, np.asarray(other)) for one, other in zip(served, expected.images, strict=True)] == [
        True,
        True,
    ]
    assert not np.array_equal(*served)
    body = answer.json()
    height, width = served[0].shape[:2]
    assert (body["seed"], body["size"]) == (5, f"{width}x{height}")
    assert np.allclose([region["box"] for region in body["regions"]], expected.regions[0].boxes)
    assert np.allclose([region["score"] for region in body["regions"]], expected.regions[0].scores)


@pytest.mark.ray
def test_concurrent_edits_get_each_its_own_picture(
    client: Client, pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    prompts, seeds = ["make it red", "remove the cat", "add snow to all of it"], [3, 4, 5]
    with ThreadPoolExecutor(3) as pool:
        ask = lambda image, prompt, seed: client.edit(image, prompt, seed=seed, num_inference_steps=4)  # noqa: E731
        answers = list(pool.map(ask, photos, prompts, seeds))
    for answer, image, prompt, seed in zip(answers, photos, prompts, seeds, strict=True):
        (served,) = pictures_of(answer)
        (expected,) = painted(pipeline, image, prompt, [seed]).images
        # Sums over a larger batch round otherwise: a pixel in thousands differs by one level.
        assert np.abs(served.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.ray
def test_without_a_seed_the_one_that_was_drawn_repeats_the_picture(client: Client, photos: list[np.ndarray]) -> None:
    first = client.edit(photos[1], num_inference_steps=2)
    again = client.edit(photos[1], num_inference_steps=2, seed=first.json()["seed"])
    assert np.array_equal(*pictures_of(first), *pictures_of(again))
