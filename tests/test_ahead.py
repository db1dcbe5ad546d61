"""What an injector is told of the layers behind it, beside what those layers do in a real generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import toy

from noisegan.api import Ahead, LookAheadInjector, NoiseSite, NoiseSource, Strategy, Where
from noisegan.core.generator import Generator
from noisegan.core.noise import StreamNoise
from noisegan.core.probe import noise_to_signal
from noisegan.core.rng import Streams
from noisegan.inversion.noise import NoiseVariables, describe_noise
from noisegan.inversion.quality import measure_noise
from noisegan.manager import Plugins
from noisegan.placement import PointInLayer
from noisegan.plugins.learned_metric import seen

N, R = 2, 32
ARCHITECTURES = ("skip", "residual", "plain")


class Spy(LookAheadInjector):
    """Keeps what it is shown and adds what it is told to."""

    def __init__(self, site: NoiseSite) -> None:
        super().__init__()
        self.change: Tensor | None = None

    def draw(self, source: NoiseSource) -> Tensor:
        return source.normal(0)

    def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
        self.x, self.ahead = x, ahead
        return x if self.change is None else x + self.change


SPY = toy(feature=lambda site, p: Spy(site), identity=True)


def generator(
    architecture: str, placement: PointInLayer = "post-conv", noise: str = "none", **options: Any
) -> Generator:
    """A small one in float64 with a spy in every layer, behind the strategies `noise`; biases off zero."""
    spies = [Strategy(SPY, SPY.params(), Where(placement=place)) for place in dict.fromkeys((placement, "post-conv"))]
    strategies = (*Plugins(entry_points=False).parse(noise), *spies)
    G = Generator(
        resolution=R, z_dim=6, w_dim=5, mapping_layers=1, channel_base=128, channel_max=6, architecture=architecture,
        noise=strategies, **options,
    ).double()  # fmt: skip
    for name, parameter in G.named_parameters():
        if name.endswith(("bias", "strength")):
            with torch.no_grad():
                parameter += normal(f"move/{name}", *parameter.shape)[0] / 2
    return G


def normal(name: str, *shape: int) -> Tensor:
    return Streams(3)[name].source(ids=range(N)).normal(*shape).double()


class Watched:
    """One forward pass as a function of a change at one spy: what the layers behind it make of it."""

    def __init__(self, G: Generator, site: str, placement: PointInLayer) -> None:
        self.G, self.layers = G, {layer.site.name: layer for layer in G.synthesis.layers()}
        self.names = list(self.layers)
        self.site = site
        labels = self.layers[site].placements[placement]
        self.spy = self.layers[site].noise[labels[-1]]
        self.ws = G.styles(normal("z", 6)) + normal("apart", G.num_ws, 5)  # as with mixed styles: layers differ
        self.noise = {key: tensor.double() for key, tensor in G.draw_noise("frozen", N).items()}

    def spied(self, site: str) -> Spy:
        """The spy behind the convolution of a layer."""
        spy = self.layers[site].noise[self.layers[site].placements["post-conv"][-1]]
        assert isinstance(spy, Spy)
        return spy

    def outputs(self, names: list[str]) -> Any:
        """change [N, C, H, W] -> the outputs of convolutions: of layers by name, `b8.torgb`, `b8.skip`."""

        def run(change: Tensor) -> tuple[Tensor, ...]:
            heard: dict[str, Tensor] = {}
            hooks = [
                self.G.get_submodule(f"synthesis.{name}").register_forward_hook(
                    lambda module, given, out, name=name: heard.__setitem__(name, out)
                )
                for name in names
                if "conv" not in name
            ]
            self.spy.change = change
            try:
                self.G.synthesis(self.ws, self.noise)
            finally:
                self.spy.change = None
                for hook in hooks:
                    hook.remove()
            return tuple(heard[name] if name in heard else self.spied(name).x for name in names)

        return run


def readers_of(watched: Watched, placement: PointInLayer) -> list[str]:
    """Names of the convolutions that read a site's map, in the order in which they are told."""
    if placement == "pre-conv":
        return [watched.site]
    block, conv = watched.site.split(".")
    resolution = int(block[1:])
    if conv == "conv0":
        return [f"{block}.conv1"]
    found = [f"{block}.torgb"] if hasattr(watched.G.get_submodule(f"synthesis.{block}"), "torgb") else []
    if resolution < R:
        found.append(f"b{2 * resolution}.conv0")
        if watched.G.synthesis.b4.architecture == "residual":
            found.append(f"b{2 * resolution}.skip")
    return found


def predicted(ahead: Ahead, x: Tensor, dx: Tensor, p: tuple[int, int], shapes: list[torch.Size]) -> list[Tensor]:
    """What a change dx [N, C] of pixel p changes in the outputs of the readers, by the formulas of `Ahead`."""
    value = ahead.scale * x[:, :, p[0], p[1]] + ahead.bias
    slope = torch.where(value > 0, 1, torch.full_like(value, ahead.slope))
    dz = ahead.gain * slope * ahead.scale * dx  # [N, C]
    found = []
    for reader, shape in zip(ahead.readers, shapes, strict=True):
        dy = torch.einsum("no,nc,ochw->nohw", reader.demod, reader.style * dz, reader.weight)
        up, size = shape[-1] // x.shape[-1], dy.shape[-1]
        out = torch.zeros(shape, dtype=dy.dtype)
        # A kernel k around the pixel; on the finer grid 6 or 4 around its two.
        top, left = (up * q - (size - up) // 2 for q in p)
        out[:, :, top : top + size, left : left + size] = dy
        found.append(out)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("site", ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv1", "b32.conv1"])
@pytest.mark.parametrize("placement", ["post-conv", "pre-conv", "inside-style", "post-activation"])
def test_readers_do_what_the_next_layers_do(architecture: str, site: str, placement: PointInLayer) -> None:
    """Derivatives of the network along a change of one pixel, at every output of every convolution that reads it."""
    others = (
        "latent_chunks" if placement == "inside-style" else "additive + latent_chunks"
    )  # those on the way are not told
    G = generator(architecture, placement, others)
    watched = Watched(G, site, placement)
    names = readers_of(watched, placement)
    run = watched.outputs(names)
    G.synthesis(watched.ws, watched.noise)
    x, ahead = watched.spy.x.detach(), watched.spy.ahead
    assert len(ahead.readers) == len(names)
    p, dx = (x.shape[2] // 2, x.shape[3] // 2 - 1), normal("dx", x.shape[1])
    along = torch.zeros_like(x)
    along[:, :, p[0], p[1]] = dx
    values, changes = torch.autograd.functional.jvp(run, torch.zeros_like(x), along)
    for name, change, expected in zip(
        names, changes, predicted(ahead, x, dx, p, [value.shape for value in values]), strict=True
    ):
        assert float(change.abs().max()) > 1e-3, name
        torch.testing.assert_close(
            change, expected, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_length_in_the_pulled_back_metric_is_what_the_next_layers_change(architecture: str) -> None:
    """dz^T M dz is |dz|^2 and the squares of all changes in outputs, measured in the network."""
    watched = Watched(generator(architecture), "b16.conv1", "post-conv")
    names = readers_of(watched, "post-conv")
    run = watched.outputs(names)
    G, spy = watched.G, watched.spy
    G.synthesis(watched.ws, watched.noise)
    x, ahead = spy.x.detach(), spy.ahead
    dx = normal("dx", x.shape[1])
    along = torch.zeros_like(x)
    along[:, :, 8, 7] = dx
    _, changes = torch.autograd.functional.jvp(run, torch.zeros_like(x), along)
    slope = torch.where(x[:, :, 8, 7] + ahead.bias > 0, 1, torch.full_like(dx, 0.2))
    dz = ahead.gain * slope * dx
    expected = dz.square().sum(1) + sum(change.square().flatten(1).sum(1) for change in changes)
    found = torch.einsum("nc,ncd,nd->n", dz, seen(ahead, torch.float64), dz)
    assert float((expected / dz.square().sum(1)).min()) > 1.1  # outputs count
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_gradients_reach_the_layers_ahead() -> None:
    """An injector that uses what it is shown teaches the next layers, twice over."""

    class Uses(Spy):
        def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
            (reader, *_) = ahead.readers
            return x * (1 + (reader.demod.sum(1) + reader.style.sum(1))[:, None, None, None] * reader.weight.mean())

    spec = toy(feature=lambda site, p: Uses(site))
    G = Generator(
        resolution=8, z_dim=6, w_dim=5, mapping_layers=1, channel_base=128, channel_max=6,
        noise=(Strategy(spec, spec.params(), Where(layers="1")),),
    ).double()  # fmt: skip
    ws = G.styles(normal("z", 6))
    image = G.synthesis(ws, G.draw_noise("off", N))
    (gradient,) = torch.autograd.grad((image * normal("direction", *image.shape[1:])).sum(), ws, create_graph=True)
    gradient.square().sum().backward()
    for name in ("b8.conv1.weight", "b8.conv1.affine.weight"):
        found = G.get_parameter(f"synthesis.{name}").grad
        assert found is not None
        assert bool(found.isfinite().all())
        assert bool(found.any())


def test_the_strength_of_noise_is_measured_and_its_maps_are_optimised() -> None:
    """Diagnostics and inversion know injectors that look ahead."""
    G = Generator(
        resolution=16, z_dim=6, w_dim=5, mapping_layers=1, channel_base=128, channel_max=6,
        noise=Plugins(entry_points=False).parse("learned_metric(kind=pullback, strength=0.3)"),
    )  # fmt: skip
    z = normal("z", 6).float()
    ratios = noise_to_signal(G, z, None, StreamNoise(Streams(0), ids=range(N)))
    assert len(ratios) == len(G.synthesis.layers())
    assert all(0.01 < ratio < 10 for ratio in ratios.values())
    infos, drawn = describe_noise(G), G.draw_noise("frozen", N)
    variables = NoiseVariables(infos, drawn, optimise=True)
    assert variables.leaves.keys() == drawn.keys() == ratios.keys()
    assert bool((variables.penalty() > 0).all())
    assert measure_noise(infos, drawn, normal("target", 3, 16, 16).float())
