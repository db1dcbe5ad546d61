"""The seam where noise enters the generator: its modes, noise that is given, and strategies side by side."""

from __future__ import annotations

import pytest
import torch
from generating import COMBINATIONS, SMALL, generator, latents

from noisegan.core.generator import Generator
from noisegan.core.noise import NoNoise, StreamNoise, noise_mode
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

# Noise modes


@pytest.mark.parametrize("expression", COMBINATIONS)
def test_frozen_noise_repeats_and_follows_the_sample_id(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression).double(), latents(4).double()
    whole = G(z, noise=noise_mode("frozen", 4, seed=3))
    assert torch.equal(whole, G(z, noise=noise_mode("frozen", 4, seed=3)))
    order = [2, 0, 3, 1]
    shuffled = G(z[order], noise=noise_mode("frozen", 4, seed=3, ids=order))
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-12)
    parts = [G(z[ids], noise=noise_mode("frozen", len(ids), seed=3, ids=ids)) for ids in ([0], [1, 2, 3])]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("expression", COMBINATIONS[1:])
def test_fresh_noise_differs_and_so_do_ids_seeds_steps_and_phases(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression), latents(1)
    images = [
        G(z, noise=mode)
        for mode in (
            "fresh",
            "fresh",
            "frozen",
            "off",
            noise_mode("frozen", 1, seed=1),
            noise_mode("frozen", 1, ids=[1]),
            StreamNoise(Streams(0), ids=[0], step=1),
            StreamNoise(Streams(0), ids=[0], phase="D"),
        )
    ]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert not torch.equal(a, b)


def test_modes_by_name_have_the_documented_defaults(plugins: Plugins) -> None:
    G, z = generator(plugins), latents(2)
    assert torch.equal(G(z, noise="frozen"), G(z, noise=StreamNoise(Streams(0), ids=[0, 1])))
    assert torch.equal(G(z, noise="off"), G(z, noise=NoNoise(2)))


def test_additive_noise_switched_off_equals_zero_strength_and_no_strategy(plugins: Plugins) -> None:
    z = latents(2)
    off = generator(plugins, "additive(strength=0.3)")(z, noise="off")
    assert torch.equal(off, generator(plugins, "additive(strength=0)")(z, noise="frozen"))
    assert torch.equal(off, generator(plugins, "none")(z, noise="frozen"))
    bare = Generator(resolution=16, **SMALL)  # type: ignore[arg-type]
    assert torch.equal(off, bare(z, noise="fresh"))


@pytest.mark.parametrize("expression", COMBINATIONS)
def test_given_tensors_reproduce_the_drawn_ones(plugins: Plugins, expression: str) -> None:
    G, z = generator(plugins, expression), latents(2)
    assert torch.equal(G(z, noise=G.draw_noise("frozen", 2)), G(z, noise="frozen"))


def test_gradients_reach_given_noise(plugins: Plugins) -> None:
    G = generator(plugins)
    noise = {key: e.requires_grad_() for key, e in G.draw_noise("frozen", 2).items()}
    G(latents(2), noise=noise).square().sum().backward()
    assert all(e.grad is not None and float(e.grad.abs().max()) > 0 for e in noise.values())


def test_missing_noise_is_named(plugins: Plugins) -> None:
    G = generator(plugins)
    noise = G.draw_noise("frozen", 1)
    del noise["b8.conv0/additive"], noise["b16.conv1/additive"]
    with pytest.raises(NoiseganError, match=r"b16\.conv1/additive is missing .*; b8\.conv0/additive is missing"):
        G(latents(1), noise=noise)


def test_an_unknown_mode_is_refused_with_the_known_ones(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError, match="noise mode 'random' is unknown: choose fresh, frozen, off"):
        generator(plugins)(latents(1), noise="random")


def test_noise_has_no_default(plugins: Plugins) -> None:
    with pytest.raises(TypeError, match="noise"):
        generator(plugins)(latents(1))


def test_given_noise_must_fit(plugins: Plugins) -> None:
    G = generator(plugins)
    z, noise = torch.zeros(2, G.z_dim), G.draw_noise("frozen", 2)
    with pytest.raises(NoiseganError, match=r"b8\.conv0/additive is \[1, 1, 8, 8\] where \[2, 1, 8, 8\] is expected"):
        G(z, noise=noise | {"b8.conv0/additive": noise["b8.conv0/additive"][:1]})
    with pytest.raises(NoiseganError, match=r"b9/x is \[1\] where nothing is expected"):
        G(z, noise=noise | {"b9/x": torch.zeros(1)})
    with pytest.raises(NoiseganError, match="the noise is for 3 samples and the batch has 2"):
        G(z, noise=noise_mode("frozen", 3))


def test_a_sample_keeps_its_frozen_noise_by_its_id(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=1)").double()
    z = torch.linspace(-1, 1, 2 * G.z_dim).view(2, -1)
    both = G(z, noise="frozen", ids=[7, 3])
    torch.testing.assert_close(G(z[1:], noise="frozen", ids=[3]), both[1:], rtol=0, atol=1e-9)
    assert not torch.allclose(G(z[1:], noise="frozen", ids=[4]), both[1:], atol=1e-3)


# Strategies side by side


def test_strategies_under_comparison_meet_the_same_noise(plugins: Plugins) -> None:
    additive, fuzzy = (generator(plugins, e).draw_noise("frozen", 2) for e in ("additive", "fuzzy"))
    assert len(additive) == 5
    for key, e in additive.items():
        assert torch.equal(e, fuzzy[key.replace("additive", "fuzzy")])


def test_noise_of_sites_and_of_composed_strategies_is_independent(plugins: Plugins) -> None:
    noise = generator(plugins, "additive + fuzzy").draw_noise("frozen", 4)
    assert not torch.equal(noise["b8.conv0/additive"], noise["b8.conv1/additive"])
    assert not torch.equal(noise["b8.conv0/additive"], noise["b8.conv0/fuzzy"])


def test_composed_strategies_are_applied_as_written(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=0.5) + fuzzy")
    layer = G.synthesis.b8.conv1
    x, w = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)), latents(2, 6)
    met = []
    for injector in layer.noise.values():
        injector.register_forward_hook(lambda _, inputs, out: met.append((inputs[0], out)))
    layer(x, w, G.draw_noise("frozen", 2))
    assert list(layer.noise) == ["additive", "fuzzy"]
    assert torch.equal(met[0][1], met[1][0])  # what additive gives is what fuzzy gets


def test_the_order_of_composition_matters(plugins: Plugins) -> None:
    one, other = (generator(plugins, e) for e in ("additive(strength=0.5) + fuzzy", "fuzzy + additive(strength=0.5)"))
    noise = one.draw_noise("frozen", 2)
    assert set(noise) == set(other.draw_noise("off", 2))
    difference = one(latents(2), noise=noise) - other(latents(2), noise=noise)
    assert float(difference.detach().abs().max()) > 1e-3


def test_noise_enters_before_bias_and_activation(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=1)")
    layer = G.synthesis.b4.conv1
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(0.5)
    e = torch.linspace(-2, 2, 16).view(1, 1, 4, 4)
    out = layer(torch.ones(1, 6, 4, 4), torch.zeros(1, 6), {"b4.conv1/additive": e})
    expected = torch.where(e + 0.5 > 0, e + 0.5, 0.2 * (e + 0.5)) * 2**0.5
    torch.testing.assert_close(out, expected.expand(1, 6, 4, 4))


def test_shared_parameters_start_equal_under_every_strategy(plugins: Plugins) -> None:
    base = generator(plugins, "none", seed=4).state_dict()
    assert len(base) > 20
    for expression in COMBINATIONS[1:]:
        state = generator(plugins, expression, seed=4).state_dict()
        assert base.keys() <= state.keys()
        for name, value in base.items():
            assert torch.equal(value, state[name]), (expression, name)
