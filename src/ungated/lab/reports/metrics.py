"""How metrics are called and written in tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Metric:
    """A metric's words. `scale` is what a stored value is multiplied by before it is written."""

    label: str
    digits: int
    higher_is_better: bool = False
    scale: float = 1.0

    def written(self, value: float) -> str:
        """The value alone: "7.72", "97.22"."""
        return f"{self.scale * value:.{self.digits}f}"


METRICS = {
    "nll_per_frame": Metric("NLL per frame (nats)", 3),
    "accuracy": Metric("accuracy (%)", 2, higher_is_better=True, scale=100.0),
    "mse": Metric("mean squared error", 5),
    "perplexity": Metric("perplexity", 2),
    "bits_per_char": Metric("bits per character", 3),
    "nll": Metric("NLL per symbol (nats)", 4),
    "cross_entropy": Metric("cross-entropy (nats)", 4),
}


def metric_named(name: str) -> Metric:
    """The metric of that name; one that is not listed is written as it is called, lower being better."""
    return METRICS.get(name, Metric(name.replace("_", " "), 4))


@dataclass(frozen=True)
class Summary:
    """Several seeds of one setting: mean, standard deviation, and the half-width of the mean's 95 % interval."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None for one seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half the width of Student's 95 % confidence interval of the mean; None for one seed."""
        if self.std is None:
            return None
        from scipy.special import stdtrit

        count = len(self.values)
        return float(stdtrit(count - 1, 0.975)) * self.std / math.sqrt(count)

    def written(self, metric: Metric) -> str:
        """ "7.72 ± 0.05"; the mean alone for one seed."""
        mean = metric.written(self.mean)
        return mean if self.half_width is None else f"{mean} ± {metric.written(self.half_width)}"


#: What "±" means wherever a Summary is written.
SPREAD = "± is half the 95 % confidence interval of the mean (Student's t over the seeds)"


def summarize(values: Sequence[float]) -> Summary:
    """The values of one or more seeds; ValueError for none."""
    if not values:
        raise ValueError("no values to summarize")
    return Summary(tuple(values))


def duration(seconds: float) -> str:
    """ "42 s", "3 min 5 s", "2 h 4 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
