"""Sequential digits: scikit-learn's 8x8 digits (UCI "Optical Recognition of Handwritten Digits", test part)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import ClassificationData, Examples

_SHARES = (0.70, 0.15)  # train, valid; the rest is test


def _parse(contents: Mapping[str, bytes], options: object) -> ClassificationData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.as_tensor(bunch.data / 16.0, dtype=torch.float32).unsqueeze(-1)  # (N, 64, 1), row by row
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    train, valid, test = (Examples(pixels[index], labels[index]) for index in split(bunch.target))
    return ClassificationData(train, valid, test, classes=10)


def split(labels: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Indices of train, valid and test: a fixed stratified split.

    For each class in rising order its indices are permuted by one RandomState(0); the first floor(70 %) go to
    train, the next floor(15 %) to valid, the rest to test. Each part is then put in rising order.
    """
    random = np.random.RandomState(0)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label in np.unique(labels):
        index = random.permutation(np.flatnonzero(labels == label))
        train, valid = (int(share * len(index)) for share in _SHARES)
        for part, piece in zip(parts, np.split(index, [train, train + valid]), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def _count(data: ClassificationData, options: object) -> dict[str, int]:
    return {f"{name} images": len(getattr(data, name)) for name in ("train", "valid", "test")}


DIGITS = DataSet(
    name="digits",
    kind="classification",
    summary="8x8 images of digits, read pixel by pixel: 64 steps, 1 feature in [0, 1], 10 classes",
    licence="CC BY 4.0 (UCI Machine Learning Repository); comes with scikit-learn",
    source="Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49, as sklearn.datasets.load_digits",
    parse=_parse,
    count=_count,
    counts={"train images": 1252, "valid images": 266, "test images": 279},
)
