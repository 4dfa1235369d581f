"""One service of nano's untrained weights for all tests of serve."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import images
from tests.factories import shaken

MAX_EDITS, MAX_BYTES = 8, 1_000_000
"""Edits at a time and size of a picture; few enough for a test to exceed."""


@dataclass(frozen=True)
class Client:
    """Talks to a running service."""

    url: str

    def edit(
        self, image: np.ndarray | bytes, prompt: str = "make it red", timeout_s: float = 60, **fields: object
    ) -> requests.Response:
        data = image if isinstance(image, bytes) else images.encode_png(image)
        return requests.post(
            f"{self.url}/v1/images/edits",
            data={"prompt": prompt, **fields},
            files={"image": ("../../x", data)},
            timeout=timeout_s,
        )

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fresh nano weights, whose UNet does something; a fresh one gives every picture back as it is."""
    folder = tmp_path_factory.mktemp("weights")
    pipeline = FireEditPipeline.fresh_nano(seed=0)
    shaken(pipeline.unet, scale=0.02)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(weights: Path) -> Iterator[FireEditPipeline]:
    """The same weights in this process, computing with one thread as the replicas do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = FireEditPipeline.from_pretrained(weights)
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Three pictures of different shapes that do not look alike."""
    random = np.random.default_rng(0)
    shapes = [(80, 120), (100, 70), (64, 64)]
    return [
        np.kron(random.integers(0, 256, (4, 4, 3), np.uint8), np.ones((h // 4, w // 4, 1), np.uint8)) for h, w in shapes
    ]


@pytest.fixture(scope="session")
def client(ray_session: None, weights: Path) -> Iterator[Client]:
    """The whole service, up and answering."""
    from ray import serve

    from fireedit.serve.graph import build

    part = {"cpus": 0.2}
    parts = {"gateway": {"cpus": 0.1}, "detector": part, "vlm": part, "unet": part}
    args = {"weights": str(weights), "limits": {"max_edits": MAX_EDITS, "max_image_bytes": MAX_BYTES}, **parts}
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(args), name="fireedit", route_prefix="/")
    yield Client(f"http://127.0.0.1:{port}")
    serve.shutdown()


def free_port() -> int:
    """Outside those that Ray gives to its workers."""
    for port in range(20_000 + os.getpid() % 5000, 30_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no port is free")
