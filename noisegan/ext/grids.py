"""How many threads each CUDA kernel gets: pure arithmetic on its struct, so that it is tested without a GPU.

The axes are those that csrc/kernels.cuh and csrc/upfirdn2d.cuh describe. Any number of threads along an axis that is a
loop there is right; the others are covered whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from noisegan.ext import params

Size: TypeAlias = tuple[int, int, int]

THREADS = 256
"""Of a block; kernels.cuh: kThreads."""
STRIP = 8
"""Rows of outputs that one thread filters; upfirdn2d.cuh: kStrip."""
BUSY = 1024
"""Blocks that keep any GPU of today busy: a few for each of its at most 200 multiprocessors."""
_WARP = 32
_LIMIT = 65535  # of blocks along y and z
_LARGEST = 2**31 - 1


def launch_shape(what: ctypes.Structure, dtype: torch.dtype) -> tuple[Size, Size]:
    """Blocks of the grid and threads of a block, both (x, y, z). A grid with a 0 has nothing to do.

    Raises:
        ValueError: when a map has an axis that the kernels cannot index.
    """
    sizes = [getattr(what, name) for name in ("n", "c", "p", "h", "w", "oh", "ow", "count") if hasattr(what, name)]
    if isinstance(what, params.UpFirDn):  # rows and planes are numbered through
        sizes += [what.c * max(what.w, what.ow), what.n * max(what.c, what.oh)]
    grid, block = _SHAPES[type(what)](what, dtype)
    if max(*sizes, *grid) > _LARGEST or max(grid[1:]) > _LIMIT:
        kernel = params.KERNELS[type(what)]
        raise ValueError(f"the CUDA kernel {kernel} cannot index maps as large as {sizes}; split the batch or the map")
    return grid, block


def _bias_act(q: Any, dtype: torch.dtype) -> tuple[Size, Size]:
    if q.channels_last:
        block = _block(_vectors(q.c, dtype, q.x, q.y), _ceil(q.p, 4))
        return _loops(_ceil(_vectors(q.c, dtype, q.x, q.y), block[0]), _ceil(_ceil(q.p, 4), block[1]), q.n), block
    vectors = _vectors(q.p, dtype, q.x, q.y)
    block = _block(vectors, q.c)
    across, down = _ceil(vectors, block[0]), _ceil(q.c, block[1])
    if q.strength:  # threads that take several channels read or draw the noise once for all of them
        down = _ceil(down, min(8, max(1, across * down * q.n // BUSY)))
    return _loops(across, down, q.n), block


def _bias_act_grad(q: Any, dtype: torch.dtype) -> tuple[Size, Size]:
    pointers = (q.g, q.y, q.x, q.gx)
    if q.channels_last:
        vectors = _vectors(q.c, dtype, *pointers)
        x = max(1, min(vectors, 8))  # 64 or 128 bytes side by side
        block = (x, _power_below(THREADS // x), 1)
        return (_ceil(vectors, x), q.chunks, min(q.n, _LIMIT)), block
    vectors = _ceil(_vectors(q.p, dtype, *pointers), q.chunks)
    x = min(max(_power_above(_ceil(vectors, 4)), 8), THREADS)  # a thread takes four vectors or more, if there are
    y = min(THREADS // x, max(_power_above(q.c), _WARP // x))
    return (q.chunks, _ceil(q.c, y), min(q.n, _LIMIT)), (x, y, 1)


def _channel_sum(q: Any, dtype: torch.dtype) -> tuple[Size, Size]:
    if q.channels_last:
        x = min(_power_above(_vectors(q.c, dtype, q.g, q.y)), _WARP)
        return _loops(1, _ceil(q.p, THREADS // x), q.n), (x, THREADS // x, 1)
    vectors = _vectors(q.p, dtype, q.g, q.y)
    x = max(1, min(vectors, _WARP if vectors * q.n >= _WARP * BUSY else 8))
    return _loops(_ceil(vectors, x), 1, q.n), (x, min(_power_below(THREADS // x), _power_above(q.c)), 1)


def _upfirdn2d(q: Any, dtype: torch.dtype) -> tuple[Size, Size]:
    rows, columns = q.oh, q.ow
    if q.kh == q.kw == 4 and (q.up, q.down) in ((2, 1), (1, 2), (1, 1)):
        # Strips may start up to `up` - 1 outputs before the map.
        rows, columns = _ceil(q.oh + q.up - 1, STRIP), _ceil(q.ow + q.up - 1, q.up)
    axes = (q.c, columns, q.n * rows) if q.channels_last else (columns, rows, q.n * q.c)
    block = _block(*axes)
    x, y, z = (_ceil(axis, threads) for axis, threads in zip(axes, block, strict=True))
    return (x, y, min(z, _LIMIT)), block


def _philox(q: Any, dtype: torch.dtype) -> tuple[Size, Size]:
    blocks = _ceil(q.count, 4)
    block = _block(blocks, q.n)
    return _loops(_ceil(blocks, block[0]), _ceil(q.n, block[1]), 1), block


_SHAPES: dict[type[ctypes.Structure], Callable[[Any, torch.dtype], tuple[Size, Size]]] = {
    params.BiasAct: _bias_act,
    params.BiasActGrad: _bias_act_grad,
    params.ChannelSum: _channel_sum,
    params.UpFirDn: _upfirdn2d,
    params.Philox: _philox,
}


def _vectors(count: int, dtype: torch.dtype, *addresses: int | None) -> int:
    """Loads that `count` neighbours take: fours where they fit and lie on their boundaries (kernels.cuh: kWide)."""
    wide = dtype != torch.float64 and count % 4 == 0
    return count // 4 if wide and all((a or 0) % (4 * dtype.itemsize) == 0 for a in addresses) else count


def _block(x: int, y: int, z: int = 1) -> Size:
    """As many threads as there is work, x first, THREADS at most (and 64, the hardware's limit, along z)."""
    x = max(1, min(x, THREADS))
    y = max(1, min(y, THREADS // x))
    return x, y, max(1, min(z, THREADS // (x * y), 64))


def _loops(x: int, y: int, z: int) -> Size:
    """A grid whose axes y and z are loops in the kernel."""
    return x, min(y, _LIMIT), min(z, _LIMIT)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power_above(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def _power_below(count: int) -> int:
    """The greatest power of two that is not above `count`."""
    return 1 << (count.bit_length() - 1)
