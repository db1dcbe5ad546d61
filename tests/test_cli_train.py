"""The command line: every command on every kind of image, and one clear sentence for every mistake."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training import ALL_POINTS, SMALL, as_arguments, snapshot_names, started

from noisegan.cli import main
from noisegan.core.checkpoint import find_snapshot
from noisegan.core.images import to_bytes

SHORT = SMALL | {"kimg": 0.016, "tick": 0.008}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, in this process."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    out, err = capsys.readouterr()
    code = stop.value.code
    assert isinstance(code, int)
    return code, out, err


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that a mistake gets."""
    code, _, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith(("error:", "Error:"))]
    assert code == 2, err
    assert "Traceback" not in err
    assert len(lines) == 1, err
    return lines[0]


def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> Path:
    extra = ["--plugin", str(ALL_POINTS)] if options.get("noise") == "all_points" else []
    code, _, err = run(capsys, "train", *as_arguments(SHORT | options), "--outdir", str(tmp_path / "runs"), *extra)
    assert code == 0, err
    return max((tmp_path / "runs").iterdir())


@pytest.fixture
def small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    return trained(tmp_path, capsys, noise="fuzzy")


@pytest.mark.slow
def test_fractions_of_a_kimg_work_everywhere(tmp_path: Path) -> None:
    """The command of the documentation, at its own size."""
    done = started(
        "train", "--data", "digits", "--cfg", "tiny", "--noise", "fuzzy", "--kimg", "0.16", "--batch", "8",
        "--tick", "0.04", "--snap", "1", "--seed", "1", "--outdir", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert snapshot_names(folder) == [f"network-snapshot-000000.{n}.safetensors" for n in ("040", "080", "120", "160")]
    assert [json.loads(line)["nimg"] for line in (folder / "stats.jsonl").read_text().splitlines()] == [
        40,
        80,
        120,
        160,
    ]


@pytest.mark.parametrize("cond", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_train_generate_and_mix_on_grey_rgb_and_rgba(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: int, cond: bool
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8, channels), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(24) % 3)
    folder = trained(tmp_path, capsys, data=str(tmp_path / "d.npz"), cond=cond, noise="additive+fuzzy")
    network = ["--network", str(folder), *(["--class", "2"] if cond else [])]
    out = tmp_path / "out"
    assert run(capsys, "generate", *network, "--seeds", "0-2,7", "--trunc", "0.7", "--outdir", str(out))[0] == 0
    assert {p.name for p in out.iterdir()} == {"generate.json", "grid.png"} | {f"seed000{i}.png" for i in (0, 1, 2, 7)}
    with Image.open(out / "seed0007.png") as image:
        assert image.size == (8, 8)
        assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    mix = tmp_path / "mix"
    code = run(capsys, "style-mix", *network, "--rows", "0,1", "--cols", "5-6", "--styles", "0-1", "--outdir", str(mix))
    assert code[0] == 0
    with Image.open(mix / "grid.png") as grid:
        assert grid.size == (24, 24)
    assert {p.name for p in mix.glob("*-?.png")} == {"0-5.png", "0-6.png", "1-5.png", "1-6.png"}


def pixels(folder: Path, seed: int) -> np.ndarray:
    with Image.open(folder / f"seed{seed:04d}.png") as image:
        return np.asarray(image).astype(int)


def test_noise_modes_of_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, capsys, noise="additive(strength=1)")

    def images(name: str, *arguments: str) -> Path:
        out = tmp_path / name
        base = ("generate", "--network", str(folder), "--outdir", str(out))
        assert run(capsys, *base, *arguments)[0] == 0
        return out

    frozen, other = images("a", "--seeds", "3-5"), images("b", "--seeds", "5,9")
    assert np.abs(pixels(frozen, 5) - pixels(other, 5)).max() <= 1, "frozen noise depends on the seed alone"
    off = images("c", "--seeds", "5", "--noise-mode", "off")
    fresh = images("d", "--seeds", "5", "--noise-mode", "fresh")
    again = images("e", "--seeds", "5", "--noise-mode", "fresh")
    assert np.abs(pixels(frozen, 5) - pixels(off, 5)).max() > 2
    assert np.abs(pixels(fresh, 5) - pixels(again, 5)).max() > 2
    used = json.loads((fresh / "generate.json").read_text())["noise_seed"]
    repeated = images("f", "--seeds", "5", "--noise-mode", "fresh", "--noise-seed", str(used))
    assert np.array_equal(pixels(fresh, 5), pixels(repeated, 5))


def test_generate_makes_what_the_python_interface_makes(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import noisegan as package

    out = small_run.parent.parent / "out"
    assert run(capsys, "generate", "--network", str(small_run), "--seeds", "4", "--outdir", str(out))[0] == 0
    G = package.load(small_run).G_ema
    z = torch.from_numpy(np.random.RandomState(4).randn(1, G.z_dim)).float()
    from noisegan.core.noise import noise_mode

    image = to_bytes(G(z, noise=noise_mode("frozen", 1, ids=[4])))[0, 0]
    assert np.abs(image.numpy().astype(int) - pixels(out, 4)).max() <= 1


def test_dry_run_prints_the_resolved_options_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys, "train", "--data", "digits", "--noise", "fuzzy(alpha=0.3)", "--outdir", str(tmp_path / "o"), "-n"
    )
    options = json.loads(out)
    assert code == 0
    assert options["config"]["gamma"] == 0.2
    assert options["config"]["resolution"] == 32
    assert options["noise"][0]["params"]["alpha"] == 0.3
    assert options["networks"]["G"]["channel_base"] == 1024
    assert not (tmp_path / "o").exists()


def test_a_plugin_file_serves_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, capsys, noise="all_points")
    base = ("generate", "--network", str(folder), "--seeds", "0", "--outdir", str(tmp_path / "g"))
    assert run(capsys, *base, "--plugin", str(ALL_POINTS))[0] == 0
    sentence = mistake(capsys, *base)
    assert "'all_points'" in sentence
    assert f"--plugin {ALL_POINTS}" in sentence
    assert f"--plugin {ALL_POINTS}" in mistake(capsys, "train", "--resume", str(folder))


TRAIN = ("train", *as_arguments(SHORT))


def replaced(*changes: str) -> tuple[str, ...]:
    """The training command with other or more options (a later option wins)."""
    return (*TRAIN, *changes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--noise", "fuzy"), "did you mean 'fuzzy'?"),
        (("--noise", "fuzzy(alfa=1)"), "did you mean 'alpha'?"),
        (("--noise", "fuzzy(alpha=7)"), "less than or equal to 1"),
        (("--noise", "fuzzy("), "cannot read the noise expression"),
        (("--cfg", "huge"), "--cfg 'huge'"),
        (("--kimg", "-1"), "--kimg -1"),
        (("--kimg", "long"), "long"),
        (("--batch", "6"), "minibatch-std groups of 4"),
        (("--batch-gpu", "3"), "--batch-gpu 3 does not divide"),
        (("--batch-gpu", "99"), "--batch-gpu 99 is larger than --batch 8"),
        (("--device", "warp"), "device 'warp' is unknown"),
        (("--resolution", "12"), "--resolution 12 is not one of 8, 16"),
        (("--plugin", "/nowhere/p.py"), "there is no such file"),
        (("--precision", "fp16"), "fp16 needs a GPU"),
        (("--resume", "/nowhere"), "/nowhere"),
    ],
)
def test_bad_options_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in mistake(capsys, *replaced("--outdir", str(tmp_path / "o"), *arguments))
    assert not list(tmp_path.glob("o/*"))


def test_an_unwritable_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "choose another --outdir" in mistake(capsys, *replaced("--outdir", str(tmp_path / "file" / "o")))


def test_a_missing_output_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--outdir is missing" in mistake(capsys, *TRAIN)


def test_bad_data_gets_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--outdir", str(tmp_path / "o"))
    square, wide = Image.new("L", (8, 8)), Image.new("L", (12, 8))
    with zipfile.ZipFile(tmp_path / "corrupt.zip", "w") as archive:
        with archive.open("a.png", "w") as file:
            square.save(file, format="PNG")
        archive.writestr("b.png", b"not an image")
    assert "b.png" in mistake(capsys, *replaced("--data", str(tmp_path / "corrupt.zip"), *out))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    square.save(mixed / "a.png")
    wide.save(mixed / "b.png")
    sentence = mistake(capsys, *replaced("--data", str(mixed), *out))
    assert "a.png" in sentence
    assert "b.png" in sentence
    np.save(tmp_path / "odd.npy", np.zeros((4, 12, 12), np.uint8))
    assert "--resize" in mistake(capsys, *replaced("--data", str(tmp_path / "odd.npy"), *out))
    np.save(tmp_path / "plain.npy", np.zeros((16, 8, 8), np.uint8))
    assert "label" in mistake(capsys, *replaced("--data", str(tmp_path / "plain.npy"), "--cond", "1", *out))


def test_bad_snapshots_get_one_sentence(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = find_snapshot(small_run)

    def generate(network: Path) -> str:
        return mistake(capsys, "generate", "--network", str(network), "--seeds", "0", "--outdir", str(tmp_path / "g"))

    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(snapshot.read_bytes()[:-100])
    assert "not a whole safetensors file" in generate(truncated)
    (tmp_path / "text.safetensors").write_text("hello")
    assert "not a whole safetensors file" in generate(tmp_path / "text.safetensors")
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert "not a snapshot of noisegan" in generate(tmp_path / "foreign.safetensors")
    (tmp_path / "empty").mkdir()
    assert "holds no snapshot" in generate(tmp_path / "empty")
    assert "there is no snapshot" in generate(tmp_path / "nowhere")
    sentence = mistake(capsys, "train", "--resume", str(truncated), "--outdir", str(tmp_path / "o"))
    assert "not a whole safetensors file" in sentence


def test_resume_with_another_architecture_says_what_differs(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = mistake(capsys, "train", "--resume", str(small_run), "--cmax", "16", "--noise", "additive")
    assert "cmax 8 -> 16" in sentence
    assert "noise 'fuzzy' -> 'additive'" in sentence


def test_generate_refuses_what_the_network_cannot_do(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("generate", "--network", str(small_run), "--outdir", str(tmp_path / "g"))
    assert "--class" in mistake(capsys, *base, "--seeds", "0", "--class", "1")
    assert "0-35,40" in mistake(capsys, *base, "--seeds", "5-3")
    assert "0-35,40" in mistake(capsys, *base, "--seeds", "a")
    mix = ("style-mix", "--network", str(small_run), "--outdir", str(tmp_path / "g"), "--rows", "0", "--cols", "1")
    assert "styles 0 to 3" in mistake(capsys, *mix, "--styles", "0-9")
    assert "cannot read the styles 'x'" in mistake(capsys, *mix, "--styles", "x")
    assert "--trunc must be a finite number" in mistake(capsys, *base, "--seeds", "0", "--trunc", "nan")
    assert "more than 1000000 seeds" in mistake(capsys, *base, "--seeds", "0-4000000000")
    assert not (tmp_path / "g").exists()


def test_a_broken_installed_plugin_leaves_the_others_working(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[noisegan]\nbroken = broken_plugin\n")
    (tmp_path / "broken_plugin.py").write_text("import nothing_of_that_name\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = started(*replaced("--outdir", str(tmp_path / "o"), "--noise", "none"), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "plugin 'broken' was not loaded" in done.stderr
    assert "nothing_of_that_name" in done.stderr
