"""What every decoder offers."""

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
    """A map from latents z in R^l to natural parameters eta in R^t."""

    @property
    @abstractmethod
    def constant(self) -> float:
        """The total inverse Lipschitz constant: |eta(z) - eta(z')| >= constant |z - z'|. 0 promises
        nothing."""

    @property
    def constants(self) -> tuple[float, ...]:
        """The inverse Lipschitz constant of each map, which no state dict holds; none where there
        are no such maps."""
        return ()

    def set_constants(self, constants: Sequence[float]) -> None:
        """Change the inverse Lipschitz constant of each map.

        Raises:
            InputError: if their number is not that of the maps, or one cannot be used.
        """
        if constants:
            raise ParameterError(
                f"an ordinary decoder expects no inverse Lipschitz constants, got "
                f"{tuple(constants)}: leave them out."
            )

    @property
    def information_constant(self) -> float | None:
        """The constant for which the information floor is proved, or None where it is not."""
        return None

    @property
    def is_one_map(self) -> bool:
        """Whether the decoder is one Brenier map, so that its own Jacobian is symmetric."""
        return False

    @property
    def first_constant(self) -> float:
        """The inverse Lipschitz constant of `first`; 0 where none is promised."""
        return 0.0

    def first(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch l"]:
        """The first of the maps that the decoder consists of, with a symmetric Jacobian >=
        `first_constant`; else the identity."""
        return z

    def rest(self, v: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """What follows `first`: rest(first(z)) is the decoder."""
        eta: Tensor = self(v)
        return eta

    @abstractmethod
    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """Natural parameters at z."""

    @abstractmethod
    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        """Shift the output so that the decoder maps the origin to eta."""

    def check_invariants(self) -> bool:
        """Whether the tensors that training does not touch are such that the constant holds."""
        return True

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Before training, fit what it leaves fixed to data of shape (n, t), given the deviations
        of their noise, shape (t,)."""
        del data, noise
