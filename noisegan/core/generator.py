"""The StyleGAN2 generator (Karras et al. 2020), with a seam for noise after each demodulated convolution.

z -> `MappingNetwork` -> ws -> `Synthesis` -> image.

Parameter names map one to one onto NVIDIA's PyTorch StyleGAN2: `mapping.fc0.weight`, `mapping.embed.*`,
`mapping.w_avg`, `synthesis.b4.const`, `synthesis.b8.conv0.{weight,bias}`, `synthesis.b8.conv0.affine.{weight,bias}`,
`synthesis.b8.torgb.*`, `synthesis.b8.skip.weight`. Their `<layer>.noise_strength` is `<layer>.noise.additive.strength`;
their buffer `<layer>.noise_const` [H, W] is the given noise `"b8.conv0/additive"` [N, 1, H, W]; their
`resample_filter` is a constant here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from noisegan.api import Strategy
from noisegan.core.mapping import MappingNetwork
from noisegan.core.noise import NoiseInput, NoiseMode, noise_mode
from noisegan.core.rng import initialise
from noisegan.core.shapes import check_architecture, check_image_channels
from noisegan.core.synthesis import Synthesis, noise_sites
from noisegan.errors import NoiseganError


class Generator(nn.Module):
    """Mapping and synthesis.

    Args:
        resolution: image size, a power of two from 8 to 1024.
        img_channels: 1, 3 or 4.
        z_dim, w_dim: sizes of the latents.
        c_dim: number of classes, 0 without labels.
        mapping_layers: depth of the mapping network.
        channel_base, channel_max: width at resolution r is min(channel_max, channel_base / r).
        architecture: `skip` (default), `residual` or `plain`.
        noise: strategies with their parameters, in order of application.
        seed: seed of the streams `init/...`.
        clamp: limit of feature maps' absolute values, for float16 (256), or None.

    Raises:
        NoiseganError: for a resolution, channel count or architecture that does not exist.
    """

    def __init__(
        self,
        *,
        resolution: int,
        img_channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "skip",
        noise: Sequence[Strategy] = (),
        seed: int = 0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        check_image_channels(img_channels)
        check_architecture(architecture)
        self.resolution, self.img_channels = resolution, img_channels
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        sites = noise_sites(resolution, w_dim=w_dim, channel_base=channel_base, channel_max=channel_max)
        self.mapping = MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, layers=mapping_layers)
        self.synthesis = Synthesis(sites, img_channels, noise, architecture=architecture, seed=seed, clamp=clamp)
        self.num_ws = self.synthesis.num_ws
        initialise(self, seed, "G")

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        noise: NoiseInput,
        ids: Sequence[int] | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Images of latents.

        Args:
            z: [N, z_dim].
            c: [N, c_dim] one-hot labels, for a conditional network.
            noise: a mode (`"frozen"`, `"off"`, `"fresh"`, or an object of `noisegan.core.noise`), or given tensors by
                key as `draw_noise` returns them. There is no default: which noise is meant is part of the question.
            ids: sample ids for a mode given by name; a sample's frozen noise depends on its id. Default: its place in
                the batch, 0 .. N - 1.
            truncation: psi; w moves to w_avg + psi (w - w_avg) (Karras et al. 2019, appendix B).
            truncation_cutoff: number of leading ws that are truncated; default all.

        Returns:
            [N, img_channels, R, R] in about [-1, 1].
        """
        ws = self.styles(z, c, truncation=truncation, truncation_cutoff=truncation_cutoff)
        if isinstance(noise, Mapping):
            self._check_given(noise, len(z))
        tensors = noise if isinstance(noise, Mapping) else self.draw_noise(noise, len(z), ids=ids)
        images: Tensor = self.synthesis(ws, tensors)
        return images

    def styles(
        self, z: Tensor, c: Tensor | None = None, *, truncation: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """ws [N, num_ws, w_dim] of latents; arguments as in `forward`."""
        w: Tensor = self.mapping(z, c)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation == 1:
            return ws
        truncated: Tensor = self.mapping.w_avg.lerp(ws, truncation)
        if truncation_cutoff is None:
            return truncated
        untouched = torch.arange(self.num_ws, device=ws.device) >= truncation_cutoff
        return torch.where(untouched[:, None], ws, truncated)

    def draw_noise(self, noise: NoiseMode | str, batch: int, *, ids: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The noise of one forward pass by key, such as `"b8.conv0/additive"`: [N, ...] float32.

        Raises:
            NoiseganError: for an unknown mode, or one made for another number of samples.
        """
        mode = noise_mode(noise, batch, ids=ids) if isinstance(noise, str) else noise
        if mode.batch != batch:
            raise NoiseganError(f"the noise is for {mode.batch} samples and the batch has {batch}")
        return self.synthesis.draw(mode, self.mapping.w_avg.device)

    def _check_given(self, noise: Mapping[str, Tensor], batch: int) -> None:
        wanted = {key: list(tensor.shape) for key, tensor in self.draw_noise("off", batch).items()}
        given = {key: list(tensor.shape) for key, tensor in noise.items()}
        faults = [
            f"{key} is {given.get(key, 'missing')} where {wanted.get(key, 'nothing')} is expected"
            for key in sorted(wanted.keys() | given.keys())
            if wanted.get(key) != given.get(key)
        ]
        if faults:
            raise NoiseganError(f"the given noise does not fit: {'; '.join(faults)}")
