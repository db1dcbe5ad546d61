"""Where a strategy stands: how layers and placements are read, which injectors are built, what each computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from noisegan.api import Field, Params, Strategy, StrategySpec, Where
from noisegan.core.generator import Generator
from noisegan.core.layers import modulated_conv2d, set_precision
from noisegan.core.losses import path_lengths
from noisegan.core.noise import StreamNoise
from noisegan.core.pairing import shared_weights_hash
from noisegan.core.probe import noise_to_signal
from noisegan.core.rng import Streams
from noisegan.core.synthesis import SynthesisLayer
from noisegan.errors import NoiseganError
from noisegan.ext import bias_act
from noisegan.manager import Plugins
from noisegan.planning import noise_record, saved_strategies

PLACEMENTS = ("post-conv", "pre-conv", "post-activation", "inside-style")
NAMES = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0", "b32.conv1"]


def generator(plugins: Plugins, expression: str, resolution: int = 16) -> Generator:
    return Generator(
        resolution=resolution,
        z_dim=6,
        w_dim=5,
        mapping_layers=1,
        channel_base=64,
        channel_max=6,
        noise=plugins.parse(expression),
    )


def latents(n: int) -> Tensor:
    return Streams(4)["z"].source(ids=range(n)).normal(6)


# layers


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("3", [3]),
        ("0-2", [0, 1, 2]),
        ("5-", [5, 6]),
        ("-1", [0, 1]),
        ("32", [5, 6]),
        ("32-", [5, 6]),
        ("16-", []),  # 16 is an index, b16 the resolution
        ("b16-", [3, 4, 5, 6]),
        ("-b8", [0, 1, 2]),
        ("b8-b16", [1, 2, 3, 4]),
        ("b16-32", [3, 4, 5, 6]),
        ("0, 2 , 32", [0, 2, 5, 6]),
    ],
)
def test_layers_choose_by_index_and_resolution(layers: str, chosen: list[int]) -> None:
    where = Where(layers=layers)
    resolutions = [4, 8, 8, 16, 16, 32, 32]
    assert [i for i, r in enumerate(resolutions) if where.selects(i, r)] == chosen


@pytest.mark.parametrize(
    ("expression", "layers"),
    [
        ("additive(layers=3)", "3"),
        ("additive(layers=0-5)", "0-5"),
        ("additive(layers=64-)", "64-"),
        ("additive(layers=-64)", "-64"),
        ("additive(layers=b8-b16)", "b8-b16"),
        ("additive(layers='0, 2-3')", "0, 2-3"),
        ("additive(layers=[0, 2])", "0,2"),
        ("additive(layers=['b8', 'b32'])", "b8,b32"),
    ],
)
def test_an_expression_holds_layers_and_its_text_reads_back(plugins: Plugins, expression: str, layers: str) -> None:
    (strategy,) = plugins.parse(expression)
    assert strategy.where == Where(layers=layers)
    assert plugins.parse(str(strategy)) == (strategy,)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("additive(layers=low)", "'low' does not name layers; write all, or layer indices counted from the input"),
        ("additive(layers=5-2)", "'5-2' goes from 5 down to 2; write all"),
        ("additive(layers=5-64)", "'5-64' goes from an index to a resolution; write all"),
        ("additive(layers=20)", "'20' is neither a layer index (0 to 16) nor a resolution (4, 8, ... 1024)"),
        ("additive(layers=b5)", "'b5' is neither a layer index (0 to 16) nor a resolution"),
        ("additive(layers='-')", "'-' does not name layers"),
        ("additive(layers='1,,2')", "'' does not name layers"),
        ("additive(layers=true)", "Input should be a valid string"),
        ("additive(placement=before)", "Input should be 'post-conv', 'pre-conv', 'post-activation' or 'inside-style'"),
        ("additive(layer=3)", "no parameter 'layer'; did you mean 'layers'?"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(plugins: Plugins, expression: str, message: str) -> None:
    with pytest.raises(NoiseganError) as caught:
        plugins.parse(expression)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schema_may_not_have_fields_of_these_names() -> None:
    class Own(Params):
        layers: int = Field(3, description="layers of its own")

    with pytest.raises(ValueError, match="parameter 'layers' needs another name"):
        StrategySpec(
            name="own",
            params=Own,
            summary="s",
            reference="r",
            identity_at_init=True,
            feature=lambda site, p: nn.Identity(),  # type: ignore[arg-type, return-value]
        )


def test_injectors_are_built_in_the_chosen_layers_only(plugins: Plugins) -> None:
    G = generator(plugins, "additive(layers=b8-b16) + fuzzy(layers=1)", resolution=32)
    found = {name: sorted(layer.noise) for name, layer in zip(NAMES, G.synthesis.layers(), strict=True)}
    expected = {name: ["additive"] if name.startswith(("b8.", "b16.")) else [] for name in NAMES}
    expected["b8.conv0"] = ["additive", "fuzzy"]
    assert found == expected
    assert set(G.draw_noise("frozen", 2)) == {f"{name}/{label}" for name, labels in found.items() for label in labels}


def test_a_strategy_in_no_layer_is_refused(plugins: Plugins) -> None:
    with pytest.raises(NoiseganError) as caught:
        generator(plugins, "additive(layers=64-)")
    assert str(caught.value) == (
        "noise strategy \"additive(layers='64-')\" is in no layer: this generator has layers 0 to 4, of 4 to 16 px"
    )


def test_a_checkpoint_records_where_a_strategy_stands(plugins: Plugins, tmp_path: object) -> None:
    chosen = plugins.parse("additive(strength=0.5, placement=pre-conv, layers=0-2) + fuzzy")
    record = noise_record(chosen, plugins)
    assert [noise["params"] for noise in record] == [
        {"per_channel": False, "strength": 0.5, "placement": "pre-conv", "layers": "0-2"},
        {"form": "scaled", "alpha": 0.5, "gain": 1.0},
    ]
    assert saved_strategies(tmp_path, {"noise": record}, plugins) == chosen  # type: ignore[arg-type]


# placements


def layer_of(plugins: Plugins, expression: str, name: str) -> tuple[SynthesisLayer, Strategy]:
    G = generator(plugins, expression).double()
    for parameter in G.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    layer = next(layer for layer in G.synthesis.layers() if layer.site.name == name)
    return layer, plugins.parse(expression)[0]


@pytest.mark.parametrize("name", ["b8.conv0", "b8.conv1"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_noise_enters_where_it_is_told(plugins: Plugins, placement: str, name: str) -> None:
    layer, _ = layer_of(plugins, f"additive(placement={placement})", name)
    size = 4 if name == "b8.conv0" else 8
    source = Streams(2)["x"].source(ids=range(3))
    x, w = source.normal(layer.site.in_channels, size, size).double(), source.normal(5).double()
    e = source.normal(1, size if placement == "pre-conv" else 8, size if placement == "pre-conv" else 8).double()
    r = layer.noise["additive"].strength
    style = w @ layer.affine.weight.T / math.sqrt(5) + layer.affine.bias

    def convolved(m: Tensor) -> tuple[Tensor, Tensor]:
        maps, demod = modulated_conv2d(m, layer.weight, style, layer.resample_filter, up=2 if size == 4 else 1)
        return maps, demod[:, :, None, None]

    maps, demod = convolved(x + r * e if placement == "pre-conv" else x)
    if placement == "inside-style":
        maps = maps + r * e
    maps = maps * demod
    if placement == "post-conv":
        maps = maps + r * e
    out = bias_act(maps, layer.bias)
    if placement == "post-activation":
        out = out + r * e
    torch.testing.assert_close(layer(x, w, {f"{name}/additive": e}), out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "name", ["additive(strength=0.4", "fuzzy(form=additive", "additive(per_channel=true, strength=0.2"]
)
def test_every_placement_trains_twice_over(plugins: Plugins, placement: str, name: str) -> None:
    G = generator(plugins, f"{name}, placement={placement})")
    streams, z = Streams(1), latents(2)
    ws = G.styles(z)
    images = G.synthesis(ws, G.draw_noise(StreamNoise(streams, ids=range(2)), 2))
    path_lengths(images, ws, streams["y"].source(ids=range(2)).normal(*images.shape[1:])).sum().backward()
    strengths = [p.grad for n, p in G.named_parameters() if n.endswith("strength")]
    assert strengths
    assert all(g is not None and bool(g.isfinite().all()) for g in strengths)
    assert any(bool(g.any()) for g in strengths if g is not None)
    ratios = noise_to_signal(G, z, None, StreamNoise(streams, ids=range(2)))
    assert len(ratios) == 5
    assert all(ratio > 0 for ratio in ratios.values())


def test_placements_are_paired(plugins: Plugins) -> None:
    """Equal shared weights, and the same numbers where the maps are of one size."""
    networks = [generator(plugins, f"additive(placement={placement})") for placement in PLACEMENTS]
    assert len({shared_weights_hash({"G": G}) for G in networks}) == 1
    drawn = [G.draw_noise("frozen", 2) for G in networks]
    for placement, noise in zip(PLACEMENTS, drawn, strict=True):
        assert noise["b8.conv1/additive"].equal(drawn[0]["b8.conv1/additive"]), placement
        size = 4 if placement == "pre-conv" else 8
        assert noise["b8.conv0/additive"].shape == (2, 1, size, size)


def test_two_placements_of_one_strategy_stand_beside_each_other(plugins: Plugins) -> None:
    G = generator(plugins, "additive(strength=1) + additive(strength=1, placement=post-activation)")
    assert {key.split("/")[1] for key in G.draw_noise("off", 1)} == {"additive", "additive-2"}
    z = latents(2)
    both, off = G.draw_noise("frozen", 2), G.draw_noise("off", 2)
    images = [G(z, noise=noise) for noise in (off, both, off | {k: v for k, v in both.items() if k.endswith("-2")})]
    assert not torch.allclose(images[0], images[1])
    assert not torch.allclose(images[1], images[2])


def test_inside_the_style_float16_computes_as_float32(plugins: Plugins) -> None:
    """modulated_conv2d rescales float16 weights and styles, which demodulation cancels, but noise in between sees."""
    G = generator(plugins, "additive(strength=0.5, placement=inside-style)")
    z = latents(2)
    expected = G(z, noise="frozen")
    set_precision(G, torch.float16)
    got = G(z, noise="frozen")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
