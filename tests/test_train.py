"""The trainer: what a run leaves behind, what stays the same however it is split, what hooks see, how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training import ALL_POINTS, SMALL

import noisegan
from noisegan.api import hookimpl
from noisegan.core.checkpoint import find_snapshot, kimg_label, read_facts, snapshots
from noisegan.core.config import PRESETS, TrainConfig
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

SHORT = SMALL | {"kimg": 0.04, "tick": 0.02}


def plugins(*files: Path, **hooks: Any) -> Plugins:
    found = Plugins([ALL_POINTS, *files], entry_points=False)
    if hooks:
        found._pluggy.register(SimpleNamespace(**{k: hookimpl(v) for k, v in hooks.items()}), "observer")
    return found


def train(outdir: Path, **options: Any) -> Path:
    found = options.pop("plugins", None) or plugins()
    return noisegan.train(outdir=str(outdir), plugins=found, quiet=True, **SHORT | options)


def stats(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_what_users_expect(tmp_path: Path) -> None:
    run = train(tmp_path, noise="fuzzy", desc="mine")
    assert run.name == "00000-mine"
    assert {p.name for p in run.iterdir()} == {
        ".lock", "log.txt", "training_options.json", "stats.jsonl", "pairing.json", "reals.png", "fakes_init.png",
        *(f"fakes000000.{n}.png" for n in ("024", "040")),
        *(f"network-snapshot-000000.{n}.{s}" for n in ("024", "040") for s in ("json", "safetensors")),
    } | {p.name for p in run.glob("events.out.tfevents*")}  # fmt: skip
    options = json.loads((run / "training_options.json").read_text())
    assert options["config"]["noise"] == "fuzzy"
    assert options["dataset"]["fingerprint"].startswith("sha256:")
    assert options["noise"][0]["plugin"] == "noisegan.plugins.fuzzy"
    assert options["noise"][0]["params"] == {"form": "scaled", "alpha": 0.5, "gain": 1.0}
    assert options["versions"]["torch"] == torch.__version__
    facts = read_facts(find_snapshot(run))
    assert facts == json.loads(find_snapshot(run).with_suffix(".json").read_text())
    assert "fuzzy on digits" in (run / "log.txt").read_text()
    with Image.open(run / "reals.png") as grid:
        assert grid.size == (64, 64)


def test_the_last_step_may_pass_the_total_and_then_nothing_is_left(tmp_path: Path) -> None:
    run = train(tmp_path, kimg=0.042)  # five steps of eight are too few
    ticks = [line for line in (run / "log.txt").read_text().splitlines() if "img/s" in line]
    assert "kimg 0.048" in ticks[-1]
    assert ticks[-1].endswith("left 0 s")


def test_run_folders_are_numbered_from_the_highest(tmp_path: Path) -> None:
    (tmp_path / "00041-older").mkdir()
    assert train(tmp_path).name == "00042-digits-tiny-additive"


def test_statistics_tell_losses_and_the_strength_of_noise_per_layer(tmp_path: Path) -> None:
    lines = stats(train(tmp_path, noise="additive(strength=0.5)"))
    assert [line["nimg"] for line in lines] == [24, 40]
    first = lines[0]
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/scores/fake", "Loss/signs/real", "Loss/r1_penalty"):
        assert first[name]["num"] >= 8, name
        assert set(first[name]) == {"num", "mean", "std"}
    for site in ("b4.conv1", "b8.conv0", "b8.conv1"):
        assert first[f"Noise/{site}/additive/strength"]["mean"] == pytest.approx(0.5, abs=0.05)
        assert 0.1 < first[f"Noise/{site}/additive/noise_to_signal"]["mean"] < 2
    assert first["Timing/sec_per_kimg"]["mean"] > 0


@pytest.mark.parametrize("noise", ["fuzzy", "all_points"])
def test_gradient_accumulation_changes_nothing_but_rounding(tmp_path: Path, noise: str) -> None:
    whole, split = train(tmp_path, noise=noise), train(tmp_path, noise=noise, batch_gpu=4)
    for a, b in zip(stats(whole), stats(split), strict=True):
        for name in a:
            if name.startswith(("Loss/", "Noise/")):
                assert a[name]["mean"] == pytest.approx(b[name]["mean"], rel=2e-3, abs=1e-4), name
    assert (whole / "pairing.json").read_bytes() == (split / "pairing.json").read_bytes()


def test_runs_of_two_strategies_are_paired(tmp_path: Path) -> None:
    """Same data order, same latents, same shared weights at the start: the certificates agree."""
    certificates = [
        json.loads((train(tmp_path, noise=noise) / "pairing.json").read_text())
        for noise in ("none", "additive", "fuzzy", "all_points")
    ]
    assert certificates[0]["data_order"]
    assert all(certificate == certificates[0] for certificate in certificates)
    other = json.loads((train(tmp_path, seed=2) / "pairing.json").read_text())
    for key in ("data_order", "z", "initial_weights"):
        assert other[key] != certificates[0][key]


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path: Path) -> None:
    a, b = (find_snapshot(train(tmp_path, noise="fuzzy")) for _ in range(2))
    assert a.read_bytes() == b.read_bytes()


def test_training_moves_every_network_and_the_average_lags_behind(tmp_path: Path) -> None:
    run = train(tmp_path, noise="fuzzy", ema_rampup=None, ema_kimg=0.1)
    first, last = (load_file(path) for path in snapshots(run))
    for name in ("G.synthesis.b8.conv0.weight", "D.b8.conv0.weight", "G.synthesis.b8.conv0.noise.fuzzy.scale"):
        assert not torch.equal(first[name], last[name]), name
    start = noisegan.Generator(**read_facts(find_snapshot(run))["networks"]["G"], noise="fuzzy", plugins=plugins())
    name = "synthesis.b8.conv0.weight"
    moved = (last[f"G.{name}"] - start.state_dict()[name]).norm()
    averaged = (last[f"G_ema.{name}"] - start.state_dict()[name]).norm()
    assert 0 < averaged < moved


def test_bfloat16_trains(tmp_path: Path) -> None:
    run = train(tmp_path, noise="fuzzy", precision="bf16")
    full = train(tmp_path, noise="fuzzy")
    a, b = stats(run)[0], stats(full)[0]
    assert a["Loss/D/loss"]["mean"] != b["Loss/D/loss"]["mean"]
    assert a["Loss/D/loss"]["mean"] == pytest.approx(b["Loss/D/loss"]["mean"], rel=0.05)


def test_float16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(NoiseganError, match="fp16 needs a GPU"):
        train(tmp_path, precision="fp16")


@pytest.mark.parametrize("architecture", ["skip", "residual", "plain"])
def test_architectures_train(tmp_path: Path, architecture: str) -> None:
    run = train(tmp_path, g_arch=architecture, d_arch=architecture)
    image = noisegan.load(run, plugins=plugins()).G_ema(torch.zeros(1, 8), noise="frozen")
    assert image.isfinite().all()


def test_hooks_see_the_run_as_documented(tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []

    def before_train(run: Any) -> None:
        seen.append(("before", run))

    def after_step(run: Any, step: Any) -> None:
        seen.append(("step", step))

    def after_train(run: Any, summary: Any) -> None:
        seen.append(("after", summary))

    observed = plugins(before_train=before_train, after_step=after_step, after_train=after_train)
    run = train(tmp_path, noise="fuzzy(alpha=0.25)", plugins=observed)
    names = [name for name, _ in seen]
    assert names == ["before", *["step"] * 5, "after"]
    assert seen[0][1].outdir == run
    assert seen[0][1].noise == "fuzzy(alpha=0.25)"
    assert [(step.step, step.nimg) for _, step in seen[1:6]] == [(i, 8 * i + 8) for i in range(5)]
    assert set(seen[1][1].losses) == {"G", "PL", "D", "R1"}
    assert set(seen[2][1].losses) == {"G", "D"}
    assert seen[-1][1].snapshot == find_snapshot(run)
    with pytest.raises(AttributeError):
        seen[0][1].noise = "other"


def test_an_error_in_a_hook_stops_the_run_and_observers_hear_of_it(tmp_path: Path) -> None:
    heard: list[BaseException] = []

    def after_step(run: Any, step: Any) -> None:
        raise ZeroDivisionError

    def on_train_error(run: Any, error: BaseException) -> None:
        heard.append(error)

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, plugins=plugins(after_step=after_step, on_train_error=on_train_error))
    assert [type(error) for error in heard] == [ZeroDivisionError]


def test_a_fault_in_on_train_error_does_not_hide_the_first_one(tmp_path: Path) -> None:
    def after_step(run: Any, step: Any) -> None:
        raise ZeroDivisionError

    def on_train_error(run: Any, error: BaseException) -> None:
        raise KeyError("another")

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, plugins=plugins(after_step=after_step, on_train_error=on_train_error))
    (run,) = tmp_path.iterdir()
    assert "on_train_error failed: KeyError" in (run / "log.txt").read_text()


def test_the_users_interruption_is_no_train_error(tmp_path: Path) -> None:
    heard: list[BaseException] = []

    def after_step(run: Any, step: Any) -> None:
        raise KeyboardInterrupt

    def on_train_error(run: Any, error: BaseException) -> None:
        heard.append(error)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, plugins=plugins(after_step=after_step, on_train_error=on_train_error))
    assert not heard


UNMEASURABLE = """
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class Unmeasurable(FeatureInjector):
    def __init__(self, site):
        super().__init__()
        self.resolution = site.resolution
    def draw(self, source):
        return source.normal(1, self.resolution, self.resolution)
    def forward(self, x, noise, w):
        return x + noise / noise.square().mean().sqrt()

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="unmeasurable", params=Params, summary="s", reference="r", identity_at_init=False,
                          feature=lambda site, p: Unmeasurable(site)))
"""


def test_a_strength_that_cannot_be_measured_is_null_and_not_zero(tmp_path: Path) -> None:
    file = tmp_path / "unmeasurable.py"
    file.write_text(UNMEASURABLE)
    run = train(tmp_path / "o", noise="unmeasurable", plugins=plugins(file))
    assert stats(run)[0]["Noise/b8.conv0/unmeasurable/noise_to_signal"]["mean"] is None


EXPLODING = """
import torch
from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl

class Exploding(FeatureInjector):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0))
    def set_progress(self, fraction):
        self.factor.fill_(float("nan") if fraction > 0.5 else 1.0)
    def draw(self, source):
        return source.normal(0)
    def forward(self, x, noise, w):
        return x * self.factor

@hookimpl
def register_strategies(register):
    register(StrategySpec(name="exploding", params=Params, summary="s", reference="r", identity_at_init=True,
                          feature=lambda site, p: Exploding()))
"""


def test_a_non_finite_loss_stops_the_run_and_saves_the_state_before_it(tmp_path: Path) -> None:
    file = tmp_path / "exploding.py"
    file.write_text(EXPLODING)
    with pytest.raises(
        NoiseganError, match=r"stopped at step 3 \(0.024 kimg\) with noise exploding: the loss of phase G is not finite"
    ) as caught:
        train(tmp_path / "o", noise="exploding", plugins=plugins(file))
    (run,) = (tmp_path / "o").iterdir()
    saved = run / "nonfinite-000000.024.safetensors"
    assert str(saved) in str(caught.value)
    before, regular = load_file(saved), load_file(snapshots(run)[-1])
    assert read_facts(saved)["counters"]["step"] == 3
    for name, tensor in regular.items():  # a snapshot was due at the same moment: the states are the same
        if not name.endswith("factor"):
            assert torch.equal(tensor, before[name]), name
            assert tensor.isfinite().all(), name


def test_a_state_saved_in_the_middle_of_a_step_goes_on_exactly(tmp_path: Path) -> None:
    """The discriminator's turn fails after the generator's: the phase is part of the state."""
    from noisegan.core import losses

    whole = train(tmp_path / "a")
    honest = losses.discriminator_loss
    calls = 0

    def failing(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return honest(real, fake) * (float("nan") if calls == 4 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "discriminator_loss", failing)
        with pytest.raises(NoiseganError, match="phase D"):
            train(tmp_path / "b")
    (run,) = (tmp_path / "b").iterdir()
    saved = run / "nonfinite-000000.024.safetensors"
    assert read_facts(saved)["counters"]["phase"] == 2
    again = noisegan.train(resume=saved, outdir=str(tmp_path / "c"), plugins=plugins(), quiet=True)
    assert find_snapshot(again).read_bytes() == find_snapshot(whole).read_bytes()


def test_less_than_one_image_is_refused() -> None:
    with pytest.raises(NoiseganError, match=r"--kimg 0\.0004 is less than one image"):
        TrainConfig(data="d", outdir="o", kimg=0.0004).resolve()


def test_a_config_explains_itself_without_a_traceback_of_pydantic() -> None:
    with pytest.raises(NoiseganError, match="--outdir is missing"):
        TrainConfig(data="digits")
    assert TrainConfig(data=Path("d"), outdir=Path("o")).data == "d"


def test_presets_are_those_of_the_design() -> None:
    assert set(PRESETS) == {"tiny", "64", "e", "f"}
    tiny = TrainConfig(data="d", outdir="o", cfg="tiny").resolve()
    assert (tiny.resolution, tiny.z_dim, tiny.w_dim, tiny.map_depth, tiny.batch, tiny.gamma) == (
        32,
        128,
        128,
        4,
        16,
        0.2,
    )
    f = TrainConfig(data="d", outdir="o", cfg="F").resolve()
    assert (f.cbase, f.cmax, f.batch, f.gamma, f.map_depth) == (32768, 512, 32, 10, 8)
    e = TrainConfig(data="d", outdir="o", cfg="E").resolve()
    assert e.cbase == 16384
    assert TrainConfig(data="d", outdir="o", gamma=3.0).resolve().gamma == 3


def test_snapshot_names_carry_fractions_only_where_needed() -> None:
    assert [kimg_label(n) for n in (0, 40, 12_000, 12_008)] == ["000000", "000000.040", "000012", "000012.008"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_rgb_and_rgba_with_labels_train(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8, channels), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(24) % 3)
    run = train(tmp_path / "o", data=str(tmp_path / "d.npz"), cond=True, mirror=True)
    facts = read_facts(find_snapshot(run))
    assert facts["networks"]["G"]["c_dim"] == 3
    assert facts["networks"]["G"]["img_channels"] == channels
    with Image.open(run / "fakes_init.png") as grid:
        assert grid.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]


def test_tensorboard_events_are_written_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert list(train(tmp_path).glob("events.out.tfevents*"))


def test_float16_scales_its_losses_and_skips_overflow_as_on_a_gpu() -> None:
    """The float16 code on a CPU, where it is slow but the same: the scaler's state grows, backs off and is kept."""
    from noisegan.core.config import networks
    from noisegan.core.data import open_dataset
    from noisegan.core.distributed import World
    from noisegan.core.images import to_float
    from noisegan.core.phases import RealBatch, TrainingStep
    from noisegan.core.rng import Streams
    from noisegan.core.state import TrainState

    def step(precision: str, scale: float) -> tuple[TrainState, dict[str, float]]:
        config = TrainConfig(outdir="", **SMALL | {"precision": precision}).resolve()
        data = open_dataset("digits", resolution=8)
        device = torch.device("cpu")
        arguments = networks(config, resolution=8, img_channels=1, c_dim=0)
        state = TrainState(config, arguments, plugins().parse("fuzzy"), data="", device=device)
        if precision == "fp16":
            for kept in state.loss_scales.values():
                kept.factor.fill_(scale)
        runner = TrainingStep(state, config, data, Streams(1), World(0, 1, device))
        real = RealBatch(to_float(data.images(range(8))), data.labels(range(8)))
        return state, runner.run(real)

    _, full = step("fp32", 1)
    half, losses = step("fp16", 2.0**10)
    assert losses["R1"] == pytest.approx(full["R1"], rel=0.05)
    assert losses["PL"] == pytest.approx(full["PL"], rel=0.05)
    assert losses["D"] == pytest.approx(full["D"], rel=0.05)
    assert float(half.tensors()["loss_scale_D/factor"]) == 2.0**10
    overflown, losses = step("fp16", 2.0**100)
    assert "R1" not in losses
    assert "Loss/r1_penalty" not in overflown.statistics.state()
    assert float(overflown.tensors()["loss_scale_D/factor"]) < 2.0**100
    assert all(p.isfinite().all() for p in overflown.D.parameters())
