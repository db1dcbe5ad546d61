"""Manifolds: exponential maps that stay smooth where noise needs them, at zero strength.

from noisegan.plugins.geometry import manifold

M = manifold("sphere", dim=63)
y = M.exp(x, v)
"""

from noisegan.plugins.geometry.checking import assert_manifold, check_manifold, manifold_checks
from noisegan.plugins.geometry.euclidean import Euclidean
from noisegan.plugins.geometry.grassmannian import Grassmannian
from noisegan.plugins.geometry.hyperboloid import Hyperboloid
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.names import manifold
from noisegan.plugins.geometry.natives import NATIVE
from noisegan.plugins.geometry.poincare_ball import PoincareBall
from noisegan.plugins.geometry.product import Product, product
from noisegan.plugins.geometry.so import SO
from noisegan.plugins.geometry.spd import SPDAffine, SPDBures, SPDLogEuclidean
from noisegan.plugins.geometry.sphere import Sphere
from noisegan.plugins.geometry.stiefel import Stiefel
from noisegan.plugins.geometry.torus import Torus

__all__ = [
    "NATIVE",
    "SO",
    "Euclidean",
    "Grassmannian",
    "Hyperboloid",
    "Manifold",
    "PoincareBall",
    "Product",
    "SPDAffine",
    "SPDBures",
    "SPDLogEuclidean",
    "Sphere",
    "Stiefel",
    "Torus",
    "assert_manifold",
    "check_manifold",
    "manifold",
    "manifold_checks",
    "product",
]
