"""Inversion on the command line: every kind of image, what is written, rendering again, encoders, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import projecting
import pytest
import torch
from PIL import Image
from projecting import picture, png
from safetensors.torch import load_file
from test_cli_train import mistake, run
from training import ALL_POINTS, SMALL, as_arguments

import noisegan
from noisegan.core.images import to_bytes
from noisegan.errors import NoiseganError
from noisegan.inversion import folders
from noisegan.inversion.encoder import load_encoder, train_encoder
from noisegan.inversion.output import read_projected

networks = projecting.networks
QUICK = ["--steps", "6", "--loss", "mse", "--device", "cpu"]


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
