"""Plain-PyTorch forms of the image operations: correct everywhere, differentiable to any order."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias per channel, apply an activation, scale, clamp.

    Args:
        x: [N, C, ...].
        b: [C] or None.
        act: `lrelu` (slope 0.2) or `linear`.
        gain: factor after the activation; default sqrt(2) for `lrelu` (keeps the variance), 1 for `linear`.
        clamp: limit of the absolute value after the gain, or None.
    """
    if act not in ("lrelu", "linear"):
        raise ValueError(f"act must be 'lrelu' or 'linear', not {act!r}")
    if b is not None:
        x = x + b.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
        gain = math.sqrt(2) if gain is None else gain
    if gain is not None and gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros, pad, filter, drop samples: resampling with a finite impulse response filter.

    Args:
        x: [N, C, H, W].
        f: [kh, kw], or [k] for the separable filter f f^T.
        up: `up - 1` zeros follow every sample on both axes.
        down: every `down`-th sample of the result is kept.
        padding: (x0, x1, y0, y1) zeros around the upsampled map; negative values crop.
        flip: False convolves with f, True correlates.
        gain: factor on the result. Upsampling by 2 with a filter of unit sum needs 4 to keep the mean.

    Returns:
        [N, C, (H up + y0 + y1 - kh) // down + 1, likewise for W].
    """
    if f.ndim == 1:
        f = torch.outer(f, f)
    f = (f if flip else f.flip(0, 1)).to(x.dtype) * gain
    x0, x1, y0, y1 = padding
    channels = x.shape[1]
    if up == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:  # the convolution pads by itself, without a copy
            return F.conv2d(x, f.expand(channels, 1, *f.shape), stride=down, padding=(y0, x0), groups=channels)
        return F.conv2d(F.pad(x, padding), f.expand(channels, 1, *f.shape), stride=down, groups=channels)
    # A transposed convolution skips the inserted zeros. It yields the full convolution of the upsampled map (less the
    # zeros after the last sample), of which `padding` wants more or less at each end.
    kh, kw = f.shape
    kernel = f.flip(0, 1).expand(channels, 1, kh, kw)
    top, left = y0 - kh + 1, x0 - kw + 1
    bottom, right = y1 - (kh - up), x1 - (kw - up)
    if top == bottom <= 0 and left == right <= 0:
        x = F.conv_transpose2d(x, kernel, stride=up, padding=(-top, -left), groups=channels)
    else:
        x = F.pad(F.conv_transpose2d(x, kernel, stride=up, groups=channels), (left, right, top, bottom))
    return x[:, :, ::down, ::down] if down > 1 else x
