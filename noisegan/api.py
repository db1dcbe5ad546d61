"""The contract between noisegan and its plugins (noise strategies, feature extractors, metrics): all they import.

A strategy is a `StrategySpec`: a name, a parameter schema and one or more injectors. An injector is a module in two
halves: `draw` makes random numbers from the source it is given, `forward` is a pure function of its inputs. Because
they are apart, noise can be fresh, frozen, off, or given by the caller without the strategy's help.

    import torch
    from torch import Tensor, nn

    from noisegan.api import FeatureInjector, Field, NoiseSite, NoiseSource, Params, StrategySpec, hookimpl

    class JitterParams(Params):
        strength: float = Field(0.1, ge=0, description="standard deviation of the noise at the start")

    class Jitter(FeatureInjector):
        def __init__(self, site: NoiseSite, strength: float) -> None:
            super().__init__()
            self.site = site
            self.strength = nn.Parameter(torch.tensor(strength))

        def draw(self, source: NoiseSource) -> Tensor:
            return source.normal(1, self.site.resolution, self.site.resolution)

        def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
            return x + self.strength * noise

    @hookimpl
    def register_strategies(register):
        register(StrategySpec(
            name="jitter", params=JitterParams, feature=lambda site, p: Jitter(site, p.strength),
            summary="additive noise that does not start at zero", reference="this file", identity_at_init=False,
        ))

Symbols: N batch, C channels, H W pixels, D size of w.

Over 400 lines, as a plugin's author reads the whole contract in one file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import pluggy
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from noisegan.placement import Where

__all__ = [
    "API_VERSION",
    "Ahead",
    "AnyFeatureInjector",
    "FeatureExtractor",
    "FeatureInjector",
    "FeaturePair",
    "Field",
    "ImageInjector",
    "ImageSite",
    "Injector",
    "LatentInjector",
    "LookAheadInjector",
    "Metric",
    "NoiseSite",
    "NoiseSource",
    "Params",
    "PenaltyInjector",
    "Reader",
    "Score",
    "Strategy",
    "StrategySpec",
    "StyleInjector",
    "Where",
    "hookimpl",
]

API_VERSION = 1
"""Grows by one when the contract changes; a plugin records the version it was written for."""

hookimpl = pluggy.HookimplMarker("noisegan")
"""Marks a function of a plugin as the implementation of a hook of `noisegan.hookspecs`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSite:
    """A place in the generator where feature noise may enter: after a demodulated convolution, before its bias.

    `name` (such as `b64.conv0`) is used in checkpoints, streams and logs. `index` counts sites from the input, 0 to
    `num_sites - 1`. The feature map there is [N, channels, resolution, resolution]; `upsampled` says whether its
    convolution doubled the resolution. The convolution's style is [N, in_channels].

    The user may move a strategy within the layer (`Where`): with `placement=pre-conv` its injectors meet the map that
    enters the convolution, and are built for a site of that map's channels and resolution.
    """

    index: int
    num_sites: int
    name: str
    resolution: int
    channels: int
    in_channels: int
    w_dim: int
    upsampled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSite:
    """The image that the discriminator sees: [N, channels, resolution, resolution] in [-1, 1].

    `deviation` is the standard deviation of the data's pixel values in [-1, 1] over all pixels and channels, about the
    overall mean: one number for the run, whatever image is met. 1 where no data are known.
    """

    resolution: int
    channels: int
    deviation: float = 1.0


class NoiseSource(Protocol):
    """The only way of an injector to random numbers; the global random state is never used.

    Sample i of every tensor depends on the id of sample i alone, so a batch may be split anywhere. Successive calls
    give independent numbers. Tensors are float32 on the device of the run.
    """

    batch: int

    def normal(self, *shape: int) -> Tensor:
        """Standard normals, [batch, *shape]. All zero when noise is off."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [batch, *shape]. All 1/2 when noise is off."""
        ...


class Injector(nn.Module, ABC):
    """What all injectors share. Parameters are trained; buffers may change in `set_progress` only.

    They change in place (`fill_`, `copy_`): a captured CUDA graph goes on reading the memory that it has seen.
    """

    def set_progress(self, fraction: float) -> None:
        """Called before each training step with the share of training done, 0 to 1.

        A schedule is kept in a buffer and changed in place: a CUDA graph would go on with the value of a Python number,
        or of a tensor that has been replaced.
        """

    def regularise(self, noise: Tensor) -> Tensor | None:
        """In inversion, where the noise of the generator is optimised: a penalty that is small where noise is as drawn
        and grows as an image is written into it. noise [N, ...] as drawn -> [N], or None (default): noisegan's rule.

        That rule suits noise that is exactly the numbers asked of the source: maps in the last two dimensions, each
        channel a map of its own, or numbers without neighbours. It is Karras et al. 2020, appendix D; without a penalty
        of its own, noise that `draw` computes from its source's numbers is not optimised.
        """
        return None

    def renormalise(self, noise: Tensor) -> Tensor | None:
        """In inversion, after each step: optimised noise [N, ...] back where draws lie, or None (default): zero mean
        and unit variance of each map, or of a sample's numbers."""
        return None


class FeatureInjector(Injector):
    """Puts noise into the feature map of one site. Its parameters train with the generator."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "forward" in vars(cls) and "added" not in vars(cls):  # what a base class adds is not what this one does
            cls.added = FeatureInjector.added  # type: ignore[method-assign]

    @abstractmethod
    def draw(self, source: NoiseSource) -> Tensor:
        """Random numbers for one forward pass, [N, ...], without gradient. [N, 0] when none are needed."""

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor, w: Tensor) -> Tensor:
        """Pure function: x [N, C, H, W], noise as drawn, w [N, D] -> [N, C, H, W].

        Sample i depends on sample i of the inputs only, and is differentiable twice in x, noise, w and parameters.
        """

    def added(self, noise: Tensor) -> Sequence[tuple[Tensor, Tensor]] | None:
        """What `forward` adds to x, as products (noise, strength) that broadcast to x; None (default): it does more.

        An injector that says so runs in one pass over memory with demodulation, bias and activation; its `forward` must
        give the same. An empty list: x stays as it is.
        """
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A convolution that reads a feature map z [N, C, H, W], as what a pixel p adds to its outputs around p:

        y[n, o, p + d] += demod[n, o] sum_c weight[o, c, d] style[n, c] z[n, c, p]

    d runs over the kernel [h, w] about the pixel, from -(h - 1) / 2 on. Where the convolution doubles the resolution
    its resampling filter is included, and d runs over the finer grid, from -(h - 2) / 2 on about the first of the
    pixel's two places there, 2 p. At the image's border some d fall outside.

    weight: [O, C, h, w].
    style: [N, C].
    demod: [N, O].
    """

    weight: Tensor
    style: Tensor
    demod: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Ahead:
    """What becomes of a feature map x [N, C, H, W] behind an injector, up to the next convolutions:

        z = gain leaky_relu(scale x + bias)      [N, C, H, W], `slope` below zero
        y = each of `readers` of z

    Where x meets no activation before it is read (placements `pre-conv` and `post-activation`) scale is one, bias zero,
    slope and gain one. Other injectors on the way and the limit of values (`clamp`) are left out. Readers are the next
    layer's convolution with its modulation for this very batch, `torgb`, and the shortcut of a residual generator; at
    the last site `torgb` alone. None has low precision, whatever x has.

    scale: [N, C]; the demodulation at `inside-style`.
    bias: [C].

    C are the channels of x, at `pre-conv` those that enter the layer.
    """

    scale: Tensor
    bias: Tensor
    slope: float
    gain: float
    readers: tuple[Reader, ...]


class LookAheadInjector(Injector):
    """A feature injector that also sees what becomes of the map: for noise made to what the next layers do with it."""

    @abstractmethod
    def draw(self, source: NoiseSource) -> Tensor:
        """Random numbers for one forward pass, [N, ...], without gradient. [N, 0] when none are needed."""

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor, w: Tensor, ahead: Ahead) -> Tensor:
        """`FeatureInjector.forward` with what follows; differentiable twice in the tensors of `ahead`, too."""


AnyFeatureInjector = FeatureInjector | LookAheadInjector
"""What a strategy's `feature` factory may build."""


class LatentInjector(Injector):
    """Changes the latent w of one site before it becomes a style. Its parameters train with the generator."""

    @abstractmethod
    def draw(self, source: NoiseSource) -> Tensor:
        """Random numbers for one forward pass, [N, ...], without gradient. [N, 0] when none are needed."""

    @abstractmethod
    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        """Pure function: w [N, D], noise as drawn -> [N, D]; the same rules as `FeatureInjector.forward`."""


class StyleInjector(Injector):
    """Changes the style of one site, which scales the channels entering its convolution. Trains with the generator."""

    @abstractmethod
    def draw(self, source: NoiseSource) -> Tensor:
        """Random numbers for one forward pass, [N, ...], without gradient. [N, 0] when none are needed."""

    @abstractmethod
    def forward(self, style: Tensor, noise: Tensor) -> Tensor:
        """Pure function: style [N, in_channels], about one, and noise as drawn -> [N, in_channels]; the same rules as
        `FeatureInjector.forward`."""


class ImageInjector(Injector):
    """Changes the images, real and generated, that the discriminator sees. One per run.

    `trains_with` says whose optimiser owns its parameters and to what end: with `G` or `D` they lower that network's
    loss; with `against D` they raise the discriminator's adversarial loss (R1 does not move them), in its optimiser;
    `none` when it has no parameters.
    """

    trains_with: Literal["G", "D", "against D", "none"] = "none"

    @abstractmethod
    def draw(self, source: NoiseSource) -> Tensor:
        """Random numbers for one batch of images, [N, ...], without gradient."""

    @abstractmethod
    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Pure function: images [N, C, H, W], noise as drawn -> [N, C, H, W]; differentiable twice."""

    def penalty(self, images: Tensor, noise: Tensor) -> Tensor | None:
        """What the parameters lower besides, whatever `trains_with` says: [N], 0 or more; None (default): nothing.

        A pure function of what `forward` is given, the images without gradient history; sample i depends on sample i
        only. It joins the loss in the main phase of the optimiser that owns the parameters, as a mean over the images
        seen there.
        """
        return None


class PenaltyInjector(Injector):
    """An analytic stand-in for noise: a term of the discriminator's loss. One per run, without parameters."""

    loss_scale: Tensor | float = 1.0
    """Set by the trainer before each call. With float16 a gradient in images is small enough to become zero: take it of
    `loss_scale` times the logits, and divide it by `loss_scale`."""

    @abstractmethod
    def forward(self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """The penalty, a scalar averaged over samples.

        `discriminate` maps images [N, C, H, W] to logits [N, 1] and may be called any number of times; `real` and
        `fake` are images without gradient history.
        """


class Params(BaseModel):
    """Base of a strategy's parameter schema: frozen, unknown keys refused, every field with default and help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


P = TypeVar("P", bound=Params)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Generic[P]):
    """A named bundle of injectors plus a parameter schema: what a plugin registers.

    Args:
        name: lower-case identifier, used on the command line and in checkpoints.
        params: the schema; an instance of it reaches the factories below.
        summary: one line for lists.
        reference: where the formula comes from.
        identity_at_init: with default parameters, injecting changes nothing before training.
        feature, latent, style: build one injector for a site, or None.
        image, penalty: build one injector for the run, or None.
        api_version: the `API_VERSION` that the plugin was written for.

    Raises:
        ValueError: for a malformed name, no injector at all, a missing summary or reference, or a parameter named as
            one of `Where`, which every strategy that acts in layers takes beside its own.
    """

    name: str
    params: type[P]
    summary: str
    reference: str
    identity_at_init: bool
    feature: Callable[[NoiseSite, P], AnyFeatureInjector] | None = None
    latent: Callable[[NoiseSite, P], LatentInjector] | None = None
    style: Callable[[NoiseSite, P], StyleInjector] | None = None
    image: Callable[[ImageSite, P], ImageInjector] | None = None
    penalty: Callable[[P], PenaltyInjector] | None = None
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"strategy name {self.name!r} must be lower-case letters, digits and underscores, a letter first"
            )
        if not self.points:
            raise ValueError(
                f"strategy {self.name!r} has no injector: give feature=, latent=, style=, image= or penalty="
            )
        if not (self.summary.strip() and self.reference.strip()):
            raise ValueError(f"strategy {self.name!r} needs a summary and a reference")
        if not (isinstance(self.params, type) and issubclass(self.params, Params)):
            raise ValueError(f"strategy {self.name!r}: params must be a subclass of noisegan.api.Params")
        taken = sorted(Where.model_fields.keys() & self.params.model_fields.keys())
        if taken:
            raise ValueError(
                f"strategy {self.name!r}: parameter {taken[0]!r} needs another name; noisegan gives every strategy "
                "placement and layers itself"
            )

    @property
    def points(self) -> tuple[str, ...]:
        """The injection points it uses, of `feature`, `latent`, `style`, `image`, `penalty`."""
        return tuple(p for p in ("feature", "latent", "style", "image", "penalty") if getattr(self, p) is not None)

    @property
    def where_parameters(self) -> tuple[str, ...]:
        """The fields of `Where` that it takes: none without layers, and a placement for feature maps only."""
        if self.feature is not None:
            return ("placement", "layers")
        return ("layers",) if self.latent is not None or self.style is not None else ()


@dataclass(frozen=True)
class Strategy:
    """A spec with its parameters filled in: what the core is handed and an experiment compares."""

    spec: StrategySpec[Any]
    params: Params
    where: Where = field(default_factory=Where)

    @property
    def name(self) -> str:
        return self.spec.name

    def arguments(self) -> dict[str, Any]:
        """Its parameters as plain data, and where it stands if that is not everywhere at the usual point."""
        return self.params.model_dump(mode="json") | self.where.model_dump(mode="json", exclude_defaults=True)

    def __str__(self) -> str:
        """The expression that makes it, with the parameters that differ from their defaults."""
        default = self.spec.params().model_dump(mode="json")
        changed = [
            f"{key}={value!r}" for key, value in self.arguments().items() if key not in default or value != default[key]
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


class FeatureExtractor(ABC):
    """What turns images into the vectors that metrics compare. A plugin registers a factory of one:

        @hookimpl
        def register_feature_extractors(register):
            register("my-network", lambda device: MyNetwork(device))

    The factory is called when the extractor is used, and raises `NoiseganError` when its weights are missing.
    """

    dim: int
    """Length of a feature vector."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images.

        Args:
            images: [N, 3, H, W] uint8, RGB. Grey images come with their channel repeated, RGBA over white.

        Returns:
            [N, dim] float32 on any device. Row i depends on image i alone.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What stands beside every number made with it, as plain data: at least `weights` (a name and its `sha256:`
        digest, which are part of the key of cached features), `input` (how images are resized and scaled) and
        `reference`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A metric's value, and its own standard error where the metric can estimate one."""

    value: float
    std_error: float | None = None


class FeaturePair:
    """Features of real and generated images; what a metric sees.

    Attributes:
        real: [n, dim] float32 on the CPU.
        fake: [m, dim] float32 on the CPU.
    """

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        self.real, self.fake = real, fake
        self._made: dict[tuple[Any, ...], Any] = {}

    def once(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(pair, *arguments)`, computed once for all metrics that ask for it."""
        key = (function, *arguments)
        if key not in self._made:
            self._made[key] = function(self, *arguments)
        made: T = self._made[key]
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A score of generated images beside real ones, by features. A plugin registers it by name:

        @hookimpl
        def register_metrics(register):
            register("my-distance", Metric(title="My distance", better="lower", compute=distance, reference="..."))

    title: as tables show it.
    better: which direction is an improvement.
    compute: `FeaturePair` -> `Score`; a pure function, without randomness.
    minimum: the fewest images of either kind that it makes sense for.
    reference: paper and equation.
    """

    title: str
    better: Literal["lower", "higher"]
    compute: Callable[[FeaturePair], Score]
    reference: str
    minimum: int = 2
