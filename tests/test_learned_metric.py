"""`learned_metric` against geometry written the long way: metric matrices, Christoffel symbols, geodesics solved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_metrics import Array, check_against_geomstats, normal, pixels, second_order
from safetensors.torch import load_file
from scipy.integrate import quad
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import NoiseSite
from noisegan.core.checkpoint import find_snapshot, read_facts
from noisegan.core.rng import MeanSource
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.geometry import acceleration
from noisegan.plugins.learned_metric import LearnedMetric

KINDS = ("conformal", "diagonal", "low-rank")
SMALLEST = {
    "conformal": "kind=conformal, hidden=3",
    "diagonal": "kind=diagonal, hidden=3",
    "low-rank": "kind=low-rank, hidden=3, rank=2",
}
R, C, N = 4, 3, 2
W = torch.zeros(N, 4, dtype=torch.float64)
every_kind = pytest.mark.parametrize("kind", KINDS)


def injector(plugins: Plugins, arguments: str, *, moved: bool = False, channels: int = C) -> LearnedMetric:
    """The injector of one site in float64; `moved`: every parameter off its start."""
    site = NoiseSite(
        index=1, num_sites=3, name="b4.conv1", resolution=R, channels=channels, in_channels=channels, w_dim=4,
        upsampled=False,
    )  # fmt: skip
    (strategy,) = plugins.parse(f"learned_metric({arguments})")
    assert strategy.spec.feature is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = strategy.spec.feature(site, strategy.params).double()
    assert isinstance(module, LearnedMetric)
    if moved:
        for name, p in module.named_parameters():
            with torch.no_grad():
                p += 0.6 * normal(f"move/{name}", 1, *p.shape)[0]
    return module


def inputs(module: LearnedMetric, n: int = N) -> tuple[Tensor, Tensor]:
    return normal("x", n, module.channels, R, R), normal("e", n, module.channels + module.metric.extra, R, R)


def set_strength(module: LearnedMetric, r: float) -> LearnedMetric:
    with torch.no_grad():
        module.strength.fill_(r)
    return module


def parameters(module: LearnedMetric) -> dict[str, Array]:
    return {name.removeprefix("metric."): p.detach().numpy() for name, p in module.named_parameters()}


# The metrics of the page, one point at a time, for NumPy (real or complex) and for geomstats' PyTorch alike.


def log_scales(x: Any, p: dict[str, Any], xp: Any) -> Any:
    hidden, channels = p["psi.inward"].shape
    return p["psi.outward"] @ xp.tanh(p["psi.inward"] @ x / channels**0.5 + p["psi.bias"]) / hidden**0.5


def factor(x: Any, p: dict[str, Any], xp: Any) -> Any:
    """S of g = I + S^T S, [k, C]."""
    return xp.exp(log_scales(x, p, xp))[:, None] * p["directions"] / len(x) ** 0.5


def metric_matrix(kind: str, x: Any, p: dict[str, Any], xp: Any) -> Any:
    """g(x), [C, C]."""
    eye = xp.eye(len(x), dtype=xp.float64)
    if kind in ("conformal", "diagonal"):
        return xp.exp(2 * log_scales(x, p, xp)) * eye  # psi [1] or [C]
    S = factor(x, p, xp)
    return eye + S.T @ S


def christoffels(kind: str, x: Array, p: dict[str, Array]) -> Array:
    """Gamma^k_ij = g^kl (d_i g_jl + d_j g_il - d_l g_ij) / 2, derivatives by complex steps: exact to rounding."""
    steps = 1e-30j * np.eye(len(x))
    dg = np.stack([metric_matrix(kind, x + step, p, np).imag / 1e-30 for step in steps])  # [l, i, j]
    lowered = (np.einsum("ijl->lij", dg) + np.einsum("jil->lij", dg) - dg) / 2
    return np.einsum("kl,lij->kij", np.linalg.inv(metric_matrix(kind, x, p, np)), lowered)


def velocity(kind: str, x: Array, e: Array, p: dict[str, Array]) -> Array:
    """A vector of covariance g^-1 of standard normals e, as the page says it."""
    g = metric_matrix(kind, x, p, np)
    if kind in ("conformal", "diagonal"):
        return e / np.sqrt(np.diag(g))
    S = factor(x, p, np)
    found: Array = np.linalg.solve(g, e[: len(x)] + S.T @ e[len(x) :])
    return found


def step(kind: str, x: Array, e: Array, p: dict[str, Array]) -> Array:
    """The whole formula at one pixel: x [C], e [C + extra] -> [C]."""
    return second_order(x, velocity(kind, x, e, p), christoffels(kind, x, p), float(p["strength"]))


# values


@every_kind
def test_the_step_is_the_formula_with_christoffel_symbols_written_out(plugins: Plugins, kind: str) -> None:
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True), 0.7)
    p, (x, e) = parameters(module), inputs(module)
    expected = np.stack([step(kind, a, b, p) for a, b in zip(pixels(x), pixels(e), strict=True)])
    straight = np.stack([a + 0.7 * velocity(kind, a, b, p) for a, b in zip(pixels(x), pixels(e), strict=True)])
    assert np.abs(expected - straight).max() > 1e-3  # the test sees the acceleration
    np.testing.assert_allclose(pixels(module(x, e, W)), expected, rtol=0, atol=1e-12)


@every_kind
def test_noise_is_isotropic_in_the_metric(plugins: Plugins, kind: str) -> None:
    """v is linear in e, v = L e, and L L^T = g^-1: no sampling error."""
    module = injector(plugins, SMALLEST[kind], moved=True)
    x = normal("x", 1, C, 1)
    columns = torch.eye(C + module.metric.extra, dtype=torch.float64)
    L = torch.stack([module.metric(x, e[None, :, None])[0][0, :, 0] for e in columns], dim=1).detach().numpy()
    g = metric_matrix(kind, x[0, :, 0].numpy(), parameters(module), np)
    np.testing.assert_allclose(L @ L.T, np.linalg.inv(g), rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_elimination_solves(k: int) -> None:
    root, y = normal("root", 2, k, k + 1, 3), normal("y", 2, k, 3)
    gram = 9 * torch.einsum("nicp,njcp->nijp", root, root)
    found = acceleration.Factor(down=lambda v: v, up=lambda v: v, gram=gram).solve(y)
    matrix = gram.permute(0, 3, 1, 2) + torch.eye(k, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, y.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every_kind
def test_values_agree_with_geomstats(plugins: Plugins, kind: str) -> None:
    module = injector(plugins, SMALLEST[kind], moved=True)
    p = {name: torch.from_numpy(value) for name, value in parameters(module).items()}
    x, e = inputs(module, 1)
    x, e = x[:, :, :1, :1], e[:, :, :1, :1]
    v, a = (t[0, :, 0].detach() for t in module.metric(x.flatten(2), e.flatten(2)))
    point = x[0, :, 0, 0]

    def stepped(length: float) -> Tensor:
        return set_strength(module, length / float(v.norm()))(x, e, W[:1])[0, :, 0, 0].detach()

    check_against_geomstats(lambda x: metric_matrix(kind, x, p, torch), point, v, a, stepped)


# how far it goes


@every_kind
def test_acceleration_is_of_second_degree(plugins: Plugins, kind: str) -> None:
    module = injector(plugins, SMALLEST[kind], moved=True)
    x, e = (t.flatten(2) for t in inputs(module))
    (v, a), (v3, a3) = module.metric(x, e), module.metric(x, 3 * e)
    torch.testing.assert_close(v3, 3 * v)
    torch.testing.assert_close(a3, 9 * a)


@every_kind
@pytest.mark.parametrize("r", [0.1, 1.0, 30.0, 1e4])
def test_the_bend_stays_below_half_of_the_step(plugins: Plugins, kind: str, r: float) -> None:
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True), r)
    x, e = inputs(module)
    v, a = (t.detach() for t in module.metric(x.flatten(2), e.flatten(2)))
    assert float(a.norm(dim=1).min()) > 0
    bend = (module(x, e, W).detach() - x).flatten(2) - r * v
    assert bool((bend.norm(dim=1) < 0.5 * r * v.norm(dim=1)).all())
    if r >= 30:
        assert float((bend.norm(dim=1) / (r * v.norm(dim=1))).median()) > 0.3


def test_the_limit_of_the_bend_is_of_fourth_order() -> None:
    v, a = normal("v", 1, 5, 1), 2 * normal("a", 1, 5, 1)

    def missing(t: float) -> float:
        exact = t * v + t**2 / 2 * a
        return float((acceleration.displacement(v, a, torch.tensor(t, dtype=torch.float64)) - exact).norm())

    assert missing(0.02) / missing(0.01) == pytest.approx(16, rel=0.02)


# special cases


def emptied(module: LearnedMetric, *names: str) -> LearnedMetric:
    with torch.no_grad():
        for name in names:
            module.get_parameter(f"metric.{name}").zero_()
    return module


@pytest.mark.parametrize(
    ("kind", "empty"),
    [
        ("conformal", "psi.outward"),
        ("diagonal", "psi.outward"),
        ("low-rank", "directions"),
    ],
)
def test_a_flat_metric_adds_noise(plugins: Plugins, kind: str, empty: str) -> None:
    module = emptied(set_strength(injector(plugins, SMALLEST[kind], moved=True), 0.7), empty)
    x, e = inputs(module)
    torch.testing.assert_close(module(x, e, W), x + 0.7 * e[:, :C], rtol=0, atol=1e-14)


def test_a_diagonal_metric_of_equal_entries_is_conformal(plugins: Plugins) -> None:
    one = set_strength(injector(plugins, SMALLEST["conformal"], moved=True), 0.7)
    all_equal = set_strength(injector(plugins, SMALLEST["diagonal"]), 0.7)
    with torch.no_grad():
        for name, p in all_equal.metric.named_parameters():
            p.copy_(one.metric.get_parameter(name).expand_as(p))
    x, e = inputs(one)
    torch.testing.assert_close(all_equal(x, e, W), one(x, e, W), rtol=0, atol=1e-14)


@every_kind
def test_one_channel_works(plugins: Plugins, kind: str) -> None:
    """On a line every metric is flat after a change of coordinate: g^{1/2} x' is constant along a geodesic."""
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True, channels=1), 1e-3)
    p, (x, e) = parameters(module), inputs(module)
    y = module(x, e, W)
    for a, b, c in zip(pixels(x), pixels(y), pixels(e), strict=True):
        length, _ = quad(lambda s: float(np.sqrt(metric_matrix(kind, np.array([s]), p, np)[0, 0])), a[0], b[0])
        speed = np.sqrt(metric_matrix(kind, a, p, np)[0, 0]) * velocity(kind, a, c, p)[0]
        assert length == pytest.approx(1e-3 * speed, abs=1e-7)  # straight ahead: 1e-6
    module = injector(plugins, SMALLEST[kind], channels=1)
    assert module(x, module.draw(MeanSource(N)).double(), W).shape == x.shape


@every_kind
def test_noise_is_drawn_per_channel(plugins: Plugins, kind: str) -> None:
    module = injector(plugins, SMALLEST[kind])
    extra = 2 if kind == "low-rank" else 0
    assert module.draw(MeanSource(N)).shape == (N, C + extra, R, R)


# gradients


def with_parameters(module: LearnedMetric) -> tuple[Any, list[Tensor]]:
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, e: Tensor, *values: Tensor) -> Tensor:
        out = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x, e, W[:1]))
        assert isinstance(out, Tensor)
        return out

    return call, [p.detach().clone().requires_grad_() for p in module.parameters()]


@every_kind
@pytest.mark.parametrize("place", ["generic", "zero strength", "zero noise"])
def test_first_and_second_gradients(plugins: Plugins, kind: str, place: str) -> None:
    module = injector(plugins, SMALLEST[kind], moved=True, channels=2)
    set_strength(module, 0.0 if place == "zero strength" else 0.7)
    call, values = with_parameters(module)
    x, e = (t[:, :, :1, :1].clone() for t in inputs(module, 1))
    if place == "zero noise":
        e.zero_()
    arguments = (x.requires_grad_(), e.requires_grad_(), *values)
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


@every_kind
def test_at_zero_strength_derivatives_are_velocity_and_acceleration(plugins: Plugins, kind: str) -> None:
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True), 0.0)
    x, e = inputs(module)
    v, a = module.metric(x.flatten(2), e.flatten(2))
    out, weights = module(x, e, W), normal("weights", N, C, R * R)
    assert torch.equal(out, x)
    (first,) = torch.autograd.grad((weights * out.flatten(2)).sum(), module.strength, create_graph=True)
    (second,) = torch.autograd.grad(first, module.strength)
    torch.testing.assert_close(first, (weights * v).sum())
    torch.testing.assert_close(second, (weights * a).sum())


@every_kind
def test_every_parameter_has_gradient_once_there_is_noise(plugins: Plugins, kind: str) -> None:
    """At zero strength only `strength` has any; a hundredth is enough for all."""
    module = injector(plugins, f"kind={kind}", channels=5)
    x, e = inputs(module)

    def gradients() -> dict[str, float]:
        module.zero_grad()
        (module(x, e, W) * normal("loss", N, 5, R, R)).sum().backward()
        return {n: 0.0 if p.grad is None else float(p.grad.abs().min()) for n, p in module.named_parameters()}

    at_start = gradients()
    assert {name for name, size in at_start.items() if size > 0} == {"strength"}
    set_strength(module, 0.01)
    for name, size in gradients().items():
        assert size > 0, name


@every_kind
def test_metrics_start_near_flat(plugins: Plugins, kind: str) -> None:
    """Eigenvalues of g at every pixel; learned sizes are of order one."""
    low, high = {"conformal": (0.6, 1.7), "diagonal": (0.5, 2)}.get(kind, (1 - 1e-12, 4))
    module = injector(plugins, f"kind={kind}", channels=64)
    p, (x, _) = parameters(module), inputs(module)
    assert p["strength"] == 0
    for point in pixels(x):
        values = np.linalg.eigvalsh(metric_matrix(kind, point, p, np))
        assert values.min() > low
        assert values.max() < high
    learned = [v for name, v in p.items() if name not in ("strength", "psi.bias")]
    assert all(0.05 < np.sqrt((v**2).mean()) < 2 for v in learned)


# numbers of little precision


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(plugins: Plugins, kind: str, dtype: torch.dtype) -> None:
    """Also under autocast: the result is that of float32 on the same numbers, rounded at the end."""
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True), 0.5).float()
    x, e = (t.to(dtype) for t in inputs(module))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(x, e, W.to(dtype))
    assert low.dtype == dtype
    assert torch.equal(low, module(x.float(), e.float(), W.float()).to(dtype))


@every_kind
def test_large_features_and_noise_stay_finite(plugins: Plugins, kind: str) -> None:
    module = set_strength(injector(plugins, SMALLEST[kind], moved=True), 1.0).float()
    x, e = (1e3 * t.float() for t in inputs(module))
    out = module(x.requires_grad_(), e, W.float())
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(out.isfinite().all())
    assert bool(gradient.isfinite().all())


# training and refusals


def test_training_from_zero_moves_strengths_and_metrics(tmp_path: Path, plugins: Plugins) -> None:
    """All three one after the other, which compose."""
    noise = " + ".join(f"learned_metric({arguments})" for arguments in SMALLEST.values())
    run = noisegan.train(
        outdir=str(tmp_path), plugins=plugins, quiet=True, **SMALL | {"noise": noise, "kimg": 0.04, "tick": 0.02}
    )
    snapshot = find_snapshot(run)
    start = noisegan.Generator(**read_facts(snapshot)["networks"]["G"], noise=noise, plugins=plugins).state_dict()
    last = load_file(snapshot)
    names = [name for name in start if ".noise.learned_metric" in name]
    assert len(names) == 3 * (4 + 4 + 5)  # sites, and parameters by kind
    for name in names:
        assert float((last[f"G.{name}"] - start[name]).abs().max()) > 1e-4, name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("rank=2", "rank has no effect with kind=conformal; it is for low-rank"),
        ("kind=diagonal, smoothing=1", "smoothing has no effect with kind=diagonal; it is for pullback"),
        ("kind=pullback, rank=2", "rank has no effect with kind=pullback; it is for low-rank"),
        ("kind=pullback, hidden=4", "hidden has no effect with kind=pullback; it is for conformal, diagonal, low-rank"),
        ("kind=flat", "kind='flat': Input should be 'conformal', 'diagonal', 'low-rank' or 'pullback'"),
        ("kind=low-rank, rank=17", "rank=17: Input should be less than or equal to 16"),
        ("kind=pullback, smoothing=0", "smoothing=0: Input should be greater than or equal to 0.01"),
    ],
)
def test_refusals(plugins: Plugins, arguments: str, told: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(f"learned_metric({arguments})")
    assert str(caught.value).startswith(f"noise strategy 'learned_metric': {told}")
