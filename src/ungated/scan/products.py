"""base + x W, for one W and the many x of a loop over time: what is done once per scan is done here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

#: product(base, x, out) -> base + x W; base None stands for zeros. The result may or may not be in `out`, and holds
#: until the next call with the same `out`.
Product = Callable[[Tensor | None, Tensor, Tensor], Tensor]

# Below these sizes a packed product costs more in its call, or over all steps in the packing, than it gains (measured
# against MKL, which packs at every call; AVX-512, two threads).
_PACKED_ENTRIES, _PACKED_ROWS, _PACKED_STEPS, _PACKED_ROWS_IN_ALL = 300_000, 8, 8, 700

# For fewer rows MKL adds the terms of a product to the base one by one, and rounds each time.
_EXACT_ROWS = 4


def product(W: Tensor, rows: int, steps: int, reduced: torch.dtype | None = None) -> Product:
    """The product with W (k, n) for x of shape (rows, k), to be called `steps` times.

    reduced: dtype of the factors (autocast's); base, x, W and the result keep theirs.
    """
    if reduced is not None:
        return _reduced(W.to(reduced), reduced)
    large = W.numel() >= _PACKED_ENTRIES and rows >= _PACKED_ROWS and steps >= _PACKED_STEPS
    large = large and rows * steps >= _PACKED_ROWS_IN_ALL
    if large and W.device.type == "cpu" and W.dtype == torch.float32 and _can_pack():
        return _packed(W, rows)
    # A transposed view stays one: for a single row, the product with a copy of it sums in a less exact order.
    return _plain(W if 1 in W.stride() else W.contiguous(), apart=rows < _EXACT_ROWS and W.device.type == "cpu")


def put(result: Tensor, place: Tensor) -> Tensor:
    """See that a product's result is where it should be, which is returned."""
    return result if result is place else place.copy_(result)


def tf32_allowed() -> bool:
    """Whether torch may round the factors of a float32 product to TF32 on a GPU, by either of its settings."""
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)  # asking for the older one fails where this has been set
    return bool(matmul.allow_tf32) if newer is None else newer == "tf32"


def batched(a: Tensor, b: Tensor, reduced: torch.dtype | None = None) -> Tensor:
    """Sum over time and batch of a' b: a (T, B, k), b (T, B, n) -> (k, n), the gradient of a weight."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    if reduced is None:
        return a.t() @ b
    return (a.to(reduced).t() @ b.to(reduced)).to(a.dtype)


def add_batched(total: Tensor, a: Tensor, b: Tensor, reduced: torch.dtype | None = None) -> None:
    """Add `batched` of a and b to a total in their dtype."""
    if reduced is None:
        total.addmm_(a.flatten(0, 1).t(), b.flatten(0, 1))
    else:
        total.add_(batched(a, b, reduced))


def _plain(W: Tensor, *, apart: bool) -> Product:
    """apart: whether the base is added to the whole product."""
    mm, add, addmm = torch.mm, torch.add, torch.addmm

    def apply(base: Tensor | None, x: Tensor, out: Tensor) -> Tensor:
        if base is None:
            return mm(x, W, out=out)
        return add(base, mm(x, W), out=out) if apart else addmm(base, x, W, out=out)

    return apply


def _reduced(W: Tensor, dtype: torch.dtype) -> Product:
    def apply(base: Tensor | None, x: Tensor, out: Tensor) -> Tensor:
        result = x.to(dtype) @ W
        return out.copy_(result) if base is None else torch.add(base, result, out=out)

    return apply


def _packed(W: Tensor, rows: int) -> Product:
    linear = torch.ops.mkldnn._linear_pointwise
    plain, binary = linear.default, linear.binary
    packed = torch.ops.mkldnn._reorder_linear_weight(W.t().contiguous(), rows)

    def apply(base: Tensor | None, x: Tensor, out: Tensor) -> Tensor:
        if base is None:
            return plain(x.contiguous(), packed, None, "none", [], "")  # type: ignore[no-any-return]
        return binary(x.contiguous(), base.contiguous(), packed, None, "add")  # type: ignore[no-any-return]

    return apply


def _can_pack() -> bool:
    return bool(torch.backends.mkldnn.enabled) and _packing_works()


@cache
def _packing_works() -> bool:
    """Whether oneDNN's packed product is there and right: its names are private to torch and may change."""
    W, x, base = (torch.arange(float(r * c)).view(r, c).sin() for r, c in ((5, 3), (2, 5), (2, 3)))
    out = torch.empty(0)
    try:
        apply = _packed(W, 2)
        right = torch.allclose(apply(base, x, out), base + x @ W) and torch.allclose(apply(None, x, out), x @ W)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return right
