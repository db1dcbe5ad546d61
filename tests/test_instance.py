"""Instance noise and the annealing it shares with `roth`: the formulas in NumPy, and what the discriminator sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from test_resume import resumed_equals_unbroken
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import ImageInjector, ImageSite
from noisegan.core.checkpoint import read_facts, snapshots
from noisegan.core.config import TrainConfig, networks
from noisegan.core.data import dataset, open_dataset
from noisegan.core.distributed import World
from noisegan.core.images import to_float
from noisegan.core.phases import RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins
from noisegan.plugins.schedules import Annealing, Schedule

Array = NDArray[np.float64]
R, C, N = 6, 3, 4
SITE = ImageSite(resolution=R, channels=C)
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine", "exponential")


def normal(name: str, *shape: int) -> Tensor:
    return Streams(4)[name].source(ids=range(shape[0])).normal(*shape[1:]).double()


X, E = torch.tanh(normal("x", N, C, R, R)), normal("e", N, C, R, R)


def injector(plugins: Plugins, expression: str) -> ImageInjector:
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.image is not None
    return strategy.spec.image(SITE, strategy.params)


# schedules


def expected(schedule: str, fraction: float, start: float, end: float, until: float) -> float:
    t = min(fraction / until, 1)
    if schedule == "constant":
        return end if t == 1 else start
    if schedule == "linear":
        return start + (end - start) * t
    if schedule == "cosine":
        return end + (start - end) * 0.5 * (1 + float(np.cos(np.pi * t)))
    return start * (end / start) ** t


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("until", [1.0, 0.4])
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.02), (0.01, 2.0)])
def test_schedules_are_their_formulas(schedule: Schedule, start: float, end: float, until: float) -> None:
    annealing = Annealing(schedule, start=start, end=end, until=until)
    for fraction in np.linspace(0, 1, 41):
        assert annealing(fraction) == pytest.approx(expected(schedule, fraction, start, end, until), rel=1e-12)
    assert annealing(0.0) == start
    assert annealing(until) == annealing(1.0) == end  # exactly


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_zero_is_reached_exactly(schedule: Schedule) -> None:
    assert Annealing(schedule, start=0.1, end=0.0, until=0.7)(0.7) == 0.0


@pytest.mark.parametrize(("ends", "found"), [("", "start=0.1, end=0"), ("start=0, end=1, ", "start=0, end=1")])
def test_an_exponential_to_or_from_zero_is_refused(plugins: Plugins, ends: str, found: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(f"instance({ends}schedule=exponential)")
    small = "0.001" if not ends else "0.01"
    assert (
        f"schedule=exponential multiplies its way from start to end, so both must be above 0; found {found}: give a "
        f"small end such as {small}, or choose linear or cosine" in str(caught.value)
    )
    assert plugins.parse("instance(schedule=exponential, end=0.001)")


def test_the_default_of_roth_is_checked_too(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError, match=r"found start=2, end=0: give a small end such as 0\.02"):
        plugins.parse("roth(end=0)")


@pytest.mark.parametrize("setting", ["start=-0.1", "until=0", "until=1.5", "unit=grey", "schedule=step"])
def test_settings_out_of_range_are_refused(plugins: Plugins, setting: str) -> None:
    with pytest.raises(NoiseganError, match=setting.split("=")[0]):
        plugins.parse(f"instance({setting})")


# the formula


def spread(x: Array) -> Array:
    """Each image's deviation from its mean, with one grey level in quadrature, [N, 1, 1, 1]."""
    return np.array([np.sqrt(np.var(image) + (2 / 255) ** 2) for image in x])[:, None, None, None]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_noise_in_pixels(plugins: Plugins, fraction: float) -> None:
    module = injector(plugins, "instance(start=0.5, end=0.1)").double()
    module.set_progress(fraction)
    s = 0.5 - 0.4 * fraction
    np.testing.assert_allclose(module(X, E).numpy(), X.numpy() + s * E.numpy(), rtol=0, atol=1e-15)


def test_noise_in_units_of_contrast(plugins: Plugins) -> None:
    module = injector(plugins, "instance(start=0.5, unit=contrast)").double()
    x = X * torch.tensor([1.0, 0.1, 0.001, 0.0]).view(4, 1, 1, 1).double() + 0.2
    out = module(x, E).numpy()
    np.testing.assert_allclose(out, x.numpy() + 0.5 * spread(x.numpy()) * E.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_noise_in_units_of_the_data_is_one_constant_for_all_images(plugins: Plugins, fraction: float) -> None:
    (strategy,) = plugins.parse("instance(start=0.5, end=0.1, unit=data)")
    assert strategy.spec.image is not None
    site = ImageSite(resolution=R, channels=C, deviation=0.37)
    module = strategy.spec.image(site, strategy.params).double()
    module.set_progress(fraction)
    for images in (X, 0.01 * X, torch.zeros_like(X)):
        noise = module(images, E).numpy() - images.numpy()
        np.testing.assert_allclose(noise, (0.5 - 0.4 * fraction) * 0.37 * E.numpy(), rtol=0, atol=1e-15)
    assert torch.equal(
        injector(plugins, "instance(unit=data)")(X, E), injector(plugins, "instance")(X, E)
    )  # unknown: 1


@pytest.mark.parametrize("unit", ["pixel", "data", "contrast"])
def test_no_noise_at_all_at_zero(plugins: Plugins, unit: str) -> None:
    module = injector(plugins, f"instance(unit={unit}, until=0.5)").double()
    assert not torch.equal(module(X, E), X)
    for fraction in (0.5, 0.8, 1.0):
        module.set_progress(fraction)
        assert torch.equal(module(X, E), X)


def test_draws_are_as_large_as_the_image(plugins: Plugins) -> None:
    noise = injector(plugins, "instance").draw(Streams(1)["e"].source(ids=range(200)))
    assert noise.shape == (200, C, R, R)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("unit", ["pixel", "contrast"])
@pytest.mark.parametrize("start", [0.7, 0.0])
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_first_and_second_gradients(plugins: Plugins, unit: str, start: float, scale: float) -> None:
    """Also at zero strength, and of flat images, where a plain standard deviation has none."""
    (strategy,) = plugins.parse(f"instance(start={start}, unit={unit})")
    assert strategy.spec.image is not None
    module = strategy.spec.image(ImageSite(resolution=3, channels=2), strategy.params).double()
    x = (0.3 + scale * normal("x3", 2, 2, 3, 3)).requires_grad_()
    e = normal("e3", 2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(module, (x, e), eps=1e-7)
    assert torch.autograd.gradgradcheck(module, (x, e), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("unit", ["pixel", "contrast"])
def test_low_precision_comes_close(plugins: Plugins, dtype: torch.dtype, unit: str) -> None:
    module = injector(plugins, f"instance(start=0.5, unit={unit})")
    low = module(X.to(dtype), E.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.double(), module.double()(X, E), rtol=0.02, atol=0.02)


def test_the_strength_is_a_function_of_progress_alone(plugins: Plugins) -> None:
    a, b = (injector(plugins, "instance(schedule=cosine)") for _ in range(2))
    for fraction in (0.1, 0.9, 0.2, 0.6):
        a.set_progress(fraction)
    b.set_progress(0.6)
    assert torch.equal(a.state_dict()["strength"], b.state_dict()["strength"])
    assert [name for name, _ in a.named_parameters()] == []


# the deviation of the data


@pytest.mark.parametrize(("memory", "workers"), [(2**30, 2), (0, 2), (0, 0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_deviation_of_data_is_numpys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, workers: int, mirror: bool
) -> None:
    """Over pixels, channels and images about one mean, in [-1, 1], as the images are after the resize."""
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", memory)
    pixels = np.random.default_rng(3).integers(40, 200, size=(5, 16, 16, 3), dtype=np.uint8)
    pixels[..., 1] //= 2
    np.save(tmp_path / "x.npy", pixels)
    whole = open_dataset(tmp_path / "x.npy", workers=workers, mirror=mirror)
    assert whole.deviation() == pytest.approx(np.std(pixels.astype(np.float64) / 127.5 - 1), rel=1e-12)
    small = open_dataset(tmp_path / "x.npy", workers=workers, mirror=mirror, resolution=8, resize="box")
    assert small.deviation() == pytest.approx(float(to_float(small.images(range(5))).double().std(correction=0)), 1e-6)
    assert small.deviation() < 0.8 * whole.deviation()


def test_deviation_of_a_large_set_is_that_of_images_spread_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MEASURED", 4)
    pixels = np.random.default_rng(3).integers(256, size=(10, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    expected = np.std(pixels[[0, 2, 5, 7]].astype(np.float64) / 127.5)
    assert open_dataset(tmp_path / "x.npy", mirror=True).deviation() == pytest.approx(expected, rel=1e-12)


def test_deviation_of_data_of_one_value_is_zero(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 8, 8), 77, np.uint8))
    assert open_dataset(tmp_path / "x.npy").deviation() == 0


# in training


def test_the_discriminator_sees_noisy_images_of_both_kinds_in_every_phase() -> None:
    config = TrainConfig(outdir="", **SMALL).resolve()
    data, device = open_dataset("digits", resolution=8), torch.device("cpu")
    strategies = Plugins(entry_points=False).parse("instance(start=0.5, schedule=constant)")
    arguments = networks(config, resolution=8, img_channels=1, c_dim=0)
    state = TrainState(config, arguments, strategies, data="", device=device)
    step = TrainingStep(state, config, data, Streams(1), World(0, 1, device))
    real = RealBatch(to_float(data.images(range(8))), data.labels(range(8)))
    seen: dict[str, list[Tensor]] = {}
    made: list[Tensor] = []
    state.D.register_forward_pre_hook(lambda _, inputs: seen.setdefault(phase, []).append(inputs[0].detach()))
    state.G.synthesis.register_forward_hook(lambda _, __, images: made.append(images.detach()))
    deviations: list[Tensor] = []
    for phase in ("G", "D", "R1"):
        made.clear()
        step.phase(phase, real)
        sources = {"G": made, "D": [*made, real.images], "R1": [real.images]}[phase]
        deviations += [noisy - clean for noisy, clean in zip(seen[phase], sources, strict=True)]
    assert len(deviations) == 4
    for noise in deviations:
        assert float(noise.std()) == pytest.approx(0.5, abs=0.06)
        assert float(noise.mean()) == pytest.approx(0, abs=0.08)
    for i in range(4):
        for j in range(i):
            assert abs(float((deviations[i] * deviations[j]).mean())) < 0.05  # independent


def snapshot_strengths(run: Path, name: str) -> list[float]:
    return [float(load_file(path)[name]) for path in snapshots(run)]


def test_training_follows_the_schedule(tmp_path: Path) -> None:
    """Snapshots after 5, 10, 15 and 20 of 20 steps; the last of these were at 4/20, 9/20, 14/20 and 19/20."""
    options: dict[str, Any] = SMALL | {"outdir": str(tmp_path), "quiet": True, "noise": "instance(until=0.5) + fuzzy"}
    run = noisegan.train(plugins=Plugins(entry_points=False), **options)
    expected = [0.1 * max(0.0, 1 - fraction / 0.5) for fraction in (0.2, 0.45, 0.7, 0.95)]
    assert snapshot_strengths(run, "image.instance.strength") == pytest.approx(expected, abs=1e-7)


def test_a_run_measures_its_data_and_records_the_number(tmp_path: Path) -> None:
    options: dict[str, Any] = SMALL | {"quiet": True, "plugins": Plugins(entry_points=False)}
    noise = "instance(start=0.4, schedule=constant, unit=data)"
    run = noisegan.train(**options, outdir=str(tmp_path / "a"), noise=noise)
    digits = open_dataset("digits", resolution=8)
    deviation = np.std(digits.images(range(len(digits))).numpy() / 127.5)
    for recorded in (json.loads((run / "training_options.json").read_text()), read_facts(snapshots(run)[0])):
        assert recorded["dataset"]["deviation"] == pytest.approx(deviation, rel=1e-12)
    assert snapshot_strengths(run, "image.instance.strength") == pytest.approx([0.4 * deviation] * 4, rel=1e-6)
    plain = noisegan.train(**options | {"kimg": 0.04}, outdir=str(tmp_path / "b"), noise="additive + roth")
    assert "deviation" not in read_facts(snapshots(plain)[0])["dataset"]  # nothing to know it for


def test_a_resumed_run_keeps_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it would be measured otherwise."""
    options: dict[str, Any] = {"quiet": True, "plugins": Plugins(entry_points=False)}
    run = noisegan.train(**options, **SMALL | {"kimg": 0.04}, outdir=str(tmp_path), noise="instance(unit=data)")
    before = read_facts(snapshots(run)[0])["dataset"]["deviation"]
    monkeypatch.setattr(dataset.ImageDataset, "deviation", lambda self: 9.0)
    noisegan.train(**options, resume=run, kimg=0.08)
    assert [read_facts(path)["dataset"]["deviation"] for path in snapshots(run)] == [before] * 2


@pytest.mark.parametrize("unit", ["data", "contrast"])
def test_a_resumed_run_anneals_to_the_same_bits(unit: str, tmp_path: Path) -> None:
    resumed_equals_unbroken(f"instance(schedule=cosine, unit={unit})", tmp_path)
