"""Named streams of random numbers: every draw of a run has an address, so runs are paired by construction.

    streams = Streams(seed=1)
    z = streams["z/G"].source(step=7, ids=range(16)).normal(512)       # [16, 512]

The key comes from (seed, stream name), the counter from (element, sample id, step). Sample ids are global: splitting a
batch over micro-batches or ranks changes nothing. A strategy that draws more numbers shifts nobody else's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from noisegan.errors import NoiseganError
from noisegan.ext import philox_bits, philox_normal, philox_uniform


class Streams:
    """All streams of one seed. `streams[name]` is a stream; any integer is a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, name: str) -> Stream:
        return Stream(self.seed, name)


class Stream:
    """One named, independent source of random numbers."""

    def __init__(self, seed: int, name: str) -> None:
        self.name = name
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        self.key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))

    def source(
        self, *, step: int | Tensor = 0, ids: Sequence[int] | Tensor, device: torch.device | str = "cpu"
    ) -> StreamSource:
        """The numbers of these samples at this step: 0 <= step < 2^32, a number or an int64 tensor of one; ids >= 0."""
        return StreamSource(self.key, step, as_ids(ids, device))

    def permutation(self, n: int, *, step: int = 0) -> Tensor:
        """A random order of 0 .. n - 1, [n] int64 on the CPU; `step` numbers the orders (epochs)."""
        words = philox_bits(self.key, step, torch.arange(n), 2)  # [n, 2]
        return torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)


class StreamSource:
    """A `NoiseSource` over one stream at one step. Successive calls take successive blocks of the counter."""

    def __init__(self, key: tuple[int, int], step: int | Tensor, ids: Tensor) -> None:
        self.batch = len(ids)
        self._key, self._step, self._ids = key, step, ids
        self._block = 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normals, [batch, *shape] float32."""
        count = math.prod(shape)
        values = philox_normal(self._key, self._step, self._ids, count, first_block=self._take(count))
        return values.reshape(self.batch, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [batch, *shape] float32."""
        count = math.prod(shape)
        values = philox_uniform(self._key, self._step, self._ids, count, first_block=self._take(count))
        return values.reshape(self.batch, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in 0 .. high - 1, high <= 2^32, [batch, *shape] int64; bias below high / 2^32."""
        count = math.prod(shape)
        bits = philox_bits(self._key, self._step, self._ids, count, first_block=self._take(count))
        return ((bits * high >> 32) & 0xFFFFFFFF).reshape(self.batch, *shape)  # products wrap modulo 2^64

    def _take(self, count: int) -> int:
        first, self._block = self._block, self._block + (count + 3) // 4
        return first


class MeanSource:
    """The `NoiseSource` of switched-off noise: every draw at its mean."""

    def __init__(self, batch: int, device: torch.device | str = "cpu") -> None:
        self.batch = batch
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        """Zeros, [batch, *shape] float32."""
        return torch.zeros(self.batch, *shape, device=self._device)

    def uniform(self, *shape: int) -> Tensor:
        """Halves, [batch, *shape] float32."""
        return torch.full((self.batch, *shape), 0.5, device=self._device)


def as_ids(ids: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Sample ids as [N] int64. A tensor is taken as it is: looking into it would wait for a GPU.

    Raises:
        NoiseganError: when one is negative.
    """
    if not isinstance(ids, Tensor) and len(ids) and min(ids) < 0:
        raise NoiseganError(f"sample ids must be 0 or more, found {min(ids)}")
    return torch.as_tensor(ids, dtype=torch.int64, device=device)


def initialise(network: nn.Module, seed: int, prefix: str) -> None:
    """Fill the random parameters of a network, each from its own stream `init/<prefix>.<parameter name>`.

    A layer names them in `random_init`, a dict of parameter name to standard deviation. Two networks that share a
    parameter name start with the same values there, whatever else they hold.
    """
    for path, module in network.named_modules():
        stds: dict[str, float] = getattr(module, "random_init", {})
        for name, std in stds.items():
            parameter = module.get_parameter(name)
            stream = Stream(seed, f"init/{prefix}.{path}.{name}" if path else f"init/{prefix}.{name}")
            with torch.no_grad():
                parameter.copy_(stream.source(ids=[0]).normal(*parameter.shape)[0] * std)


@contextmanager
def contained_randomness(seed: int, name: str) -> Iterator[None]:
    """Let code that can only use torch's global generator (the initialisation of `nn.Linear` in somebody's injector)
    start from the stream `name`, and put the global state back afterwards."""
    first, second = Stream(seed, name).key
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed((first << 32) | second)
        yield
