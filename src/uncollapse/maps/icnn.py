"""Input convex neural networks (Amos et al. 2017; W21 eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse.maps.network import (
    Weights,
    brenier_map,
    preactivations,
    share,
    smooth_leaky,
    squared,
    squared_leaky,
)
from uncollapse.maps.potential import CALIBRATION_SIZE, Potential, unit_rows

# If skip weights and the layer below cancel, a unit is scaled up as if it had this size.
SMALLEST_SIZE = 0.1


class ICNN(Potential):
    r"""An input convex neural network.

        z_1     = h_0(A_0 u + b_0)
        z_{l+1} = h_l(W_l z_l + A_l u + b_l),    W_l >= 0
        G(u)    = w·z_k + a·u,                   w >= 0

    h_0 is a squared leaky ReLU and the other h_l are smooth leaky ReLUs. The skip weights A_0 ...
    A_{k-1} are the rows of one matrix, so that one product reads the input for all layers.
    Non-negative weights are squares of free ones (see `squared`). The curvature is unbounded, as
    the slope of h_0 is.

    Args:
        dim: dimension of the input.
        hidden: widths of the k layers.
        max_curvature: infinity.

    Raises:
        ParameterError: if there is no layer, a size is not positive, or `max_curvature` is finite.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), max_curvature: float = inf
    ) -> None:
        super().__init__(dim, hidden, max_curvature)
        if max_curvature != inf:
            raise ParameterError(
                "an ICNN cannot bound its curvature, which an upper constant needs. Use RidgeSum "
                "(potential='ridge')."
            )
        self.skip = nn.Parameter(torch.empty(sum(self.hidden), dim))
        self.bias = nn.Parameter(torch.empty(sum(self.hidden)))
        self.root_weights = nn.ParameterList(
            torch.empty(above, below)
            for below, above in zip(self.hidden, self.hidden[1:], strict=False)
        )
        self.root_output = nn.Parameter(torch.empty(self.hidden[-1]))
        self.linear = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, in_dim: int | None = None) -> None:
        """Initialise W to average the layer below, each s_l to mean 0 and size 1, and w to set the
        size of grad G."""
        in_dim = self.dim if in_dim is None else in_dim
        self.skip.copy_(unit_rows(len(self.skip), self.dim, in_dim))
        nn.init.zeros_(self.linear)
        v = torch.randn(CALIBRATION_SIZE, in_dim).to(self.skip)
        first, *skips = torch.split(self.skip, list(self.hidden))
        z = squared_leaky(F.linear(v, first[:, :in_dim]))
        shifts = [self.bias.new_zeros(self.hidden[0])]
        for root, skip in zip(self.root_weights, skips, strict=True):
            weight = torch.rand_like(root)
            weight.div_(weight.sum(1, keepdim=True))
            s = F.linear(v, skip[:, :in_dim]) + F.linear(z, weight)
            size = s.std(0).clamp(min=SMALLEST_SIZE)
            shifts.append(-s.mean(0) / size)
            skip.div_(size[:, None])
            root.copy_(weight.div_(size[:, None]).div_(share(root)).sqrt_())
            z = smooth_leaky(s / size + shifts[-1])
        self.bias.copy_(torch.cat(shifts))
        self.root_output.uniform_(0, 2 / self.hidden[-1]).div_(share(self.root_output)).sqrt_()
        slope = self.gradient(v)
        size = (slope - slope.mean(0)).square().mean().sqrt()
        self.root_output.div_(size.sqrt())
        self.linear.copy_(-slope.mean(0) / size)

    @property
    def weights(self) -> Weights:
        """Parameters, as `brenier_map` takes them."""
        return Weights(
            self.skip, self.bias, self.linear, self.root_output, tuple(self.root_weights)
        )

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        top = preactivations(u, None, self.weights)[-1]
        activation = smooth_leaky if len(self.hidden) > 1 else squared_leaky
        return activation(top) @ squared(self.root_output) + u @ self.linear

    def gradient(
        self,
        v: Float[Tensor, "*batch p"],
        basis: Float[Tensor, "dim p"] | None = None,
        strength: float = 0.0,
    ) -> Float[Tensor, "*batch dim"]:
        return brenier_map(v, basis, strength, self.weights)
