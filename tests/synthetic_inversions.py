"""The inversions of a made-up comparison, out of the same hat as `synthetic_results`.

found = make(results)      # inversion.json of its finished runs
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from synthetic_results import digest

from noisegan.compare.inversion import compare_inversions


def make(results: dict[str, Any], n: int = 20) -> dict[str, Any]:
    """inversion.json of n real images and as many own ones; strategies other than `none` have maps."""
    rng = np.random.default_rng(0)
    without = {v["label"] for v in results["experiment"]["variants"] if v["noise"] == "none"}
    runs = [run for run in results["runs"] if run["status"] == "done"]
    hard = rng.gamma(4, 0.01, n)
    cells = [
        (kind, space, noise) for kind in ("real", "own") for space in ("w", "w+") for noise in ("off", "optimised")
    ]
    shared = {
        "projector": {"steps": 200, "loss": "st-lpips-alex=1,mse=0.1"},
        "precision": "bf16",
        "loss_weights": {
            "st-lpips-alex": {"weight": 1.0, "network": "alex_shift_tolerant.pth sha256:" + digest("alex")},
            "mse": {"weight": 0.1, "network": "none"},
        },
        "real_images": {
            "drawn": n,
            "name": "fashion-mnist, test images",
            "known": "all were compared",
            "trained_on": 0,
        },
        "own_images": n,
        "hard_labels": [1],
    }
    evaluations = [
        shared
        | {
            "cells": [
                {"images": kind, "space": space, "noise": noise}
                | {"curve": {"step": [1, 100, 200], "seconds": [0.01, 1.0, 2.0], "distance": [0.4, 0.1, 0.04]}}
                | {
                    "images_measured": [
                        _inverted(rng, i, float(d), noise != "off", run["variant"] not in without)
                        for i, d in enumerate(hard if kind == "real" else 0.6 * hard)
                    ]
                }
                for kind, space, noise in cells
            ]
        }
        for run in runs
    ]
    return compare_inversions(results, runs, evaluations)


def _inverted(rng: np.random.Generator, i: int, level: float, noise: bool, maps: bool) -> dict[str, Any]:
    distance = level * math.exp(0.2 * rng.normal())
    row = {"image": f"image-{i:06d}", "class": i % 3, "distance": distance, "mse": 4 * distance, "ssim": 1 - distance}
    row |= {"psnr": -10 * math.log10(distance), "seconds": 2.0}
    if noise:
        row |= {"fresh_distance": 2 * distance, "lost_with_fresh_noise": distance}
    if noise and maps:
        row |= {"autocorrelation": 1e-8 * rng.random(), "all_lags": 1.1, "mutual_information": 0.01 * rng.normal()}
    return row
