"""The interface of decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError

# The largest inverse Lipschitz constant of a map: far beyond use, and far from the limits of
# float32.
MAX_CONSTANT = 1e6


class Decoder(nn.Module, ABC):
    """A map eta(z) from latents z in R^l to natural parameters in R^t.

    A subclass needs `forward` alone; it then promises nothing about injectivity.
    """

    @abstractmethod
    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """Return natural parameters at z."""

    @property
    def constant(self) -> float:
        """Total inverse Lipschitz constant, |eta(z) - eta(z')| >= constant |z - z'|; 0 promises
        nothing."""
        return 0.0

    @property
    def constants(self) -> tuple[float, ...]:
        """Inverse Lipschitz constant of each map; empty for a decoder that has no such maps.

        State dicts do not hold them.
        """
        return ()

    def set_constants(self, constants: Sequence[float]) -> None:
        """Change the inverse Lipschitz constant of each map.

        Raises:
            ParameterError: if their number is not that of the maps, or one cannot be used.
        """
        if constants:
            raise ParameterError(
                f"an ordinary decoder has no inverse Lipschitz constants, got {tuple(constants)}. "
                "Leave them out."
            )

    @property
    def information_constant(self) -> float | None:
        """Constant for which the information floor is proved; None where it is not."""
        return None

    @property
    def is_one_map(self) -> bool:
        """Whether the decoder is one Brenier map, so that its Jacobian is symmetric."""
        return False

    @property
    def first_constant(self) -> float:
        """Inverse Lipschitz constant of `first`; 0 where none is promised."""
        return 0.0

    def first(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch l"]:
        """Return f1(z) for a decoder rest(f1(z)), where f1 has a symmetric Jacobian >=
        `first_constant`; by default the identity."""
        return z

    def rest(self, v: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """Return natural parameters from v = first(z)."""
        eta: Tensor = self(v)
        return eta

    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        """Shift the output so that the decoder maps the origin to eta; by default do nothing."""
        del eta

    def check_invariants(self) -> bool:
        """Return whether the tensors that training leaves alone are such that the constant
        holds."""
        return True

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fit to data, before training, what training leaves alone; by default do nothing.

        Args:
            data: sufficient statistics of rows, shape (n, t).
            noise: standard deviations of the noise in each column, shape (t,).
        """
        del data, noise
