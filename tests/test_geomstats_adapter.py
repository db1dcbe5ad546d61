"""geomstats through the guard: its import leaves no trace, its spaces keep dtype and have a derivative at zero."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.geometry import check_manifold, manifold
from noisegan.plugins.geometry.geomstats import geomstats_manifold, import_geomstats

TRACELESS = """
import logging, os, random, sys, warnings
import numpy as np, torch
from noisegan.plugins.geometry.geomstats import import_geomstats

def state():
    root = logging.getLogger()
    return (
        torch.get_default_dtype(), root.level, list(root.handlers), os.environ.get("GEOMSTATS_BACKEND"),
        hasattr(np, "trapz"), torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(),
        torch.get_num_threads(), list(warnings.filters),
    )

before = state()
backend = import_geomstats()
after = state()
for one, other in zip(before, after, strict=True):
    assert one == other, (one, other)
assert backend.__name__.endswith("pytorch") and import_geomstats() is backend
from geomstats.geometry.hypersphere import Hypersphere
assert Hypersphere(2).random_point().dtype == torch.float32
"""

OTHER_BACKEND = """
import numpy as np
if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid
import geomstats.backend
from noisegan.plugins.geometry.geomstats import import_geomstats
try:
    import_geomstats()
except Exception as error:
    print(type(error).__name__, error)
"""

MISSING = """
import sys
sys.modules["geomstats"] = None
from noisegan.plugins.geometry.geomstats import import_geomstats
try:
    import_geomstats()
except Exception as error:
    print(type(error).__name__, error)
"""


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("chosen", [{}, {"GEOMSTATS_BACKEND": "numpy"}])
def test_the_import_leaves_no_trace(chosen: dict[str, str]) -> None:
    run(TRACELESS, PYTHONWARNINGS="error", **chosen)


def test_another_backend_is_refused() -> None:
    assert run(OTHER_BACKEND, GEOMSTATS_BACKEND="numpy") == (
        "NoiseganError geomstats was already imported with its numpy backend and cannot change it; "
        "set the environment variable GEOMSTATS_BACKEND=pytorch before anything imports geomstats"
    )


def test_a_missing_package_is_one_sentence() -> None:
    assert run(MISSING) == (
        "NoiseganError the package geomstats is not installed; install it with `pip install geomstats>=2.8`"
    )


def test_it_can_be_asked_again() -> None:
    assert import_geomstats() is import_geomstats()


SPACES = [
    "euclidean.Euclidean?dim=3",
    "hypersphere.Hypersphere?dim=3",
    "hyperboloid.Hyperboloid?dim=3",
    "poincare_ball.PoincareBall?dim=3",
    "poincare_half_space.PoincareHalfSpace?dim=2",
    "spd_matrices.SPDMatrices?n=3",
    "stiefel.Stiefel?n=4&p=2",
    "grassmannian.Grassmannian?n=4, p=2",
    "special_orthogonal.SpecialOrthogonal?n=3",
    "klein_bottle.KleinBottle",
    "symmetric_matrices.SymmetricMatrices?n=2",
    "positive_lower_triangular_matrices.PositiveLowerTriangularMatrices?n=2",
]


@pytest.mark.parametrize("name", SPACES)
def test_spaces_by_name(name: str) -> None:
    m = geomstats_manifold(f"geomstats:{name}")
    o = m.origin(torch.zeros(()))
    assert o.dtype == torch.float32
    generator = torch.Generator().manual_seed(1)
    xi = 0.3 * torch.randn(2, 3, m.dim, generator=generator)
    x = m.exp(o, m.from_normal(o, xi))  # [2, 3, *point_shape]
    assert x.shape == (2, 3, *m.point_shape)
    v = m.from_normal(x, 0.3 * torch.randn(2, 3, m.dim, generator=generator))
    y = m.exp(x, v)
    assert y.dtype == torch.float32
    assert bool(y.isfinite().all())
    assert m.exp(x.double(), v.double()).dtype == torch.float64
    assert m.exp(x.bfloat16(), v.bfloat16()).dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    sigma = torch.zeros((), requires_grad=True)
    w = torch.randn(y.shape, generator=generator)
    (slope,) = torch.autograd.grad((w * m.exp(x, sigma * v)).sum(), sigma, create_graph=True)
    torch.testing.assert_close(slope, (w * v).sum(), rtol=1e-5, atol=1e-5)
    assert bool(slope.isfinite())
    x, v = o.double().expand(y.shape), m.from_normal(o, xi).double()  # exactly on the manifold
    small = 5e-5 / v.norm()  # on both sides of where the adapter hands over
    torch.testing.assert_close(m.exp(x, small * v), x + small * v, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("hypersphere.Hypersphere?dim=3", "sphere(dim=3)"),
        ("poincare_ball.PoincareBall?dim=3", "poincare_ball(dim=3)"),
        ("spd_matrices.SPDMatrices?n=3", "spd_affine(n=3)"),
        ("special_orthogonal.SpecialOrthogonal?n=3", "so(n=3)"),
        ("stiefel.Stiefel?n=4&p=2", "stiefel(n=4, p=2)"),
    ],
)
def test_frames_and_maps_are_those_of_the_native_manifold(name: str, native: str) -> None:
    m, own = geomstats_manifold(f"geomstats:{name}"), manifold(native)
    assert (m.dim, m.point_shape) == (own.dim, own.point_shape)
    xi = torch.randn(3, m.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = own.exp_normal(own.origin(xi), 0.5 * xi)
    v = m.from_normal(x, xi)
    assert torch.allclose(own.inner(x, v, v), xi.square().sum(-1))
    assert torch.allclose(m.to_normal(x, v), xi)
    assert torch.allclose(m.exp(x, v), own.exp(x, v), atol=1e-10)
    assert torch.allclose(m.log(x, m.exp(x, 0.5 * v)), 0.5 * v, atol=1e-6)
    assert m.injectivity_radius(x).shape == (3,)


NO_CURVATURE = "curvature_is_there_at_zero"  # documented: Exp_x(v) is x + v for short vectors
OWN_LOG = ("gradients_of_log_are_right", "second_gradients_of_log_are_right")  # geomstats' hyperboloid: wrong already


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("euclidean.Euclidean?dim=3", ()),
        ("hypersphere.Hypersphere?dim=3", (NO_CURVATURE,)),
        ("poincare_ball.PoincareBall?dim=3", (NO_CURVATURE,)),
        ("hyperboloid.Hyperboloid?dim=3", (NO_CURVATURE, *OWN_LOG)),
        ("spd_matrices.SPDMatrices?n=2", (NO_CURVATURE,)),
    ],
)
def test_spaces_keep_the_promises_of_manifolds_but_those_that_are_named(name: str, without: tuple[str, ...]) -> None:
    broken = {result.name for result in check_manifold(manifold(f"geomstats:{name}")) if not result.passed}
    assert broken == set(without)


@pytest.mark.parametrize("name", ["hypersphere.Hypersphere?dim=3", "hyperboloid.Hyperboloid?dim=3"])
def test_second_derivatives_at_equal_points_are_finite(name: str) -> None:
    m = manifold(f"geomstats:{name}")
    o = m.origin(torch.zeros((), dtype=torch.float64))
    x = o.expand(3, *m.point_shape).clone().requires_grad_()
    (first,) = torch.autograd.grad(m.log(o.expand_as(x), x).square().sum() + m.log(x, x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(first.isfinite().all())
    assert bool(second.isfinite().all())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # geomstats' logm with numpy 2
def test_a_space_that_cannot_be_differentiated_is_refused_by_strategies(plugins: Plugins) -> None:
    plugins.parse("geodesic(manifold='geomstats:hypersphere.Hypersphere?dim=3')")
    with pytest.raises(NoiseganError, match="nothing can be trained on it: The QR decomposition is not differentiable"):
        plugins.parse("geodesic(manifold='geomstats:stiefel.Stiefel?n=3&p=2')")


def test_what_a_space_lacks_is_named() -> None:
    m = geomstats_manifold("geomstats:positive_lower_triangular_matrices.PositiveLowerTriangularMatrices?n=2")
    with pytest.raises(NoiseganError) as caught:
        m.injectivity_radius(m.origin(torch.zeros(())))
    assert str(caught.value) == f"manifold {m.name!r}: geomstats does not offer 'injectivity_radius' for it"


def test_what_geomstats_cannot_compute_is_one_sentence() -> None:
    m = geomstats_manifold("geomstats:special_euclidean.SpecialEuclidean?n=2")
    lost = torch.full((2, 3, 3), math.nan)
    with pytest.raises(NoiseganError) as caught:
        m.log(lost, lost)
    assert str(caught.value) == f"manifold {m.name!r}: geomstats fails in 'log': array must not contain infs or NaNs"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "geomstats:Hypersphere",
            "'geomstats:Hypersphere' is not the name of a space of geomstats; "
            "write geomstats:module.Class?argument=value, such as geomstats:hypersphere.Hypersphere?dim=63",
        ),
        (
            "geomstats:hypersphere.Hypersphere?dim=three",
            "'geomstats:hypersphere.Hypersphere?dim=three': 'dim=three' is not argument=value with a Python literal, "
            "such as dim=63",
        ),
        (
            "geomstats:hypersphere.Sphere?dim=3",
            "'geomstats:hypersphere.Sphere?dim=3': geomstats has no 'Sphere' in geometry.hypersphere or "
            "information_geometry.hypersphere; see its documentation for names",
        ),
    ],
)
def test_names_that_cannot_be_read_are_refused(spec: str, sentence: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        geomstats_manifold(spec)
    assert str(caught.value) == sentence


def test_bad_arguments_are_refused_by_the_name_of_the_space() -> None:
    with pytest.raises(NoiseganError, match=r"Hypersphere\?size=3': geomstats refuses these arguments: .*'size'"):
        geomstats_manifold("geomstats:hypersphere.Hypersphere?size=3")


def test_logarithms_right_to_rounding_are_silent() -> None:
    """A training run would print a line for every pixel. Warnings are errors here."""
    space = manifold("geomstats:special_orthogonal.SpecialOrthogonal?n=3")
    x = space.origin(torch.zeros(()))
    v = space.to_tangent(x, 0.5 * torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(space.log(x, space.exp(x, v)), v, rtol=0, atol=1e-4)
