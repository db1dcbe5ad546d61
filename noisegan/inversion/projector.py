"""The projector of Karras et al. 2020, appendix D, for many images at once and for every noise strategy.

    found = invert(G, targets, ProjectorOptions(space="w", noise="optimised", steps=1000))
    found[0].w, found[0].noise, found[0].image, found[0].losses["st-lpips-alex"], found[0].seconds

Each image has its own latent, noise, optimiser state and stream of perturbations, named by the image's content: the
loss is a sum over images and Adam acts on each number by itself, so what an image becomes does not depend on its batch
(to rounding: convolutions of another batch size may sum in another order, and in float32 the steps make more of that).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisegan.core.adam import Adam
from noisegan.core.generator import Generator
from noisegan.core.images import to_bytes
from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.inversion.losses import DEFAULT, Loss, make_loss, parse_loss
from noisegan.inversion.noise import NOISES, NoiseVariables, describe_noise, frozen_noise
from noisegan.inversion.spaces import SPACES, Latents, WStatistics, w_statistics
from noisegan.inversion.tuning import tune

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps in which the learning rate rises linearly and falls as a cosine: 50 and 250 of 1,000."""
PERTURBED = 0.75
"""Share of the steps in which w is perturbed: 750 of 1,000."""
PENALTY = "noise_regularisation"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ProjectorOptions:
    """How images are inverted. The defaults are those of Karras et al. 2020, appendix D, but for the distance.

    space: `w`, `w+`, `z` or `pti`.
    noise: `off`, `fixed` (frozen draws of the noise seed) or `optimised` (starting from those).
    steps: every schedule is a share of them.
    loss: distances with weights, as `noisegan.inversion.losses.make_loss` reads them.
    lr: the largest learning rate of Adam.
    perturbation: standard deviation of the noise on each coordinate of w at the start, in units of sigma_w; it falls as
        the square of the time left.
    noise_weight: of the autocorrelation of optimised noise.
    pti_steps, pti_lr: of the tuning that follows in the space `pti` (Roich et al. 2021).
    class_index: of a conditional network: mean w of this class; needed for z.
    seed: of the latents behind mean and scale of w, and of perturbations.
    noise_seed: of frozen noise.

    Raises:
        NoiseganError: for a value that makes no sense.
    """

    space: str = "w"
    noise: str = "optimised"
    steps: int = 1000
    loss: str = DEFAULT
    lr: float = 0.1
    perturbation: float = 0.05
    noise_weight: float = 1e5
    pti_steps: int = 350
    pti_lr: float = 3e-4
    class_index: int | None = None
    seed: int = 0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("space", self.space, SPACES), ("noise", self.noise, NOISES)):
            if value not in allowed:
                raise NoiseganError(f"{name} {value!r} is unknown: choose {', '.join(allowed)}")
        for name in ("steps", "pti_steps"):
            if getattr(self, name) < 1:
                raise NoiseganError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("lr", "pti_lr", "perturbation", "noise_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise NoiseganError(f"{name} must be a finite number of 0 or more, not {value}")
        parse_loss(self.loss)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for settings."""
        return asdict(self)

    @property
    def steps_per_image(self) -> int:
        """All that are taken for an image, those of its tuning included."""
        return self.steps + (self.pti_steps if self.space == "pti" else 0)


def unused_options(spaces: Collection[str], noises: Collection[str]) -> set[str]:
    """Fields of `ProjectorOptions` that change nothing in these spaces with these kinds of noise."""
    unused = set() if "pti" in spaces else {"pti_steps", "pti_lr"}
    if "optimised" not in noises:
        unused.add("noise_weight")
    if set(noises) <= {"off"}:
        unused.add("noise_seed")
    return unused


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """One inverted image. Tensors are on the CPU.

    id: from the target's content; names its streams.
    w: [num_ws, D].
    z: [z_dim], in the space z.
    noise: all noise of the generator by key, without the batch dimension, optimised or not.
    tuned: the generator's tuned tensors by name, in the space pti.
    image: the reconstruction [C, R, R] in about [-1, 1], rendered alone from `w` and `noise` (and `tuned`).
    losses: before each step and unweighted, of the perturbed latent: each distance by its name and
        `noise_regularisation`; of the tuning `tuning/<distance>`.
    final: the distances of `image`.
    frames: images on the way [F, C, R, R], unperturbed, after the steps `frame_steps`.
    seconds: the time of its batch divided by the images in it, and that of its own tuning.
    tuning_seconds: of those, its own tuning's.
    """

    id: int
    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    losses: dict[str, NDArray[np.float32]]
    final: dict[str, float]
    seconds: float
    tuning_seconds: float = 0.0
    z: Tensor | None = None
    tuned: dict[str, Tensor] | None = None
    frames: Tensor | None = None
    frame_steps: list[int] = field(default_factory=list)


class Projector:
    """Inverts batches with one network and one set of options; what does not depend on the target is computed once.

    Args:
        G: the network; it is not changed. Where its blocks are set to a low precision (`set_precision`), so are the
            networks of the distances; latents, noise, sums and what is told of the result stay as they are.
        options: how.
        loss: made already (its weights are loaded once for several networks); default: from the options.
        encoder: images [N, C, R, R] -> w [N, D] to start from, instead of the mean.

    Attributes:
        statistics: mean and scale of w.
        infos: what the network's noise is made of, and which of it can be optimised.
    """

    def __init__(
        self,
        G: Generator,
        options: ProjectorOptions,
        *,
        loss: Loss | None = None,
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.G, self.options, self._encoder = G, options, encoder
        self._device, self._dtype = G.mapping.w_avg.device, G.mapping.w_avg.dtype
        self.loss = loss if loss is not None else make_loss(options.loss, self._device, self._dtype)
        low = next((block.low_precision for block in G.synthesis.blocks() if block.low_precision is not None), None)
        self._fast = self.loss if low is None else self.loss.lowered(low)
        self.statistics: WStatistics = w_statistics(G, seed=options.seed, class_index=options.class_index)
        self.infos = describe_noise(G)

    def run(
        self,
        targets: Tensor,
        *,
        frames: int = 0,
        noise_start: Mapping[str, Tensor] | None = None,
        progress: Callable[[int], None] | None = None,
        take: Callable[[Inversion], None] | None = None,
    ) -> list[Inversion]:
        """Invert one batch.

        Args:
            targets: [N, C, R, R] in [-1, 1], as the network makes them.
            frames: images kept on the way, evenly spaced, the last after the last step.
            noise_start: the noise that `fixed` keeps and `optimised` starts from, [N, ...] by key; default: frozen.
            progress: called with the finished steps of this batch, counted over images.
            take: called with each inversion as soon as it is finished; none is kept then.

        Returns:
            One `Inversion` per target, in order; none with `take`.

        Raises:
            NoiseganError: when the targets do not fit the network, or the loss is not finite.
        """
        started_s = time.monotonic()
        G, options = self.G, self.options
        check_targets(G, targets)
        ids = [content_id(image) for image in targets]
        targets = targets.to(self._device, self._dtype)
        if noise_start is None:
            noise_start = frozen_noise(G, ids, mode=options.noise, seed=options.noise_seed)
        with torch.no_grad():
            start = self._encoder(targets) if self._encoder is not None else None
        latents = Latents(G, options.space, len(ids), self.statistics, start=start, class_index=options.class_index)
        noise = NoiseVariables(self.infos, noise_start, optimise=options.noise == "optimised")
        prepared = self._fast.prepare(targets)
        path = self._optimise(latents, noise, prepared, ids, frames, progress)
        with torch.no_grad():
            ws, drawn = latents.ws(), {key: tensor.detach() for key, tensor in noise.tensors().items()}
        if not (path.finite() and bool(ws.isfinite().all())):
            raise NoiseganError(
                "an inversion's loss is not finite: the network may be damaged, or the learning rate is too large; "
                "lower --lr"
            )
        seconds = (time.monotonic() - started_s) / len(ids)
        kept: list[Inversion] = []
        for i, target in enumerate(targets):
            tell = None
            if progress is not None:
                before = len(ids) * options.steps + i * options.pti_steps
                tell = lambda steps, before=before: progress(before + steps)  # noqa: E731
            (take or kept.append)(self._finish(i, ids[i], target, latents, ws, drawn, path, seconds, tell))
        return kept

    def _optimise(
        self,
        latents: Latents,
        noise: NoiseVariables,
        prepared: Any,
        ids: Sequence[int],
        frames: int,
        progress: Callable[[int], None] | None,
    ) -> _Path:
        """The steps. Latents and noise are changed in place."""
        options, synthesis = self.options, self.G.synthesis
        leaves = [latents.leaf, *noise.leaves.values()]
        adam = Adam(leaves, betas=(0.9, 0.999), eps=1e-8, fused=self._device.type in ("cpu", "cuda"))
        stream = Streams(options.seed)["inversion/perturbation"]
        path = _Path(frame_steps=_frame_steps(options.steps, frames))
        for step in range(options.steps):
            rate, spread = schedule(step / options.steps)
            adam.param_groups[0]["lr"] = options.lr * rate
            perturbation = None
            if spread * options.perturbation > 0:
                source = stream.source(step=step, ids=ids, device=self._device)
                sigma = options.perturbation * latents.scale * spread
                perturbation = sigma * source.normal(*latents.leaf.shape[1:]).to(self._dtype)
            values = self._fast(synthesis(latents.ws(perturbation), noise.tensors()), prepared)
            penalty = noise.penalty().expand(len(ids))
            total = (self._fast.total(values) + options.noise_weight * penalty).sum()
            for leaf, gradient in zip(leaves, torch.autograd.grad(total, leaves), strict=True):
                leaf.grad = gradient
            adam.step()
            latents.settle()
            noise.renormalise()
            path.losses.append({name: value.detach() for name, value in values.items()} | {PENALTY: penalty.detach()})
            if step + 1 in path.frame_steps:
                with torch.no_grad():
                    path.frames.append(synthesis(latents.ws(), noise.tensors()).cpu())
            if progress is not None:
                progress((step + 1) * len(ids))
        return path

    def _finish(
        self,
        i: int,
        number: int,
        target: Tensor,
        latents: Latents,
        ws: Tensor,
        noise: Mapping[str, Tensor],
        path: _Path,
        seconds: float,
        progress: Callable[[int], None] | None,
    ) -> Inversion:
        """One image, its generator tuned where that is wanted. `seconds` are those that its steps took."""
        options = self.options
        started_s = time.monotonic()
        own_ws, own_noise = ws[i : i + 1], {key: tensor[i : i + 1] for key, tensor in noise.items()}
        losses, synthesis, tuned = path.of(i), self.G.synthesis, None
        if options.space == "pti":
            synthesis, history = tune(
                self.G, own_ws, own_noise, target[None], self.loss, steps=options.pti_steps, lr=options.pti_lr,
                progress=progress,
            )  # fmt: skip
            losses |= {f"tuning/{name}": np.asarray(values, np.float32) for name, values in history.items()}
            tuned = {name: value.detach().cpu() for name, value in synthesis.named_parameters()}
        with torch.no_grad():
            image = synthesis(own_ws, own_noise)  # alone, as whoever renders it again will do it
            final = self.loss(image, self.loss.prepare(target[None]))
        distances = {name: float(value[0]) for name, value in final.items()}
        if not all(map(math.isfinite, distances.values())):
            raise NoiseganError("the loss of a tuned generator is not finite: lower --pti-lr")
        own_seconds = time.monotonic() - started_s
        return Inversion(
            id=number,
            w=own_ws[0].detach().cpu().clone(),
            z=latents.leaf[i].detach().cpu().clone() if options.space == "z" else None,
            noise={key: tensor[0].cpu().clone() for key, tensor in own_noise.items()},
            tuned=tuned,
            image=image[0].cpu(),
            losses=losses,
            final=distances,
            frames=torch.stack([frame[i] for frame in path.frames]) if path.frames else None,
            frame_steps=sorted(path.frame_steps),
            seconds=seconds + own_seconds,
            tuning_seconds=own_seconds if tuned is not None else 0.0,
        )


def invert(
    G: Generator,
    targets: Tensor,
    options: ProjectorOptions | None = None,
    *,
    batch: int = 16,
    loss: Loss | None = None,
    encoder: Callable[[Tensor], Tensor] | None = None,
    noise_start: Mapping[str, Tensor] | None = None,
    frames: int = 0,
    progress: Progress | None = None,
) -> list[Inversion]:
    """Invert images, `batch` at a time; arguments as of `Projector` and `Projector.run`.

    Args:
        targets: [N, C, R, R] in [-1, 1].
        progress: called with (steps done, steps in all), counted over images.

    Returns:
        One `Inversion` per target, in order.
    """
    check_targets(G, targets)
    projector = Projector(G, options or ProjectorOptions(), loss=loss, encoder=encoder)
    each = projector.options.steps_per_image
    found: list[Inversion] = []
    for first in range(0, len(targets), batch):
        part = targets[first : first + batch]
        given = noise_start and {key: tensor[first : first + batch] for key, tensor in noise_start.items()}
        tell = None
        if progress is not None:
            tell = lambda steps, done=first * each: progress(done + steps, len(targets) * each)  # noqa: E731
        found += projector.run(part, frames=frames, noise_start=given, progress=tell)
    return found


def schedule(t: float) -> tuple[float, float]:
    """Learning rate and perturbation, as factors, at the share t of the steps (Karras et al. 2020, appendix D)."""
    ramp_down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / RAMP_DOWN))
    return ramp_down * min(1.0, t / RAMP_UP), max(0.0, 1 - t / PERTURBED) ** 2


def content_id(image: Tensor) -> int:
    """A number for an image's content as bytes, 0 to 2^62 - 1; [C, R, R] in [-1, 1]."""
    return digest_id(hashlib.sha256(to_bytes(image).cpu().contiguous().numpy().tobytes()).hexdigest())


def digest_id(sha256: str) -> int:
    """The number of an image from the hexadecimal digest of its bytes, as settings tell it."""
    return int.from_bytes(bytes.fromhex(sha256)[:8], "little") >> 2


def check_targets(G: Generator, targets: Tensor) -> None:
    """Raises:
    NoiseganError: when the targets are not [N, C, R, R] of this network, with N of 1 or more, or not finite.
    """
    wanted = [G.img_channels, G.resolution, G.resolution]
    if targets.ndim != 4 or list(targets.shape[1:]) != wanted or len(targets) == 0:
        raise NoiseganError(f"targets must be [N, {', '.join(map(str, wanted))}], got {list(targets.shape)}")
    if not bool(targets.isfinite().all()):
        raise NoiseganError("targets hold values that are not finite")


@dataclass
class _Path:
    """What is kept of the steps: [N] values by name for each, and frames [N, C, R, R]."""

    frame_steps: set[int]
    losses: list[dict[str, Tensor]] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)

    def finite(self) -> bool:
        return all(bool(value.isfinite().all()) for values in self.losses for value in values.values())

    def of(self, i: int) -> dict[str, NDArray[np.float32]]:
        """The losses of image i, [steps] by name."""
        return {
            name: torch.stack([values[name][i] for values in self.losses]).float().cpu().numpy()
            for name in self.losses[0]
        }


def _frame_steps(steps: int, frames: int) -> set[int]:
    return {round(steps * (k + 1) / frames) for k in range(frames)} - {0}
