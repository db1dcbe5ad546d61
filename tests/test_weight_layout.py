"""Weights lie as convolutions take them, and gradients and optimiser states as they do."""

from __future__ import annotations

import pytest
import torch
from toys import ToyFeature, toy

from noisegan.api import FeatureInjector, NoiseSource, Strategy
from noisegan.core.config import TrainConfig, networks
from noisegan.core.distributed import join_world
from noisegan.core.layers import settle
from noisegan.core.phases import RealBatch, TrainingStep
from noisegan.core.rng import Streams
from noisegan.core.state import TrainState
from noisegan.facade import Generator
from noisegan.manager import Plugins
from noisegan.placement import Where
from noisegan.planning import open_data

SMALL = {"data": "digits", "outdir": "unused", "resolution": 8, "cbase": 64, "cmax": 8, "z_dim": 8, "w_dim": 8}


def new_state(plugins: Plugins, architecture: str) -> tuple[TrainConfig, TrainState]:
    config = TrainConfig(**SMALL, map_depth=2, batch=4, kimg=1, device="cpu", g_arch=architecture).resolve()  # type: ignore[arg-type]
    arguments = networks(config, resolution=8, img_channels=1, c_dim=0)
    strategies = plugins.parse("additive")
    return config, TrainState(config, arguments, strategies, data="test", device=torch.device("cpu"))


def steps(tensor: torch.Tensor) -> list[int]:
    """Strides along which there is something to walk."""
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("architecture", ["skip", "residual"])
def test_gradients_and_optimiser_states_lie_as_their_weights_do(plugins: Plugins, architecture: str) -> None:
    config, state = new_state(plugins, architecture)
    step = TrainingStep(state, config, open_data(config, silent=True), Streams(0), join_world("cpu"))
    step.run(RealBatch(torch.zeros(4, 1, 8, 8), torch.zeros(4, 0)))
    copy = new_state(plugins, architecture)[1]
    copy.load({name: tensor.clone().contiguous() for name, tensor in state.tensors().items()}, state.counters())
    seen = 0
    for one in (state, copy):
        for side, optimizer in one.optimizers.items():
            for name, parameter in one.named[side].items():
                held = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
                held += [] if parameter.grad is None else [parameter.grad]
                assert all(steps(value) == steps(parameter) for value in held), name
                seen += not parameter.is_contiguous()
    assert seen > 10
    for name, tensor in copy.tensors().items():
        assert torch.equal(tensor, state.tensors()[name]), name


def test_settling_changes_how_weights_lie_and_nothing_else(plugins: Plugins) -> None:
    G = Generator(resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, noise="additive", plugins=plugins)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    z = torch.zeros(2, 8)
    images = G(z, noise="frozen")
    settle(G, torch.device("cpu"))
    assert not G.get_parameter("synthesis.b8.conv1.weight").is_contiguous()
    assert G.get_parameter("synthesis.b8.conv0.weight").transpose(0, 1).is_contiguous(memory_format=torch.channels_last)
    for name, tensor in G.state_dict().items():
        assert torch.equal(tensor, before[name])
    torch.testing.assert_close(G(z, noise="frozen"), images, rtol=1e-4, atol=1e-5)


def test_a_subclass_with_a_forward_of_its_own_does_not_inherit_what_is_added() -> None:
    class Says(ToyFeature):
        def added(self, noise: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(noise, self.strength)]

    class Differs(Says):
        def forward(self, x: torch.Tensor, noise: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return x

    class Agrees(Says):
        pass

    assert Agrees.added is Says.added
    assert Differs.added is FeatureInjector.added


def test_an_injector_that_is_listened_to_is_called(plugins: Plugins) -> None:
    G = Generator(resolution=8, z_dim=8, w_dim=8, channel_base=64, channel_max=8, noise="additive", plugins=plugins)
    heard: list[int] = []
    layer = G.synthesis.layers()[0]
    handle = layer.noise["additive"].register_forward_hook(lambda *_: heard.append(1))
    first = G(torch.zeros(1, 8), noise="frozen")
    handle.remove()
    second = G(torch.zeros(1, 8), noise="frozen")
    assert heard == [1]
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("placement", ["post-conv", "pre-conv", "post-activation"])
def test_noise_for_every_element_lies_as_the_maps_do(placement: str) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class PerElement(ToyFeature):
        def draw(self, source: NoiseSource) -> torch.Tensor:
            return source.normal(self.site.channels, self.site.resolution, self.site.resolution)

        def forward(self, x: torch.Tensor, noise: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            seen.append((x, noise))
            return x + self.strength * noise

    spec = toy(feature=lambda site, p: PerElement(site, p.strength))
    strategy = Strategy(spec, spec.params(strength=0.5), Where(placement=placement))
    G = Generator(resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, noise=(strategy,))
    settle(G, torch.device("cpu"))
    drawn = G.draw_noise("frozen", batch=2)
    before = {key: noise.clone() for key, noise in drawn.items()}
    G(torch.zeros(2, 8), noise=drawn)
    assert len(seen) == 5
    assert sum(not x.is_contiguous() for x, _ in seen) >= 4  # the start's constant is of either layout
    for (x, noise), given in zip(seen, before.values(), strict=True):
        assert steps(noise) == steps(x)
        assert torch.equal(noise, given)
