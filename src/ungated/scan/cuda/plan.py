"""How a scan is laid out on a GPU: which block owns which columns and rows, and what lies where on chip.

A team of blocks owns a slice of the batch's rows and divides every weight's columns between its blocks; teams know
nothing of each other. A team of one block needs no barrier beyond its own. What is decided here reaches the kernel as
constants, so that its loops have known bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

MODES = ("BF16", "FP16", "TF32", "FP32")

# Sizes of kernels/factors.h, the same in every mode.
_TILE_BLOCK, _ROWS_BLOCK, _STAGE_ROW, _QUAD = 1024, 512, 80, 16

_THREADS_OF_WARP, _ROWS_OF_TILE, _COLUMNS_OF_TILE = 32, 8, 16
# What stays in registers, of which 16 warps have half as many each as 8: results of a phase that a thread may have,
# tiles of eight rows whose sums a warp holds at once, blocks of rows that it has under way.
_MOST_RESULTS = {4: 40, 8: 40, 16: 16}
_SUMS = {4: 16, 8: 16, 16: 6}
_UNDER_WAY = {4: 8, 8: 8, 16: 4}

# How many numbers a thread may hold beside a product, and the bytes that go to memory and back at every step for each
# one more, with its address: from what the assembler reports of the kernels.
_MOST_HELD = {4: 44, 8: 44, 16: 16}
_SPILLED = 35

# What a phase costs, in nanoseconds: the model of a Hopper GPU by which plans are compared. The card was not measured.
_MEETING, _BLOCK_MEETING, _EPILOGUE = 1000.0, 40.0, 60.0
_FROM_L2, _FROM_SHARED = 42.0, 220.0  # bytes a nanosecond and multiprocessor
_LATENCY = 300.0  # of a first load from L2
_INSTRUCTION = {"BF16": 18.0, "FP16": 18.0, "TF32": 18.0, "FP32": 40.0}  # of a warp, on what went before it
_RATE = {"BF16": 1.1, "FP16": 1.1, "TF32": 1.1, "FP32": 9.0}  # the same, of a multiprocessor, on anything


@dataclass(frozen=True)
class Product:
    """A product of a step: K terms, N units with a result of each of `gates` columns, by `count` weights in turn.

    held: what a thread keeps for each of its units and rows, also while it multiplies.
    """

    name: str
    K: int
    N: int
    takes: str
    gates: int = 1
    count: int = 1
    held: int = 0


@dataclass(frozen=True)
class Work:
    """What a kernel is to do, whatever the GPU: its source, products, the activations exchanged, its own constants.

    exchanges: name -> terms. row_sums: of which product's units a sum a row is needed. other: another way to the same
    results, which a plan may take instead.
    """

    kernel: str
    products: tuple[Product, ...]
    exchanges: tuple[tuple[str, int], ...]
    row_sums: str = ""
    constants: tuple[tuple[str, int], ...] = ()
    other: Work | None = None


@dataclass(frozen=True)
class Device:
    """What the plan depends on of a GPU."""

    multiprocessors: int
    shared_bytes: int
    arch: str


@dataclass(frozen=True)
class Laid:
    """A product on a team: what each block has of it."""

    product: Product
    units: int
    tiles: int
    blocks: int
    wk: int
    warps: int
    resident: int = 0
    slab_at: int = 0
    scratch_at: int = 0

    @property
    def tiles_of_warp(self) -> int:
        return _up(self.tiles, self.warps // self.wk)

    @property
    def blocks_of_warp(self) -> int:
        return _up(self.blocks, self.wk)

    @property
    def stride(self) -> int:
        """Floats from one row of partial sums to the next: rows that a warp writes at once lie in different banks."""
        return self.tiles * _COLUMNS_OF_TILE + 4

    @property
    def slab_bytes(self) -> int:
        return self.tiles * self.blocks * _TILE_BLOCK


@dataclass(frozen=True)
class Plan:
    """A work on a GPU. Sizes in bytes; places in shared memory, exchanges in a team's exchange memory."""

    work: Work
    mode: str
    rows: int
    ctas: int
    warps: int
    laid: tuple[Laid, ...]
    exchanges: Mapping[str, int] = field(hash=False)
    places: Mapping[str, int] = field(hash=False)
    shared_bytes: int = 0
    exchange_bytes: int = 0
    scratch_bytes: int = 0
    nanoseconds: float = 0.0

    @property
    def threads(self) -> int:
        return self.warps * _THREADS_OF_WARP

    @property
    def spilled_bytes(self) -> int:
        """What the assembler is thought to report of each thread."""
        held = sum(_up(laid.units * self.rows, self.threads) * laid.product.held for laid in self.laid)
        return _SPILLED * max(0, held - _MOST_HELD[self.warps])

    @property
    def streamed(self) -> bool:
        """Whether some weights are read from the device's memory at every step."""
        return any(laid.resident < laid.product.count for laid in self.laid)

    @property
    def constants(self) -> str:
        """All of this as the kernel's source."""
        plain = self.mode == "FP32"  # whose code is long: it is not unrolled as far
        scalars = {
            "MODE": MODES.index(self.mode),
            "NT": self.rows // _ROWS_OF_TILE,
            "ROWS": self.rows,
            "CTAS": self.ctas,
            "WARPS": self.warps,
            "THREADS": self.threads,
            "PASS": max(1, (4 if plain else _SUMS[self.warps]) * 8 // self.rows),
            "AHEAD": 1 if plain else max(1, _UNDER_WAY[self.warps] * 8 // self.rows),
            "STREAMED": int(self.streamed),
            "EXCHANGE_BYTES": self.exchange_bytes,
            **self.places,
            **dict(self.work.constants),
        }
        lines = [f"constexpr int {name} = {value};" for name, value in scalars.items()]
        lines += [_struct(name, {"AT": at, "BLOCKS": terms}) for name, (at, terms) in self._exchanges().items()]
        lines += [_struct(laid.product.name, _members(laid)) for laid in self.laid]
        return "\n".join(lines) + "\n"

    def _exchanges(self) -> dict[str, tuple[int, int]]:
        terms = dict(self.work.exchanges)
        return {name: (at, _up(terms[name], block_terms(self.mode))) for name, at in self.exchanges.items()}


def block_terms(mode: str) -> int:
    """Terms of a block of factors."""
    return 32 if mode in ("BF16", "FP16") else 16


@cache
def plan(work: Work, mode: str, batch: int, device: Device) -> Plan | None:
    """The plan that the model finds fastest for a batch of so many rows; None if none fits the device."""
    found = [made for made in _candidates(work, mode, batch, device) if made is not None]
    return min(found, key=lambda made: made.nanoseconds, default=None)


def teams_at_once(made: Plan, batch: int, device: Device) -> int:
    """How many teams one launch may have: those of several blocks must all be on the GPU together."""
    needed = _up(batch, made.rows)
    return needed if made.ctas == 1 else min(needed, device.multiprocessors // made.ctas)


def _candidates(work: Work, mode: str, batch: int, device: Device) -> Iterator[Plan | None]:
    for rows in (8, 16, 32, 64):
        if rows >= 2 * batch and rows > 8:
            break
        teams = _up(batch, rows)
        for ctas in {1, *(_fewest(work, device.multiprocessors // share) for share in {1, 2, 4, teams})}:
            for warps in _SUMS if ctas >= 1 else ():
                yield _laid_out(work, mode, batch, device, rows, ctas, warps)
    if work.other is not None:
        yield from _candidates(work.other, mode, batch, device)


def _fewest(work: Work, ctas: int) -> int:
    """The smallest team whose blocks own no more units each than in one of `ctas`."""
    if ctas <= 1:
        return ctas
    return max(_up(product.N, _up(product.N, ctas)) for product in work.products)


def _laid_out(work: Work, mode: str, batch: int, device: Device, rows: int, ctas: int, warps: int) -> Plan | None:
    laid = [_divided(product, mode, rows, ctas, warps) for product in work.products]
    most = max(_up(part.units * rows, warps * _THREADS_OF_WARP) * part.product.gates for part in laid)
    if most > _MOST_RESULTS[warps] or rows // _ROWS_OF_TILE > _SUMS[warps]:
        return None
    exchanges, exchange_bytes = _stacked(
        {name: 2 * _up(terms, block_terms(mode)) * (rows // 8) * _ROWS_BLOCK for name, terms in work.exchanges}
    )
    terms = next((part.units for part in laid if part.product.name == work.row_sums), 0)
    parts_at, exchange_bytes = exchange_bytes, exchange_bytes + (rows * ctas * 4 if terms else 0)
    exchange_bytes = _up(exchange_bytes, 128) * 128
    places, used = _stacked(
        {
            "STOPPED_AT": 16,
            "PARTIAL_AT": max(part.wk * rows * part.stride * 4 for part in laid),
            "STAGE_AT": warps * rows * _STAGE_ROW if mode == "FP32" else 0,
            "ROW_TERMS_AT": rows * terms * 4,
            "ROW_VALUES_AT": rows * 4,
            "EXCHANGE_AT": exchange_bytes if ctas == 1 else 0,
        }
    )
    made, used, scratch = _placed(laid, used, device.shared_bytes, ctas)
    if used > device.shared_bytes or (ctas == 1 and scratch):
        return None
    places |= {"ROW_PARTS_AT": parts_at, "ROW_TERMS": max(terms, 1)}
    found = Plan(work, mode, rows, ctas, warps, made, exchanges, places, used, exchange_bytes, scratch)
    return _with_time(found, batch, device)


def _divided(product: Product, mode: str, rows: int, ctas: int, warps: int) -> Laid:
    """The product's part of a block, and how its warps divide it: in the terms first, but within reasonable room."""
    units = _up(product.N, ctas)
    tiles, blocks = _up(units * product.gates, _COLUMNS_OF_TILE), _up(product.K, block_terms(mode))
    ways = [1 << i for i in range(warps.bit_length()) if 1 << i <= max(1, min(warps, blocks))]
    parts = [Laid(product, units, tiles, blocks, wk, warps) for wk in ways]
    small = [part for part in parts if part.wk * rows * part.stride * 4 <= 49_152] or parts[:1]
    return min(small, key=lambda part: _of_warps(part, mode, rows))


def _of_warps(part: Laid, mode: str, rows: int) -> float:
    """Time of the product, its partial sums included, once the activations have come."""
    chains = part.tiles_of_warp * (rows // 8)
    steps = 2 * part.blocks_of_warp
    chain = steps * max(_INSTRUCTION[mode], chains * _RATE[mode] * min(part.warps, 4) / 4)
    rate = 2 * part.tiles * part.blocks * (rows // 8) * _RATE[mode]
    sums = part.wk * rows * part.stride * 4 * 2 / _FROM_SHARED
    return max(chain, rate) + sums


def _placed(laid: list[Laid], used: int, limit: int, ctas: int) -> tuple[tuple[Laid, ...], int, int]:
    """Weights into shared memory as far as they fit, the rest into the device's. Smallest first: more of them fit."""
    made: dict[str, Laid] = {}
    scratch = 0
    for part in sorted(laid, key=lambda part: part.slab_bytes):
        size, count = part.slab_bytes, part.product.count
        resident = min(count, max(0, limit - used) // size)
        fields = (part.product, part.units, part.tiles, part.blocks, part.wk, part.warps)
        made[part.product.name] = Laid(*fields, resident, used, scratch)
        used += resident * size
        scratch += (count if resident < count else 0) * size * ctas
    return tuple(made[part.product.name] for part in laid), used, scratch


def _with_time(made: Plan, batch: int, device: Device) -> Plan:
    waves = _up(batch, made.rows * (device.multiprocessors // made.ctas))
    busy = min(made.ctas * _up(batch, made.rows), device.multiprocessors) / device.multiprocessors
    from_l2 = _FROM_L2 / busy**0.5
    total = made.spilled_bytes * made.threads / from_l2
    for part in made.laid:
        count, resident = part.product.count, part.resident
        if not count:
            continue
        gather = part.blocks * (made.rows // 8) * _ROWS_BLOCK
        results = _up(part.units * made.rows, made.threads)
        time = _of_warps(part, made.mode, made.rows) + _BLOCK_MEETING * 4 + _EPILOGUE * results**0.5
        time += part.slab_bytes / _FROM_SHARED * (resident / count)
        time += part.slab_bytes / from_l2 * (1 - resident / count)
        if made.ctas > 1:
            time += _MEETING + _LATENCY + gather / min(110.0, _FROM_L2 / busy)
        else:
            time += gather / _FROM_SHARED
        total += count * time
    return Plan(**{**vars(made), "nanoseconds": total * waves})


def _stacked(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where parts of these sizes begin if they follow each other, and where they end; all on 128 bytes."""
    places, at = {}, 0
    for name, size in sizes.items():
        places[name] = at
        at += _up(size, 128) * 128
    return places, at


def _members(laid: Laid) -> dict[str, int]:
    product = laid.product
    return {
        "K": product.K,
        "N": product.N,
        "GATES": product.gates,
        "COUNT": product.count,
        "UNITS": laid.units,
        "TILES": laid.tiles,
        "BLOCKS": laid.blocks,
        "WK": laid.wk,
        "TILES_W": laid.tiles_of_warp,
        "BLOCKS_W": laid.blocks_of_warp,
        "LD": laid.stride,
        "RESIDENT": laid.resident,
        "SLAB_AT": laid.slab_at,
        "SCRATCH_AT": laid.scratch_at // _QUAD,  # in bytes it may be more than an int holds
    }


def _struct(name: str, members: Mapping[str, int]) -> str:
    body = " ".join(f"static constexpr int {member} = {value};" for member, value in members.items())
    return f"struct {name} {{ {body} }};"


def _up(a: int, b: int) -> int:
    return -(-a // b)
