"""One broken manifold or more for every check of the kit: proof that the check bites.

Each is a native manifold with one fault. `MUTANTS` says which check must catch it and what the report must mention.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from noisegan.plugins.geometry import Euclidean, Hyperboloid, Manifold, PoincareBall, SPDBures, Sphere


class Mutant(NamedTuple):
    check: str
    fault: str
    manifold: Manifold
    report: str
    """Part of the sentence that the check must report."""


MUTANTS: list[Mutant] = []


def breaks(check: str, report: str) -> Callable[[Any], Any]:
    """Class decorator: a manifold with one fault."""

    def enter(cls: Any) -> Any:
        MUTANTS.append(Mutant(check, cls.__name__, cls(dim=3), report))
        return cls

    return enter


@breaks("describes_itself", "radius is not said")
class SaysNoRadius(Sphere):
    radius = "not said"


@breaks("describes_itself", "the origin, projected")
class OriginOffTheManifold(Sphere):
    def origin(self, like: Tensor) -> Tensor:
        return 2 * super().origin(like)


@breaks("exp_of_zero_is_the_point", "exp(x, 0) is not x")
class ShiftsAtZero(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v + 1e-6


@breaks("exp_starts_along_its_velocity", "is not v: off by")
class StepsBackwards(Sphere):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return super().exp(x, -v)


@breaks("points_stay_on_the_manifold", "moved by project")
class ForgetsToCurve(Sphere):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v


@breaks("to_tangent_projects", "to_tangent moves what it has made")
class TangentByHalf(Sphere):
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - 0.5 * self.dot(x, u) * x


@breaks("to_tangent_projects", "a step along it leaves the manifold")
class TangentIsEverything(Sphere):
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u


@breaks("to_tangent_projects", "to_tangent moves from_normal(x, xi)")
class TangentIsNothing(Sphere):
    def to_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return 0 * (x + u)


@breaks("the_frame_is_orthonormal", "does not keep inner products")
class FrameOfTheWrongLength(PoincareBall):
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return xi


@breaks("the_frame_is_orthonormal", "to_normal does not undo from_normal")
class FrameNotUndone(Hyperboloid):
    def to_normal(self, x: Tensor, v: Tensor) -> Tensor:
        return self.rest(v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.drop(self.dot(super().to_normal(x, u), super().to_normal(x, v)))


@breaks("the_frame_is_orthonormal", "from_normal is not linear")
class FrameBends(Euclidean):
    def from_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return xi + 0.01 * xi * xi


@breaks("geodesics_have_the_length_of_their_velocity", "dist(x, exp(x, v)) is not |v|")
class Retracts(Sphere):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.project(x + v)


@breaks("geodesics_have_the_length_of_their_velocity", "does not keep its speed")
class TakesADetour(Euclidean):
    """A spiral: every point is as far from the start as it should be, and the way there is no straight line."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        angle = self.dot(v, v)
        first, second, third = v.split(1, -1)
        c, s = angle.cos(), angle.sin()
        return x + torch.cat((c * first - s * second, s * first + c * second, third), -1)


@breaks("geodesics_are_shortest_up_to_the_radius", "dist(x, exp(x, v)) is not |v| at |v| = 90.00")
class RadiusTooLarge(Sphere):
    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(100, x)


@breaks("geodesics_are_shortest_up_to_the_radius", "dist(x, exp(x, v)) is not |v| at |v| = 5.00")
class RadiusWithoutEnd(Sphere):
    def injectivity_radius(self, x: Tensor) -> Tensor:
        return self.constant(math.inf, x)


@breaks("log_inverts_exp", "log(x, exp(x, v)) is not v")
class LogIsTheChord(Sphere):
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.to_tangent(x, y - x)


@breaks("distances_are_distances", "is not dist(y, x)")
class OneWay(Euclidean):
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        return super().squared_dist(x, y) * (1 + 0.1 * self.drop(self.first(x)).tanh())


@breaks("distances_are_distances", "the gradient of dist at y = x")
class DistanceByNorm(Euclidean):
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum(-1).sqrt()


@breaks("gradients_of_exp_are_right", "the gradient of exp at a generic point")
class DetachesThePoint(Sphere):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return super().exp(x.detach(), v)


@breaks("gradients_of_exp_are_right", "the gradient of exp at a generic point, v = 0")
class DeadAtZero(PoincareBall):
    """Divides by a norm that is replaced by a constant near zero, as geomstats' ball does."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        norm = self.dot(v, v).clamp_min(1e-12).sqrt()
        flat = norm <= 1e-6
        return super().exp(x, torch.where(flat, (v / norm).detach() * norm, v))


@breaks("second_gradients_of_exp_are_right", "the second gradient of exp at a generic point, v = 0")
class NotTwiceSmoothAtZero(Sphere):
    """Takes a norm, with the first derivative saved by hand."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        t = self.dot(v, v).clamp_min(1e-30).sqrt()
        return t.cos() * x + torch.where(t > 1e-6, t.sin() / t, 1) * v


@breaks("curvature_is_there_at_zero", "is not that of its values")
class FlatNearZero(Sphere):
    """x + v for short vectors, as a guard against 0 / 0."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.where(self.dot(v, v) < 1e-10, x + v, super().exp(x, v))


@breaks("limited_vectors_are_smooth", "the gradient of limit at the origin")
class RadiusWithCorners(SPDBures):
    def __init__(self, dim: int) -> None:
        super().__init__(2)

    def smooth_radius(self, x: Tensor) -> Tensor:
        return self.injectivity_radius(x)


@breaks("gradients_of_log_are_right", "the gradient of log or squared_dist at y = x")
class LogByAngle(Sphere):
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        angle = self.dot(x, y).clamp(-1, 1).acos()
        return angle / angle.sin().clamp_min(1e-30) * (y - self.dot(x, y) * x)


@breaks("second_gradients_of_log_are_right", "the second gradient of log or squared_dist at two generic points")
class OnceOnly(Euclidean):
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        v = y - x
        return v + _FlatCube.apply(v)


class _FlatCube(torch.autograd.Function):
    """0.1 v^3 with a first derivative that has no derivative."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return 0.1 * v**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return gradient * 0.3 * v.detach() ** 2


@breaks("features_come_back", "bring_back(carry(f)) is not f")
class DropsTheNorm(Sphere):
    def bring_back(self, x: Tensor, aside: Any) -> Tensor:
        return x


@breaks("features_come_back", "the gradient through carry, exp and bring_back at f = 0")
class DirectionOfZero(Sphere):
    def carry(self, features: Tensor) -> tuple[Tensor, Any]:
        norm = self.dot(features, features).sqrt()
        return features / norm.clamp_min(1e-12), norm


@breaks("noise_is_isotropic", "the covariance of tangent_noise")
class NoiseLeansOver(Sphere):
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        return self.to_tangent(x, e * self.lay(e.new_tensor([1.0, 1.0, 1.0, 2.0]), e))


@breaks("noise_is_isotropic", "tangent_noise is not linear in e")
class NoiseSaturates(Euclidean):
    def tangent_noise(self, x: Tensor, e: Tensor) -> Tensor:
        return e.clamp(-1, 1) + 0 * x


@breaks("fused_maps_agree", "exp_normal(x, xi) is not exp")
class FusedDiffers(PoincareBall):
    def exp_normal(self, x: Tensor, xi: Tensor) -> Tensor:
        return self.exp(x, xi)


@breaks("fused_maps_agree", "squared_dist(x, y) is not |log(x, y)|^2")
class DistanceIsTheChord(Sphere):
    def squared_dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.drop(self.dot(y - x, y - x))


@breaks("fused_maps_agree", "longer than the injectivity radius")
class LimitsNothing(Sphere):
    def limit(self, x: Tensor, v: Tensor, share: float = 0.99) -> Tensor:
        return v


@breaks("batches_of_any_shape", "batch of shape [2, 3, 4]")
class NormalisesTheBatch(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v if v.dim() < 4 else x + v / v.abs().amax()


@breaks("float32_is_accurate", "log in float32: off by")
class FarFromOne(Hyperboloid):
    """Counts from a point a thousand away."""

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return super().log((x + 1000) - 1000, (y + 1000) - 1000)


@breaks("float32_is_accurate", "exp of float32 is torch.float64")
class Upcasts(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v * torch.ones(3, dtype=torch.float64)


@breaks("low_precision_goes_through", "exp in torch.bfloat16: off by")
class ComputesInLowPrecision(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return (x + v + 30) - 30


@breaks("leaves_the_process_alone", "it uses torch's global random state")
class Draws(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        torch.rand(1)
        return x + v


@breaks("leaves_the_process_alone", "it changes its inputs in place")
class InPlace(Euclidean):
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        y = x + v
        if not v.requires_grad:
            v *= 1.5
        return y


@breaks("leaves_the_process_alone", "of torch.float32 is torch.float64 when the default is torch.float64")
class FollowsTheDefault(Euclidean):
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return (y - x) * torch.ones(3)
