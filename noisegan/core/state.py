"""All that a training run is at one moment: what a snapshot holds and a resume restores, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noisegan.api import ImageInjector, ImageSite, Injector, PenaltyInjector, Strategy
from noisegan.core.adam import Adam
from noisegan.core.config import TrainConfig
from noisegan.core.discriminator import Discriminator
from noisegan.core.generator import Generator
from noisegan.core.layers import set_precision, settle
from noisegan.core.loss_scale import LossScale
from noisegan.core.pairing import PairingCertificate, shared_weights_hash
from noisegan.core.rng import contained_randomness
from noisegan.core.statistics import Statistics
from noisegan.core.synthesis import injector_label
from noisegan.errors import NoiseganError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainState:
    """Networks, optimisers, averages and counters of a run.

    `step` counts whole steps; `phase` counts finished phases of the step under way, so that a state saved in the
    middle of a step is exact too. Everything random is a function of the counters.

    Args:
        config: resolved options.
        networks: arguments of generator and discriminator (`noisegan.core.config.networks`).
        strategies: noise strategies in order of application.
        data: what identifies the data for the pairing certificate.
        device: where to train.
        deviation: of the data's pixels, for `ImageSite`.
    """

    def __init__(
        self,
        config: TrainConfig,
        networks: dict[str, dict[str, Any]],
        strategies: Sequence[Strategy],
        *,
        data: str,
        device: torch.device,
        deviation: float = 1.0,
    ) -> None:
        self.G = Generator(**networks["G"], noise=strategies)
        self.D = Discriminator(**networks["D"])
        self.image, self.penalty = run_injectors(strategies, networks["G"], config.seed, deviation)
        weights = shared_weights_hash({"G": self.G, "D": self.D})
        self.certificate = PairingCertificate(seed=config.seed, data=data, initial_weights=weights)
        for network in (self.G, self.D):
            set_precision(network, DTYPES[config.precision])
            settle(network, device)
        for module in (self.image, self.penalty):
            module.to(device)
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.pl_mean = torch.zeros((), device=device)
        self.step = 0
        self.phase = 0
        self.statistics = Statistics()

        g_lazy = config.pl_interval if config.pl_weight > 0 else 0
        d_lazy = config.r1_interval if config.need("gamma") > 0 else 0
        self.named = {"G": self._trained_with("G"), "D": self._trained_with("D")}
        self.optimizers = {
            "G": _adam(self.named["G"].values(), config.glr, g_lazy, device),
            "D": _adam(self.named["D"].values(), config.dlr, d_lazy, device),
        }
        self.loss_scales = {name: LossScale(device) for name in ("G", "D")} if config.precision == "fp16" else {}

    def injectors(self) -> Iterator[Injector]:
        """Every injector of the run."""
        for module in (self.G, self.image, self.penalty):
            yield from (m for m in module.modules() if isinstance(m, Injector))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor, by name."""
        tensors = {"pl_mean": self.pl_mean}
        for prefix, module in self._modules().items():
            tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
        for side, optimizer in self.optimizers.items():
            for name, parameter in self.named[side].items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"opt_{side}/{name}/{key}"] = value
        return tensors | self._scale_tensors()

    def counters(self) -> dict[str, Any]:
        """Everything else, as plain data."""
        return {
            "step": self.step,
            "phase": self.phase,
            "pairing": self.certificate.as_dict(),
            "statistics": self.statistics.state(),
            "optimised": {side: sorted(self._optimised(side)) for side in self.optimizers},
        }

    def load(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Restore what `tensors` and `counters` returned. Every name must be there, and no other.

        Raises:
            NoiseganError: when the snapshot's tensors are not this run's.
        """
        rest = dict(tensors)
        for prefix, module in self._modules().items():
            part = {name[len(prefix) + 1 :]: rest.pop(name) for name in list(rest) if name.startswith(f"{prefix}.")}
            try:
                module.load_state_dict(part, strict=True)
            except RuntimeError as error:
                raise NoiseganError(f"the snapshot does not fit this network: {error}") from None
        self.pl_mean.copy_(rest.pop("pl_mean"))
        for name, tensor in self._scale_tensors().items():
            if name not in rest:
                raise NoiseganError(f"the snapshot lacks {name}, which training in float16 needs: start a new run")
            tensor.copy_(rest.pop(name))
        for side, optimizer in self.optimizers.items():
            for name, parameter in self.named[side].items():
                prefix = f"opt_{side}/{name}/"
                values = {key[len(prefix) :]: rest.pop(key) for key in list(rest) if key.startswith(prefix)}
                if values:
                    optimizer.state[parameter] = {k: _laid_out(v, parameter) for k, v in values.items()}
            if sorted(self._optimised(side)) != counters["optimised"][side]:
                raise NoiseganError(f"the snapshot lacks states of the optimiser of {side}: it is damaged")
        if rest:
            raise NoiseganError(f"the snapshot holds what this run does not know: {', '.join(sorted(rest)[:5])}")
        self.step, self.phase = counters["step"], counters["phase"]
        self.certificate = PairingCertificate(**counters["pairing"])
        self.statistics.load_state(counters["statistics"], self.pl_mean.device)

    def _scale_tensors(self) -> dict[str, Tensor]:
        return {
            f"loss_scale_{side}/{key}": value
            for side, scale in self.loss_scales.items()
            for key, value in scale.tensors().items()
        }

    def _optimised(self, side: str) -> list[str]:
        """Parameters whose optimiser has a state; one that never had a gradient has none."""
        return [name for name, parameter in self.named[side].items() if self.optimizers[side].state.get(parameter)]

    def _modules(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D, "G_ema": self.G_ema, "image": self.image, "penalty": self.penalty}

    def _trained_with(self, side: str) -> dict[str, nn.Parameter]:
        """Parameters of one optimiser by name."""
        network = self.G if side == "G" else self.D
        named = {f"{side}.{name}": p for name, p in network.named_parameters()}
        for label, injector in self.image.items():
            assert isinstance(injector, ImageInjector)
            if injector.trains_with in (side, f"against {side}"):
                named |= {f"image.{label}.{name}": p for name, p in injector.named_parameters()}
        return named


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A part of the optimiser's state where and as its parameter lies: fused optimisers walk over both at once."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def run_injectors(
    strategies: Sequence[Strategy], generator: dict[str, Any], seed: int, deviation: float = 1.0
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """The image and penalty injectors of a run, by label."""
    site = ImageSite(resolution=generator["resolution"], channels=generator["img_channels"], deviation=deviation)
    image, penalty = nn.ModuleDict(), nn.ModuleDict()
    for strategy in strategies:
        if strategy.spec.image is not None:
            label = injector_label(strategy.name, image)
            with contained_randomness(seed, f"init/image.{label}"):
                image[label] = strategy.spec.image(site, strategy.params)
        if strategy.spec.penalty is not None:
            label = injector_label(strategy.name, penalty)
            with contained_randomness(seed, f"init/penalty.{label}"):
                penalty[label] = strategy.spec.penalty(strategy.params)
            assert isinstance(penalty[label], PenaltyInjector)
    return image, penalty


def _adam(parameters: Any, lr: float, lazy: int, device: torch.device) -> Adam:
    """Adam with beta = (0, 0.99); a lazy regulariser every k steps adds a step, which c = k / (k + 1) makes up for
    (Karras et al. 2020, appendix B)."""
    c = lazy / (lazy + 1) if lazy else 1.0
    return Adam(
        list(parameters),
        lr=lr * c,
        betas=(0.0, 0.99**c),
        eps=1e-8,
        fused=device.type in ("cpu", "cuda"),  # one pass, which a flag on the device can skip
        capturable=device.type == "cuda",
    )
