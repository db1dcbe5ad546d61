"""The generator's numbers: the skip network once more, in NumPy from the papers; truncation, and which w goes where."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from generating import generator, latents, moved_off_start
from numpy.typing import NDArray

from noisegan.manager import Plugins

Array = NDArray[np.float64]


def lrelu(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def second_moment(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)


def stuffed(x: Array) -> Array:
    out = np.zeros((*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1]))
    out[..., ::2, ::2] = x
    return out


FIR = 4 * np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def enlarged(image: Array) -> Array:
    """[C, H, W] -> [C, 2H, 2W] by zero insertion and the filter."""
    around = np.pad(stuffed(image), ((0, 0), (2, 1), (2, 1)))
    return np.stack([scipy.signal.convolve2d(channel, FIR, mode="valid") for channel in around])


def mixed(x: Array, weight: Array, up: bool) -> Array:
    """[I, H, W] with [O, I, k, k]: correlation, or for up the transposed convolution and then the filter."""
    out = []
    for kernels in weight:
        pairs = zip(x, kernels, strict=True)
        if not up:
            out.append(sum(scipy.signal.correlate2d(a, k, mode="same") for a, k in pairs))
            continue
        size = 2 * x.shape[1] + 1
        full = sum(scipy.signal.convolve2d(stuffed(a), k, mode="full")[:size, :size] for a, k in pairs)
        out.append(scipy.signal.convolve2d(np.pad(full, 1), FIR, mode="valid"))
    return np.stack(out)


def skip_generator(state: dict[str, Array], z: Array, noise: dict[str, Array], resolution: int) -> Array:
    """z [N, z_dim] -> [N, C, R, R]: Karras et al. 2019 (mapping, style, noise) and 2020 (demodulation, skips)."""
    w = second_moment(z)
    for i in range(sum(name.startswith("mapping.fc") for name in state) // 2):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        w = lrelu(w @ weight.T * 0.01 / np.sqrt(weight.shape[1]) + 0.01 * bias)

    def style(layer: str, n: int) -> Array:
        a = state[f"{layer}.affine.weight"]
        return a @ w[n] / np.sqrt(a.shape[1]) + state[f"{layer}.affine.bias"]

    def site(x: Array, name: str, n: int, up: bool) -> Array:
        layer = f"synthesis.{name}"
        kernels = style(layer, n)[None, :, None, None] * state[f"{layer}.weight"]
        kernels = kernels / np.sqrt((kernels**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
        x = mixed(x, kernels, up) + state[f"{layer}.noise.additive.strength"] * noise[f"{name}/additive"][n]
        return lrelu(x + state[f"{layer}.bias"][:, None, None])

    images = []
    for n in range(len(z)):
        x, image = state["synthesis.b4.const"], None
        for r in (2**k for k in range(2, int(np.log2(resolution)) + 1)):
            if r > 4:
                x = site(x, f"b{r}.conv0", n, up=True)
                image = enlarged(image)
            x = site(x, f"b{r}.conv1", n, up=False)
            s = style(f"synthesis.b{r}.torgb", n) / np.sqrt(len(x))
            colour = state[f"synthesis.b{r}.torgb.weight"][:, :, 0, 0]
            rgb = np.einsum("oc,c,chw->ohw", colour, s, x) + state[f"synthesis.b{r}.torgb.bias"][:, None, None]
            image = rgb if image is None else image + rgb
        images.append(image)
    return np.stack(images)


def test_the_whole_skip_generator_has_the_numbers_of_the_papers(plugins: Plugins) -> None:
    G = generator(plugins, "additive").double()
    moved_off_start(G)
    z = latents(3).double()
    noise = {key: e.double() for key, e in G.draw_noise("frozen", 3).items()}
    assert len(noise) == 5
    expected = skip_generator(
        {name: value.numpy() for name, value in G.state_dict().items()},
        z.numpy(),
        {key: e.numpy() for key, e in noise.items()},
        16,
    )
    found = G(z, noise=noise).detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_truncation_moves_w_towards_its_mean(plugins: Plugins) -> None:
    G, z = generator(plugins), latents(3)
    G.mapping.w_avg.copy_(torch.linspace(-1, 1, 6))
    w, psi = G.mapping(z), 0.3
    expected = (G.mapping.w_avg + psi * (w - G.mapping.w_avg))[:, None].expand(-1, G.num_ws, -1)
    torch.testing.assert_close(G.styles(z, truncation=psi), expected)
    torch.testing.assert_close(G.styles(z), w[:, None].expand(-1, G.num_ws, -1))
    torch.testing.assert_close(G.styles(z, truncation=0), G.mapping.w_avg.expand(3, G.num_ws, -1))


@pytest.mark.parametrize("cutoff", [0, 2, 6])
def test_truncation_cutoff_counts_the_leading_ws(plugins: Plugins, cutoff: int) -> None:
    G, z = generator(plugins), latents(3)
    G.mapping.w_avg.fill_(2)
    found = G.styles(z, truncation=0.3, truncation_cutoff=cutoff)
    assert torch.equal(found[:, :cutoff], G.styles(z, truncation=0.3)[:, :cutoff])
    assert torch.equal(found[:, cutoff:], G.styles(z)[:, cutoff:])


def test_the_running_mean_of_w_moves_by_half_a_percent(plugins: Plugins) -> None:
    mapping = generator(plugins).mapping
    mapping.track(torch.full((6,), 4.0))
    torch.testing.assert_close(mapping.w_avg, torch.full((6,), 4.0 * 0.005))


def test_torgb_shares_its_w_with_the_next_convolution(plugins: Plugins) -> None:
    G = generator(plugins, "none")
    seen = {}
    for name, module in G.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_hook(lambda _, inputs, __, name=name: seen.__setitem__(name, inputs[0]))
    numbered = torch.arange(6.0)[None, :, None].expand(1, 6, 6)
    G.synthesis(numbered, G.draw_noise("off", 1))
    assert {name.removesuffix(".affine"): int(w[0, 0]) for name, w in seen.items()} == {
        "b4.conv1": 0,
        "b4.torgb": 1,
        "b8.conv0": 1,
        "b8.conv1": 2,
        "b8.torgb": 3,
        "b16.conv0": 3,
        "b16.conv1": 4,
        "b16.torgb": 5,
    }
