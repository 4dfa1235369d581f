"""The benchmark compares three pipelines that make the same batches."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from fireedit.benchmarks.data import PIPELINES, Measurement, Setup, compare, prepare
from fireedit.models.processor import Batch
from fireedit.models.tokens import PADDING

SETUP = Setup(folder="", pairs=20, size=64, view=24, canvas=32, batch=4, workers=1)


@pytest.fixture(scope="module")
def setup(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    setup = replace(SETUP, folder=str(tmp_path_factory.mktemp("benchmark")))
    prepare(setup)
    return setup


def by_id(batches: Iterable[Batch]) -> dict[str, list[torch.Tensor]]:
    """Collect the tensors of each sample, its prompt without padding."""
    tensors = {}
    for batch in batches:
        for place, sample in enumerate(batch.ids):
            words = batch.input_ids[place] != PADDING
            texts = [batch.input_ids[place][words], batch.labels[place][words], batch.text_ids[place]]
            pictures = [batch.view[place], batch.source_pixels[place], batch.target_pixels[place]]
            tensors[sample] = [*texts, *pictures, batch.is_edit[place]]
    return tensors


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_all_three_pipelines_make_the_same_samples(setup: Setup) -> None:
    epoch = setup.pairs // setup.batch
    training, *others = (by_id(islice(pipeline(setup, setup.pairs), epoch)) for pipeline in PIPELINES.values())
    assert len(training) == setup.pairs
    for other in others:
        assert other.keys() == training.keys()
        assert all(torch.equal(a, b) for name in training for a, b in zip(training[name], other[name], strict=True))


@pytest.mark.ray
def test_prepared_data_is_kept(setup: Setup) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path(setup.copies).rglob("*")}

    before = written()
    prepare(setup)
    assert written() == before and len(before) == 2 * setup.pairs + 2


def test_the_ratio_is_to_the_better_other_pipeline_of_the_same_round() -> None:
    rates = {"ours": (90.0, 40.0, 95.0), "dataloader": (100.0, 30.0, 190.0), "webdataset": (50.0, 40.0, 70.0)}
    report = compare({name: [Measurement(rate, rate / 2, 1.0) for rate in rates[name]] for name in rates}, cores=2)
    assert report["ratio"] == report["cpu_ratio"] == 0.9
    assert report["pipelines"]["ours"]["samples_per_s_per_core"] == 45.0
