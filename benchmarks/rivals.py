"""Modules that the maps are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uncollapse.maps import BrenierMap, ZeroPadding
from uncollapse.maps.network import smooth_leaky, squared, squared_leaky


class Stack(nn.Module):
    """Brenier maps in sequence, padded with zeros or truncated where dimensions differ."""

    def __init__(
        self, dims: list[int], hidden: tuple[int, ...], inverse_lipschitz: float = 0.5
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleList(BrenierMap(dim, hidden, inverse_lipschitz) for dim in dims)
        self.paddings = nn.ModuleList(
            ZeroPadding(min(below, above), above) for below, above in pairwise([dims[0], *dims])
        )

    def forward(self, value: Tensor) -> Tensor:
        for map_, padding in zip(self.maps, self.paddings, strict=True):
            value = map_(value if value.shape[1] <= map_.dim else value[:, : map_.dim], padding)
        return value


class Textbook(nn.Module):
    """A stack of maps as both papers write it.

    Potentials are computed layer by layer, gradients by differentiation, and B is a dense matrix.
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.maps = stack.maps
        dims = [map_.dim for map_ in stack.maps]
        self.bases = nn.ParameterList(
            nn.Parameter(torch.eye(above, below), requires_grad=False)
            for below, above in pairwise(dims)
        )

    def forward(self, value: Tensor) -> Tensor:
        first, *others = self.maps
        value = _differentiated(first, value)
        for basis, map_ in zip(self.bases, others, strict=True):
            value = _differentiated(map_, F.linear(value, basis))
        return value


def _differentiated(map_: BrenierMap, u: Tensor) -> Tensor:
    trains = torch.is_grad_enabled()
    with torch.enable_grad():
        u = u if trains and u.requires_grad else u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_potential(map_, u).sum(), u, create_graph=trains)
    return gradient


def _potential(map_: BrenierMap, u: Tensor) -> Tensor:
    icnn = map_.convex
    skips, biases = icnn.skip.split(icnn.hidden), icnn.bias.split(icnn.hidden)
    z, activation = F.linear(u, skips[0], biases[0]), squared_leaky
    for skip, bias, root in zip(skips[1:], biases[1:], icnn.root_weights, strict=True):
        z = F.linear(u, skip, bias) + F.linear(activation(z), squared(root))
        activation = smooth_leaky
    return (
        activation(z) @ squared(icnn.root_output)
        + u @ icnn.linear
        + map_.inverse_lipschitz / 2 * u.square().sum(1)
    )


def mlp(latent_dim: int, natural_dim: int, n_parameters: int) -> nn.Sequential:
    """Return a perceptron with two hidden layers and this number of parameters."""
    total = latent_dim + natural_dim + 2  # h^2 + total h + natural_dim = n_parameters
    width = round((-total + math.sqrt(total**2 + 4 * (n_parameters - natural_dim))) / 2)
    layers = (
        nn.Linear(latent_dim, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, natural_dim),
    )
    return nn.Sequential(*layers)


def bare_products(stack: Stack, batch: int, backward: bool) -> Callable[[], None]:
    """Return a step of matrix products alone, into allocated memory."""
    products = []
    device = next(stack.parameters()).device
    below = stack.maps[0].dim
    for map_ in stack.maps:
        rows, inputs, outputs = sum(map_.convex.hidden), min(below, map_.dim), map_.dim
        # (batch, in) x (in, out): input side, output side, and their counterparts in the backward
        # pass.
        shapes = [(batch, inputs, rows), (batch, rows, outputs)]
        shapes += [(batch, *root.shape[::-1]) for root in map_.convex.root_weights] * 2
        if backward:
            shapes += [
                (batch, outputs, rows),
                (batch, rows, inputs),
                (rows, batch, outputs),
                (rows, batch, inputs),
            ]
            shapes += [(batch, *root.shape[::-1]) for root in map_.convex.root_weights] * 2
            shapes += [
                (root.shape[0], batch, root.shape[1]) for root in map_.convex.root_weights
            ] * 2
        products += shapes
        below = map_.dim
    pool: dict[tuple[int, int], Tensor] = {}

    def matrix(*shape: int) -> Tensor:
        return pool.setdefault(shape, torch.randn(*shape, device=device))

    factors = [
        (matrix(n, k), matrix(m, k).T, torch.empty(n, m, device=device)) for n, k, m in products
    ]

    def step() -> None:
        for left, right, out in factors:
            torch.mm(left, right, out=out)

    return step
