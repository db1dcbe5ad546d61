"""The pictures of the strategies' pages: what each does to one feature map and to one image.

    noisegan train --data fashion-mnist --cfg tiny --noise none --kimg 4 --outdir runs
    python docs/strategies/pictures.py --network runs/00000-fashion-mnist-tiny-none

One trained generator without noise is given each strategy in turn, with a strength that can be seen, and the same
latent. Upper row: a feature map at `SITE` before, after, and the difference (red up, blue down). Lower row: the image
with noise off, with noise, and the deviation over `DRAWS` draws. Strategies of the discriminator's input show a real
image instead, at the start and half-way where their noise follows the share of training done, and else (`filtering`)
as they start; a penalty shows where it acts.
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import noisegan
from noisegan.api import Injector, Strategy
from noisegan.core.data import open_dataset
from noisegan.core.generator import Generator
from noisegan.core.images import to_float
from noisegan.core.noise import StreamNoise
from noisegan.core.rng import Streams
from noisegan.core.state import run_injectors
from noisegan.manager import Plugins

SITE = "b16.conv1"
SEED = 1
DRAWS = 64
CANDIDATES = 8
"""Noisy images of which the one that differs most is shown: some strategies leave many images alone."""
VISIBLE = 0.3
"""Size of what starts at zero, so that there is something to see."""
STRATEGIES = {
    "dropout": "dropout(rate=0.1)",
    "filtering": "filtering(strength=0.3)",
    "fuzzy": "fuzzy(form=additive, gain=0.3)",
    "instance": "instance(start=0.3)",
    "warp": "warp(strength=0.8)",
}
"""By page; every other built-in strategy is shown with its default parameters."""


@click.command(help=__doc__)
@click.option("--network", required=True, type=click.Path(exists=True, path_type=Path), help="a run with noise none")
@click.option("--only", multiple=True, help="a strategy; may be repeated; default: all")
@click.option("--outdir", default=Path(__file__).parent.parent / "images", type=click.Path(path_type=Path))
def main(network: Path, only: tuple[str, ...], outdir: Path) -> None:
    plugins = Plugins(entry_points=False)
    snapshot = noisegan.load(network)
    names = only or sorted(plugins.strategies)
    for name in names:
        (strategy,) = plugins.parse(STRATEGIES.get(name, name))
        figure = picture(snapshot, strategy)
        path = outdir / f"strategy-{name}.png"
        figure.savefig(path, dpi=80)
        plt.close(figure)
        click.echo(path)


def picture(snapshot: noisegan.facade.Snapshot, strategy: Strategy) -> plt.Figure:
    """The page's picture of one strategy."""
    if strategy.spec.where_parameters:
        return _in_the_generator(snapshot, strategy)
    return _at_the_discriminator(snapshot, strategy)


@torch.no_grad()
def _in_the_generator(snapshot: noisegan.facade.Snapshot, strategy: Strategy) -> plt.Figure:
    G = Generator(**snapshot.facts["networks"]["G"], noise=(strategy,))
    missing, unexpected = G.load_state_dict(snapshot.G_ema.state_dict(), strict=False)
    assert not unexpected
    for name, parameter in G.named_parameters():
        if name in missing and not parameter.any():
            signs = Streams(SEED)[f"picture/{name}"].source(ids=[0]).normal(*parameter.shape)[0]
            parameter.copy_(VISIBLE * (signs if parameter.ndim else torch.ones(())))
    z = Streams(SEED)["picture/z"].source(ids=[0]).normal(G.z_dim)
    maps: list[Tensor] = []
    layer = next(layer for layer in G.synthesis.layers() if layer.site.name == SITE)
    hook = layer.register_forward_hook(lambda module, arguments, out: maps.append(out))
    noise = StreamNoise(Streams(SEED), ids=range(DRAWS))
    drawn = G.draw_noise(noise, DRAWS)
    # Noise in this layer alone for the feature map, in all layers for the image.
    off = G.draw_noise("off", DRAWS)
    here = {key: drawn[key] if key.startswith(f"{SITE}/") else value for key, value in off.items()}
    zs = z.expand(DRAWS, -1)
    without = G(zs, noise=off)
    G(zs, noise=here)
    hook.remove()
    images = G(zs, noise=drawn)
    before, after = maps[0][0], maps[1][0]  # [C, H, W]
    channel = int(before.flatten(1).std(dim=1).argmax())
    figure, axes = plt.subplots(2, 3, figsize=(6, 4.3), layout="constrained")
    _map(axes[0, 0], before[channel], "feature map, noise off")
    _map(axes[0, 1], after[channel], "with noise in this layer", like=before[channel])
    _signed(axes[0, 2], after[channel] - before[channel], "difference")
    _image(axes[1, 0], without[0], "image, noise off")
    _image(axes[1, 1], images[0], "with noise in all layers")
    _map(axes[1, 2], images.std(dim=0).mean(dim=0), f"deviation over {DRAWS} draws")
    figure.suptitle(str(strategy), fontsize=9)
    return figure


def _at_the_discriminator(snapshot: noisegan.facade.Snapshot, strategy: Strategy) -> plt.Figure:
    image_injectors, penalties = run_injectors((strategy,), snapshot.facts["networks"]["G"], SEED)
    config = snapshot.facts["config"]
    shown = {key: config[key] for key in ("resolution", "resize", "crop")}
    real = to_float(open_dataset(config["data"], **shown).images(torch.tensor([7])))
    z = Streams(SEED)["picture/z"].source(ids=[0]).normal(snapshot.G_ema.z_dim)
    fake = snapshot.G_ema(z, noise="frozen").detach()
    shares = {"0% of training": 0.0, "50% of training": 0.5}
    if all(type(injector).set_progress is Injector.set_progress for injector in image_injectors.values()):
        shares = {"with untrained noise": 0.0}
    columns = 3 if penalties else 1 + len(shares)
    figure, axes = plt.subplots(2, columns, figsize=(2 * columns, 4.3), layout="constrained")
    for row, images, what in ((0, real, "real"), (1, fake, "generated")):
        _image(axes[row, 0], images[0], what)
        for injector in image_injectors.values():
            for column, (when, share) in enumerate(shares.items(), start=1):
                injector.set_progress(share)
                source = Streams(SEED)["picture/image"].source(ids=range(CANDIDATES))
                same = images.expand(CANDIDATES, -1, -1, -1)
                with torch.no_grad():
                    noisy = injector(same, injector.draw(source))
                most = int((noisy - same).square().flatten(1).sum(dim=1).argmax())
                _image(axes[row, column], noisy[most], when)
        if penalties:
            x = images.clone().requires_grad_()
            psi = snapshot.D(x, torch.zeros(1, 0))
            (gradient,) = torch.autograd.grad(psi.sum(), x)
            p = torch.sigmoid(psi.detach())[0, 0]
            weight = (1 - p) ** 2 if what == "real" else p**2
            _map(axes[row, 1], gradient[0].square().mean(dim=0), "squared gradient of the logit")
            axes[row, 2].text(0.5, 0.5, f"p = {p:.2f}\nweight {weight:.2f}", ha="center", va="center")
            axes[row, 2].axis("off")
    figure.suptitle(str(strategy), fontsize=9)
    return figure


def _map(axes: Axes, values: Tensor, title: str, like: Tensor | None = None) -> None:
    like = values if like is None else like
    axes.imshow(values.numpy(), cmap="viridis", vmin=float(like.min()), vmax=float(like.max()))
    _name(axes, title)


def _signed(axes: Axes, values: Tensor, title: str) -> None:
    limit = float(values.abs().max()) or 1.0
    axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    _name(axes, title)


def _image(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.clamp(-1, 1).add(1).div(2).permute(1, 2, 0).expand(-1, -1, 3).numpy())
    _name(axes, title)


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.axis("off")


if __name__ == "__main__":
    main()
