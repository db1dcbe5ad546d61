"""The pairing certificate: proof that two runs met the same data in the same order, the same latents, the same start.

Hashes chain over steps, so a run that was stopped and resumed ends with the same certificate as one that was not.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from noisegan.core.rng import Streams, as_ids
from noisegan.ext import philox_bits

Z_STREAMS = ("z/G", "z/D")


@dataclass
class PairingCertificate:
    """Hex digests. Runs are paired when all but `seed` agree (seeds of paired runs agree too).

    data: fingerprint of the data set and of how its images were prepared.
    data_order: items shown, step after step.
    z: integer words of the first latents of every sample, step after step, in the generator's and the
        discriminator's turn. Integers, because they are the same on every device.
    initial_weights: parameters at the start, those of injectors left out.
    """

    seed: int
    data: str
    initial_weights: str
    steps: int = 0
    data_order: str = ""
    z: str = ""

    def note_step(self, step: int, items: Tensor, streams: Streams) -> None:
        """Add one step's items, [batch] int64, and its latents to the chains."""
        self.data_order = _chain(self.data_order, items)
        ids = as_ids(range(len(items)))
        for name in Z_STREAMS:
            self.z = _chain(self.z, philox_bits(streams[name].key, step, ids, 4))
        self.steps = step + 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shared_weights_hash(networks: dict[str, nn.Module]) -> str:
    """Digest of all parameters by name, those of noise injectors left out."""
    digest = hashlib.sha256()
    for prefix, network in sorted(networks.items()):
        for name, parameter in sorted(network.named_parameters()):
            if any(f".{kind}." in name for kind in ("noise", "latent", "style")):
                continue
            digest.update(f"{prefix}.{name} {list(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _chain(before: str, tensor: Tensor) -> str:
    return hashlib.sha256(bytes.fromhex(before) + tensor.cpu().numpy().tobytes()).hexdigest()
