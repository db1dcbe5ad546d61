"""The optimiser is torch's to the last bit, and does not import a compiler."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import SMALL

from noisegan.core.adam import Adam, unwrapped


def _trained(kind: type[torch.optim.Adam], device: str, **options: Any) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Parameters and states after five steps, the last two by an optimiser that was restored and has a new group."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(device)
    first, last = list(net[0].parameters()), list(net[2].parameters())
    adam = kind(first, lr=2e-3, betas=(0.0, 0.99), eps=1e-8, **options)
    for step in range(5):
        if step == 3:
            state = adam.state_dict()
            adam = kind(first, lr=1.0, **options)
            adam.load_state_dict(state)
            adam.add_param_group({"params": last, "lr": 1e-2})
        adam.zero_grad()
        net(torch.randn(4, 5, device=device)).square().sum().backward()
        adam.step()
    return list(net.parameters()), adam.state_dict()


CPU = [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"amsgrad": True, "weight_decay": 0.1}]
CUDA = [{}, {"fused": True}, {"capturable": True}, {"fused": True, "capturable": True}]


@pytest.mark.parametrize(
    ("device", "options"),
    [
        *(("cpu", options) for options in CPU),
        *(pytest.param("cuda", options, marks=pytest.mark.gpu) for options in CUDA),
    ],
)
def test_it_is_the_adam_of_torch_to_the_last_bit(device: str, options: dict[str, Any]) -> None:
    ours, our_state = _trained(Adam, device, **options)
    theirs, their_state = _trained(torch.optim.Adam, device, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert our_state["param_groups"] == their_state["param_groups"]
    assert our_state["state"].keys() == their_state["state"].keys()
    for index, state in our_state["state"].items():
        assert state.keys() == their_state["state"][index].keys()
        assert all(torch.equal(value, their_state["state"][index][key]) for key, value in state.items())
    assert not any(parameter.grad_fn for parameter in ours)


def test_hooks_of_a_step_are_called_once_each_and_closures_have_gradients() -> None:
    weight = nn.Parameter(torch.ones(3))
    adam, called = Adam([weight]), []
    adam.register_step_pre_hook(lambda *_: called.append("before"))
    adam.register_step_post_hook(lambda *_: called.append("after"))

    def closure() -> torch.Tensor:
        adam.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert adam.step(closure) == 3
    assert called == ["before", "after"]
    assert (weight < 1).all()


def test_wrappers_that_are_not_known_stay() -> None:
    @functools.wraps(torch.optim.Optimizer.zero_grad)
    def needed(*_: Any) -> None: ...

    assert unwrapped(needed) is needed
    assert unwrapped(len) is len
    assert unwrapped(unwrapped) is unwrapped
    assert unwrapped(torch.optim.Optimizer.zero_grad) is not torch.optim.Optimizer.zero_grad


@pytest.mark.slow
def test_training_does_not_import_a_compiler_geomstats_or_scikit_learn(tmp_path: Path) -> None:
    """Each would cost every run two seconds of its start."""
    code = (
        f"import sys, noisegan; noisegan.train(outdir=sys.argv[1], noise='fuzzy', quiet=True, **{SMALL}); "
        "print([name for name in ('torch._dynamo', 'geomstats', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
