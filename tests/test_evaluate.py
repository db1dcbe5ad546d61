"""One set of samples for all metrics: paired between strategies, independent of the batch, in every kind of data."""

from __future__ import annotations

import json
from pathlib import Path

import forking
import numpy as np
import pytest
import torch
from comparing import SCORES
from training import SMALL

import noisegan
from noisegan.core.data import open_dataset
from noisegan.errors import NoiseganError
from noisegan.facade import Generator
from noisegan.manager import Plugins
from noisegan.metrics.columns import choose_columns
from noisegan.metrics.diagnostics import noise_spread
from noisegan.metrics.evaluate import evaluate, generate, latents
from noisegan.metrics.extractors.registry import make_extractor
from noisegan.metrics.features import extract

SHAPE = {"resolution": 8, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}


@pytest.fixture(scope="module")
def scores() -> Plugins:
    return Plugins([SCORES], entry_points=False)


def generator(noise: str, *, channels: int = 1, classes: int = 0) -> Generator:
    """With noise that shows, whatever it starts with."""
    G = Generator(noise=noise, img_channels=channels, c_dim=classes, **SHAPE).eval()
    for name, parameter in G.named_parameters():
        if ".noise." in name:
            torch.nn.init.constant_(parameter, 0.5)
    return G


def images(G: Generator, count: int, batch: int, data: str | Path = "digits", cond: bool = False) -> torch.Tensor:
    dataset = open_dataset(data, resolution=8, cond=cond)
    return torch.cat(list(generate(G, dataset, 3, count, batch)))


def test_samples_do_not_depend_on_their_batch() -> None:
    G = generator("additive")
    a, b = images(G, 10, 10), images(G, 10, 3)
    assert (a.int() - b.int()).abs().max() <= 1  # rounding to bytes
    assert (a == b).float().mean() > 0.99


def test_fewer_samples_are_the_first_ones() -> None:
    G = generator("additive")
    assert torch.equal(images(G, 4, 4), images(G, 8, 4)[:4])


def test_strategies_meet_the_same_latents_and_labels() -> None:
    dataset = open_dataset("digits", resolution=8, cond=True)
    a, b = (latents(generator(noise, classes=10), dataset, 3, range(5)) for noise in ("none", "additive + fuzzy"))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert a[1].shape == (5, 10)
    other = latents(generator("none", classes=10), dataset, 4, range(5))
    assert not torch.equal(a[0], other[0])


def test_labels_have_the_frequencies_of_the_data() -> None:
    dataset = open_dataset("digits", resolution=8, cond=True)
    _, c = latents(generator("none", classes=10), dataset, 0, range(4000))
    real = dataset.labels(range(len(dataset))).mean(0)
    assert (c.mean(0) - real).abs().max() < 4 * (0.1 * 0.9 / 4000) ** 0.5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_image_is_scored(channels: int, tmp_path: Path, scores: Plugins) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)
    np.save(tmp_path / "data.npy", pixels)
    dataset = open_dataset(tmp_path / "data.npy")
    extractor = make_extractor("pixels", scores, torch.device("cpu"))
    real = extract(extractor, dataset.images(range(40)))
    columns = choose_columns(["fd", "brightness"], ["pixels"], scores, samples=20, real_samples=40)
    found = evaluate(
        generator("additive", channels=channels), dataset, columns, {"pixels": extractor}, {"pixels": real},
        seed=0, samples=20,
    )  # fmt: skip
    assert set(found) == {"fd@pixels", "brightness@pixels"}
    assert found["fd@pixels"].value > 0


def test_the_spread_is_that_of_the_draws() -> None:
    """Against a hundred images made one by one."""
    G, dataset = generator("additive"), open_dataset("digits", resolution=8)
    spread, off = noise_spread(G, dataset, seed=3, count=2, batch=30)
    again, _ = noise_spread(G, dataset, seed=3, count=2, batch=100)
    assert spread.shape == (2, 8, 8)
    assert off.shape == (2, 1, 8, 8)
    assert torch.allclose(spread, again, rtol=1e-4)
    from noisegan.core.noise import StreamNoise
    from noisegan.core.rng import Streams

    z, c = latents(G, dataset, 3, [1])
    with torch.no_grad():
        draws = torch.cat(
            [G(z, c, noise=StreamNoise(Streams(3), ids=[i], step=1, phase="diagnostics")) for i in range(100)]
        )
    assert torch.allclose(spread[1], draws.double().std(0).mean(0).float(), rtol=1e-3)
    assert (noise_spread(generator("none"), dataset, seed=3, count=1)[0] == 0).all()


def test_a_score_that_is_not_finite_is_named(scores: Plugins) -> None:
    from dataclasses import replace

    from noisegan.api import Score

    dataset = open_dataset("digits", resolution=8)
    extractor = make_extractor("pixels", scores, torch.device("cpu"))
    (column,) = choose_columns(["brightness"], ["pixels"], scores, samples=4, real_samples=4)
    real = extract(extractor, dataset.images(range(4)))
    for score, sentence in [
        (Score(value=float("nan")), "is nan, which is not a finite number"),
        (Score(value=1.0, std_error=float("inf")), "has the standard error inf, which is not a finite number"),
        (1.0, r"gave 1\.0 where a noisegan\.api\.Score was expected"),
    ]:
        broken = replace(column, metric=replace(column.metric, compute=lambda pair, score=score: score))
        with pytest.raises(NoiseganError, match=f"the metric 'brightness' on 'pixels' {sentence}"):
            evaluate(generator("none"), dataset, [broken], {"pixels": extractor}, {"pixels": real}, seed=0, samples=4)
    large = Score(value=torch.tensor(1e39, dtype=torch.float64))  # type: ignore[arg-type]
    tensor = replace(column, metric=replace(column.metric, compute=lambda pair: large))
    found = evaluate(generator("none"), dataset, [tensor], {"pixels": extractor}, {"pixels": real}, seed=0, samples=4)
    assert type(found["brightness@pixels"].value) is float


def test_only_the_original_network_makes_an_fid(scores: Plugins) -> None:
    def titles(metrics: list[str], extractors: list[str]) -> list[str]:
        return [c.title for c in choose_columns(metrics, extractors, scores, samples=99, real_samples=99)]

    assert titles(["fd"], ["pixels", "inception"]) == ["FD (pixels)", "FID"]
    assert titles(["fid", "kid"], ["inception", "pixels"]) == ["FID", "KID", "KID (pixels)"]
    assert titles(["fid", "fd"], ["inception"]) == ["FID"]
    with pytest.raises(NoiseganError, match="'fid' is the Frechet distance on the extractor 'inception' only"):
        titles(["fid"], ["pixels"])
    with pytest.raises(NoiseganError, match="unknown metric 'precison'; did you mean 'precision'"):
        titles(["precison"], ["pixels"])


def test_too_few_images_for_a_metric_are_refused(scores: Plugins) -> None:
    with pytest.raises(NoiseganError, match=r"the metric .precision. needs at least .* samples is 3: raise it"):
        choose_columns(["fd", "precision"], ["pixels"], scores, samples=3, real_samples=99)
    with pytest.raises(NoiseganError, match="real_samples is 2: raise it"):
        choose_columns(["precision"], ["pixels"], scores, samples=99, real_samples=2)


def test_one_snapshot_is_scored_by_the_command(tmp_path: Path) -> None:
    run = noisegan.train(outdir=str(tmp_path), noise="additive", quiet=True, **SMALL)
    words = ["metrics", "--network", str(run), "--metrics", "fd,brightness", "--extractors", "pixels"]
    words += ["--samples", "12", "--real-samples", "50", "--plugin", str(SCORES)]
    ended = forking.run(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("FD (pixels)")
    ended = forking.run(*words, "--json", "--seeds", "0-1", "--data", "digits")
    found = json.loads(ended.stdout)
    assert [(s["key"], s["seed"]) for s in found["scores"]] == [
        ("fd@pixels", 0), ("brightness@pixels", 0), ("fd@pixels", 1), ("brightness@pixels", 1)
    ]  # fmt: skip
    lines = [json.loads(line) for line in (run / "metric-fd.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert lines[0]["results"] == lines[1]["results"] == {"fd@pixels": found["scores"][0]["value"]}
    assert lines[0]["extractor"]["weights"].startswith("none sha256:")


def test_scoring_data_of_other_colours_is_refused(tmp_path: Path) -> None:
    run = noisegan.train(outdir=str(tmp_path), noise="none", quiet=True, **SMALL)
    np.save(tmp_path / "colour.npy", np.zeros((20, 8, 8, 3), dtype=np.uint8))
    ended = forking.run(
        "metrics", "--network", str(run), "--data", str(tmp_path / "colour.npy"), "--extractors", "pixels"
    )
    assert ended.returncode == 2
    assert "has 3 channels and" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
