"""What compact manifolds of matrices share: features are kept where the logarithm at the origin is one-valued."""

from __future__ import annotations

from torch import Tensor

from noisegan.plugins.geometry.manifold import Aside
from noisegan.plugins.geometry.matrices import MatrixManifold
from noisegan.plugins.geometry.precision import widened


class Compact(MatrixManifold):
    """A manifold with a finite injectivity radius, the same everywhere.

    Features f are normal coordinates at the origin, drawn inside `reach`: xi = f / c, c = sqrt(1 + |f|^2 / reach^2),
    smooth, odd and the identity to second order. c is kept aside, and they come back as c xi: however far noise takes
    a point, features stay of their size.

    Attributes:
        bound: the injectivity radius.
        reach: nine tenths of it, where log is still well conditioned.
    """

    bound: float

    @property
    def reach(self) -> float:
        return 0.9 * self.bound

    def injectivity_radius(self, x: Tensor) -> Tensor:
        return x.new_full((), self.bound).expand(x.shape[:-2])

    @widened
    def carry(self, features: Tensor) -> tuple[Tensor, Aside]:
        stretch = (1 + features.square().sum(-1, keepdim=True) / self.reach**2).sqrt()
        return super().carry(features / stretch)[0], stretch

    @widened
    def bring_back(self, x: Tensor, aside: Aside) -> Tensor:
        assert isinstance(aside, Tensor)
        return super().bring_back(x, None) * aside
