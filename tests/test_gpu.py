"""What only a GPU can show: training there agrees with the CPU, and the random bits are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_train import plugins, stats, train

import noisegan


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, precision: str) -> None:
    cpu = train(tmp_path, noise="all_points")
    gpu = train(tmp_path, noise="all_points", device="cuda", precision=precision)
    for a, b in zip(stats(cpu), stats(gpu), strict=True):
        assert a["Loss/D/loss"]["mean"] == pytest.approx(b["Loss/D/loss"]["mean"], rel=0.05)
    assert (cpu / "pairing.json").read_bytes() == (gpu / "pairing.json").read_bytes()
    noisegan.train(resume=gpu, kimg=0.06, plugins=plugins(), quiet=True)


@pytest.mark.gpu
def test_the_integer_bits_are_the_same_on_a_gpu() -> None:
    from noisegan.ext import philox_bits, philox_normal

    ids = torch.arange(5)
    assert torch.equal(philox_bits((1, 2), 3, ids, 99), philox_bits((1, 2), 3, ids.cuda(), 99).cpu())
    assert torch.allclose(philox_normal((1, 2), 3, ids, 99), philox_normal((1, 2), 3, ids.cuda(), 99).cpu(), atol=1e-5)
