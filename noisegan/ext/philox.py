"""Philox 4x32-10, a counter-based random number generator, in plain PyTorch.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. The integer bits are the same on
every device because only 64-bit integer arithmetic is used; normals agree to float rounding.

Every number has an address: key (two words, from seed and stream name) and counter (block, sample id low, sample id
high, step). Nothing is consumed, so nothing can shift: whoever asks for an address gets the same number.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers, Salmon et al. 2011, table 2 and Random123's philox.h
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl key increments: golden ratio and sqrt(3) - 1
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox 4x32.

    Args:
        counter: four int64 tensors of one shape, each holding an unsigned 32-bit word.
        key: two unsigned 32-bit words.

    Returns:
        Four int64 tensors of the broadcast shape, each holding an unsigned 32-bit word.
    """
    c0, c1, c2, c3 = counter
    even, odd = torch.stack((c0, c2)), torch.stack((c1, c3))  # [2, ...]: both multiplications of a round at once
    shape = (2,) + (1,) * c0.ndim
    multipliers, increments = (numbers.view(-1, *shape) for numbers in _constants(c0.device))
    words = torch.stack([torch.full_like(increments[0, 0], word) for word in key])
    for k in (increments + words).bitwise_and_(_MASK).unbind():
        # int64 products wrap modulo 2^64, so after the mask both halves are exact.
        product = (even * multipliers[0]).flip(0)
        even = (product >> 32).bitwise_and_(_MASK).bitwise_xor_(odd).bitwise_xor_(k)
        odd = product.bitwise_and_(_MASK)
    return even[0], odd[0], even[1], odd[1]


@lru_cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Multipliers [2] and what each round adds to the key, [10, 2]. Kept on the device: to bring numbers there would
    wait for it."""
    rounds = torch.arange(_ROUNDS)[:, None]
    return torch.tensor((_M0, _M1)).to(device), (rounds * torch.tensor((_W0, _W1))).to(device)


def philox_bits(key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0) -> Tensor:
    """Unsigned 32-bit words for every sample id.

    Args:
        key: two words naming the stream.
        step: 0 <= step < 2^32, or a tensor of one such number beside `ids`.
        ids: [N] int64, non-negative; one per sample.
        count: words wanted per sample.
        first_block: blocks of four words to pass over.

    Returns:
        [N, count] int64 on the device of `ids`; row i depends on key, step and ids[i] only.
    """
    blocks = torch.arange(first_block, first_block + (count + 3) // 4, device=ids.device)
    ids = ids[:, None].expand(-1, len(blocks))
    last = step.expand_as(ids) & _MASK if isinstance(step, Tensor) else torch.full_like(ids, step)
    words = philox4x32((blocks.expand_as(ids), ids & _MASK, (ids >> 32) & _MASK, last), key)
    return torch.stack(words, dim=-1).flatten(1)[:, :count]  # [N, blocks, 4] -> [N, count]


def philox_uniform(
    key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0
) -> Tensor:
    """float32 numbers in [0, 1), 24 random bits each; arguments as in `philox_bits`. Returns [N, count]."""
    bits = philox_bits(key, step, ids, count, first_block=first_block)
    return (bits >> 8).to(torch.float32) * 2.0**-24


def philox_normal(key: tuple[int, int], step: int | Tensor, ids: Tensor, count: int, *, first_block: int = 0) -> Tensor:
    """float32 standard normals by Box-Muller; arguments as in `philox_bits`. Returns [N, count].

    The radius uses all 32 bits, so the tails reach 6.7 standard deviations.
    """
    even = count + count % 2
    bits = philox_bits(key, step, ids, even, first_block=first_block).view(len(ids), even // 2, 2)  # [N, pairs, 2]
    u = bits[..., 0].to(torch.float32) * 2.0**-32 + 2.0**-33  # (0, 1]
    angle = bits[..., 1].to(torch.float32) * (2 * math.pi * 2.0**-32)
    radius = torch.sqrt(-2.0 * torch.log(u))
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(1)[:, :count]
