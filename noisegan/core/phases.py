"""One training step, phase by phase: generator, path length, discriminator, R1 (Karras et al. 2020).

Each phase accumulates gradients over micro-batches and processes, then moves one optimiser. All random numbers are
addressed by (stream, step, global sample id), so how a batch is split changes nothing but float rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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

PHASES = ("G", "PL", "D", "R1")
TRAINED = {"G": ("G",), "PL": (), "D": ("D", "against D"), "R1": ("D",)}
"""Which image injectors a phase trains, by `trains_with`. R1 is no part of the game that `against D` plays."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient is not finite; nothing was updated by the phase that found it."""


@dataclass(frozen=True)
class RealBatch:
    """This process's share of a step's real images: [n, C, H, W] in [-1, 1], and labels [n, c_dim]."""

    images: Tensor
    labels: Tensor

    def part(self, here: slice) -> RealBatch:
        return RealBatch(self.images[here], self.labels[here])


class TrainingStep:
    """Runs the phases of a step on a state."""

    def __init__(
        self, state: TrainState, config: TrainConfig, dataset: ImageDataset, streams: Streams, world: World
    ) -> None:
        self.state, self.config, self.dataset, self.streams, self.world = state, config, dataset, streams, world
        self.batch: int = config.need("batch")
        self.micro_batch = config.micro_batch(world.size)
        self._run = {"G": self._generator, "PL": self._path_length, "D": self._discriminator, "R1": self._r1}

    def run(self, real: RealBatch) -> dict[str, float]:
        """The rest of the step that the state is in. Returns the loss of each phase that ran.

        Raises:
            NonFiniteError: when a loss or a gradient is not finite; the state is as before that phase.
        """
        state = self.state
        progress = min(state.step * self.batch / self.config.total_nimg, 1.0)
        for injector in state.injectors():
            injector.set_progress(progress)
        report = {}
        for name in PHASES[state.phase :]:
            loss = self._phase(name, real) if self._is_due(name) else None
            if loss is not None:
                report[name] = loss
            state.phase += 1
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

    def _phase(self, name: str, real: RealBatch) -> float | None:
        """Gradients over all micro-batches and processes, a check, one move of the optimiser.

        Returns the loss, None when float16 overflowed and the move was left out.
        """
        state, world = self.state, self.world
        side = "G" if name in ("G", "PL") else "D"
        optimizer, scaler, parameters = state.optimizers[side], state.scalers[side], state.named[side].values()
        state.D.requires_grad_(side == "D")
        for injector in state.image.values():
            assert isinstance(injector, ImageInjector)
            injector.requires_grad_(injector.trains_with in TRAINED[name])
        optimizer.zero_grad(set_to_none=True)
        statistics = state.statistics.copy()
        total = self.config.pl_batch if name == "PL" else self.batch
        loss = torch.zeros((), device=world.device)
        averages: list[Tensor] = []  # what the phase's running mean takes in, summed over samples
        for ids, here in self._micro_batches(total):
            values, aside = self._run[name](ids, real.part(here))  # [n]
            torch.autograd.backward(scaler.scale(values.sum() / total))
            loss += values.detach().sum() / total
            averages.append(aside / total)
        world.sum_gradients(parameters)
        value = float(world.sum_(loss))
        finite = math.isfinite(value)
        if finite and not scaler.is_enabled():  # with float16 the scaler skips overflowing steps by itself
            gradients = [p.grad for p in parameters if p.grad is not None]
            finite = bool(torch.nn.utils.get_total_norm(gradients).isfinite())
        # The regularisers' inner gradients are scaled too, so with float16 they overflow until the scale has come down.
        overflown = not finite and name in ("PL", "R1") and scaler.is_enabled()
        if not finite:
            state.statistics = statistics
        if not finite and not overflown:
            what = "gradient" if math.isfinite(value) else "loss"
            raise NonFiniteError(f"the {what} of phase {name} is not finite")
        scaler.step(optimizer)
        scaler.update()
        if scaler.is_enabled() and scaler.get_scale() < 1:
            raise NonFiniteError(f"float16 overflows in phase {name} however small the loss scale")
        if overflown:
            return None
        average = world.sum_(torch.stack(averages).sum(dim=0))
        if name == "G":
            state.G.mapping.track(average)
        elif name == "PL":
            # Decay 0.99 (Karras et al. 2020, appendix B); a plain mean of the first hundred. From a start at zero it
            # would take a hundred updates to rise, and short runs would spend them shrinking the generator's Jacobian.
            seen = state.step // self.config.pl_interval
            state.pl_mean.lerp_(average, max(0.01, 1 / (seen + 1)))
        return value

    def _generator(self, ids: Tensor, real: RealBatch) -> tuple[Tensor, Tensor]:
        c = self._random_labels("G", ids)
        ws, w_sum = self._latents("G", ids, c)
        penalties: list[Tensor] = []
        logits = self._judge(self._images(ws, "G", ids), c, "G", ids, penalties)
        self.state.statistics.add("Loss/scores/fake", logits)
        self.state.statistics.add("Loss/signs/fake", logits.sign())
        values = losses.generator_loss(logits)  # [n]
        self.state.statistics.add("Loss/G/loss", values)
        return sum(penalties, values), w_sum

    def _path_length(self, ids: Tensor, real: RealBatch) -> tuple[Tensor, Tensor]:
        ws, _ = self._latents("PL", ids, self._random_labels("PL", ids))
        images = self._images(ws, "PL", ids)
        direction = self._source("path_length", ids).normal(*images.shape[1:])
        lengths = losses.path_lengths(images, ws, direction, scale=self.state.scalers["G"].get_scale())  # [n]
        penalty = (lengths - self.state.pl_mean).square()  # the mean of earlier batches, the same on every process
        self.state.statistics.add("Loss/pl_penalty", penalty)
        return penalty * (self.config.pl_weight * self.config.pl_interval), lengths.detach().sum()

    def _discriminator(self, ids: Tensor, real: RealBatch) -> tuple[Tensor, Tensor]:
        images, c = real.images, real.labels
        with torch.no_grad():
            # Labels of the real images: of the right distribution, and a penalty then needs one set of labels only.
            fake = self._images(self._latents("D", ids, c)[0], "D", ids)
        penalties: list[Tensor] = []
        fake_logits = self._judge(fake, c, "D/fake", ids, penalties)
        real_logits = self._judge(images, c, "D/real", ids, penalties)
        self.state.statistics.add("Loss/scores/real", real_logits)
        self.state.statistics.add("Loss/signs/real", real_logits.sign())
        values = losses.discriminator_loss(real_logits, fake_logits)
        self.state.statistics.add("Loss/D/loss", values)
        for label, penalty in self.state.penalty.items():
            assert isinstance(penalty, PenaltyInjector)
            value = penalty(lambda x: self.state.D(x, c), images.detach(), fake.detach())
            self.state.statistics.add(f"Loss/D/{label}", value.expand(len(ids)))  # a mean; counts once per sample
            values = values + value
        return values + sum(penalties) / 2, values.new_zeros(())  # each image injector saw both kinds of images

    def _r1(self, ids: Tensor, real: RealBatch) -> tuple[Tensor, Tensor]:
        images, c = real.images, real.labels
        scale = self.state.scalers["D"].get_scale()
        penalty, _ = losses.r1_penalty(lambda x: self._judge(x, c, "R1", ids), images, scale=scale)  # [n]
        self.state.statistics.add("Loss/r1_penalty", penalty)
        return penalty * (self.config.need("gamma") / 2 * self.config.r1_interval), penalty.new_zeros(())

    def _micro_batches(self, total: int) -> Iterator[tuple[Tensor, slice]]:
        """Global sample ids of this process on its device, a micro-batch at a time, and their places in its share."""
        rank, size = self.world.rank, self.world.size
        ids = torch.arange(rank * total // size, (rank + 1) * total // size, device=self.world.device)
        for first in range(0, len(ids), self.micro_batch):
            here = slice(first, first + self.micro_batch)
            yield ids[here], here

    def _source(self, stream: str, ids: Tensor) -> StreamSource:
        return self.streams[stream].source(step=self.state.step, ids=ids, device=self.world.device)

    def _random_labels(self, phase: str, ids: Tensor) -> Tensor:
        """Labels of random items of the data, [n, c_dim]."""
        if self.dataset.c_dim == 0:
            return torch.zeros(len(ids), 0, device=self.world.device)
        items = self._source(f"labels/{phase}", ids).integers(len(self.dataset), 1)[:, 0]
        return self.dataset.labels(items.cpu()).to(self.world.device)

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
        noise = StreamNoise(self.streams, ids=ids, step=self.state.step, phase=phase)
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
                self.state.statistics.add(f"Loss/image/{label}", penalty)
                penalties.append(penalty)
            opposed = injector.trains_with == "against D"
            images = call_opposed(injector, images, noise) if opposed else injector(images, noise)
        logits: Tensor = self.state.D(images, c)
        return logits
