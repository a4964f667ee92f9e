"""The RRU along time by the compiled engine: notation and gradients as in scan/rru_torch.py.

With the input's and the output's weights too, the whole layer is one scan: neither the drive nor d is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.pages import fresh
from ungated.scan.cpu.batched import Sums
from ungated.scan.cpu.library import Prepared, Scan, engine, mask_step
from ungated.scan.reference import reference_scan
from ungated.scan.rru_torch import kept_share
from ungated.scan.scan_op import Gradient, scan_op

# A span of steps backwards: its gradients should stay in the cache, and its products be large (measured, not sharp).
_SPAN_ENTRIES, _FEWEST_ROWS = 1 << 20, 512


class _Arguments(NamedTuple):
    x: Tensor  # with W_x the input (T, B, m), else the drive (T, B, g)
    h0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_x: Tensor | None
    b_j: Tensor | None
    W_h: Tensor
    W_k: list[Tensor]
    b_k: list[Tensor]
    W_c: Tensor
    b_c: Tensor
    S: Tensor | None
    Z: Tensor
    W_o: Tensor | None
    b_o: Tensor | None
    normalize: bool
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    output: Tensor  # with W_o (T, B, p), else d (T, B, g)
    last: Tensor  # h
    h: Tensor  # (T + 1, B, n): the state before each step, and the last
    a: Tensor  # (T, B, g and what fills its last register): what Normalize takes
    r: Tensor  # (T, B)
    y: Tensor  # (relu_layers - 1, T, B, g): outputs of the ReLU layers but the first


def rru_scan(
    cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; float32, without ReLU over c."""
    d, h = _op(_arguments(cell, drive, h0, noise, lengths, (None, None), (None, None)))
    return d, h


def rru_layer(
    cell: RRUCell, x: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `cell.readout` of `rru_scan` of `cell.project(x)`."""
    o, h = _op(_arguments(cell, x, h0, noise, lengths, (cell.W_x, cell.b_j), (cell.W_o, cell.b_o)))
    return o, h


def rru_prepared(cell: RRUCell, x: Tensor, h0: Tensor, packed: Tensor | None) -> Prepared:
    """From the layer's input."""
    a = _arguments(cell, x, h0, None, None, (cell.W_x, cell.b_j), (cell.W_o, cell.b_o))
    made = _allocate(a)
    return Prepared(made.output, made.last, _scan(made, a)(backward=False, packed=packed))


def _arguments(
    cell: RRUCell, x: Tensor, h0: Tensor, noise: Any, lengths: Any, before: tuple[Any, Any], after: tuple[Any, Any]
) -> _Arguments:
    chain: tuple[Any, ...] = (list(cell.W_k), list(cell.b_k), cell.W_c, cell.b_c, cell.S, cell.Z)
    rest: tuple[Any, ...] = (cell.W_h, *chain, *after, bool(cell.normalize))
    return _Arguments(x, h0, noise, lengths, *before, *rest)


def _allocate(a: _Arguments) -> _Made:
    (T, B), (n, g), new = a.x.shape[:2], a.W_h.shape, a.x.new_empty
    output, last = new(T, B, g if a.W_o is None else a.W_o.shape[1]), new(B, n)
    if not a.save:
        return _Made(output, last, *(new(0) for _ in _Made._fields[2:]))
    return _Made(output, last, h=new(T + 1, B, n), a=new(T, B, _padded(g)), r=new(T, B), y=new(len(a.W_k), T, B, g))


def _padded(g: int) -> int:
    return -(-g // 16) * 16


def _scan(made: _Made, a: _Arguments, **lists: list[Tensor]) -> Callable[..., Scan]:
    """The engine's scan, told what both directions need."""
    (T, B), (n, g) = a.x.shape[:2], a.W_h.shape
    m, p = (0 if W is None else W.shape[axis] for W, axis in ((a.W_x, 0), (a.W_o, 1)))
    told = partial(engine("rru").scan, T=T, B=B, n=n, g=g, m=m, p=p, inner=len(a.W_k), normalize=int(a.normalize))
    told = partial(told, **{"in": a.x}, h0=a.h0, mask=a.noise, mask_step=mask_step(a.noise), lengths=a.lengths)
    told = partial(told, epsilon=EPSILON, W_x=a.W_x, b_j=a.b_j, W_h=a.W_h, W_c=a.W_c, W_o=a.W_o, b_o=a.b_o)
    Z = a.Z.expand(n).contiguous()
    told = partial(
        told,
        lists={"W_k": a.W_k, "b_k": a.b_k, "y": list(made.y), **lists},
        s=kept_share(a.S, a.Z).expand(n),
        Z=Z,
        Zb=Z * a.b_c,
    )
    if not a.save:
        return partial(told, out=made.output, h=made.last)
    return partial(told, out=made.output, h=made.h, h_step=B * n, a=made.a, ld=made.a.shape[2], r=made.r)


def _forward(made: _Made, a: _Arguments) -> None:
    _scan(made, a)(backward=False).run()
    if a.save:
        made.last.copy_(made.h[-1])


def _backward(
    gradients: Sequence[Tensor | None], made: _Made, a: _Arguments, wanted: Sequence[bool]
) -> list[Gradient | None]:
    (T, B), (n, g), layers, new = a.x.shape[:2], a.W_h.shape, len(a.W_k), a.x.new_empty
    steps = min(T, max(1, max(_FEWEST_ROWS, _SPAN_ENTRIES // g) // B))
    # Gradients over time live for one span of steps only, in the cache: then the sums over time have taken them.
    G_drive = fresh(a.x, T, B, g) if a.W_x is None else None
    G_x = fresh(a.x, *a.x.shape) if a.W_x is not None and wanted[0] else None
    spans = fresh(a.x, steps, B, _padded(g)), fresh(a.x, layers, steps, B, g), fresh(a.x, steps, B, n)
    G_h0, G_s, packed = gradients[1], a.h0.new_zeros(B, n), None
    into_middle, out_of_middle, between = Sums(), Sums(), [Sums() for _ in range(layers)]
    for end in range(T, 0, -steps):
        now = slice(max(end - steps, 0), end)
        G_a, G_z, G_h = (span[..., : end - now.start, :, :] for span in spans)
        if G_drive is not None:
            G_a = G_drive[now]
        G_o = None if gradients[0] is None else gradients[0][now].contiguous()
        part = a._replace(
            x=a.x[now],
            noise=a.noise if a.noise is None or len(a.noise) == 1 else a.noise[now],
            lengths=None if a.lengths is None else a.lengths - now.start,
        )
        kept = _Made(made.output[now], made.last, made.h[now], made.a[now], made.r[now], made.y[:, now])
        received, G_h0 = G_h0, new(B, n)
        given = {"grad_out": G_o, "grad_h": received, "grad_a": G_a, "grad_a_ld": G_a.shape[2], "grad_c": G_h}
        # The state of an ended row has no c: G_h, the gradient by the state after each step, is zero there.
        run = partial(_scan(kept, part, grad_z=list(G_z)), **given, grad_h0=G_h0, grad_s=G_s)
        packed = run(backward=True, packed=packed).run().weights
        G_a = G_a[..., :g]
        # What the first ReLU layer gives is max(a, 0) r, times the mask if it is also the last.
        first: dict[str, Any] = {"rectify": True, "scale": kept.r if a.normalize else None, "sparse": True}
        into_middle.add([kept.h, *([] if a.W_x is None else [part.x])], [G_a])
        for k, sums in enumerate(between):
            sums.add([kept.y[k - 1]], [G_z[k]], sparse=True) if k else sums.add([kept.a[..., :g]], [G_z[0]], **first)
        right = [G_h, *([] if a.W_o is None or G_o is None else [G_o])]
        if layers:
            out_of_middle.add([kept.y[-1]], right, sparse=True)
        else:
            out_of_middle.add([kept.a[..., :g]], right, mask=part.noise, **first)
        if G_x is not None and a.W_x is not None:
            torch.mm(G_a.flatten(0, 1), a.W_x.t(), out=G_x[now].view(-1, a.x.shape[2]))
    M, G_b_c, s = out_of_middle.products[0][0], out_of_middle.totals[0], kept_share(a.S, a.Z)
    if a.W_o is None or a.b_o is None:
        of_output = []
    elif gradients[0] is None:
        of_output = [torch.zeros_like(a.W_o), torch.zeros_like(a.b_o)]
    else:
        of_output = [out_of_middle.products[0][1], out_of_middle.totals[1]]
    G_Z = (torch.mul(a.W_c, M, out=fresh(M, *M.shape)).sum(0) + a.b_c * G_b_c).sum_to_size(a.Z.shape)
    found = [
        G_x if G_drive is None else G_drive,
        G_h0,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        *([] if a.W_x is None else [into_middle.products[1][0], into_middle.totals[0]]),
        into_middle.products[0][0],
        *(sums.products[0][0] for sums in between),
        *(sums.totals[0] for sums in between),
        M.mul_(a.Z),
        G_b_c * a.Z,
        *([] if a.S is None else [G_s.sum(0) * (S_SCALE * s * (1.0 - s))]),
        G_Z,
        *of_output,
    ]
    return [None if gradient is None else partial(_itself, gradient) for gradient in found]


def _itself(gradient: Tensor) -> Tensor:
    return gradient


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict(), output_relu=False)  # what its stages read of a cell
    cell.step = partial(RRUCell.step, cell)
    with torch.autocast("cpu", enabled=False):
        drive = a.x if a.W_x is None else RRUCell.project(cell, a.x)
        d, h = reference_scan(cell, drive, a.h0, a.noise, a.lengths)
        return d if a.W_o is None else RRUCell.readout(cell, d), h  # type: ignore[return-value]


_op = scan_op(
    "rru_cpu",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
    selective=True,
)
