"""A plugin with a feature extractor and a metric that cost nothing, for the tests of comparisons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from noisegan.api import FeatureExtractor, FeaturePair, Metric, Score, hookimpl
from noisegan.hookspecs import RunView


class Pixels(FeatureExtractor):
    """The mean over channels of the image at 4 x 4 pixels."""

    dim = 16

    def __call__(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True) / 255, 4).flatten(1)

    def describe(self) -> dict[str, Any]:
        return {
            "weights": f"none sha256:{hashlib.sha256(b'').hexdigest()}",
            "input": "uint8 / 255, averaged to 4 x 4",
            "reference": "this file",
        }


def brightness(pair: FeaturePair) -> Score:
    return Score(value=float((pair.fake.double().mean() - pair.real.double().mean()).abs()))


@hookimpl
def register_feature_extractors(register: Callable[[str, Any], None]) -> None:
    register("pixels", lambda device: Pixels())


@hookimpl
def register_metrics(register: Callable[[str, Any], None]) -> None:
    register("brightness", Metric(title="Brightness", better="lower", compute=brightness, reference="this file"))


@hookimpl
def after_evaluation(run: RunView, report: Mapping[str, Any]) -> None:
    with (run.outdir / "evaluations.txt").open("a") as file:
        file.write(f"{run.noise} {report['nimg']} {','.join(report['scores'])}\n")


@hookimpl
def report_sections(results: dict[str, Any]) -> list[tuple[str, str]]:
    return [("From a plugin", f"<p>{len(results['runs'])} runs</p>")]
