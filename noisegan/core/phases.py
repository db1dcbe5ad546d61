"""One training step, phase by phase: generator, path length, discriminator, R1 (Karras et al. 2020).

Each phase accumulates gradients over micro-batches and processes, then moves one optimiser. All random numbers are
addressed by (stream, step, global sample id), so how a batch is split changes nothing but float rounding.

A phase never waits for the device, and what differs from step to step reaches it in tensors that change in place (its
inputs and the step number), so that a CUDA graph can hold it (`noisegan.core.graphs`). Whether all was finite is
decided on the device, too; the host asks once per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisegan.api import ImageInjector, PenaltyInjector
from noisegan.core import losses
from noisegan.core.config import TrainConfig
from noisegan.core.data import ImageDataset
from noisegan.core.distributed import World
from noisegan.core.ema import ema_decay, update_ema
from noisegan.core.noise import StreamNoise
from noisegan.core.opposition import call_opposed
from noisegan.core.rng import Streams, StreamSource
from noisegan.core.state import TrainState
from noisegan.core.statistics import Statistics

PHASES = ("G", "PL", "D", "R1")
TRAINED = {"G": ("G",), "PL": (), "D": ("D", "against D"), "R1": ("D",)}
"""Which image injectors a phase trains, by `trains_with`. R1 is no part of the game that `against D` plays."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient is not finite; the state is as before the phase that found it."""


@dataclass(frozen=True)
class RealBatch:
    """This process's share of what a phase is given of the data: images [n, C, H, W] in [-1, 1], labels [n, c_dim].

    The generator's phases are given labels alone.
    """

    images: Tensor
    labels: Tensor

    def part(self, here: slice) -> RealBatch:
        return RealBatch(self.images[here], self.labels[here])


class TrainingStep:
    """Runs the phases of a step on a state.

    `play` runs one phase on its inputs; who puts another function in its place (one that captures graphs, say) must
    have the same done.
    """

    def __init__(
        self, state: TrainState, config: TrainConfig, dataset: ImageDataset, streams: Streams, world: World
    ) -> None:
        self.state, self.config, self.dataset, self.streams, self.world = state, config, dataset, streams, world
        self.batch: int = config.need("batch")
        self.micro_batch = config.micro_batch(world.size)
        self.play: Callable[[str, RealBatch], None] = self.phase
        self._losses = {"G": self._generator, "PL": self._path_length, "D": self._discriminator, "R1": self._r1}
        self._now = torch.zeros((), dtype=torch.int64, device=world.device)  # the step, for kernels to read
        self._failed = torch.zeros((), dtype=torch.bool, device=world.device)  # an earlier phase of this step
        self._outcomes = {name: torch.zeros(3, device=world.device) for name in PHASES}  # loss, moved?, failed?
        self._seen = Statistics()  # of the phase under way

    def run(self, real: RealBatch) -> dict[str, float]:
        """The rest of the step that the state is in. Returns the loss of each phase that moved its optimiser.

        Raises:
            NonFiniteError: when a loss or a gradient is not finite; the state is as before that phase.
        """
        state = self.state
        progress = min(state.step * self.batch / self.config.total_nimg, 1.0)
        for injector in state.injectors():
            injector.set_progress(progress)
        self._now.fill_(state.step)
        self._failed.zero_()
        due = [name for name in PHASES[state.phase :] if self._is_due(name)]
        inputs = [real if name in ("D", "R1") else self._labels_alone(name) for name in due]
        for name, given in zip(due, inputs, strict=True):
            self.play(name, given)
        report = self._report(due)
        decay = ema_decay(
            self.batch,
            state.step * self.batch,
            self.config.need("ema_kimg") * 1000,
            self.config.ema_rampup,
        )
        update_ema(state.G_ema, state.G, decay)
        state.step, state.phase = state.step + 1, 0
        return report

    def _is_due(self, name: str) -> bool:
        """The main phases run in every step, regularisers lazily."""
        config, step = self.config, self.state.step
        if name == "PL":
            return config.pl_weight > 0 and step % config.pl_interval == 0
        if name == "R1":
            return config.need("gamma") > 0 and step % config.r1_interval == 0
        return True

    def _labels_alone(self, name: str) -> RealBatch:
        """What the generator's phases are given: labels of random items of the data."""
        ids = self._ids(self._samples(name), "cpu")
        labels = torch.zeros(len(ids), 0)
        if self.dataset.c_dim > 0:
            source = self.streams[f"labels/{name}"].source(step=self.state.step, ids=ids)
            labels = self.dataset.labels(source.integers(len(self.dataset), 1)[:, 0])
        return RealBatch(torch.empty(0, device=self.world.device), labels.to(self.world.device))

    def _report(self, due: list[str]) -> dict[str, float]:
        """The step's only wait for the device.

        Raises:
            NonFiniteError: as `run`.
        """
        report = {}
        found = torch.stack([self._outcomes[name] for name in due]).tolist() if due else []
        for name, (loss, moved, failed) in zip(due, found, strict=True):
            if failed:
                self.state.phase = PHASES.index(name)
                raise NonFiniteError(self._reason(name, loss))
            if moved:
                report[name] = loss
        return report

    def _reason(self, name: str, loss: float) -> str:
        what = "gradient" if math.isfinite(loss) else "loss"
        if self.state.loss_scales and (what == "gradient" or name in ("PL", "R1")):
            return f"float16 overflows in phase {name} however small the loss scale"
        return f"the {what} of phase {name} is not finite"

    def phase(self, name: str, inputs: RealBatch) -> None:
        """Gradients over all micro-batches and processes, then one move of the optimiser; none if it went wrong."""
        state, world = self.state, self.world
        side = "G" if name in ("G", "PL") else "D"
        optimizer, parameters = state.optimizers[side], state.named[side].values()
        state.D.requires_grad_(side == "D")
        for injector in state.image.values():
            assert isinstance(injector, ImageInjector)
            injector.requires_grad_(injector.trains_with in TRAINED[name])
        optimizer.zero_grad(set_to_none=True)
        self._seen = Statistics()
        total = self._samples(name)
        loss = torch.zeros((), device=world.device)
        averages: list[Tensor] = []  # what the phase's running mean takes in, summed over samples
        for ids, here in self._micro_batches(total):
            values, aside = self._losses[name](ids, inputs.part(here))  # [n]
            torch.autograd.backward(values.sum() / total * self._loss_scale(side))
            loss += values.detach().sum() / total
            averages.append(aside / total)
        world.sum_gradients(parameters)
        world.sum_(loss)
        average = world.sum_(torch.stack(averages).sum(dim=0))

        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = loss.isfinite() & torch.nn.utils.get_total_norm(gradients).isfinite()
        moves = finite & ~self._failed
        move(optimizer, where=moves, scale=self._loss_scale(side))
        self._note(name, side, loss, moves, ~finite & ~self._failed)
        state.statistics.merge(self._seen, where=moves)
        if name == "G":
            w_avg = state.G.mapping.w_avg
            state.G.mapping.track(torch.where(moves, average, w_avg))
        elif name == "PL":
            # Decay 0.99 (Karras et al. 2020, appendix B); a plain mean of the first hundred. From a start at zero it
            # would take a hundred updates to rise, and short runs would spend them shrinking the generator's Jacobian.
            seen = self._now // self.config.pl_interval
            state.pl_mean.lerp_(torch.where(moves, average, state.pl_mean), (1 / (seen + 1)).clamp(min=0.01))

    def _note(self, name: str, side: str, loss: Tensor, moves: Tensor, wrong: Tensor) -> None:
        """The phase's outcome; `moves` and `wrong` are booleans on the device. Changes the loss scale, which the
        optimiser has been given by now.

        A phase fails where something is not finite. With a loss scale an overflow is no failure until the scale has
        come down below one: the phase is left out. A main loss is not scaled, so one that is not finite is a failure
        always.
        """
        failed = wrong
        if side in self.state.loss_scales:
            scale = self.state.loss_scales[side]
            scale.update(moved=moves, overflown=wrong)
            failed = wrong & (scale.factor < 1)
            if name in ("G", "D"):
                failed = failed | (wrong & ~loss.isfinite())
        self._failed.logical_or_(failed)
        self._outcomes[name].copy_(torch.stack((loss, moves, failed)))

    def _generator(self, ids: Tensor, inputs: RealBatch) -> tuple[Tensor, Tensor]:
        c = inputs.labels
        ws, w_sum = self._latents("G", ids, c)
        penalties: list[Tensor] = []
        logits = self._judge(self._images(ws, "G", ids), c, "G", ids, penalties)
        self._seen.add("Loss/scores/fake", logits)
        self._seen.add("Loss/signs/fake", logits.sign())
        values = losses.generator_loss(logits)  # [n]
        self._seen.add("Loss/G/loss", values)
        return sum(penalties, values), w_sum

    def _path_length(self, ids: Tensor, inputs: RealBatch) -> tuple[Tensor, Tensor]:
        ws, _ = self._latents("PL", ids, inputs.labels)
        images = self._images(ws, "PL", ids)
        direction = self._source("path_length", ids).normal(*images.shape[1:])
        lengths = losses.path_lengths(images, ws, direction, scale=self._loss_scale("G"))  # [n]
        penalty = (lengths - self.state.pl_mean).square()  # the mean of earlier batches, the same on every process
        self._seen.add("Loss/pl_penalty", penalty)
        return penalty * (self.config.pl_weight * self.config.pl_interval), lengths.detach().sum()

    def _discriminator(self, ids: Tensor, inputs: RealBatch) -> tuple[Tensor, Tensor]:
        images, c = inputs.images, inputs.labels
        with torch.no_grad():
            # Labels of the real images: of the right distribution, and a penalty then needs one set of labels only.
            fake = self._images(self._latents("D", ids, c)[0], "D", ids)
        penalties: list[Tensor] = []
        fake_logits = self._judge(fake, c, "D/fake", ids, penalties)
        real_logits = self._judge(images, c, "D/real", ids, penalties)
        self._seen.add("Loss/scores/real", real_logits)
        self._seen.add("Loss/signs/real", real_logits.sign())
        values = losses.discriminator_loss(real_logits, fake_logits)
        self._seen.add("Loss/D/loss", values)
        for label, penalty in self.state.penalty.items():
            assert isinstance(penalty, PenaltyInjector)
            penalty.loss_scale = self._loss_scale("D")
            value = penalty(lambda x: self.state.D(x, c), images.detach(), fake.detach())
            self._seen.add(f"Loss/D/{label}", value.expand(len(ids)))  # a mean; counts once per sample
            values = values + value
        return values + sum(penalties) / 2, values.new_zeros(())  # each image injector saw both kinds of images

    def _r1(self, ids: Tensor, inputs: RealBatch) -> tuple[Tensor, Tensor]:
        images, c = inputs.images, inputs.labels
        scale = self._loss_scale("D")
        penalty, _ = losses.r1_penalty(lambda x: self._judge(x, c, "R1", ids), images, scale=scale)  # [n]
        self._seen.add("Loss/r1_penalty", penalty)
        return penalty * (self.config.need("gamma") / 2 * self.config.r1_interval), penalty.new_zeros(())

    def _micro_batches(self, total: int) -> Iterator[tuple[Tensor, slice]]:
        """Global sample ids of this process on its device, a micro-batch at a time, and their places in its share."""
        ids = self._ids(total, self.world.device)
        for first in range(0, len(ids), self.micro_batch):
            here = slice(first, first + self.micro_batch)
            yield ids[here], here

    def _samples(self, name: str) -> int:
        """Samples of a phase, over all processes."""
        return self.config.pl_batch if name == "PL" else self.batch

    def _ids(self, total: int, device: torch.device | str) -> Tensor:
        """This process's share of the sample ids 0 .. total - 1."""
        rank, size = self.world.rank, self.world.size
        return torch.arange(rank * total // size, (rank + 1) * total // size, device=device)

    def _loss_scale(self, side: str) -> Tensor | float:
        scale = self.state.loss_scales.get(side)
        return 1.0 if scale is None else scale.factor

    def _source(self, stream: str, ids: Tensor) -> StreamSource:
        return self.streams[stream].source(step=self._now, ids=ids, device=self.world.device)

    def _latents(self, phase: str, ids: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Styles ws [n, num_ws, D] with style mixing, and the sum of w over samples, [D].

        With probability `style_mixing` the ws from a random layer on come from a second latent (Karras et al. 2019,
        section 3.1).
        """
        G = self.state.G
        ws = G.styles(self._source(f"z/{phase}", ids).normal(G.z_dim), c)
        w_sum = ws.detach()[:, 0].sum(dim=0)
        if self.config.style_mixing > 0:
            source = self._source(f"mixing/{phase}", ids)
            second = G.styles(source.normal(G.z_dim), c)
            mixes = source.uniform(1) < self.config.style_mixing  # [n, 1]
            cutoff = 1 + source.integers(G.num_ws - 1, 1)  # [n, 1], 1 .. num_ws - 1
            layer = torch.arange(G.num_ws, device=ids.device)
            ws = torch.where((mixes & (layer >= cutoff))[..., None], second, ws)
        return ws, w_sum

    def _images(self, ws: Tensor, phase: str, ids: Tensor) -> Tensor:
        noise = StreamNoise(self.streams, ids=ids, step=self._now, phase=phase)
        images: Tensor = self.state.G.synthesis(ws, self.state.G.draw_noise(noise, len(ids)))
        return images

    def _judge(self, images: Tensor, c: Tensor, use: str, ids: Tensor, penalties: list[Tensor] | None = None) -> Tensor:
        """Logits [n, 1] of images as the discriminator sees them, after image injectors.

        To `penalties` are added those, [n] each, of the injectors that this phase trains.
        """
        for label, injector in self.state.image.items():
            assert isinstance(injector, ImageInjector)
            with torch.no_grad():
                noise = injector.draw(self._source(f"image_noise/{label}/{use}", ids))
            penalty = None
            if penalties is not None and any(p.requires_grad for p in injector.parameters()):
                penalty = injector.penalty(images.detach(), noise)
            if penalty is not None and penalties is not None:
                self._seen.add(f"Loss/image/{label}", penalty)
                penalties.append(penalty)
            opposed = injector.trains_with == "against D"
            images = call_opposed(injector, images, noise) if opposed else injector(images, noise)
        logits: Tensor = self.state.D(images, c)
        return logits


def move(optimizer: torch.optim.Optimizer, *, where: Tensor, scale: Tensor | float) -> None:
    """One step of Adam with gradients divided by `scale`, where a boolean on the device says so, else none."""
    if optimizer.defaults["fused"]:  # the interface of torch's gradient scaler: the kernel looks at the flag
        optimizer.found_inf = (~where).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = scale if isinstance(scale, Tensor) else None  # type: ignore[attr-defined]
        optimizer.step()
    elif where:  # on mps, where nothing skips by itself: here the host waits
        for group in optimizer.param_groups:
            torch._foreach_div_([p.grad for p in group["params"] if p.grad is not None], scale)
        optimizer.step()
