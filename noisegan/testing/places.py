"""Where a strategy is tried: sites, images and a critic, all of them small, odd in shape and free of global randomness.

Strategies start at zero strength, which makes a broken one look fine, so most checks use `Place.moved`: an injector
whose parameters have left their start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisegan.api import Ahead, ImageSite, Injector, LookAheadInjector, NoiseSite, NoiseSource, Params, Reader, Strategy
from noisegan.core.rng import MeanSource, Streams, contained_randomness

IDS = (0, 1, 2)
"""Sample ids of the usual batch."""
_READERS = ((6, 3), (2, 1))
"""Outputs and kernels of the convolutions that look-ahead injectors are shown."""
SHARED = ("bias", *(f"weight{i}" for i in range(len(_READERS))))
"""Inputs that are not of a sample."""
_READ_AS_IT_IS = 8
"""Pixels of the site where no activation follows."""
_W_DIM = 6
_MOVE = 0.25
"""How far parameters are moved: enough to show, too little to leave the domain of a share or an angle."""


def _site(index: int, name: str, resolution: int, channels: int, upsampled: bool) -> NoiseSite:
    return NoiseSite(
        index=index,
        num_sites=5,
        name=name,
        resolution=resolution,
        channels=channels,
        in_channels=channels + 1,
        w_dim=_W_DIM,
        upsampled=upsampled,
    )


SITES = (
    _site(0, "b4.conv1", 4, 3, False),
    _site(1, "b8.conv0", 8, 5, True),
    _site(4, "b16.conv1", 16, 7, False),
)
IMAGE_SITES = (ImageSite(resolution=8, channels=1), ImageSite(resolution=16, channels=3))


class TinyCritic(nn.Module):
    """A smooth discriminator, images [N, C, H, W] to logits [N, 1], for penalties."""

    def __init__(self, image: ImageSite, seed: int) -> None:
        super().__init__()
        size = image.channels * image.resolution**2
        source = Streams(seed)["testing/critic"].source(ids=[0])
        self.first = nn.Parameter(source.normal(size, 3)[0] / size**0.5)
        self.last = nn.Parameter(source.normal(3, 1)[0])

    def forward(self, images: Tensor) -> Tensor:
        return F.softplus(images.flatten(1) @ self.first) @ self.last  # [N, 1]


@dataclass(frozen=True)
class Place:
    """One injection point of one strategy at one site; builds injectors and the inputs to try them with."""

    strategy: Strategy
    point: str
    label: str
    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    image: ImageSite | None
    seed: int
    device: str

    def __str__(self) -> str:
        return f"{self.point} at {self.label}" if self.label else self.point

    def build(self, params: Params | None = None) -> Any:
        """A new injector, built as the core builds it: torch's global generator is lent to it, then put back."""
        with contained_randomness(self.seed, f"plugin/{self.strategy.name}/{self.label}"):
            injector = self.make(self.strategy.params if params is None else params)
        return injector.to(self.device) if isinstance(injector, nn.Module) else injector

    def moved(self) -> Any:
        """A new injector with every parameter off its start."""
        injector = self.build()
        self.move(injector, step=0)
        return injector

    def move(self, injector: nn.Module, step: int) -> None:
        """Add to every parameter a little of a stream named after it; `step` counts moves."""
        for name, parameter in injector.named_parameters():
            source = Streams(self.seed)[f"testing/move/{name}"].source(step=step, ids=[0])
            with torch.no_grad():
                parameter.add_(_MOVE * source.normal(*parameter.shape)[0].to(parameter))

    def source(self, ids: Sequence[int] = IDS, step: int = 0) -> NoiseSource:
        return Streams(self.seed)[f"noise/{self.label}"].source(step=step, ids=ids, device=self.device)

    def inputs(
        self,
        injector: Injector,
        ids: Sequence[int] = IDS,
        dtype: torch.dtype = torch.float32,
        *,
        step: int = 0,
        off: bool = False,
    ) -> dict[str, Tensor]:
        """What forward is given, by name: features, images or w of these samples, drawn noise, tensors of what follows.

        `step` moves the noise alone; `off` draws it at its mean. `arguments` makes forward's arguments of them.
        """
        values = Streams(self.seed)["testing/inputs"].source(ids=ids, device=self.device)
        first = values.normal(*self.shape)
        if self.point == "penalty":
            return {"real": torch.tanh(first).to(dtype), "fake": torch.tanh(values.normal(*self.shape)).to(dtype)}
        source = MeanSource(len(ids), self.device) if off else self.source(ids, step)
        noise = injector.draw(source).detach().to(dtype)  # type: ignore[operator]
        if self.point == "feature":
            found = {"x": first.to(dtype), "noise": noise, "w": values.normal(_W_DIM).to(dtype)}
            if isinstance(injector, LookAheadInjector):
                # As in the generator, whose parameters are never of 16 bits.
                wide = torch.promote_types(dtype, torch.float32)
                found |= {name: tensor.to(wide) for name, tensor in self._ahead(values).items()}
            return found
        if self.point in ("latent", "style"):
            return {"w" if self.point == "latent" else "style": first.to(dtype), "noise": noise}
        return {"images": torch.tanh(first).to(dtype), "noise": noise}

    def _ahead(self, values: NoiseSource) -> dict[str, Tensor]:
        """What follows a map: tensors of `Ahead` and of two readers. `SHARED`: the same for all samples."""
        channels = self.shape[0]
        shared = Streams(self.seed)["testing/ahead"].source(ids=[0], device=self.device)
        found = {"scale": 0.5 + values.uniform(channels), "bias": shared.normal(channels)[0] / 2}
        for i, (outputs, kernel) in enumerate(_READERS):
            size = kernel * channels**0.5
            found[f"weight{i}"] = shared.normal(outputs, channels, kernel, kernel)[0] / size
            found[f"style{i}"] = 1 + values.normal(channels) / 2
            found[f"demod{i}"] = 0.5 + values.uniform(outputs)
        return found

    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Of `inputs`, what forward is called with."""
        if "scale" not in inputs:
            return tuple(inputs.values())
        readers = tuple(
            Reader(weight=inputs[f"weight{i}"], style=inputs[f"style{i}"], demod=inputs[f"demod{i}"])
            for i in range(len(_READERS))
        )
        slope = 1.0 if self.shape[-1] == _READ_AS_IT_IS else 0.2
        ahead = Ahead(scale=inputs["scale"], bias=inputs["bias"], slope=slope, gain=2**0.5, readers=readers)
        return inputs["x"], inputs["noise"], inputs["w"], ahead

    def critic(self) -> TinyCritic:
        assert self.image is not None
        return TinyCritic(self.image, self.seed).to(self.device)

    def call(self, injector: Injector, inputs: dict[str, Tensor]) -> Tensor:
        """forward, with a critic where it is a penalty."""
        arguments = self.arguments(inputs)
        if self.point == "penalty":
            arguments = (self.critic().to(arguments[0].dtype), *arguments)
        result = injector(*arguments)
        assert isinstance(result, Tensor), f"forward returned {type(result).__name__}, expected a tensor"
        return result


def places(strategy: Strategy, seed: int, device: str) -> dict[str, list[Place]]:
    """All places of a strategy, by injection point."""
    spec = strategy.spec
    found: dict[str, list[Place]] = {}

    def add(point: str, label: str, make: Any, shape: tuple[int, ...], image: ImageSite | None = None) -> None:
        found.setdefault(point, []).append(Place(strategy, point, label, make, shape, image, seed, device))

    for site in SITES:
        if spec.feature is not None:
            shape = (site.channels, site.resolution, site.resolution)
            size = f"{site.resolution}x{site.resolution}"
            add("feature", f"{site.name} ({size})", lambda p, s=site: spec.feature(s, p), shape)
        if spec.latent is not None:
            add("latent", site.name, lambda p, s=site: spec.latent(s, p), (_W_DIM,))
        if spec.style is not None:
            add("style", site.name, lambda p, s=site: spec.style(s, p), (site.in_channels,))
    for image in IMAGE_SITES:
        shape = (image.channels, image.resolution, image.resolution)
        label = f"{image.resolution}x{image.resolution}x{image.channels}"
        if spec.image is not None:
            add("image", label, lambda p, s=image: spec.image(s, p), shape, image)
        if spec.penalty is not None:
            add("penalty", label, spec.penalty, shape, image)
    return found


def global_state() -> tuple[Any, ...]:
    """The three global random states, comparable with `==`."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - watched, not used
    numpy_state = (name, bytes(np.asarray(keys).data), position, has_gauss, cached)
    return bytes(torch.get_rng_state().numpy().data), numpy_state, random.getstate()


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Set torch's, numpy's and Python's global random states, and put them back afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
