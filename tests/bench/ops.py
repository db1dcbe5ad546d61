"""Each operation of noisegan.ext beside what one would write in eager PyTorch, on the same tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import naive
from bench.measure import interleave
from noisegan import ext

SHAPES = ((8, 64, 64, 64), (8, 128, 32, 32), (4, 32, 128, 128))
TOY_SHAPES = ((2, 4, 8, 8),)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
GAIN = math.sqrt(2)
UP: dict[str, Any] = {"up": 2, "padding": (2, 1, 2, 1), "gain": 4}
DOWN: dict[str, Any] = {"down": 2, "padding": (1, 1, 1, 1)}
FILTER: dict[str, Any] = {"padding": (2, 1, 2, 1)}

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Op:
    """One operation both ways. `extra`: tensors beside the map, from (N, C, H, W); what has a gradient gets one."""

    ours: Function
    plain: Function
    extra: Callable[[int, int, int, int], list[Tensor]] = lambda n, c, h, w: []


def _bias(n: int, c: int, h: int, w: int) -> list[Tensor]:
    return [torch.randn(c).requires_grad_()]


def _noise(n: int, c: int, h: int, w: int) -> list[Tensor]:
    """Noise, a strength, a bias."""
    return [torch.randn(n, 1, h, w), torch.tensor(0.1).requires_grad_(), *_bias(n, c, h, w)]


def _noise_map(n: int, c: int, h: int, w: int) -> list[Tensor]:
    """Noise, a strength per pixel, a bias."""
    return [torch.randn(n, 1, h, w), torch.rand(n, 1, h, w).requires_grad_(), *_bias(n, c, h, w)]


def _demodulated(n: int, c: int, h: int, w: int) -> list[Tensor]:
    """Noise, a strength, a bias, a factor per sample and channel."""
    return [*_noise(n, c, h, w), torch.rand(n, c).requires_grad_()]


def _plain_site(x: Tensor, e: Tensor, strength: Tensor, b: Tensor, scale: Tensor | None = None) -> Tensor:
    """Demodulation, noise, bias, activation, each by itself."""
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    return naive.bias_act(x + (strength * e).to(x.dtype), b, "lrelu", GAIN)


def _our_site(x: Tensor, e: Tensor, strength: Tensor, b: Tensor, scale: Tensor | None = None) -> Tensor:
    return ext.noise_bias_act(x, e, strength, b, scale=scale)


OPS: dict[str, Op] = {
    "bias_act": Op(lambda x, b: ext.bias_act(x, b), lambda x, b: naive.bias_act(x, b, "lrelu", GAIN), _bias),
    "bias_act+clamp": Op(
        lambda x, b: ext.bias_act(x, b, clamp=256), lambda x, b: naive.bias_act(x, b, "lrelu", GAIN, 256), _bias
    ),
    "noise_bias_act": Op(_our_site, _plain_site, _noise),
    "noise_bias_act+map": Op(_our_site, _plain_site, _noise_map),
    "noise_bias_act+scale": Op(_our_site, _plain_site, _demodulated),
    "scale_channels": Op(
        ext.scale_channels,
        lambda x, s: x * s.to(x.dtype)[:, :, None, None],
        lambda n, c, h, w: [torch.rand(n, c).requires_grad_()],
    ),
    "upsample2": Op(lambda x: ext.upfirdn2d(x, TAPS, **UP), lambda x: naive.upfirdn2d(x, TAPS, **UP)),
    "downsample2": Op(lambda x: ext.upfirdn2d(x, TAPS, **DOWN), lambda x: naive.upfirdn2d(x, TAPS, **DOWN)),
    "filter": Op(lambda x: ext.upfirdn2d(x, TAPS, **FILTER), lambda x: naive.upfirdn2d(x, TAPS, **FILTER)),
}
PHILOX: dict[str, tuple[Function, Callable[..., Tensor]]] = {
    "philox_normal": (ext.philox_normal, torch.randn),
    "philox_uniform": (ext.philox_uniform, torch.rand),
}
NAMES = (*OPS, *PHILOX)


def run(
    names: Sequence[str],
    *,
    precisions: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    device: str,
    rounds: int,
    clock: str,
) -> Iterator[dict[str, Any]]:
    """A row per operation, shape, dtype, layout and pass: seconds both ways and their ratio."""
    torch.manual_seed(0)
    for name in names:
        for shape in shapes:
            if name in PHILOX:
                ours, plain = _philox_calls(name, shape, device)
                yield _row(name, shape, "fp32", "-", "fwd", ours, plain, rounds, clock)
                continue
            for precision in precisions:
                for layout in LAYOUTS:
                    for backward in (False, True):
                        ours, plain = _calls(OPS[name], shape, precision, layout, backward=backward, device=device)
                        passes = "fwd+bwd" if backward else "fwd"
                        yield _row(name, shape, precision, layout, passes, ours, plain, rounds, clock)


def _row(
    name: str,
    shape: Sequence[int],
    precision: str,
    layout: str,
    passes: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    rounds: int,
    clock: str,
) -> dict[str, Any]:
    times = interleave({"noisegan": ours, "plain": plain}, rounds=rounds, clock=clock)
    kind = {"op": name, "shape": list(shape), "precision": precision, "layout": layout, "pass": passes}
    return kind | {f"{key}_s": value for key, value in times.items()} | {"ratio": times["plain"] / times["noisegan"]}


def _calls(
    op: Op, shape: tuple[int, ...], precision: str, layout: str, *, backward: bool, device: str = "cpu"
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Both ways, after a check that they compute the same."""
    n, c, h, w = shape
    x = torch.randn(n, c, h, w).to(device, DTYPES[precision], memory_format=LAYOUTS[layout]).requires_grad_()
    extra = [tensor.detach().to(device).requires_grad_(tensor.requires_grad) for tensor in op.extra(n, c, h, w)]
    inputs = [tensor for tensor in (x, *extra) if tensor.requires_grad]
    results = [f(x, *extra).detach() for f in (op.ours, op.plain)]
    # The plain way rounds after each of its operations; the tolerance is that of a few roundings.
    tolerance = 5e-2 if precision == "bf16" else 1e-4
    torch.testing.assert_close(results[0].float(), results[1].float(), rtol=tolerance, atol=tolerance)
    g = torch.randn_like(results[0])  # in the layout of the result

    def call(f: Function) -> Callable[[], object]:
        if backward:
            return lambda: torch.autograd.grad(f(x, *extra), inputs, g)

        def forward() -> Tensor:
            with torch.no_grad():
                return f(x, *extra)

        return forward

    return call(op.ours), call(op.plain)


def _philox_calls(name: str, shape: tuple[int, ...], device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """As many numbers as noise maps for this batch, eight times over, so that starting a call does not count."""
    ours, plain = PHILOX[name]
    n, count = shape[0], math.prod(shape[2:]) * 8
    ids = torch.arange(n, device=device)
    return (lambda: ours((1, 2), 3, ids, count)), (lambda: plain(n, count, device=device))
