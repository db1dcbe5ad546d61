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
from training import ALL_POINTS, SMALL, as_arguments

import noisegan
from noisegan.core.images import to_bytes
from noisegan.errors import Interrupted, NoiseganError
from noisegan.inversion import folders
from noisegan.inversion.encoder import load_encoder, train_encoder
from noisegan.inversion.output import read_projected
from noisegan.inversion.projector import Projector
from noisegan.inversion.targets import read_targets

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
    shutil.rmtree(out / "0")
    (out / "0").mkdir()
    with pytest.raises(NoiseganError, match="0 is there and holds no finished inversion; choose another --outdir"):
        list(folders.project(networks[3], tmp_path / "photos", out, **common))


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
        read_projected(out)


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
    with pytest.raises(NoiseganError, match="is the encoder of a network of another shape; train one for this one"):
        load_encoder(out, noisegan.load(networks[3], device="cpu").G_ema, torch.device("cpu"))
    with pytest.raises(NoiseganError, match=r"--kimg 0\.001 is less than one batch of 32 images; give a larger one"):
        train_encoder(G, kimg=0.001)


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
