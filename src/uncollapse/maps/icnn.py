"""Input convex neural networks (Amos et al. 2017; W21 eq. 6) and their gradients in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.errors import InputError
from uncollapse.maps.embedding import Embedding, ZeroPadding

LEAK = 0.2  # W21's alpha

# Standard normal inputs on which a new network is scaled.
CALIBRATION_SIZE = 256


def squared_leaky(s: Tensor) -> Tensor:
    """max(alpha s, s)^2, the activation of layer 0: convex but not monotone, so it is valid only on an affine function."""
    return s * F.leaky_relu(s, LEAK**2)


def squared_leaky_derivative(s: Tensor) -> Tensor:
    """The slope of `squared_leaky`."""
    return 2 * F.leaky_relu(s, LEAK**2)


def smooth_leaky(s: Tensor) -> Tensor:
    """alpha s + (1 - alpha) log(1 + exp(s)), the activation above layer 0: convex, increasing, with a continuous slope."""
    return LEAK * s + (1 - LEAK) * F.softplus(s, threshold=50)


def smooth_leaky_derivative(s: Tensor) -> Tensor:
    """The slope of `smooth_leaky`."""
    return LEAK + (1 - LEAK) * torch.sigmoid(s)


class ICNN(nn.Module):
    r"""A convex function G: R^dim -> R.

        z_1     = h_0(A_0 u + b_0)
        z_{l+1} = h_l(W_l z_l + A_l u + b_l),    W_l >= 0
        G(u)    = w·z_k + a·u,                   w >= 0

    h_0 is a squared leaky ReLU and the other h_l are smooth leaky ReLUs. The skip weights A_0 ... A_{k-1} are the rows of one
    matrix, so that all layers read the input by one matrix product. Non-negative weights are squares of free ones.

    Args:
        dim: dimension of the input.
        hidden: widths of the k layers.

    Raises:
        InputError: if there is no layer, or a size is not positive.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if dim < 1 or not hidden or min(hidden) < 1:
            raise InputError(f"an ICNN expects a positive dimension and positive hidden widths, got {dim} and {tuple(hidden)}.")
        self.dim = dim
        self.hidden = tuple(int(width) for width in hidden)
        self.skip = nn.Parameter(torch.empty(sum(self.hidden), dim))
        self.bias = nn.Parameter(torch.empty(sum(self.hidden)))
        self.root_weights = nn.ParameterList(
            torch.empty(above, below) for below, above in zip(self.hidden, self.hidden[1:], strict=False)
        )
        self.root_output = nn.Parameter(torch.empty(self.hidden[-1]))
        self.linear = nn.Parameter(torch.empty(dim))
        self.reset_parameters(ZeroPadding(dim, dim))

    @torch.no_grad()
    def reset_parameters(self, embedding: Embedding) -> None:
        """Initialise so that, for v ~ N(0, I), activations are O(1) at any width and depth and grad G(B v) has mean 0 and
        a root mean square of 1.

        W ~ U(0, 2 / width) averages the layer below instead of summing it; this leaves the gradient small, so w is rescaled.
        """
        nn.init.normal_(self.skip, std=1 / math.sqrt(embedding.in_dim))
        nn.init.zeros_(self.bias)
        for root in (*self.root_weights, self.root_output):
            root.uniform_(0, 2 / root.shape[-1]).sqrt_()
        nn.init.zeros_(self.linear)
        gradient = self.gradient(torch.randn(CALIBRATION_SIZE, embedding.in_dim).to(self.skip), embedding)
        centred = gradient - gradient.mean(0)
        size = centred.square().mean().sqrt()
        self.root_output.div_(size.sqrt())
        self.linear.copy_(-gradient.mean(0) / size)

    def _preactivations(self, v: Tensor, embedding: Embedding, weights: list[Tensor]) -> list[Tensor]:
        first, *skips = torch.split(F.linear(v, embedding.restrict(self.skip), self.bias), list(self.hidden), dim=-1)
        layers, activation = [first], squared_leaky
        for weight, skip in zip(weights, skips, strict=True):
            layers.append(skip + F.linear(activation(layers[-1]), weight))
            activation = smooth_leaky
        return layers

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """G(u)."""
        weights = [root.square() for root in self.root_weights]
        top = self._preactivations(u, ZeroPadding(self.dim, self.dim), weights)[-1]
        activation = smooth_leaky if weights else squared_leaky
        return activation(top) @ self.root_output.square() + u @ self.linear

    def gradient(self, v: Float[Tensor, "*batch p"], embedding: Embedding) -> Float[Tensor, "*batch dim"]:
        """grad G at B v, by the reverse pass written out, so that no differentiation happens in a forward pass."""
        weights = [root.square() for root in self.root_weights]
        first, *above = self._preactivations(v, embedding, weights)
        cotangent = self.root_output.square()
        deltas = []
        for s, weight in zip(reversed(above), reversed(weights), strict=True):
            deltas.append(smooth_leaky_derivative(s) * cotangent)
            cotangent = deltas[-1] @ weight
        deltas.append(squared_leaky_derivative(first) * cotangent)
        return F.linear(torch.cat(deltas[::-1], dim=-1), self.skip.T, self.linear)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden={self.hidden}"
