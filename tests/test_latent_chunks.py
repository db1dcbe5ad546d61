"""latent_chunks against BigGAN's formula, an affine layer over [w, chunk], in layers, generators and training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from injecting import N, normal
from safetensors.torch import load_file
from torch import Tensor
from training import SMALL

import noisegan
from noisegan.api import NoiseSite, StyleInjector
from noisegan.core.checkpoint import snapshots
from noisegan.core.generator import Generator
from noisegan.core.pairing import shared_weights_hash
from noisegan.core.rng import MeanSource, Streams
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

D, INPUTS, K = 6, 5, 3
SITE = NoiseSite(
    index=1, num_sites=3, name="b8.conv0", resolution=8, channels=4, in_channels=INPUTS, w_dim=D, upsampled=True
)


def injector(plugins: Plugins, expression: str = f"latent_chunks(chunk={K})") -> StyleInjector:
    (strategy,) = plugins.parse(expression)
    assert strategy.spec.style is not None
    torch.manual_seed(1)
    return strategy.spec.style(SITE, strategy.params).double()


def generator(plugins: Plugins, noise: str) -> Generator:
    return Generator(
        resolution=16, z_dim=4, w_dim=D, mapping_layers=1, channel_base=64, channel_max=6, noise=plugins.parse(noise)
    )


def test_a_style_is_an_affine_layer_over_w_and_a_chunk(plugins: Plugins) -> None:
    module = injector(plugins)
    w, c = normal("w", N, D).numpy(), normal("c", N, K).numpy()
    A, B, b = normal("A", INPUTS, D).numpy(), module.weight.detach().numpy(), normal("b", INPUTS).numpy()
    columns = np.concatenate([A / math.sqrt(D), B / math.sqrt(D + K)], axis=1)  # [INPUTS, D + K]
    expected = [columns @ np.concatenate([w[n], c[n]]) + b for n in range(N)]
    own = torch.from_numpy(w @ A.T / math.sqrt(D) + b)
    np.testing.assert_allclose(module(own, torch.from_numpy(c)).detach(), expected, rtol=0, atol=1e-14)


def test_a_chunk_is_drawn_per_sample_and_of_the_size_told(plugins: Plugins) -> None:
    assert injector(plugins).draw(Streams(1)["c"].source(ids=range(N))).shape == (N, K)
    assert injector(plugins, "latent_chunks").draw(MeanSource(N)).shape == (N, 20)


def test_the_weight_starts_at_unit_variance_and_its_product_at_its_share(plugins: Plugins) -> None:
    (strategy,) = plugins.parse("latent_chunks(chunk=30)")
    wide = NoiseSite(
        index=0, num_sites=1, name="b4.conv1", resolution=4, channels=4, in_channels=2000, w_dim=90, upsampled=False
    )
    torch.manual_seed(2)
    assert strategy.spec.style is not None
    module = strategy.spec.style(wide, strategy.params)
    assert float(module.weight.detach().std()) == pytest.approx(1, abs=0.02)
    made = module(torch.zeros(50, 2000), Streams(1)["c"].source(ids=range(50)).normal(30))
    assert float(made.detach().square().mean()) == pytest.approx(30 / (90 + 30), rel=0.05)


def test_first_and_second_gradients(plugins: Plugins) -> None:
    module = injector(plugins)

    def call(style: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        out = torch.func.functional_call(module, {"weight": weight}, (style, noise))
        assert isinstance(out, Tensor)
        return out.square()  # of a product alone the second derivatives would be few

    start = module.weight.detach().clone().requires_grad_()
    inputs = (normal("s", 2, INPUTS).requires_grad_(), normal("c", 2, K).requires_grad_(), start)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_off_it_leaves_a_generator_without_noise(plugins: Plugins) -> None:
    z = normal("z", N, 4).float()
    chunks, none = generator(plugins, "latent_chunks"), generator(plugins, "none")
    assert torch.equal(chunks(z, noise="off"), none(z, noise="off"))
    assert not torch.allclose(chunks(z, noise="frozen"), none(z, noise="off"), atol=1e-2)
    assert shared_weights_hash({"G": chunks}) == shared_weights_hash({"G": none})


def test_each_site_has_a_chunk_and_a_start_of_its_own(plugins: Plugins) -> None:
    G = generator(plugins, "latent_chunks")
    noise = G.draw_noise("frozen", N)
    assert set(noise) == {f"{site}/style/latent_chunks" for site in
                          ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")}  # fmt: skip
    assert len({float(c[0, 0]) for c in noise.values()}) == 5
    weights = [p for name, p in G.named_parameters() if ".style." in name]
    assert len({float(p[0, 0].detach()) for p in weights}) == 5
    assert all(p.shape[1] == 20 for p in weights)


def test_a_chunk_reaches_its_own_layer_and_what_follows(plugins: Plugins) -> None:
    G = generator(plugins, "latent_chunks")
    z, noise = normal("z", 1, 4).float(), G.draw_noise("frozen", 1)
    seen: dict[str, Tensor] = {}
    for layer in G.synthesis.layers():
        layer.register_forward_hook(lambda module, inputs, out: seen.update({module.site.name: out}))
    G(z, noise=noise)
    before = dict(seen)
    G(z, noise=noise | {"b8.conv1/style/latent_chunks": torch.zeros(1, 20)})
    changed = {name for name in seen if not torch.equal(seen[name], before[name])}
    assert changed == {"b8.conv1", "b16.conv0", "b16.conv1"}


def test_a_short_training_moves_every_chunk_weight(tmp_path: Path, plugins: Plugins) -> None:
    options = SMALL | {"kimg": 0.04, "tick": 0.04}
    run = noisegan.train(outdir=str(tmp_path), noise="latent_chunks + additive", quiet=True, **options)
    state = load_file(snapshots(run)[-1])
    facts = noisegan.core.checkpoint.read_facts(snapshots(run)[-1])
    start = Generator(**facts["networks"]["G"], noise=plugins.parse("latent_chunks + additive")).state_dict()
    for site in ("b4.conv1", "b8.conv0", "b8.conv1"):
        name = f"synthesis.{site}.style.latent_chunks.weight"
        assert 1e-3 < float((state[f"G.{name}"] - start[name]).abs().max()) < 0.1, site


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("latent_chunks(chunk=0)", "noise strategy 'latent_chunks': chunk=0: Input should be greater than or equal to "
         "1 (numbers per site; BigGAN has 20)"),
        ("latent_chunks(placement=pre-conv)", "noise strategy 'latent_chunks': no parameter 'placement'; "
         "known: chunk, layers"),
    ],
)  # fmt: skip
def test_refusals(plugins: Plugins, expression: str, complaint: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(expression)
    assert str(caught.value) == complaint
