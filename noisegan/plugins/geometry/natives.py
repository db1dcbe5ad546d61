"""The manifolds that come with noisegan, registered as any plugin's, and the keeping of all that are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from noisegan.api import hookimpl
from noisegan.plugins.geometry.euclidean import Euclidean
from noisegan.plugins.geometry.grassmannian import Grassmannian
from noisegan.plugins.geometry.hyperboloid import Hyperboloid
from noisegan.plugins.geometry.manifold import Manifold
from noisegan.plugins.geometry.names import remember
from noisegan.plugins.geometry.poincare_ball import PoincareBall
from noisegan.plugins.geometry.product import Product
from noisegan.plugins.geometry.so import SO
from noisegan.plugins.geometry.spd import SPDAffine, SPDBures, SPDLogEuclidean
from noisegan.plugins.geometry.sphere import Sphere
from noisegan.plugins.geometry.stiefel import Stiefel
from noisegan.plugins.geometry.torus import Torus

NATIVE: tuple[type[Manifold], ...] = (
    Euclidean,
    Sphere,
    PoincareBall,
    Hyperboloid,
    Torus,
    SPDAffine,
    SPDLogEuclidean,
    SPDBures,
    SO,
    Grassmannian,
    Stiefel,
    Product,
)
"""In the order of lists; known by name from the import of `noisegan.plugins.geometry` on."""

remember({M.name: M for M in NATIVE})


@hookimpl
def register_manifolds(register: Callable[[str, Any], None]) -> None:
    for M in NATIVE:
        register(M.name, M)


@hookimpl
def manifolds_registered(manifolds: Mapping[str, Any]) -> None:
    remember(manifolds)
