"""The built-in digits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from ungated.lab.data import DATASETS, ClassificationData
from ungated.lab.data.digits import split


def test_shapes_and_range() -> None:
    data = DATASETS["digits"].load()
    assert isinstance(data, ClassificationData)
    assert data.classes == 10
    for part, size in ((data.train, 1252), (data.valid, 266), (data.test, 279)):
        assert part.inputs.shape == (size, 64, 1)
        assert part.inputs.dtype == torch.float32
        assert part.inputs.min() == 0
        assert part.inputs.max() == 1
        assert part.targets.shape == (size,)
        assert part.targets.dtype == torch.int64
        assert part.lengths is None


def test_split_is_fixed_disjoint_complete_and_stratified() -> None:
    labels = load_digits().target
    parts = split(labels)
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(labels), strict=True))
    assert sorted(np.concatenate(parts)) == list(range(1797))
    assert parts[0][:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert parts[2][-3:].tolist() == [1787, 1789, 1793]
    for part, share in zip(parts, (0.70, 0.15, 0.15), strict=True):
        counts = np.bincount(labels[part])
        assert (abs(counts - share * np.bincount(labels)) < 2).all()


def test_pixels_are_read_row_by_row() -> None:
    data = DATASETS["digits"].load()
    assert isinstance(data, ClassificationData)
    first = split(load_digits().target)[2][0]
    assert torch.equal(data.test.inputs[0, :, 0], torch.tensor(load_digits().images[first].ravel() / 16).float())
