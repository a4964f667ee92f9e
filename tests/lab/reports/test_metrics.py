from __future__ import annotations

import pytest

from ungated.lab.reports.metrics import METRICS, duration, metric_named, summarize
from ungated.lab.tasks import TASKS


def test_the_interval_is_students() -> None:
    summary = summarize([1.0, 2.0, 3.0])
    assert summary.mean == 2.0
    assert summary.std == 1.0
    # t(0.975, 2 degrees of freedom) = 4.302653; half-width = t * 1 / sqrt(3).
    assert summary.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_one_seed_has_no_spread() -> None:
    summary = summarize([7.72])
    assert summary.std is None
    assert summary.half_width is None
    assert summary.written(METRICS["nll_per_frame"]) == "7.720"


def test_no_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_accuracy_is_written_in_per_cent() -> None:
    assert metric_named("accuracy").written(0.98742) == "98.74"
    assert summarize([0.98, 0.99]).written(metric_named("accuracy")) == "98.50 ± 6.35"


def test_a_metric_that_is_not_listed_goes_by_its_own_name() -> None:
    metric = metric_named("squared_error")
    assert (metric.label, metric.higher_is_better) == ("squared error", False)


@pytest.mark.parametrize("kind", TASKS)
def test_every_tasks_metric_is_listed_with_its_direction(kind: str) -> None:
    task = TASKS[kind]
    if isinstance(task.__dict__.get("metric"), str):
        assert METRICS[task.metric].higher_is_better == task.higher_is_better


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (42.4, "42 s"), (185, "3 min 5 s"), (7440, "2 h 4 min"), (3599.9, "1 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
