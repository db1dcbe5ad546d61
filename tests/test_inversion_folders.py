"""Folders of inversions: what is finished is kept, the rest gone on with, and other settings are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import projecting
import pytest
import torch
from projecting import picture

from noisegan.errors import Interrupted, NoiseganError
from noisegan.inversion import folders
from noisegan.inversion import projector as projector_module
from noisegan.inversion.output import read_projected
from noisegan.inversion.projector import Projector
from noisegan.inversion.tuning import tune

networks = projecting.networks


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
