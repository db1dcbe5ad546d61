"""What a user looks at: how strong the noise is, images as files, latents by seed, means and deviations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisegan.core.generator import Generator
from noisegan.core.images import grid_size, make_grid, save_image, to_bytes, to_float
from noisegan.core.noise import StreamNoise
from noisegan.core.probe import learned_quantities, noise_to_signal
from noisegan.core.rng import Streams
from noisegan.core.sampling import class_label, render, seed_latents, styles_of_seeds
from noisegan.core.statistics import Statistics, summarise
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

KEYS = ["b4.conv1", "b8.conv0", "b8.conv1"]


def generator(plugins: Plugins, expression: str, c_dim: int = 0) -> Generator:
    return Generator(
        resolution=8,
        z_dim=6,
        w_dim=6,
        c_dim=c_dim,
        mapping_layers=1,
        channel_base=256,
        channel_max=32,
        noise=plugins.parse(expression),
    )


def measured(G: Generator, n: int = 32) -> dict[str, float]:
    z = Streams(0)["z"].source(ids=range(n)).normal(6)
    return noise_to_signal(G, z, None, StreamNoise(Streams(1), ids=range(n)))


# The strength of noise


@pytest.mark.parametrize("strength", [0.25, -0.25, 2.0])
def test_noise_to_signal_of_additive_is_its_strength_over_the_rms_of_the_features(
    plugins: Plugins, strength: float
) -> None:
    G = generator(plugins, f"additive(strength={strength})")
    rms, parts = {}, {f"{layer.site.name}/additive": layer.noise["additive"] for layer in G.synthesis.layers()}
    handles = [
        injector.register_forward_hook(
            lambda _, i, __, key=key: rms.__setitem__(key, float(i[0].square().mean().sqrt()))
        )
        for key, injector in parts.items()
    ]
    with torch.no_grad():
        G(Streams(0)["z"].source(ids=range(32)).normal(6), noise=StreamNoise(Streams(1), ids=range(32)))
    for handle in handles:
        handle.remove()
    found = measured(G)
    assert list(found) == [f"{key}/additive" for key in KEYS]
    for key, value in found.items():
        # 32 maps of 4 x 4 or more: their rms is one to about 1 / sqrt(2 * 512).
        assert value == pytest.approx(abs(strength) / rms[key], rel=0.1)


@pytest.mark.parametrize("expression", ["none", "additive(strength=0)", "fuzzy(form=additive, gain=0)"])
def test_noise_to_signal_is_zero_where_nothing_is_injected(plugins: Plugins, expression: str) -> None:
    found = measured(generator(plugins, expression))
    assert len(found) == 3
    assert set(found.values()) == {0.0}


def test_noise_to_signal_of_the_scaled_form_is_about_one_whatever_its_gain(plugins: Plugins) -> None:
    one, ten = (measured(generator(plugins, f"fuzzy(gain={gain})")) for gain in (1, 10))
    assert one["b4.conv1/fuzzy"] == pytest.approx(ten["b4.conv1/fuzzy"], rel=1e-4)
    assert 0.3 < one["b4.conv1/fuzzy"] < 3


def test_an_injector_that_gives_nothing_at_all_has_ratio_zero(plugins: Plugins) -> None:
    found = measured(generator(plugins, "fuzzy(form=scaled, gain=0)"))
    assert found["b4.conv1/fuzzy"] == 0


def test_composed_strategies_are_measured_each(plugins: Plugins) -> None:
    found = measured(generator(plugins, "additive(strength=0.5) + fuzzy"))
    assert list(found) == [f"{key}/{name}" for key in KEYS for name in ("additive", "fuzzy")]
    assert min(found.values()) > 0.05


def test_the_probe_leaves_no_hook_behind(plugins: Plugins) -> None:
    G = generator(plugins, "additive")
    measured(G)
    assert not any(module._forward_hooks for module in G.modules())


def test_learned_quantities_are_named_by_site_strategy_and_parameter(plugins: Plugins) -> None:
    found = learned_quantities(generator(plugins, "additive(strength=0.5) + fuzzy(alpha=0.25)"))
    parameters = ["additive/strength", "fuzzy/alpha", "fuzzy/scale", "fuzzy/shift", "fuzzy/strength"]
    assert set(found) == {f"{key}/{p}" for key in KEYS for p in parameters}
    assert found["b8.conv0/additive/strength"] == 0.5
    assert found["b8.conv0/fuzzy/alpha"] == 0.25
    assert found["b4.conv1/fuzzy/strength"] == 1
    assert learned_quantities(generator(plugins, "none")) == {}


def test_a_learned_tensor_is_shown_by_its_root_mean_square(plugins: Plugins) -> None:
    G = generator(plugins, "additive(per_channel=true)")
    strength = G.synthesis.b4.conv1.noise["additive"].strength
    with torch.no_grad():
        strength.copy_(torch.arange(32.0).view(32, 1, 1))
    expected = math.sqrt(np.mean(np.arange(32.0) ** 2))
    assert learned_quantities(G)["b4.conv1/additive/strength"] == pytest.approx(expected)


# Images


def test_bytes_are_127_5_times_the_image_plus_128_clamped() -> None:
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 0.99, 1.0, 2.0])
    assert to_bytes(values).tolist() == [0, 0, 64, 128, 191, 254, 255, 255]
    assert to_bytes(values).dtype == torch.uint8


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert float(floats[0]) == -1
    assert float(floats[-1]) == 1
    assert torch.equal(to_bytes(floats), every)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_bytes_are_made_from_any_float(dtype: torch.dtype) -> None:
    assert to_bytes(torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)).tolist() == [0, 128, 255]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_fills_rows_from_the_left_and_leaves_the_rest_zero(channels: int) -> None:
    images = torch.rand(5, channels, 2, 3, generator=torch.Generator().manual_seed(0)) + 1
    grid = make_grid(images, columns=3)
    assert grid.shape == (channels, 4, 9)
    for k in range(6):
        row, column = divmod(k, 3)
        cell = grid[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert torch.equal(cell, images[k] if k < 5 else torch.zeros_like(cell)), k


@pytest.mark.parametrize(("resolution", "size"), [(8, 8), (256, 8), (512, 4), (1024, 2), (4096, 2)])
def test_sample_grids_stay_of_a_size_to_look_at(resolution: int, size: int) -> None:
    assert grid_size(resolution) == size


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_saved_images_are_read_back_pixel_by_pixel(tmp_path: Path, channels: int, mode: str) -> None:
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_image(image, tmp_path / "image.png")
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
    with Image.open(tmp_path / "image.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", mode, (7, 5))
        pixels = np.asarray(picture).reshape(5, 7, channels)
    assert np.array_equal(pixels, image.permute(1, 2, 0).numpy())


def test_an_image_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match=r"cannot write .*image\.png"):
        save_image(torch.zeros(3, 2, 2, dtype=torch.uint8), tmp_path / "missing" / "image.png")


# Latents by seed


def test_latents_of_seeds_are_those_that_stylegan_users_know() -> None:
    found = seed_latents([0, 85, 2**32 - 1, 0], 512)
    expected = np.concatenate([np.random.RandomState(s).randn(1, 512) for s in (0, 85, 2**32 - 1, 0)])
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected.astype(np.float32))
    assert found[0, :3].tolist() == pytest.approx([1.7640524, 0.4001572, 0.9787380])


def test_styles_of_seeds_are_mapped_and_truncated(plugins: Plugins) -> None:
    G = generator(plugins, "none")
    G.mapping.w_avg.fill_(1)
    found = styles_of_seeds(G, [3, 4], truncation=0.5)
    assert torch.equal(found, G.styles(seed_latents([3, 4], 6), truncation=0.5))
    assert not torch.equal(found, styles_of_seeds(G, [3, 4]))


def test_rendered_images_do_not_depend_on_the_batch_and_follow_their_ids(plugins: Plugins) -> None:
    G, ids = generator(plugins, "additive(strength=0.5)"), [7, 3, 11]
    ws = styles_of_seeds(G, ids)
    whole = torch.cat(list(render(G, ws, ids, mode="frozen", noise_seed=2)))
    ones = torch.cat(list(render(G, ws, ids, mode="frozen", noise_seed=2, batch=1)))
    torch.testing.assert_close(whole, ones, rtol=1e-4, atol=1e-5)
    alone = torch.cat(list(render(G, ws[1:2], [3], mode="frozen", noise_seed=2)))
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-5)
    other = torch.cat(list(render(G, ws, ids, mode="frozen", noise_seed=3)))
    assert float((other - whole).abs().max()) > 0.01
    assert not whole.requires_grad


def test_class_labels_are_one_hot_or_none(plugins: Plugins) -> None:
    conditional, plain = generator(plugins, "none", c_dim=3), generator(plugins, "none")
    label = class_label(conditional, 2, 2)
    assert label is not None
    assert label.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert class_label(plain, None, 2) is None


@pytest.mark.parametrize(("index", "got"), [(None, "none was given"), (3, "got 3"), (-1, "got -1")])
def test_a_class_that_does_not_exist_is_refused(plugins: Plugins, index: int | None, got: str) -> None:
    with pytest.raises(NoiseganError, match=rf"give --class 0 to 2 \({got}\)"):
        class_label(generator(plugins, "none", c_dim=3), index, 1)


def test_a_class_that_nobody_wants_is_refused(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError, match="this network has no classes: leave out --class"):
        class_label(generator(plugins, "none"), 0, 1)


# Statistics


def parts() -> list[Tensor]:
    return list(torch.randn(10, generator=torch.Generator().manual_seed(0)).split([1, 6, 3]))


def test_statistics_are_numpys_mean_and_deviation_of_all_values() -> None:
    statistics, values = Statistics(), parts()
    for part in values:
        statistics.add("loss", part)
    statistics.add("other", torch.tensor([[2.0], [4.0]], requires_grad=True))
    summary = summarise(statistics.names(), statistics.moments())
    every = torch.cat(values).double().numpy()
    assert list(summary) == ["loss", "other"]
    assert summary["loss"]["num"] == 10
    assert summary["loss"]["mean"] == pytest.approx(every.mean(), rel=1e-12)
    assert summary["loss"]["std"] == pytest.approx(every.std(), rel=1e-12)
    assert summary["other"] == {"num": 2, "mean": 3, "std": 1}


def test_a_constant_has_no_deviation() -> None:
    statistics = Statistics()
    statistics.add("loss", torch.full((7,), 0.1))
    assert summarise(statistics.names(), statistics.moments())["loss"]["std"] == pytest.approx(0, abs=1e-7)


def test_moments_of_processes_add_up() -> None:
    one, two, whole = Statistics(), Statistics(), Statistics()
    first, second, third = parts()
    one.add("loss", first)
    two.add("loss", torch.cat([second, third]))
    whole.add("loss", torch.cat([first, second, third]))
    torch.testing.assert_close(one.moments() + two.moments(), whole.moments())


def test_statistics_survive_a_resume() -> None:
    first, second, third = parts()
    unbroken, stopped, resumed = Statistics(), Statistics(), Statistics()
    for part in (first, second, third):
        unbroken.add("loss", part)
    for part in (first, second):
        stopped.add("loss", part)
    resumed.load_state(stopped.state(), torch.device("cpu"))
    resumed.add("loss", third)
    assert resumed.state() == unbroken.state()


def test_statistics_are_merged_where_all_went_well() -> None:
    kept, phase = Statistics(), Statistics()
    kept.add("loss", torch.ones(2))
    before = kept.state()
    phase.add("loss", torch.tensor([1.0, torch.nan]))
    phase.add("other", torch.ones(3))
    kept.merge(phase, where=torch.tensor(False))
    assert kept.state() == before
    assert list(summarise(kept.names(), kept.moments())) == ["loss"]
    phase = Statistics()
    phase.add("loss", torch.full((3,), 2.0))
    kept.merge(phase, where=torch.tensor(True))
    assert kept.state() == {"loss": [5, 8, 14]}


def test_a_name_keeps_its_tensor() -> None:
    """A captured graph adds to the memory it has seen, whatever has been reported since."""
    statistics = Statistics()
    statistics.add("loss", torch.ones(2))
    (tensor,) = statistics._moments.values()
    statistics.replace_moments(torch.tensor([[1.0, 2.0, 3.0]]))
    assert tensor.tolist() == [1, 2, 3]
    statistics.clear()
    assert statistics.state() == {}
    tensor.add_(1)
    statistics.add("loss", torch.zeros(1))
    assert statistics.state() == {"loss": [2, 1, 1]}
