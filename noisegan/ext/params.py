"""What each kernel is told: the structs of csrc/params.h, field by field. Pointers are addresses or None."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int, c_longlong, c_uint32, c_void_p

import torch

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""Types of feature maps and their numbers in the CPU library. CUDA kernels end in the type's name."""


class Noise(ctypes.Structure):
    _fields_ = [
        ("values", c_void_p),
        *((f"stride_{axis}", c_longlong) for axis in "ncp"),
        ("ids", c_void_p),
        ("step", c_void_p),
        *((name, c_uint32) for name in ("key0", "key1", "first_block")),
    ]


_MAP = [(name, c_longlong) for name in "ncp"]
_ACTIVATION = [(name, c_double) for name in ("slope", "gain", "clamp")]
_HOW = [("channels_last", c_int), ("threads", c_int)]


class BiasAct(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "y", "scale", "bias", "strength")),
        *((f"strength_{axis}", c_longlong) for axis in "ncp"),
        ("noise", Noise),
        *_MAP,
        *_ACTIVATION,
        *_HOW,
    ]


class BiasActGrad(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("g", "y", "x", "gx", "scale", "sum_h", "sum_hx", "sum_he", "sum_c", "weight")),
        ("weight_n", c_longlong),
        ("weight_c", c_longlong),
        ("noise", Noise),
        *_MAP,
        ("chunks", c_longlong),
        *_ACTIVATION,
        *_HOW,
    ]


class ChannelSum(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("g", "y", "weight")),
        ("weight_n", c_longlong),
        ("weight_c", c_longlong),
        ("out", c_void_p),
        *_MAP,
        *_ACTIVATION,
        *_HOW,
    ]


class UpFirDn(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "y", "f")),
        *((name, c_longlong) for name in ("n", "c", "h", "w", "oh", "ow", "x0", "y0")),
        ("gain", c_double),
        *((name, c_int) for name in ("kh", "kw", "up", "down", "separable", "flip")),
        *_HOW,
    ]


class Philox(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("ids", "step", "out")),
        ("n", c_longlong),
        ("count", c_longlong),
        *((name, c_uint32) for name in ("key0", "key1", "first_block")),
        ("kind", c_int),
        ("threads", c_int),
    ]


class Winograd(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "weight", "y", "room")),
        *((f"weight_{axis}", c_longlong) for axis in "kchw"),
        *((name, c_longlong) for name in "nhwck"),
        ("threads", c_int),
    ]


class WinogradWeight(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "g", "weight", "room")),
        *((name, c_longlong) for name in "nhwck"),
        ("threads", c_int),
    ]


KERNELS: dict[type[ctypes.Structure], str] = {
    BiasAct: "bias_act",
    BiasActGrad: "bias_act_grad",
    ChannelSum: "channel_sum",
    UpFirDn: "upfirdn2d",
    Philox: "philox",
}
"""The kernel that each struct belongs to."""
CPU_KERNELS = KERNELS | {Winograd: "winograd", WinogradWeight: "winograd_weight"}
"""The same for the CPU library, which has some more."""
