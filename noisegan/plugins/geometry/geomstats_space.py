"""Any space of geomstats as a manifold, with what geomstats gets wrong at zero noise put right."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noisegan.errors import NoiseganError
from noisegan.plugins.geometry.manifold import Manifold

SHORT = {torch.float32: 1e-4, torch.float64: 1e-5}
"""Length of a tangent vector below which Exp_x(v) is taken as x + v, and of a chord below which it is Log_x(y)."""
_NOT_NEWS = ("logm result may be inaccurate, approximate err = .*e-0[6-9]", "Casting complex values to real")
"""What SciPy and torch say of logarithms of rotations that are right to the rounding of float32."""
_LOCK = threading.RLock()


class GeomstatsSpace(Manifold):
    """A geomstats space; `noisegan.plugins.geometry.geomstats.geomstats_manifold` makes it.

    geomstats makes constants in torch's default dtype while it computes. Every call here sets that default to the dtype
    of its inputs and puts it back, under a lock: calls from several threads wait for each other, and a thread that
    makes tensors outside meanwhile can see the other default.

    Exp_x(v) is x + v where |v| < 1e-4 (float64: 1e-5), and Log_x(y) is y - x where that is as short, as many spaces
    have no derivative or a wrong one there. The first derivative is exact, the curvature is missing from the second.
    geomstats is handed something harmless for these points, so that nothing becomes NaN. What it gets wrong elsewhere
    stays wrong, such as derivatives at positive definite matrices with equal eigenvalues: native manifolds have no such
    points.

    What a space does not offer raises a NoiseganError that names it, when it is called.

    Args:
        name: how messages call it.
        make: builds the space; called once per dtype and device, as spaces keep constants.
    """

    tier = "geomstats"
    sizes = "as the constructor of the space"
    radius = "as geomstats gives it"
    at_zero = "first derivative exact, second without curvature"
    frame = "singular where the projected axes become dependent"

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self._spaces: dict[tuple[torch.dtype, torch.device], Any] = {}
        space = self._space(torch.zeros((), dtype=torch.float64))
        self.dim = int(space.dim)
        self.point_shape = tuple(int(size) for size in space.shape)
        self._trailing = tuple(range(-len(self.point_shape), 0))

    def project(self, u: Tensor) -> Tensor:
        return self._call("project", lambda space, u: space.projection(u), u)

    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return self._call("to_tangent", lambda space, x, u: space.to_tangent(u, x), x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._call("inner", lambda space, x, u, v: space.metric.inner_product(u, v, x), x, u, v, values=True)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = torch.broadcast_tensors(x, v)
        short = self._is_short(v)
        moved = self._call(
            "exp", lambda space, x, v: space.metric.exp(v, x), x, torch.where(short, self._harmless(x), v)
        )
        return torch.where(short, x + v, moved)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, y)
        short = self._is_short(y - x)
        away = self._call("exp", lambda space, x, v: space.metric.exp(v, x), x, self._harmless(x)).detach()
        found = self._call("log", lambda space, x, y: space.metric.log(y, x), x, torch.where(short, away, y))
        return torch.where(short, y - x, found)

    def injectivity_radius(self, x: Tensor) -> Tensor:
        def radius(space: Any, x: Tensor) -> Tensor:
            return torch.as_tensor(space.metric.injectivity_radius(x), dtype=x.dtype, device=x.device).expand(len(x))

        return self._call("injectivity_radius", radius, x, values=True)

    def origin(self, like: Tensor) -> Tensor:
        """The first of a few fixed arrays that is a point of the space, or else whose projection is one: equal
        coordinates of norm 1/2 or the first axis (matrices: a diagonal from 1 down to 0.9, then equal entries)."""
        return self._origin.to(like)

    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        """A frame by Gram and Schmidt, in the metric of the space, of the tangent parts of fixed coordinate axes: those
        that are independent at the origin. Singular where they become dependent."""
        frame = self._frame(x)
        return (xi[(..., *(None,) * len(self.point_shape))] * frame).sum(-1 - len(self.point_shape))

    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        at = -1 - len(self.point_shape)
        return self.inner(x.unsqueeze(at), self._frame(x), v.unsqueeze(at))

    def _frame(self, x: Tensor) -> Tensor:
        """[..., dim, *point_shape]."""
        at = -1 - len(self.point_shape)
        base = x.unsqueeze(at)
        tangents = self.to_tangent(base, self._axes.to(x))  # [..., dim, *point_shape]
        form = self.inner(base.unsqueeze(at), tangents.unsqueeze(at), tangents.unsqueeze(at - 1))
        wide = torch.promote_types(x.dtype, torch.float32)
        factor = torch.linalg.cholesky_ex(form.to(wide))[0]
        flat = tangents.flatten(at + 1).to(wide)
        frame: Tensor = torch.linalg.solve_triangular(factor, flat, upper=False).to(x.dtype)
        return frame.reshape(*frame.shape[:-1], *self.point_shape)

    @functools.cached_property
    def _axes(self) -> Tensor:
        """Coordinate axes whose tangent parts at the origin are furthest from dependent, [dim, *point_shape]."""
        count = math.prod(self.point_shape)
        axes = torch.eye(count, dtype=torch.float64).reshape(count, *self.point_shape)
        tangents = self.to_tangent(self._origin, axes)
        form = self.inner(self._origin, tangents[:, None], tangents[None])
        kept: list[int] = []
        for _ in range(self.dim):  # Cholesky with pivots
            rest = form.diagonal().clone()
            rest[kept] = -1
            pivot = int(rest.argmax())
            kept.append(pivot)
            form = form - form[:, pivot, None] * form[None, pivot] / form[pivot, pivot]
        return axes[sorted(kept)]

    @functools.cached_property
    def _origin(self) -> Tensor:
        """[*point_shape] in float64."""
        like = torch.zeros(1, dtype=torch.float64)
        first = torch.zeros(self.point_shape, dtype=torch.float64)
        if len(self.point_shape) == 1:
            first[0] = 1
        else:
            diagonal = first.diagonal(dim1=-2, dim2=-1)
            diagonal.copy_(1 - 0.1 * torch.arange(diagonal.shape[-1]) / diagonal.shape[-1])
        even = torch.full_like(first, 0.5 / math.sqrt(first.numel()))
        with _default(like):
            space = self._space(like)
            fixed = (even, first) if len(self.point_shape) == 1 else (first, even)
            for candidate in (*fixed, *self._projections(space, first, even)):
                if _belongs(space, candidate):
                    return candidate.to(torch.float64)
        raise NoiseganError(f"manifold {self.name!r}: no point to start from was found, which 'origin' needs")

    def _projections(self, space: Any, *points: Tensor) -> Iterator[Tensor]:
        with contextlib.suppress(NotImplementedError, AttributeError):
            for point in points:
                yield space.projection(point[None])[0]

    def _is_short(self, v: Tensor) -> Tensor:
        """[..., 1, ...]"""
        wide = torch.promote_types(v.dtype, torch.float32)
        return v.detach().to(wide).square().sum(self._trailing, keepdim=True) < SHORT[wide] ** 2

    def _harmless(self, x: Tensor) -> Tensor:
        """A tangent vector that is not zero, of length about 0.01."""
        count = math.prod(self.point_shape)
        waves = torch.arange(1, count + 1, device=x.device).mul(1.7).sin().reshape(self.point_shape).to(x.dtype)
        with torch.no_grad():
            try:
                return self.to_tangent(x, 0.01 * waves).expand_as(x)
            except NoiseganError:
                return (0.01 * waves).expand_as(x)

    def _space(self, like: Tensor) -> Any:
        key = (like.dtype, like.device)
        if key not in self._spaces:
            with _default(like):
                self._spaces[key] = self._make()
        return self._spaces[key]

    def _call(self, what: str, function: Callable[..., Tensor], *inputs: Tensor, values: bool = False) -> Tensor:
        """`function(space, *inputs)` with leading dimensions made one, in float32 at least, dtype and device kept."""
        points = torch.broadcast_shapes(*(t.shape[: t.dim() - len(self.point_shape)] for t in inputs))
        given = functools.reduce(torch.promote_types, (t.dtype for t in inputs))
        wide = torch.promote_types(given, torch.float32)
        flat = [t.to(wide).expand(*points, *self.point_shape).reshape(-1, *self.point_shape) for t in inputs]
        with _default(flat[0]), torch.autocast(flat[0].device.type, enabled=False):
            try:
                result = function(self._space(flat[0]), *flat)
            except (NotImplementedError, AttributeError) as error:
                raise NoiseganError(f"manifold {self.name!r}: geomstats does not offer {what!r} for it") from error
            except (RuntimeError, TypeError, ValueError, AssertionError) as error:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise NoiseganError(f"manifold {self.name!r}: geomstats fails in {what!r}: {why}") from error
        kept: Tensor = result.to(given).reshape(points if values else (*points, *self.point_shape))
        return kept


def _belongs(space: Any, point: Tensor) -> bool:
    """Whether it is a point of the space; what a space cannot even ask (a matrix that it cannot invert) is none."""
    try:
        return bool(torch.as_tensor(space.belongs(point)).all())
    except RuntimeError:
        return False


@contextmanager
def _default(like: Tensor) -> Iterator[None]:
    """Constants are made in this dtype and on this device; numpy's deprecations in geomstats are not the user's."""
    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(like.dtype)
        try:
            with torch.device(like.device), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                for message in _NOT_NEWS:  # one for every point of every call
                    warnings.filterwarnings("ignore", message)
                yield
        finally:
            torch.set_default_dtype(before)


def build(name: str, cls: Any, arguments: Mapping[str, Any]) -> GeomstatsSpace:
    """The manifold of a geomstats class and its arguments."""
    try:
        return GeomstatsSpace(name, lambda: cls(**arguments))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise NoiseganError(f"manifold {name!r}: geomstats refuses these arguments: {error}") from error
