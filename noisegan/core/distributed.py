"""One process or several: what a run needs to know of its world. Several processes are started by `torchrun`.

Gradients are summed by hand after each phase, so one code path serves one process and many, accumulation and double
backward.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from noisegan.core.memory import keep_freed_memory
from noisegan.errors import NoiseganError

TIMEOUT_S = 600
"""How long a process waits for the others before it gives up."""


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.sum_(torch.cat([g.flatten() for g in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return flag if self.size == 1 else bool(self.sum_(torch.tensor(float(flag), device=self.device)) > 0)

    def share(self, value: Any) -> Any:
        """The main process's value (plain data), on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def join_world(device: str) -> World:
    """Find out the world from torchrun's environment variables and the wanted device.

    Args:
        device: `cpu`, `cuda`, `cuda:N`, `mps` or `auto` (the first of cuda, mps, cpu that there is).

    Raises:
        NoiseganError: for a device that this machine or this build of torch does not have.
    """
    chosen = pick_device(device)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        if chosen.type == "cuda" and chosen.index is not None:
            torch.cuda.set_device(chosen)  # kernels are loaded, and streams made, on the current GPU
        return World(0, 1, chosen)
    try:
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        raise NoiseganError(
            "WORLD_SIZE is set, but RANK and LOCAL_RANK are not whole numbers beside it: start several processes with "
            "torchrun, or unset WORLD_SIZE"
        ) from None
    if chosen.type == "mps":
        raise NoiseganError("several processes cannot share an mps device: use --device cpu, or one process")
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise NoiseganError(f"process {local} has no GPU: this machine has {torch.cuda.device_count()}")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=TIMEOUT_S))
    return World(rank, size, chosen)


def leave_world(world: World) -> None:
    """Part from the others after a run that ended well."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def pick_device(device: str) -> torch.device:
    """The torch device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    Raises:
        NoiseganError: when there is none such here.
    """
    if device == "auto":
        other = "mps" if torch.backends.mps.is_available() else "cpu"
        device = "cuda" if torch.cuda.is_available() else other
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise NoiseganError(f"device {device!r} is unknown: choose cpu, cuda, cuda:N, mps or auto") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, False):
        raise NoiseganError(f"device {device!r} is not available here; choose --device cpu or auto")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise NoiseganError(f"device {device!r} does not exist: this machine has {torch.cuda.device_count()} GPU(s)")
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":
        # float32 means float32: cuDNN would otherwise round the inputs of convolutions to 10 bits (TF32).
        torch.backends.cudnn.allow_tf32 = False
    return chosen


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; where torch cannot tell, yes."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("architecture") != "x86_64" or any(
        capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")
    )
