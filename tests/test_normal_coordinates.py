"""`normal_coordinates` against textbook formulas, its frames, and what happens where a frame has a singular point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from geodesics import SITE, N, R, ball, by_pixel, drawn, held, injector, normal, small_generator
from numpy.typing import NDArray
from torch import Tensor

from noisegan.core.rng import MeanSource, Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

Array = NDArray[np.float64]
X, W = normal("x", SITE.channels, R, R), normal("w", 4)


def frame(x: Array) -> Array:
    """Tangent vectors of the sphere at x, as columns: parallel transport of e_2, e_3, ... from e_1 along the geodesic,
    which is the rotation in the plane of e_1 and x that takes one to the other (Rodrigues)."""
    d = len(x)
    e1 = np.eye(d)[0]
    sideways = x - (x @ e1) * e1
    sine = np.linalg.norm(sideways)
    n = sideways / sine
    turn = np.eye(d) + sine * (np.outer(n, e1) - np.outer(e1, n)) + (x[0] - 1) * (np.outer(e1, e1) + np.outer(n, n))
    assert np.allclose(turn @ e1, x)
    return np.asarray(turn[:, 1:])


def sphere(m: Array, e: Array) -> Array:
    """One point of two coordinates; e carries a third entry that is not used."""
    norm = np.linalg.norm(m)
    x, xi = m / norm, e[: len(m) - 1] / np.sqrt(len(m) - 1)
    v = frame(x) @ held(xi, float(np.linalg.norm(xi)), 0.99 * np.pi)
    angle = np.linalg.norm(v)
    return np.asarray(norm * (np.cos(angle) * x + np.sin(angle) * v / angle))


@pytest.mark.parametrize("sigma", ["per-coordinate", "shared"])
def test_on_a_sphere_it_is_its_formula(plugins: Plugins, sigma: str) -> None:
    """Two points of three channels, one channel left over: 2 + 2 + 1 coordinates."""
    module = injector(plugins, f"normal_coordinates(manifold='sphere(dim=2)', sigma={sigma})", moved=True)
    e = drawn(module)
    assert e.shape == (N, 5, R, R)
    assert module.strength.shape == ((5, 1, 1) if sigma == "per-coordinate" else ())
    scaled = (module.strength.detach() * e).numpy()
    none = np.zeros_like(scaled[:, :1])
    padded = np.concatenate((scaled[:, :2], none, scaled[:, 2:4], none, scaled[:, 4:]), axis=1)
    expected = by_pixel(X.numpy(), padded, sphere, 3)
    np.testing.assert_allclose(module(X, e, W).detach().numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", ["poincare_ball", "hyperboloid"])
def test_in_hyperbolic_space_it_is_its_formula(plugins: Plugins, space: str) -> None:
    module = injector(plugins, f"normal_coordinates(manifold={space})", moved=True)
    e = drawn(module)
    expected = by_pixel(X.numpy(), (module.strength.detach() * e).numpy(), ball, SITE.channels)
    np.testing.assert_allclose(module(X, e, W).detach().numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("curvature", [-0.25, -4.0])
def test_the_ball_in_closed_form_is_the_ball_step_by_step(plugins: Plugins, curvature: float) -> None:
    """A power of one has no closed form: it goes through points and tangent vectors."""
    one = f"'poincare_ball(dim=3, curvature={curvature})'"
    closed = injector(plugins, f"normal_coordinates(manifold={one})", moved=True)
    e = drawn(closed)
    two = f"'product(poincare_ball(dim=3, curvature={curvature}))'"
    steps = injector(plugins, f"normal_coordinates(manifold={two})", moved=True)
    x = X / 4  # well within the reach, which the two do not share
    s = 0.02 / float(e.abs().max())
    torch.testing.assert_close(closed(x, s * e, W), steps(x, s * e, W), rtol=0, atol=1e-6)


def test_flat_space_is_additive_noise_with_normals_for_every_channel(plugins: Plugins) -> None:
    module = injector(plugins, "normal_coordinates(manifold=euclidean, group=3)", moved=True)
    e = drawn(module)
    torch.testing.assert_close(module(X, e, W), X + module.strength * e)
    assert module.added(e) is not None


@pytest.mark.parametrize("space", ["poincare_ball", "hyperboloid", "'sphere(dim=2)'", "'torus(dim=2)'", "euclidean"])
def test_noise_goes_as_far_as_its_coordinates_say(plugins: Plugins, space: str) -> None:
    """And switching one coordinate on moves along one direction: the frame is orthonormal, sigma diagonal in it."""
    module = injector(plugins, f"normal_coordinates(manifold={space})")
    e = drawn(module)
    off = module(X, torch.zeros_like(e), W)
    torch.testing.assert_close(off, X, rtol=0, atol=1e-12)
    h, moves = 1e-4, []
    for k in (0, 1):
        module.strength.data.zero_()
        module.strength.data[k] = h
        moves.append(((module(X, torch.ones_like(e), W) - X) / h).detach())
    module.strength.data[0] = h
    both = ((module(X, torch.ones_like(e), W) - X) / h).detach()
    torch.testing.assert_close(both, moves[0] + moves[1], rtol=0, atol=1e-2)
    assert all(float(m.abs().max()) > 0.1 for m in moves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_start_is_the_identity_to_the_last_bit(plugins: Plugins, dtype: torch.dtype) -> None:
    module = injector(plugins, "normal_coordinates").to(dtype)
    x = X.to(dtype)
    assert torch.equal(module(x, drawn(module).to(dtype), W.to(dtype)), x)
    assert torch.equal(module(x, module.draw(MeanSource(N)).to(dtype), W.to(dtype)), x)


@pytest.mark.parametrize("strength", [0.0, 0.6])
@pytest.mark.parametrize("space", ["poincare_ball", "'sphere(dim=2)'"])
def test_both_gradients_are_right(plugins: Plugins, space: str, strength: float) -> None:
    module = injector(plugins, f"normal_coordinates(manifold={space}, strength={strength})")
    e = drawn(module)[:1, :, :2, :2].clone().requires_grad_()
    x = X[:1, :, :2, :2].clone().requires_grad_()
    start = module.strength.detach().clone().requires_grad_()

    def call(x: Tensor, e: Tensor, s: Tensor) -> Tensor:
        out = torch.func.functional_call(module, {"strength": s}, (x, e, W[:1]))
        assert isinstance(out, Tensor)
        return out

    assert torch.autograd.gradcheck(call, (x, e, start), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, e, start), atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("space", ["poincare_ball", "'sphere(dim=1)'"])
def test_training_moves_every_coordinate_from_zero(plugins: Plugins, space: str) -> None:
    G = small_generator(plugins, f"normal_coordinates(manifold={space})")
    z = Streams(0)["z"].source(ids=range(4)).normal(4)
    strengths = {name: p for name, p in G.named_parameters() if name.endswith("strength")}
    optimiser = torch.optim.Adam(strengths.values(), lr=0.05, betas=(0.0, 0.99))
    for _ in range(4):
        optimiser.zero_grad()
        (-G(z, noise="frozen").square().mean()).backward()
        optimiser.step()
    for name, p in strengths.items():
        assert bool((p.detach().abs() > 1e-3).all()), name


# the singular point of the sphere's frame: x = -e_1


def at(first: float, second: float, third: float) -> Tensor:
    return torch.tensor([first, second, third], dtype=torch.float64)[None, :, None, None].expand(1, 3, R, R)


def singular(plugins: Plugins) -> tuple[torch.nn.Module, Tensor]:
    module = injector(plugins, "normal_coordinates(manifold='sphere(dim=2)', strength=0.5)", site=SMALL)
    return module, torch.tensor([0.3, -0.8], dtype=torch.float64)[None, :, None, None].expand(1, 2, R, R)


SMALL = SITE.__class__(
    index=0, num_sites=1, name="b4.conv1", resolution=R, channels=3, in_channels=3, w_dim=4, upsampled=False
)


def test_at_the_singular_point_the_result_is_finite_and_keeps_the_norm(plugins: Plugins) -> None:
    module, e = singular(plugins)
    for x in (at(-2, 0, 0), at(-2, 1e-9, 0), at(-2, 0, -1e-5), at(-2, 1e-3, 1e-3)):
        x = x.clone().requires_grad_()
        out = module(x, e, W[:1])
        (gradient,) = torch.autograd.grad(out.square().sum() + out[:, 1].sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        for t in (out, gradient, second):
            assert bool(t.isfinite().all())
        torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1), rtol=1e-4, atol=0)


def test_around_the_singular_point_the_frame_turns(plugins: Plugins) -> None:
    """What cannot be repaired: neighbours of -e_1 on different sides see the same noise in different directions."""
    module, e = singular(plugins)
    right, above = (module(x, e, W[:1])[0, :, 0, 0].detach() for x in (at(-2, 1e-4, 0), at(-2, 0, 1e-4)))
    assert float((right - above).norm()) > 0.3
    far_right, far_above = (module(x, e, W[:1])[0, :, 0, 0].detach() for x in (at(2, 1e-4, 0), at(2, 0, 1e-4)))
    assert float((far_right - far_above).norm()) < 1e-3


def test_isotropic_noise_does_not_see_the_frame(plugins: Plugins) -> None:
    """One sigma for all: at -e_1 the noise has the covariance it has anywhere, so `shared` has no singular point."""
    site = SITE.__class__(
        index=0, num_sites=1, name="b64.conv1", resolution=64, channels=3, in_channels=3, w_dim=4, upsampled=False
    )
    module = injector(plugins, "normal_coordinates(manifold='sphere(dim=2)', sigma=shared, strength=0.2)", site=site)
    e = drawn(module)
    for x in ((-2.0, 1e-4, 0.0), (0.0, 0.0, 2.0)):
        point = torch.tensor(x, dtype=torch.float64)
        out = module(point[None, :, None, None].expand(N, 3, 64, 64), e, W).detach() / 2
        angle = torch.einsum("nchw,c->nhw", out, point / point.norm()).clamp(-1, 1).acos()
        assert float(angle.square().mean().sqrt()) == pytest.approx(0.2, rel=0.05)
        assert float((out.mean(dim=(0, 2, 3)) - point / 2).norm()) < 0.03


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("normal_coordinates(manifold=spere)", "unknown manifold 'spere'"),
        ("normal_coordinates(manifold='sphere(dim=2)', group=4)", "makes a point of 3 channels, not of group=4"),
        ("normal_coordinates(sigma=spatial)", "Input should be 'per-coordinate' or 'shared'"),
    ],
)
def test_refusals(plugins: Plugins, expression: str, text: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(expression)
    assert text in str(caught.value)
