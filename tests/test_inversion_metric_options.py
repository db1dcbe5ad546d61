"""Options of the metric `inversion`: which snapshot counts, networks with classes, mistakes told before training."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import inverting
import numpy as np
import pytest
from comparing import TRAIN
from inverting import asking, compare, evaluation

from noisegan.compare.report.inversion import inversion_section
from noisegan.errors import NoiseganError

data = inverting.data
no_report = inverting.no_report


def test_the_snapshot_that_counts_is_inverted(data: str, tmp_path: Path) -> None:
    content = asking(data, metrics=["brightness", "inversion"], images=2, own_images=0, noises=["off"])
    content |= {"train": TRAIN, "selection": "best", "equal_time": True}
    results = compare(content, tmp_path / "out")
    for run in results["runs"]:
        values = [point["scores"]["brightness@pixels"] for point in run["curve"]]
        assert len(values) == 2
        best = results["runs"][0]["curve"][int(np.argmin(values))]["nimg"]
        assert run["nimg"] == best
        assert Path(evaluation(tmp_path / "out", run)["network"]).name == run["snapshot"]
    compared = {c["metric"] for c in results["timing"]["equal_time"]["comparisons"]}
    assert compared == {"brightness@pixels"}  # inversion has no snapshots on the way
    found = json.loads((tmp_path / "out" / "inversion" / "inversion.json").read_text())
    assert "Attribution" not in inversion_section(tmp_path / "out" / "inversion", found, results)[1]


def test_networks_with_classes(data: str, tmp_path: Path) -> None:
    content = asking(data, images=2, own_images=2, spaces=["z"], noises=["off"], class_index=1, hard_labels=[1])
    content["train"] |= {"cond": True}
    results = compare(content, tmp_path / "out")
    assert results["protocol"]["inversion"]["space"] == "z"
    assert all(run["scores"]["inversion"]["value"] > 0 for run in results["runs"])


def without_data(content: dict[str, Any]) -> dict[str, Any]:
    del content["evaluation"]["inversion"]["data"]
    return content


def test_mistakes_come_before_training(data: str, tmp_path: Path) -> None:
    def told(content: dict[str, Any]) -> str:
        with pytest.raises(NoiseganError) as error:
            compare(deepcopy(content), tmp_path / "out")
        assert not (tmp_path / "out" / "runs").exists()
        return str(error.value)

    assert told(without_data(asking(data))) == (
        "[evaluation.inversion]: the network was trained on all 1797 images of digits, so none is held out: name "
        "others with data, or insist with allow_trained"
    )
    assert told(asking(data, hard_labels=[7])) == (
        "[evaluation.inversion]: hard_labels 7: the images drawn have the classes 0, 1; name some of them, not all"
    )
    assert told(asking(data, precision="fp16")) == (
        "[evaluation.inversion]: precision fp16 needs a GPU (a CPU computes it hundreds of times slower): use bf16"
    )
    assert told(asking(data, class_index=3)) == (
        "[evaluation.inversion]: class_index is 3, and the networks have no classes: leave it out"
    )
    conditional = asking(data, spaces=["z"])
    conditional["train"] |= {"cond": True}
    assert told(conditional) == (
        "[evaluation.inversion] needs class_index: the networks have classes, and space z is one of a class"
    )
    conditional["evaluation"]["inversion"]["class_index"] = 10
    assert told(conditional) == (
        "[evaluation.inversion]: class_index is 10, and the networks have the classes 0 to 9: choose one"
    )
    assert "evaluation.inversion.loss 'nothing': unknown distance 'nothing' in the loss" in told(
        asking(data, loss="nothing")
    )
    assert "w is there twice" in told(asking(data, spaces=["w", "w"]))
    assert "evaluation.inversion.step" in told(asking(data, step=3))
    assert told(asking(data, metrics=["inversion", "fd"]) | {"selection": "best"}).endswith(
        "selection = 'best' chooses a snapshot by the first metric, and 'inversion' is known of the chosen one only: "
        "put another metric in front of it, or set selection = 'final'"
    )
    assert told(asking(data, metrics=["inversion"]) | {"equal_time": True}).endswith(
        "equal_time compares snapshots on the way, and 'inversion' is known of the one that counts only: name another "
        "metric too, such as 'fd'"
    )
