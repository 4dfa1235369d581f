"""A running service of nano's untrained weights, shared by the tests of serve."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import images
from fireedit.platform.cluster import free_port, local_session
from tests.factories import shaken

MAX_QUEUE_S, MAX_BYTES = 20.0, 1_000_000
"""Limits of the queue and of an image's bytes, low enough for a test to exceed."""


@dataclass(frozen=True)
class Client:
    """HTTP client of a running service, which ignores http_proxy."""

    url: str
    session: requests.Session = field(default_factory=local_session)

    def edit(
        self, image: np.ndarray | bytes, prompt: str = "make it red", timeout_s: float = 60, **fields: object
    ) -> requests.Response:
        data = image if isinstance(image, bytes) else images.encode_png(image)
        return self.session.post(
            f"{self.url}/v1/images/edits",
            data={"prompt": prompt, **fields},
            files={"image": ("../../x", data)},
            timeout=timeout_s,
        )

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=30)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of fresh nano weights with noise on the UNet, as a fresh one returns every image unchanged."""
    folder = tmp_path_factory.mktemp("weights")
    pipeline = FireEditPipeline.fresh(seed=0)
    shaken(pipeline.unet, scale=0.02)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(weights: Path) -> Iterator[FireEditPipeline]:
    """Pipeline of the same weights in this process, with one thread as in the replicas."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = FireEditPipeline.from_pretrained(weights)
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Three different images of different shapes."""
    random = np.random.default_rng(0)
    shapes = [(80, 120), (100, 70), (64, 64)]
    return [
        np.kron(random.integers(0, 256, (4, 4, 3), np.uint8), np.ones((h // 4, w // 4, 1), np.uint8)) for h, w in shapes
    ]


@pytest.fixture(scope="session")
def client(ray_session: None, weights: Path) -> Iterator[Client]:
    """Client of the running service."""
    from ray import serve

    from fireedit.serve.graph import build

    limits = {"max_queue_s": MAX_QUEUE_S, "max_image_bytes": MAX_BYTES}
    args = {
        "weights": str(weights),
        "limits": limits,
        "unet": {"threads": 1},
        "gateway": {"min_replicas": 1, "max_replicas": 1},
    }
    port = free_port(8000 + os.getpid() % 1000)  # test sessions side by side begin at different ports
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(args), name="fireedit", route_prefix="/")
    yield Client(f"http://127.0.0.1:{port}")
    serve.shutdown()
