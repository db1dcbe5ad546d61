"""A small encoder from images to w, trained on the generator's own samples, to start inversions near their end.

It predicts (w - mu_w) sqrt(D) / sigma_w, coordinates of about unit size, and is trained by their squared error alone:
no image is rendered from its prediction. Images come with fresh noise, so that it learns to see w through noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from noisegan import facade
from noisegan.core.adam import Adam
from noisegan.core.generator import Generator
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams, contained_randomness
from noisegan.errors import NoiseganError
from noisegan.files import atomic_path
from noisegan.inversion.output import file_sha256
from noisegan.inversion.spaces import WStatistics, w_statistics
from noisegan.manager import Plugins

FILE, FORMAT = "encoder.safetensors", "noisegan-encoder"
WIDTH, WIDEST = 32, 256
LR = 2e-3


class Encoder(nn.Module):
    """Images [N, C, R, R] -> w [N, D]: per resolution down to 4 x 4 a convolution of stride 2, then two full layers.

    Args:
        resolution, img_channels, w_dim: of the network.
        statistics: mean and scale of w; what is predicted is relative to them.
    """

    mean: Tensor

    def __init__(self, resolution: int, img_channels: int, w_dim: int, statistics: WStatistics) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(img_channels, WIDTH, 3, padding=1), nn.LeakyReLU(0.2)]
        channels, size = WIDTH, resolution
        while size > 4:
            wider = min(2 * channels, WIDEST)
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.LeakyReLU(0.2)]
            channels, size = wider, size // 2
        layers += [nn.Flatten(), nn.Linear(channels * 16, WIDEST), nn.LeakyReLU(0.2), nn.Linear(WIDEST, w_dim)]
        self.body = nn.Sequential(*layers)
        self.register_buffer("mean", statistics.mean.clone())
        self.scale = statistics.scale / math.sqrt(w_dim)
        self.about: dict[str, Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        w: Tensor = self.mean + self.scale * self.body(images)
        return w


def train_encoder(
    G: Generator,
    *,
    kimg: float,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Encoder, float]:
    """An encoder of this generator.

    Args:
        kimg: thousands of generated images to learn from.
        batch: images per step.
        seed: of everything random.

    Returns:
        the encoder, and its mean squared error over the last tenth of the images, in units of the variance of w: 1 is
        what predicting the mean would give.

    Raises:
        NoiseganError: for kimg below one batch, or not finite.
    """
    if not math.isfinite(kimg):
        raise NoiseganError(f"--kimg must be a finite number, not {kimg}")
    steps = round(kimg * 1000) // batch
    if steps < 1:
        raise NoiseganError(f"--kimg {kimg:g} is less than one batch of {batch} images; give a larger one")
    device, streams = G.mapping.w_avg.device, Streams(seed)
    statistics = w_statistics(G, seed=seed)
    with contained_randomness(seed, "inversion/encoder/init"):
        encoder = Encoder(G.resolution, G.img_channels, G.w_dim, statistics).to(device)
    adam = Adam(encoder.parameters(), lr=LR, betas=(0.9, 0.99))
    errors = []
    for step in range(steps):
        adam.param_groups[0]["lr"] = LR * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        ids = range(step * batch, (step + 1) * batch)
        source = streams["inversion/encoder/z"].source(ids=ids, device=device)
        z, labels = source.normal(G.z_dim), source.integers(max(G.c_dim, 1))
        with torch.no_grad():
            w = G.mapping(z, F.one_hot(labels, G.c_dim).float() if G.c_dim else None)
            noise = G.draw_noise(StreamNoise(streams, ids=ids, phase="inversion/encoder"), batch)
            images = G.synthesis(w[:, None].expand(-1, G.num_ws, -1), noise)
        error = ((encoder(images) - w) / encoder.scale).square().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(float(error.detach()))
        if progress is not None:
            progress((step + 1) * batch, steps * batch)
    last = errors[-max(1, steps // 10) :]
    return encoder.eval().requires_grad_(False), sum(last) / len(last)


def save_encoder(path: Path, encoder: Encoder, about: dict[str, Any]) -> None:
    """Write an encoder with what it was made of.

    Raises:
        NoiseganError: when it cannot be written.
    """
    facts = {"format": FORMAT, "scale": encoder.scale} | about
    tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"noisegan": json.dumps(facts)})


def load_encoder(path: str | Path, G: Generator, device: torch.device, *, network_sha256: str | None = None) -> Encoder:
    """The encoder in a file, or in the folder that `train-encoder` wrote.

    Args:
        network_sha256: of the snapshot that G is of; default: any of its shape.

    Raises:
        NoiseganError: when there is none, or it is of another network.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("noisegan", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise NoiseganError(f"{path} is no encoder ({error}); make one with train-encoder") from None
    if facts.get("format") != FORMAT:
        raise NoiseganError(f"{path} is no encoder of noisegan; make one with train-encoder")
    statistics = WStatistics(torch.zeros(G.w_dim), facts["scale"] * math.sqrt(G.w_dim), torch.zeros(G.z_dim))
    encoder = Encoder(G.resolution, G.img_channels, G.w_dim, statistics)
    try:
        encoder.load_state_dict(tensors, strict=True)
    except RuntimeError:
        raise NoiseganError(f"{path} is the encoder of a network of another shape; train one for this one") from None
    if network_sha256 is not None and facts.get("network_sha256", network_sha256) != network_sha256:
        raise NoiseganError(f"{path} is the encoder of another network; train one for this one with train-encoder")
    encoder.about = {"path": str(path.resolve()), "sha256": file_sha256(path)}
    return encoder.to(device).eval().requires_grad_(False)


def train_encoder_for(
    network: str | Path,
    outdir: Path,
    *,
    kimg: float,
    batch: int = 32,
    seed: int = 0,
    device: str = "auto",
    plugins: Plugins | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, float]:
    """Train and write the encoder of a snapshot; the same as `noisegan train-encoder`. Returns its file and error."""
    snapshot = facade.load(network, plugins=plugins, device=device)
    encoder, error = train_encoder(snapshot.G_ema, kimg=kimg, batch=batch, seed=seed, progress=progress)
    about = {
        "network": str(snapshot.path.resolve()),
        "network_sha256": file_sha256(snapshot.path),
        "kimg": kimg,
        "batch": batch,
        "seed": seed,
        "error": error,
    }
    save_encoder(outdir / FILE, encoder, about)
    return outdir / FILE, error
