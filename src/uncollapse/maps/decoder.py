"""The injective decoder of LIDVAE (W21 definition 3) and IL-LIDVAE (K23 definition 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.errors import InputError
from uncollapse.maps.base import Decoder
from uncollapse.maps.brenier import BrenierMap
from uncollapse.maps.embedding import Embedding, ZeroPadding


class InverseLipschitzDecoder(Decoder):
    """eta(z) = f2(B f1(z)), with Brenier maps f1 on R^l and f2 on R^t and an isometric embedding B; a single map where l = t.

    Constants compose: |eta(z) - eta(z')| >= L1 L2 |z - z'|.

    Args:
        latent_dim: l.
        natural_dim: t >= l, the number of natural parameters.
        hidden: widths of the layers of each map.
        inverse_lipschitz: L for every map, or (L1, L2) where there are two. 0 gives LIDVAE.
        embedding: the kind of B; the zero-padding of both papers by default. A single map has none.

    Raises:
        InputError: if l > t, if a constant is negative, or if the number of constants is not the number of maps.

    >>> decoder = InverseLipschitzDecoder(2, 5, hidden=(16,), inverse_lipschitz=1.5)
    >>> decoder.constant
    2.25
    """

    def __init__(
        self,
        latent_dim: int,
        natural_dim: int,
        hidden: Sequence[int] = (64, 64),
        inverse_lipschitz: float | tuple[float, float] = 0.0,
        embedding: type[Embedding] = ZeroPadding,
    ) -> None:
        super().__init__()
        if latent_dim > natural_dim:
            raise InputError(
                f"an injective decoder expects latent_dim <= natural dimension, got latent_dim={latent_dim} with "
                f"n_features={natural_dim}: use latent_dim <= {natural_dim}, or inverse_lipschitz=None for an ordinary decoder."
            )
        dims = (natural_dim,) if latent_dim == natural_dim else (latent_dim, natural_dim)
        constants = _one_per_map(inverse_lipschitz, len(dims))
        self.embedding = (ZeroPadding if len(dims) == 1 else embedding)(latent_dim, natural_dim)
        self.maps = nn.ModuleList(BrenierMap(dim, hidden, constant) for dim, constant in zip(dims, constants, strict=True))
        self._last.convex.reset_parameters(self.embedding)

    @property
    def _last(self) -> BrenierMap:
        last = self.maps[-1]
        assert isinstance(last, BrenierMap)
        return last

    @property
    def constants(self) -> tuple[float, ...]:
        """The inverse Lipschitz constant of each map."""
        return tuple(map_.inverse_lipschitz for map_ in self.maps if isinstance(map_, BrenierMap))

    @property
    def constant(self) -> float:
        """The total inverse Lipschitz constant: L1 L2, or L of a single map."""
        return math.prod(self.constants)

    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """Natural parameters at z."""
        for map_ in self.maps[:-1]:
            z = map_(z)
        eta: Tensor = self._last(z, self.embedding)
        return eta

    def is_sound(self) -> bool:
        """Whether the embedding is isometric."""
        basis = self.embedding(torch.eye(self.embedding.in_dim))
        return torch.allclose(basis @ basis.T, torch.eye(self.embedding.in_dim), atol=1e-4)

    def adapt(self, data: np.ndarray) -> None:
        """Fit the embedding to data of shape (n, t), before training."""
        self.embedding.adapt(data)

    @torch.no_grad()
    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        """Shift the output so that the decoder maps the origin to eta."""
        origin = torch.zeros(self.embedding.in_dim).to(eta)
        self._last.convex.linear.add_(eta - self(origin))


def _one_per_map(inverse_lipschitz: float | tuple[float, float], n_maps: int) -> tuple[float, ...]:
    if not isinstance(inverse_lipschitz, Sequence):
        return (inverse_lipschitz,) * n_maps
    if len(inverse_lipschitz) != n_maps:
        why = "latent_dim equals the natural dimension" if n_maps == 1 else "latent_dim is below the natural dimension"
        raise InputError(
            f"inverse_lipschitz expects one number, or one for each of the {n_maps} maps ({why}), got {inverse_lipschitz}."
        )
    return tuple(inverse_lipschitz)
