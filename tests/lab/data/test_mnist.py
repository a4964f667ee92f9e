"""MNIST: the IDX format, the order of the pixels, and files that are not what they say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ungated.lab.data import DATASETS, ClassificationData
from ungated.lab.data.mnist import PermutedOptions, examples, read_idx
from ungated.lab.errors import DataError, RecipeError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3)])
def test_idx_round_trip(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(read_idx(idx(array), "x"), array)


GOOD = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize("size", [*range(12), 23])
def test_idx_cut(size: int) -> None:
    with pytest.raises(DataError, match=r"labels (is not an IDX file|says it holds)"):
        read_idx(GOOD[:size], "labels")


@pytest.mark.parametrize(
    "content",
    [
        GOOD + b"x",
        b"\0\0\x0d" + GOOD[3:],
        b"\0\0\x08\0" + GOOD[4:],
        b"\0\0\x08\xff" + GOOD[4:],
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"<html>" + GOOD,
    ],
    ids=["longer", "floats", "no dimensions", "255 dimensions", "2^96 values", "page"],
)
def test_idx_that_is_none(content: bytes) -> None:
    with pytest.raises(DataError, match=r"labels (is not an IDX file|says it holds)"):
        read_idx(content, "labels")


ORDER = np.arange(784)
IMAGES = np.random.RandomState(1).randint(0, 256, size=(3, 28, 28)).astype(np.uint8)


def test_examples() -> None:
    got = examples(IMAGES, np.array([0, 9, 3], dtype=np.uint8), ORDER, "x")
    assert got.inputs.shape == (3, 784, 1)
    assert got.inputs.dtype == torch.float32
    assert got.targets.tolist() == [0, 9, 3]
    np.testing.assert_array_equal(got.inputs[1, :, 0].numpy(), (IMAGES[1].ravel() / np.float32(255)))


def test_labels_outside_their_range_are_named() -> None:
    with pytest.raises(DataError, match=r"MNIST train: label 2 is 10, outside 0 to 9"):
        examples(IMAGES, np.array([0, 9, 10], dtype=np.uint8), ORDER, "MNIST train")


@pytest.mark.parametrize(("images", "labels"), [(IMAGES[:, :27], 3), (IMAGES, 2), (IMAGES.reshape(3, 784), 3)])
def test_shapes_that_do_not_fit(images: np.ndarray, labels: int) -> None:
    with pytest.raises(DataError, match=r"x has images \(3, .*\) and labels"):
        examples(images, np.zeros(labels, dtype=np.uint8), ORDER, "x")


def test_permutations() -> None:
    full, rows, identity = (PermutedOptions(name).order() for name in ("full", "rows", "identity"))
    assert full[:8].tolist() == [693, 85, 647, 392, 765, 14, 299, 711]
    for order in (full, rows, identity):
        assert sorted(order.tolist()) == list(range(784))
    assert np.array_equal(identity, ORDER)
    assert np.array_equal(rows // 28, ORDER // 28)  # no pixel leaves its row
    assert (rows[:28] == rows[28:56] - 28).all()  # every row alike
    assert not np.array_equal(rows, identity)
    with pytest.raises(RecipeError, match=r"permutation should be one of full, identity, rows, got 'row'"):
        PermutedOptions("row")


def test_real_images(data_dir: Path) -> None:
    plain = DATASETS["smnist"].load(data_dir, download=False)
    permuted = DATASETS["pmnist"].load(data_dir, download=False)
    assert isinstance(plain, ClassificationData)
    assert isinstance(permuted, ClassificationData)
    assert plain.classes == 10
    assert plain.train.targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert plain.test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(torch.cat([plain.train.targets, plain.valid.targets])).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert abs(plain.train.inputs.mean().item() - 0.1307) < 5e-4
    for a, b in ((plain.train, permuted.train), (plain.valid, permuted.valid), (plain.test, permuted.test)):
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.inputs[0, [693, 85, 647]], b.inputs[0, :3])
