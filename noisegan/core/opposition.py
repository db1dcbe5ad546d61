"""A player against the loss it is part of: parameters that raise what everything else in the graph lowers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class _Opposed(torch.autograd.Function):
    """The identity forwards, minus one backwards (gradient reversal, Ganin and Lempitsky 2015), to every order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def call_opposed(module: nn.Module, *inputs: Tensor) -> Tensor:
    """`module(*inputs)`, through which gradients reach the module's parameters with the opposite sign.

    Gradients of the inputs keep theirs. One optimiser step that lowers the loss then lowers it for everything else and
    raises it for this module: the saddle point of min over one, max over the other.
    """
    parameters: dict[str, Tensor] = {name: _Opposed.apply(p) for name, p in module.named_parameters()}
    output = functional_call(module, parameters, inputs)
    assert isinstance(output, Tensor)
    return output
