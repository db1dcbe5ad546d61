"""Inversion on the command line: every kind of image, what is written, rendering again, stopping, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_cli_train import mistake, run
from test_inversion import samples
from training import ALL_POINTS, SMALL, as_arguments

import noisegan
from noisegan.core.images import to_bytes
from noisegan.errors import Interrupted, NoiseganError
from noisegan.inversion import folders
from noisegan.inversion import projector as projector_module
from noisegan.inversion.encoder import load_encoder, train_encoder
from noisegan.inversion.losses import make_loss
from noisegan.inversion.output import read_projected
from noisegan.inversion.projector import Projector, ProjectorOptions, invert
from noisegan.inversion.spaces import w_statistics
from noisegan.inversion.targets import read_targets
from noisegan.inversion.tuning import tune

QUICK = ["--steps", "6", "--loss", "mse", "--device", "cpu"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """A barely trained network per kind of image, and one with the noise of a plugin."""
    folder = tmp_path_factory.mktemp("networks")
    made = {}
    for name, channels, noise in ((1, 1, "fuzzy"), (3, 3, "additive(strength=0.3)"), (4, 4, "additive(strength=0.3)")):
        images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, channels), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images)
        options = SMALL | {"data": folder / f"{name}.npz", "kimg": 0.008, "tick": 0.008, "noise": noise}
        made[name] = noisegan.train(outdir=str(folder / "runs"), quiet=True, **as_config(options))
    return made


def as_config(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> Path:
    """A random picture of (width, height)."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels).save(path)
    return path


def png(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("channels", "space"), [(1, "w"), (3, "w+"), (4, "z"), (3, "pti")])
def test_inverting_and_rendering_again(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: int, space: str
) -> None:
    for seed, mode in enumerate(("L", "RGB", "RGBA")):
        picture(tmp_path / "photos" / f"{mode}.png", mode=mode, seed=seed)
    out = tmp_path / "out"
    common = ["--target", str(tmp_path / "photos"), "--space", space, "--pti-steps", "3", "--batch", "2"]
    code, text, err = run(
        capsys, "project", "--network", str(networks[channels]), *common, *QUICK, "--outdir", str(out)
    )
    assert code == 0, err
    assert text.splitlines()[-1] == f"3 images in {out} (space {space}, noise optimised, 6 steps)"
    assert {file.name for file in out.iterdir()} == {"L", "RGB", "RGBA"}
    files = {"target.png", "proj.png", "progress.png", "projected_w.npz", "settings.json"}
    assert {f.name for f in (out / "RGB").iterdir()} == files | ({"tuned.safetensors"} if space == "pti" else set())
    own = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    np.testing.assert_array_equal(png(out / own / "target.png"), png(tmp_path / "photos" / f"{own}.png"))
    assert png(out / "L" / "progress.png").shape[:2] == (8, 8 * (2 + 6))
    settings = json.loads((out / "RGB" / "settings.json").read_text())
    assert settings["space"] == space
    assert settings["steps"] == 6
    assert settings["loss_weights"] == {"mse": {"weight": 1.0, "network": "none"}}
    assert settings["noise_kept"] == {}
    with np.load(out / "RGB" / "projected_w.npz") as arrays:
        assert arrays["w"].shape == (1, 4, 8)
        assert arrays["loss/mse"].shape == (6,)
        noise = [name for name in arrays.files if name.startswith("noise/")]
        assert [arrays[name].shape for name in noise] == [(1, 1, 4, 4), (1, 1, 8, 8), (1, 1, 8, 8)]
        assert ("z" in arrays.files) == (space == "z")

    code, _, err = run(capsys, "generate", "--projected", str(out), "--outdir", str(tmp_path / "again"))
    assert code == 0, err
    for name in ("L", "RGB", "RGBA"):
        np.testing.assert_array_equal(png(tmp_path / "again" / f"{name}.png"), png(out / name / "proj.png"))
    for mode in ("fresh", "off"):
        code, _, err = run(
            capsys, "generate", "--projected", str(out / "L"), "--noise-mode", mode, "--noise-seed", "3",
            "--outdir", str(tmp_path / mode), "--network", str(networks[channels]),
        )  # fmt: skip
        assert code == 0, err
        assert [file.name for file in (tmp_path / mode).glob("*.png")] == ["L.png"]
        assert not np.array_equal(png(tmp_path / mode / "L.png"), png(out / "L" / "proj.png"))


def test_frozen_noise_is_that_of_fixed(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "photos" / "a.png"), picture(tmp_path / "photos" / "b.png", seed=1)
    out = tmp_path / "out"
    code, _, err = run(
        capsys, "project", "--network", str(networks[3]), "--target", str(tmp_path / "photos"), *QUICK,
        "--noise", "fixed", "--noise-seed", "5", "--outdir", str(out),
    )  # fmt: skip
    assert code == 0, err

    def again(name: str, *more: str) -> str:
        code, text, err = run(
            capsys, "generate", "--projected", str(out), "--outdir", str(tmp_path / name), "--noise-mode", *more
        )
        assert code == 0, err
        return text

    assert again("own", "frozen").endswith("(noise frozen, noise seed as projected)\n")
    again("five", "frozen", "--noise-seed", "5"), again("other", "frozen", "--noise-seed", "6")
    again("fresh", "fresh", "--noise-seed", "5")
    for name in "ab":
        proj = png(out / name / "proj.png")
        np.testing.assert_array_equal(png(tmp_path / "own" / f"{name}.png"), proj)
        np.testing.assert_array_equal(png(tmp_path / "five" / f"{name}.png"), proj)
        for other in ("other", "fresh"):
            assert not np.array_equal(png(tmp_path / other / f"{name}.png"), proj)
    assert mistake(
        capsys, "generate", "--projected", str(out), "--noise-seed", "77", "--outdir", str(tmp_path / "g")
    ) == (
        "error: --noise-seed has no meaning with --projected alone: its noise is what was found; add --noise-mode, or "
        "leave it out"
    )


def test_float16_is_not_for_a_cpu(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, target = tmp_path / "out", str(picture(tmp_path / "a.png"))
    base = ["project", "--network", str(networks[3]), "--target", target, *QUICK, "--outdir", str(out)]
    assert mistake(capsys, *base, "--precision", "fp16") == (
        "error: --precision fp16 needs a GPU (a CPU computes it hundreds of times slower): use bf16"
    )
    assert run(capsys, *base)[0] == 0
    settings = out / "a" / "settings.json"
    settings.write_text(settings.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    code, text, err = run(
        capsys, "generate", "--projected", str(out), "--device", "cpu", "--outdir", str(tmp_path / "again")
    )
    assert code == 0, err
    assert text.splitlines()[0] == (
        "made in fp16, which needs a GPU: rendered in fp32 on this CPU, so not the very bytes of proj.png"
    )
    np.testing.assert_array_equal(png(tmp_path / "again" / "a.png"), png(out / "a" / "proj.png"))


def test_low_precision_is_remembered(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = picture(tmp_path / "a.png")
    code, _, err = run(
        capsys, "project", "--network", str(networks[3]), "--target", str(target), *QUICK, "--precision", "bf16",
        "--outdir", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0, err
    run(capsys, "generate", "--projected", str(tmp_path / "out" / "a"), "--outdir", str(tmp_path / "again"))
    np.testing.assert_array_equal(png(tmp_path / "again" / "a.png"), png(tmp_path / "out" / "a" / "proj.png"))


def test_size_and_colour_become_the_networks(tmp_path: Path) -> None:
    wide = picture(tmp_path / "wide.png", (12, 8))
    (found,) = read_targets(wide, resolution=8, channels=3)
    assert found.changes == "centre 8x8 of 12x8, lanczos to 8x8"
    np.testing.assert_array_equal(found.image.permute(1, 2, 0).numpy(), png(wide)[:, 2:10])
    (found,) = read_targets(picture(tmp_path / "large.jpg", (16, 16)), resolution=8, channels=1)
    assert found.changes == "16x16, lanczos to 8x8, to grey"
    assert found.image.shape == (1, 8, 8)
    clear = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    (found,) = read_targets(tmp_path / "clear.png", resolution=8, channels=3)
    assert (found.changes, float(found.image.float().mean())) == ("over white", 255)
    (found,) = read_targets(tmp_path / "clear.png", resolution=8, channels=1)
    assert (found.changes, found.image.shape) == ("over white, to grey", (1, 8, 8))
    (found,) = read_targets(wide.parent / "large.jpg", resolution=16, channels=4)
    assert found.changes == "made opaque"
    picture(tmp_path / "two" / "a.png"), picture(tmp_path / "two" / "a.jpg"), picture(tmp_path / "two" / "b.png")
    (tmp_path / "two" / "notes.txt").write_text("not a picture")
    (tmp_path / "two" / "._a.png").write_text("what macOS leaves beside a.png")
    (tmp_path / "two" / "folder.png").mkdir()
    assert [t.name for t in read_targets(tmp_path / "two", resolution=8, channels=3)] == ["a.jpg", "a.png", "b"]


def test_mistakes_get_one_sentence(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    known = "png, jpg, webp, bmp, gif, tiff, ppm, avif"

    def project(target: Path, *more: str) -> str:
        base = ["project", "--network", str(networks[3]), "--target", str(target), "--outdir", str(tmp_path / "o")]
        return mistake(capsys, *base, *QUICK, *more)

    assert project(tmp_path / "bad.png") == (
        f"error: {tmp_path}/bad.png cannot be read: it is empty, cut short or no image ({known} are read); "
        "replace or remove it"
    )
    assert project(tmp_path / "empty") == (
        f"error: the folder {tmp_path}/empty holds no image ({known} are read): name another"
    )
    assert project(tmp_path / "none") == (
        f"error: there is nothing at {tmp_path}/none: name an image, or a folder of images"
    )
    assert project(good, "--space", "x") == "error: space 'x' is unknown: choose w, w+, z, pti"
    assert project(good, "--precision", "fp8") == "error: precision 'fp8' is unknown: choose fp32, bf16, fp16"
    assert project(good, "--encoder", str(tmp_path / "empty")).endswith("; make one with train-encoder")
    both = "error: give either --seeds, such as --seeds 0-35,40, or --projected with a folder of inversions"
    assert mistake(capsys, "generate", "--network", str(networks[3]), "--outdir", str(tmp_path / "g")) == both
    assert mistake(capsys, "generate", "--seeds", "1", "--outdir", str(tmp_path / "g")) == (
        "error: --network is missing: give a run folder or a snapshot"
    )
    assert mistake(capsys, "generate", "--projected", str(tmp_path / "empty"), "--outdir", str(tmp_path / "g")) == (
        f"error: {tmp_path}/empty holds no inversion (projected_w.npz), nor do folders in it; make one with project"
    )
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_network_of_a_missing_plugin_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SMALL | {"kimg": 0.008, "tick": 0.008, "noise": "all_points"}
    code, _, err = run(
        capsys, "train", *as_arguments(options), "--outdir", str(tmp_path / "runs"), "--plugin", str(ALL_POINTS)
    )
    assert code == 0, err
    (network,) = (tmp_path / "runs").iterdir()
    base = ["project", "--network", str(network), "--target", str(picture(tmp_path / "a.png", mode="L")), *QUICK]
    line = mistake(capsys, *base, "--outdir", str(tmp_path / "o"))
    assert "all_points" in line
    code, _, err = run(capsys, *base, "--outdir", str(tmp_path / "o"), "--plugin", str(ALL_POINTS))
    assert code == 0, err


def test_what_is_finished_is_kept_and_the_rest_gone_on_with(
    networks: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        picture(tmp_path / "photos" / f"{seed}.png", seed=seed)
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir(), whole.mkdir()
    common: dict[str, Any] = {"steps": 4, "loss": "mse", "batch": 2, "device": "cpu"}
    list(folders.project(networks[3], tmp_path / "photos", whole, **common))
    true_run, calls = Projector.run, []

    def stopping(self: Projector, *arguments: Any, **more: Any) -> Any:
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true_run(self, *arguments, **more)

    monkeypatch.setattr(Projector, "run", stopping)
    with pytest.raises(Interrupted) as stop:
        list(folders.project(networks[3], tmp_path / "photos", out, **common))
    assert str(stop.value) == (f"stopped: 2 of 5 images are finished in {out}; the same command goes on with the rest")
    assert sorted(file.name for file in out.iterdir()) == ["0", "1"]
    before = (out / "0" / "settings.json").stat().st_mtime_ns
    lines = list(folders.project(networks[3], tmp_path / "photos", out, **common))
    assert calls == [2, 2, 2, 1]
    assert lines[0] == "2 of 5 images are there already"
    assert (out / "0" / "settings.json").stat().st_mtime_ns == before
    assert sorted(file.name for file in out.iterdir()) == ["0", "1", "2", "3", "4"]
    for one, other in zip(read_projected(out), read_projected(whole), strict=True):
        torch.testing.assert_close(one.w, other.w)
    assert list(folders.project(networks[3], tmp_path / "photos", out, **common)) == ["5 of 5 images are there already"]

    with pytest.raises(NoiseganError) as caught:
        list(folders.project(networks[3], tmp_path / "photos", out, **common | {"steps": 5}))
    assert str(caught.value) == (
        f"{out}/0 holds an inversion with other settings (steps differ); choose another --outdir, or delete it"
    )
    unrelated = {"pti_steps": 7, "pti_lr": 0.1}
    list(folders.project(networks[3], tmp_path / "photos", out, **common | unrelated))
    settings = out / "0" / "settings.json"
    for content in ("[]", "{}", "no json"):
        settings.write_text(content)
        with pytest.raises(NoiseganError, match="0 is there and holds no finished inversion; choose another --outdir"):
            list(folders.project(networks[3], tmp_path / "photos", out, **common))
        with pytest.raises(NoiseganError, match="0 holds no whole inversion"):
            list(folders.render_again(out))
    shutil.rmtree(out / "0")
    (out / "0").mkdir()
    with pytest.raises(NoiseganError, match="0 is there and holds no finished inversion; choose another --outdir"):
        list(folders.project(networks[3], tmp_path / "photos", out, **common))


def test_only_what_an_inversion_depends_on_refuses_a_rerun(networks: dict[Any, Path], tmp_path: Path) -> None:
    target = picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    common: dict[str, Any] = {"steps": 1, "loss": "mse", "device": "cpu", "noise": "off"}

    def project(**options: Any) -> list[str]:
        return list(folders.project(networks[3], target, tmp_path / "out", **common | options))

    project()
    assert project(noise_weight=1.0, noise_seed=4, pti_steps=9) == ["1 of 1 images are there already"]
    for options, name in (({"seed": 1}, "seed"), ({"noise": "fixed"}, "noise"), ({"space": "w+"}, "space")):
        with pytest.raises(NoiseganError, match=rf"other settings \({name} differ"):
            project(**options)
    path = tmp_path / "out" / "a" / "settings.json"
    older = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("encoder", "seed")}
    path.write_text(json.dumps(older))
    assert project() == ["1 of 1 images are there already"]


def test_tuned_images_of_a_stopped_batch_are_kept(
    networks: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        picture(tmp_path / "photos" / f"{seed}.png", seed=seed)
    out = tmp_path / "out"
    out.mkdir()
    common: dict[str, Any] = {"steps": 2, "pti_steps": 2, "space": "pti", "loss": "mse", "device": "cpu"}
    calls = []

    def stopping(*arguments: Any, **more: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tune(*arguments, **more)

    monkeypatch.setattr(projector_module, "tune", stopping)
    with pytest.raises(Interrupted, match="stopped: 2 of 3 images are finished"):
        list(folders.project(networks[3], tmp_path / "photos", out, **common))
    assert sorted(file.name for file in out.iterdir()) == ["0", "1"]
    lines = list(folders.project(networks[3], tmp_path / "photos", out, **common))
    assert [line.split(":")[0] for line in lines[:2]] == ["2 of 3 images are there already", "2"]
    settings = json.loads((out / "2" / "settings.json").read_text())
    assert 0 < settings["tuning_seconds"] < settings["seconds"]


def test_an_image_that_cannot_be_written_leaves_no_half(
    networks: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(NoiseganError, match=r"cannot write .*/a: No space left on device; free some space"):
        list(folders.project(networks[3], picture(tmp_path / "a.png"), out, steps=1, loss="mse", device="cpu"))
    assert list(out.iterdir()) == []


def test_another_network_does_not_render_an_inversion(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    list(folders.project(networks[3], picture(tmp_path / "a.png"), out, steps=1, loss="mse", device="cpu"))
    line = mistake(
        capsys, "generate", "--projected", str(out), "--network", str(networks[4]), "--outdir", str(tmp_path / "g")
    )
    assert line == (f"error: {out}/a was made by another network than {networks[4]}; give its own --network")
    (out / "a" / "projected_w.npz").write_bytes(b"cut short")
    with pytest.raises(NoiseganError, match="a holds no whole inversion"):
        list(read_projected(out))


def test_an_encoder_learns_w_and_starts_inversions(
    networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    G = noisegan.load(networks[1], device="cpu").G_ema
    _, untrained = train_encoder(G, kimg=0.064, batch=32)
    out = tmp_path / "encoder"
    code, text, err = run(
        capsys, "train-encoder", "--network", str(networks[1]), "--kimg", "4", "--outdir", str(out), "--device", "cpu"
    )
    assert code == 0, err
    assert text.startswith(f"{out}/encoder.safetensors: squared error 0.")
    encoder = load_encoder(out, G, torch.device("cpu"))
    z = torch.randn(64, G.z_dim)
    w = G.mapping(z)
    error = float((encoder(G(z, noise="frozen")) - w).square().mean() / w.var(dim=0).mean())
    assert error < 0.6 * untrained
    assert load_file(out / "encoder.safetensors")["mean"].shape == (8,)
    target = tmp_path / "t.png"
    Image.fromarray(to_bytes(G(z[:1], noise="frozen"))[0, 0].numpy()).save(target)
    (tmp_path / "o").mkdir()
    list(
        folders.project(
            networks[1], target, tmp_path / "o", steps=1, loss="mse", device="cpu", encoder=out, noise="fixed"
        )
    )
    settings = json.loads((tmp_path / "o" / "t" / "settings.json").read_text())
    assert settings["perturbation"] == 0
    assert settings["encoder"]["sha256"]
    moved = shutil.copytree(out, tmp_path / "moved")
    again = {"steps": 1, "loss": "mse", "device": "cpu", "encoder": moved, "noise": "fixed"}
    assert list(folders.project(networks[1], target, tmp_path / "o", **again)) == ["1 of 1 images are there already"]
    with pytest.raises(NoiseganError, match=r"other settings .*encoder"):
        list(folders.project(networks[1], target, tmp_path / "o", **again | {"encoder": None}))
    with pytest.raises(NoiseganError) as caught:
        load_encoder(out, G, torch.device("cpu"), network_sha256="0" * 64)
    assert str(caught.value) == (
        f"{out}/encoder.safetensors is the encoder of another network; train one for this one with train-encoder"
    )
    with pytest.raises(NoiseganError, match="is the encoder of a network of another shape; train one for this one"):
        load_encoder(out, noisegan.load(networks[3], device="cpu").G_ema, torch.device("cpu"))
    with pytest.raises(NoiseganError, match=r"--kimg 0\.001 is less than one batch of 32 images; give a larger one"):
        train_encoder(G, kimg=0.001)
    base = ["train-encoder", "--network", str(networks[1]), "--outdir", str(tmp_path / "e"), "--device", "cpu"]
    for kimg in ("nan", "inf"):
        assert mistake(capsys, *base, "--kimg", kimg) == f"error: --kimg must be a finite number, not {kimg}"


@pytest.mark.slow
def test_a_trained_networks_own_images_are_found_again_with_the_defaults(tmp_path: Path) -> None:
    """Default loss and optimised noise, neither w nor noise known: below 0.006 each, a tenth of the mean image's."""
    options = SMALL | {"kimg": 1, "tick": 1}
    network = noisegan.train(outdir=str(tmp_path / "runs"), quiet=True, noise="additive(strength=0.1)", **options)
    G = noisegan.load(network, device="cpu").G_ema
    targets, _, noise = samples(G, 4)
    distance = make_loss("st-lpips-alex", torch.device("cpu"))
    mean = G.synthesis(w_statistics(G).mean.expand(4, G.num_ws, -1), noise)
    start = float(distance(mean, distance.prepare(targets))["st-lpips-alex"].mean())
    found = [one.final["st-lpips-alex"] for one in invert(G, targets, ProjectorOptions(steps=150))]
    assert max(found) < 0.006
    assert float(np.mean(found)) < 0.1 * start
    strange = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 1, 8, 8))).float()
    assert invert(G, strange, ProjectorOptions(steps=50))[0].final["st-lpips-alex"] > 0.03


def test_a_film_needs_imageio(networks: dict[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = picture(tmp_path / "a.png")
    arguments = ["project", "--network", str(networks[3]), "--target", str(target), *QUICK, "--save-video"]
    try:
        import imageio_ffmpeg  # type: ignore[import-not-found,import-untyped]  # noqa: F401
    except ImportError:
        line = mistake(capsys, *arguments, "--outdir", str(tmp_path / "o"))
        assert line == "error: --save-video needs imageio with ffmpeg: pip install 'imageio[ffmpeg]'"
    else:
        code, _, err = run(capsys, *arguments, "--outdir", str(tmp_path / "o"))
        assert code == 0, err
        assert (tmp_path / "o" / "a" / "proj.mp4").stat().st_size > 0
