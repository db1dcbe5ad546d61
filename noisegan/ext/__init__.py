"""Shared native operations behind plain functions; today each runs its plain-PyTorch reference."""

from noisegan.ext.philox import philox_bits, philox_normal, philox_uniform
from noisegan.ext.reference import bias_act, upfirdn2d

__all__ = ["bias_act", "philox_bits", "philox_normal", "philox_uniform", "upfirdn2d"]
