"""Numbers of workers that a run may have, and their resources."""

import pytest
from pydantic import TypeAdapter, ValidationError

from fireedit.platform.train.workers import WorkersConfig, active_workers


@pytest.mark.parametrize("resources", [{"cpus": 0.5, "gpus": 1.5}, {"cpus": 2.5}, {"cpus": 0}, {"cpus": 1, "count": 0}])
def test_resources_that_ray_cannot_reserve_are_refused(resources: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=str(list(resources.values())[-1])):
        TypeAdapter(WorkersConfig).validate_python({"count": 1, **resources})


def test_a_count_is_a_number_or_the_fewest_and_the_most() -> None:
    of = TypeAdapter(WorkersConfig).validate_python
    fixed, elastic = of({"count": 8, "cpus": 1, "gpus": 1}), of({"count": [8, 16], "cpus": 0.5})
    assert (fixed.least, fixed.most, fixed.bundle) == (8, 8, {"CPU": 1, "GPU": 1})
    assert (elastic.least, elastic.most, elastic.bundle) == (8, 16, {"CPU": 0.5})
    with pytest.raises(ValidationError, match=r"found \[16, 8\]; write the smaller number first"):
        of({"count": [16, 8], "cpus": 1})


@pytest.mark.parametrize(
    ("found", "passes", "active"), [(16, 64, 16), (15, 64, 8), (3, 4, 2), (3, 6, 3), (5, 2, 2), (7, 13, 1), (1, 9, 1)]
)
def test_passes_go_evenly_into_the_most_workers_that_they_can(found: int, passes: int, active: int) -> None:
    assert active_workers(found, passes) == active
