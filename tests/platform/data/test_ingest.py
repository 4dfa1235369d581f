"""Rows are decoded and prepared in Ray Data's workers; bad ones are set aside, counted, and stop nobody."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import storage
from fireedit.platform.data.ingest import IngestConfig, epochs_of, prepared, set_aside
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.data.writers import llava_instruct

CONFIG = IngestConfig(cpus_per_task=0.25, shuffle_rows=8)


class Refused(ValueError):
    """What this preparation does not like."""


def prepare(sample: Mapping[str, Any]) -> dict[str, Any]:
    if "count" in sample["questions"][0].lower():
        raise Refused("asks for a count")
    return {"id": sample["id"], "mean": np.float32(sample["source"].mean()), "corpus": sample["corpus"]}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "llava_instruct").mkdir()
    llava_instruct.write(folder / "llava_instruct", range(20), size=32, world=TRAIN)
    pictures = sorted((folder / "llava_instruct" / "train2017").glob("*.jpg"))
    pictures[3].write_bytes(pictures[3].read_bytes()[:200])
    pictures[5].unlink()
    return folder


@pytest.mark.ray
def test_good_rows_come_in_another_order_each_epoch_and_bad_ones_are_counted_once(
    ray_session: None, corpora: Path, tmp_path: Path
) -> None:
    quarantine = str(tmp_path / "quarantine")
    dataset = prepared(str(corpora), "llava_instruct", prepare, Refused, quarantine, CONFIG)
    epoch = epochs_of(dataset.iterator(), seed=0, config=CONFIG)
    first, second, again = ([row["id"] for row in epoch(number)] for number in (0, 1, 0))
    assert len(first) == len(set(first)) == 18
    assert first == again and first != second and sorted(first) == sorted(second)
    assert set_aside(quarantine) == 2, "reading a corpus twice counts a bad row once"
    reports = [json.loads(storage.read_bytes(storage.join(quarantine, name))) for name in storage.names(quarantine)]
    assert all(report["error"] and report["corpus"] == "llava_instruct" for report in reports)
    assert not {report["id"] for report in reports} & set(first)
