"""Manifolds: exponential maps that stay smooth where noise needs them, at zero strength."""

from noisegan.plugins.geometry.manifold import Manifold

__all__ = ["Manifold"]
