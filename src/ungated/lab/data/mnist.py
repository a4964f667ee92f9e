"""Sequential and permuted MNIST (LeCun et al. 1998): 28 x 28 images as 784 steps of one pixel.

Row by row, pixels over 255, no further normalisation; valid = the last 10,000 training images (mnist_utils.py
of github.com/LUMII-Syslab/RRU).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ungated.lab.data.dataset import DataSet, NoOptions
from ungated.lab.data.families import ClassificationData, Examples
from ungated.lab.data.store import DataFile
from ungated.lab.errors import DataError, RecipeError

_SIDE = 28
_PIXELS = _SIDE * _SIDE
_CLASSES = 10
_VALID = 10_000
_PERMUTATIONS = ("full", "identity", "rows")


@dataclass(frozen=True)
class PermutedOptions:
    """In which order the pixels are read; the same order for every image.

    permutation: "full", one permutation of all 784 (NumPy's RandomState(0).permutation(784)), as the published
    loader has it; "rows", one permutation of 28 columns (RandomState(0).permutation(28)) applied to every row,
    which is how the RRU paper describes it; "identity", which is sequential MNIST.
    """

    permutation: Literal["full", "identity", "rows"] = "full"

    def __post_init__(self) -> None:
        if self.permutation not in _PERMUTATIONS:
            known = ", ".join(_PERMUTATIONS)
            raise RecipeError(f"permutation should be one of {known}, got {self.permutation!r}")

    def order(self) -> NDArray[np.int64]:
        """(784,): the pixel, row by row, that is read at each step."""
        pixels = np.arange(_PIXELS)
        if self.permutation == "full":
            return np.random.RandomState(0).permutation(_PIXELS)
        if self.permutation == "rows":
            return pixels.reshape(_SIDE, _SIDE)[:, np.random.RandomState(0).permutation(_SIDE)].ravel()
        return pixels


def read_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; DataError where it is none, or of another size than it says.

    Format: two zero bytes, the type (8), the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the values in row-major order.
    """
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not dimensions or len(content) < start:
        raise DataError(f"{name} is not an IDX file of bytes: it starts with {content[:4].hex()}")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    if len(content) - start != math.prod(shape):
        raise DataError(f"{name} says it holds {shape} values, but {len(content) - start:,} bytes follow")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def examples(images: NDArray[np.uint8], labels: NDArray[np.uint8], order: NDArray[np.int64], name: str) -> Examples:
    """Images (N, 28, 28) and labels (N,) as sequences, pixels read in `order`; DataError if they are not that."""
    if images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE) or labels.shape != images.shape[:1]:
        raise DataError(f"{name} has images {images.shape} and labels {labels.shape} instead of (N, 28, 28) and (N,)")
    outside = np.flatnonzero(labels >= _CLASSES)
    if len(outside):
        raise DataError(f"{name}: label {outside[0]} is {labels[outside[0]]}, outside 0 to {_CLASSES - 1}")
    pixels = torch.from_numpy(images.reshape(-1, _PIXELS)[:, order]).unsqueeze(-1).float().div_(255)
    return Examples(pixels, torch.from_numpy(labels.astype(np.int64)))


def _parse(contents: Mapping[str, bytes], options: PermutedOptions | NoOptions) -> ClassificationData:
    order = options.order() if isinstance(options, PermutedOptions) else np.arange(_PIXELS)
    images, labels, test_images, test_labels = (read_idx(content, path) for path, content in contents.items())
    cut = len(images) - _VALID
    return ClassificationData(
        train=examples(images[:cut], labels[:cut], order, "MNIST train"),
        valid=examples(images[cut:], labels[cut:], order, "MNIST valid"),
        test=examples(test_images, test_labels, order, "MNIST test"),
        classes=_CLASSES,
    )


def _count(data: ClassificationData, options: object) -> dict[str, int]:
    return {f"{split} images": len(getattr(data, split)) for split in ("train", "valid", "test")}


def _file(name: str, sha256: str, size: int) -> DataFile:
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    urls = tuple(f"{mirror}{name}.gz" for mirror in mirrors)
    return DataFile(path=f"mnist/{name}", urls=urls, checksum=f"sha256:{sha256}", size=size)


_FILES = (
    _file("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016),
    _file("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
    _file("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
    _file("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
)


def _mnist(name: str, summary: str, options: type) -> DataSet:
    return DataSet(
        name=name,
        kind="classification",
        summary=summary,
        licence="LeCun and Cortes; commonly given as CC BY-SA 3.0",
        source="LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/",
        parse=_parse,
        count=_count,
        counts={"train images": 50_000, "valid images": 10_000, "test images": 10_000},
        files=_FILES,
        Options=options,
    )


SMNIST = _mnist("smnist", "MNIST read pixel by pixel: 784 steps, 10 classes", NoOptions)
PMNIST = _mnist("pmnist", "MNIST read in a fixed random order: 784 steps, 10 classes", PermutedOptions)
