"""Shared native operations: C++ on CPUs, CUDA on GPUs, and plain PyTorch wherever neither is at hand."""

from noisegan.ext.convolution import conv2d, conv_transpose2d
from noisegan.ext.functional import (
    DrawnNoise,
    bias_act,
    noise_bias_act,
    philox_bits,
    philox_normal,
    philox_uniform,
    scale_channels,
    upfirdn2d,
)

__all__ = [
    "DrawnNoise",
    "bias_act",
    "conv2d",
    "conv_transpose2d",
    "noise_bias_act",
    "philox_bits",
    "philox_normal",
    "philox_uniform",
    "scale_channels",
    "upfirdn2d",
]
