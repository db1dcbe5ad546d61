"""Manifolds: exponential maps that stay smooth where noise needs them, at zero strength."""

from noisegan.plugins.geometry.euclidean import Euclidean
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.poincare_ball import PoincareBall
from noisegan.plugins.geometry.sphere import Sphere

__all__ = ["Euclidean", "Manifold", "PoincareBall", "Sphere"]
