"""The declared operations to torch: opcheck, derivatives to the second order, and the functions that eager mode takes.

`noisegan.ext.ops` puts an `autograd.Function` before each operation that has derivatives; whatever traces or transforms
gets the operation itself. Both must be the same to the bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import backend, native_kernels
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from noisegan.core.rng import Streams
from noisegan.ext import bias_act, convolution, noise_bias_act, ops, philox_normal, upfirdn2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


@pytest.fixture(params=["native", "ref"], autouse=True)
def kind(request: pytest.FixtureRequest) -> Any:
    """Every test on both backends."""
    if request.param == "native":
        native_kernels()
    with backend(request.param):
        yield request.param


def normal(name: str, *shape: int) -> Tensor:
    return Streams(3)[name].source(ids=[0]).normal(*shape)[0].double()


def leaf(name: str, *shape: int) -> Tensor:
    return normal(name, *shape).requires_grad_()


def arguments(name: str) -> tuple[Any, ...]:
    """Small arguments of a declared operation; what can be differentiated wants to be."""
    x, y, scale = leaf("x", 2, 3, 2, 3), normal("y", 2, 3, 2, 3), leaf("s", 2, 3)
    noise, strength = leaf("e", 2, 1, 2, 3), leaf("t", 1, 3, 1, 1)
    cases: dict[str, tuple[Any, ...]] = {
        "bias_act": (x, scale, leaf("b", 3), noise, None, None, [], strength, 0.2, 1.4, math.inf),
        "bias_act_": (y, normal("s", 2, 3), normal("b", 3), None, None, None, [], None, 0.2, 1.4, 1.1),
        "bias_act_grad": (
            *(leaf("g", 2, 3, 2, 3), y, x, scale, noise, None, None, [], True, True, leaf("w", 1, 3)),
            *(0.2, 1.4, 1.1),
        ),
        "channel_sum": (x, y, scale, 0.2, 1.4, math.inf),
        "upfirdn2d": (x, TAPS, 2, 1, [2, 1, 2, 1], False, 4.0),
        "philox": (torch.arange(3), torch.tensor(3), [1, 2, 0], 7, 2),
        "convolution": (x, leaf("k", 4, 3, 2, 2), 1, 1),
        "convolution_input": (x, leaf("k", 3, 2, 2, 2), [3, 5], 2, 1),
        "convolution_weight": (x, leaf("h", 2, 4, 1, 2), [3, 3], 2, 1),
    }
    return cases[name]


CONVOLUTIONS = ("convolution", "convolution_input", "convolution_weight")
DECLARED = ("bias_act", "bias_act_grad", "channel_sum", "upfirdn2d", "bias_act_", "philox", *CONVOLUTIONS)


@pytest.mark.parametrize("name", DECLARED)
def test_declarations_pass_opcheck(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        results = opcheck(declared(name), arguments(name))
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) == 4


def declared(name: str) -> Callable[..., Any]:
    op: Callable[..., Any] = getattr(torch.ops.noisegan, name).default
    return op


DIFFERENTIABLE = {
    "bias_act": ops.bias_act,
    "bias_act_grad": ops._bias_act_grad,
    "channel_sum": ops._channel_sum,
    "upfirdn2d": ops.upfirdn2d,
    "convolution": convolution._convolution,
    "convolution_input": convolution._convolution_input,
    "convolution_weight": convolution._convolution_weight,
}


def of_leaves(function: Callable[..., Any], name: str) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """The function of those arguments that want a gradient alone, and these."""

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        given = iter(values)
        out = function(*(next(given) if isinstance(a, Tensor) and a.requires_grad else a for a in arguments(name)))
        return out if isinstance(out, tuple) else (out,)

    return call, tuple(a for a in arguments(name) if isinstance(a, Tensor) and a.requires_grad)


@pytest.mark.parametrize("kind", ["native"], indirect=True)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_pass_gradcheck_and_gradgradcheck(name: str) -> None:
    call, leaves = of_leaves(DIFFERENTIABLE[name], name)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_eager_functions_are_the_declared_operations(name: str) -> None:
    """Values, gradients, and gradients of gradients, to the bit."""
    results = []
    for function in (DIFFERENTIABLE[name], declared(name)):
        call, leaves = of_leaves(function, name)
        out = call(*leaves)
        upstream = [leaf(f"v{i}", *o.shape) if o.numel() else torch.zeros_like(o) for i, o in enumerate(out)]
        first = torch.autograd.grad(out, leaves, upstream, create_graph=True)
        others = (*leaves, *(u for u in upstream if u.requires_grad))
        second = torch.autograd.grad(sum(f.pow(3).sum() for f in first), others, materialize_grads=True)
        results.append((*out, *first, *second))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def site(x: Tensor, e: Tensor, strength: Tensor, b: Tensor) -> Tensor:
    return upfirdn2d(noise_bias_act(x, e, strength, b), TAPS, up=2, padding=(2, 1, 2, 1), gain=4.0)


def site_leaves() -> tuple[Tensor, ...]:
    return leaf("x", 2, 3, 2, 3), leaf("e", 2, 1, 2, 3), leaf("t", 1, 3, 1, 1), leaf("b", 3)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    everything = site_leaves()
    expected = torch.autograd.grad(site(*everything).sum(), everything)
    for wanted in range(4):
        given = [one if index == wanted else one.detach() for index, one in enumerate(everything)]
        y = site(*given)
        y.sum().backward()
        assert [one.grad is not None for one in given] == [index == wanted for index in range(4)]
        torch.testing.assert_close(given[wanted].grad, expected[wanted])
    assert site(*(one.detach() for one in everything)).grad_fn is None


def test_gradients_of_any_strides_are_accepted() -> None:
    x, b = leaf("x", 2, 3, 2, 3), leaf("b", 3)
    dense = normal("v", 2, 3, 2, 3)
    odd = (
        normal("w", 1, 3, 1, 1).expand(2, 3, 2, 3),
        dense.contiguous(memory_format=torch.channels_last),
        dense.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([dense, dense], dim=3)[..., ::2],
    )
    for g in odd:
        found = torch.autograd.grad(bias_act(x, b), (x, b), g)
        for one, expected in zip(found, torch.autograd.grad(bias_act(x, b), (x, b), g.contiguous()), strict=True):
            torch.testing.assert_close(one, expected)


def test_nothing_but_the_result_is_kept_for_the_pass_back() -> None:
    x, e, strength, b = site_leaves()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y = noise_bias_act(x, e, strength, b)
        up = upfirdn2d(y, TAPS, up=2)
    assert [t.data_ptr() for t in kept if t.shape == x.shape] == [y.data_ptr()]
    assert not [t for t in kept if t.shape == up.shape]


def test_tracing_and_transforms_get_the_declared_operations() -> None:
    leaves = tuple(one.detach().float().requires_grad_() for one in site_leaves())
    expected = torch.autograd.grad(site(*leaves).sum(), leaves)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing, and of vmap that goes sample by sample
        compiled = torch.compile(site, fullgraph=True, backend="aot_eager")(*leaves)
        torch.testing.assert_close(torch.autograd.grad(compiled.sum(), leaves), expected)
        one_by_one = torch.vmap(lambda x: bias_act(x[None], leaves[3])[0])(leaves[0])
        basis = torch.stack([compiled.detach(), 2 * compiled.detach()])
        batched = torch.autograd.grad(site(*leaves), leaves[0], basis, is_grads_batched=True)[0]
    torch.testing.assert_close(one_by_one, bias_act(leaves[0], leaves[3]))
    torch.testing.assert_close(batched[1], 2 * batched[0])


def test_autocast_changes_nothing() -> None:
    leaves = tuple(one.detach().float().requires_grad_() for one in site_leaves())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = noise_bias_act(*leaves)
        found = torch.autograd.grad(y.sum(), leaves)
    assert torch.equal(y, noise_bias_act(*leaves))
    for one, expected in zip(found, torch.autograd.grad(noise_bias_act(*leaves).sum(), leaves), strict=True):
        assert torch.equal(one, expected)


class Listener(TorchDispatchMode):
    """Notes the names of noisegan's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "noisegan":
            self.heard.add(func.name())
        return func(*args, **(kwargs or {}))


def test_who_listens_hears_the_operations_and_changes_nothing() -> None:
    """Without a listener kernels are called past the dispatcher."""

    def everything() -> list[Tensor]:
        leaves = site_leaves()
        y = site(*leaves) + philox_normal((1, 2), 3, torch.arange(2), 24).view(2, 1, 4, 6)
        gradients = torch.autograd.grad(y.square().sum(), leaves)
        with torch.no_grad():
            return [y, *gradients, bias_act(y)]

    alone = everything()
    with Listener() as listener:
        found = everything()
    assert listener.heard == {f"noisegan::{name}" for name in ("bias_act", "bias_act_grad", "upfirdn2d", "philox")}
    for a, b in zip(alone, found, strict=True):
        assert torch.equal(a, b)


def test_tensors_of_other_kinds_go_through_the_dispatcher() -> None:
    with FakeTensorMode() as mode:
        x = torch.empty(2, 3, 4, 4)
    assert isinstance(bias_act(x), FakeTensor)
    assert bias_act(x).fake_mode is mode
    negative = torch._neg_view(normal("x", 2, 3, 4, 4))  # minus is a note on the tensor, not in its memory
    assert negative.is_neg()
    assert torch.equal(bias_act(negative), bias_act(negative.resolve_neg()))
