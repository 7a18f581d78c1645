"""Decoders: their interface, and the injective one of LIDVAE and IL-LIDVAE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse.maps.brenier import BrenierMap
from uncollapse.maps.embedding import Embedding, ZeroPadding
from uncollapse.maps.jacobian import Extremes, log_determinant, singular_extremes
from uncollapse.maps.potentials import ICNN, Potential

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
        """Return whether the fixed tensors are intact, so that the constant holds."""
        return True

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fit the tensors that training keeps fixed to data; by default do nothing.

        Args:
            data: sufficient statistics of rows, shape (n, t).
            noise: standard deviations of the noise in each column, shape (t,).
        """
        del data, noise


class NetworkDecoder(Decoder):
    """A decoder from any network, which promises nothing about injectivity.

    Args:
        net: maps z, shape (*batch, l), to natural parameters, shape (*batch, t).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def information_constant(self) -> float:
        """0: no information is promised."""
        return 0.0

    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        eta: Tensor = self.net(z)
        return eta


class InverseLipschitzDecoder(Decoder):
    """eta(z) = f2(B f1(z)), with Brenier maps f1 on R^l and f2 on R^t and an isometric embedding B;
    one map if l = t (LIDVAE, W21 definition 3; IL-LIDVAE, K23 definition 4.1).

    `intermediate_dims` adds maps, eta(z) = f3(B3 f2(B2 f1(z))) and so on (W21 appendix B).
    Constants compose: |eta(z) - eta(z')| >= L1 L2 ... |z - z'|, and <= U1 U2 ... |z - z'| with
    upper constants.

    With a context h, such as the history of a sequence, f1 maps [z; h] (W21 example 2, K23
    definition 4.3), and the lower constants hold in z for every h. They hold even if [z; h] has
    more coordinates than there are natural parameters and B cuts off the last: z comes first, and
    a principal block of a matrix >= L I is >= L I.

    Args:
        latent_dim: l.
        natural_dim: t >= l, the number of natural parameters.
        hidden: widths of the layers of each map.
        inverse_lipschitz: L for every map, or one for each. 0 gives LIDVAE.
        embedding: class of the last B, which meets the data; the zero-padding of both papers by
            default. The other B always pad. Principal directions are those of z alone, and a
            context goes to the last coordinates.
        lipschitz: U for every map, or one for each; infinity for none.
        potential: class of the convex functions whose gradients the maps are.
        intermediate_dims: dimensions of maps between the first and the last, not decreasing.
        context_dim: dimension of h; 0 for none. With a context there are at least two maps.

    Raises:
        ParameterError: if dimensions decrease, a constant cannot be used, or the number of
            constants is not the number of maps.

    >>> decoder = InverseLipschitzDecoder(2, 5, hidden=(16,), inverse_lipschitz=1.5)
    >>> decoder.constant
    2.25
    """

    maps: Sequence[BrenierMap]

    def __init__(
        self,
        latent_dim: int,
        natural_dim: int,
        hidden: Sequence[int] = (64, 64),
        inverse_lipschitz: float | Sequence[float] = 0.0,
        embedding: type[Embedding] = ZeroPadding,
        lipschitz: float | Sequence[float] = math.inf,
        potential: type[Potential] = ICNN,
        intermediate_dims: Sequence[int] = (),
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        _check_dims(latent_dim, intermediate_dims, natural_dim)
        self.latent_dim = latent_dim
        self.context_dim = context_dim
        dims: tuple[int, ...] = (latent_dim + context_dim, *intermediate_dims, natural_dim)
        if dims == (natural_dim, natural_dim) and not context_dim:
            dims = (natural_dim,)
        lower = _one_per_map("inverse_lipschitz", inverse_lipschitz, len(dims))
        upper = _one_per_map("lipschitz", lipschitz, len(dims))
        self.paddings = nn.ModuleList(
            ZeroPadding(min(below, above), above) for below, above in pairwise(dims[:-1])
        )
        before_last = min(dims[-2], natural_dim) if len(dims) > 1 else natural_dim
        last_kind = embedding if latent_dim < natural_dim else ZeroPadding
        n_context = min(context_dim, before_last - latent_dim)
        self.embedding = last_kind(before_last, natural_dim, n_context)
        chain = nn.ModuleList(
            BrenierMap(dim, hidden, low, high, potential)
            for dim, low, high in zip(dims, lower, upper, strict=True)
        )
        self.maps = cast(Sequence[BrenierMap], chain)
        for map_, below in zip(self.maps[1:], dims, strict=False):
            # Inputs fill only `below` of the dimensions: initialize the potential for those.
            map_.convex.reset_parameters(min(below, map_.dim))

    @property
    def constants(self) -> tuple[float, ...]:
        return tuple(map_.inverse_lipschitz for map_ in self.maps)

    def set_constants(self, constants: Sequence[float]) -> None:
        each = _one_per_map("inverse_lipschitz", tuple(constants), len(self.maps))
        for map_, constant in zip(self.maps, each, strict=True):
            map_.set_constant(constant)

    @property
    def constant(self) -> float:
        """Total inverse Lipschitz constant, the product of those of the maps."""
        return math.prod(self.constants)

    @property
    def upper_constant(self) -> float:
        """Total Lipschitz constant, |eta(z) - eta(z')| <= upper_constant |z - z'|; may be
        infinite."""
        return math.prod(map_.lipschitz for map_ in self.maps)

    @property
    def information_constant(self) -> float | None:
        """Total constant of one map or two without context, for which the information floor is
        proved; else None."""
        return self.constant if len(self.maps) <= 2 and not self.context_dim else None

    @property
    def is_one_map(self) -> bool:
        return len(self.maps) == 1

    @property
    def first_constant(self) -> float:
        return self.constants[0]

    def first(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch l"]:
        return self._through(z, 0, 1)

    def rest(self, v: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        return self._through(v, 1, len(self.maps))

    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        return self._through(z, 0, len(self.maps))

    def _through(self, value: Tensor, start: int, stop: int) -> Tensor:
        embeddings = ([None] if len(self.maps) > 1 else []) + [*self.paddings, self.embedding]
        for map_, embedding in list(zip(self.maps, embeddings, strict=True))[start:stop]:
            value = map_(value if embedding is None else value[..., : embedding.in_dim], embedding)
        return value

    def inverse(
        self, eta: Float[Tensor, "*batch t"], tol: float = 1e-10, max_iter: int = 100
    ) -> Float[Tensor, "*batch l"]:
        """Return z with eta(z) = eta, map by map, as `BrenierMap.inverse` does.

        Outside the range of the decoder this is a left inverse.

        Raises:
            InputError: if a constant is 0, or there is a context, part of which may be cut off.

        Warns:
            ConvergenceWarning: if some rows did not converge.
        """
        if self.context_dim:
            raise ParameterError(
                "inverse expects a decoder of z alone, got one with a context. Invert its maps."
            )
        value = self.embedding.project(self.maps[-1].inverse(eta, tol, max_iter))
        for map_ in reversed(self.maps[:-1]):
            value = map_.inverse(value[..., : map_.dim], tol, max_iter)
        return value

    def jacobian_extremes(self, z: Float[Tensor, "*batch l"]) -> Extremes:
        """Return the smallest and the largest singular value of the Jacobian at z."""
        return singular_extremes(self, z)

    def logabsdet(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch"]:
        """Return log |det J(z)|, or log det(J'J) / 2 if l < t, in float64, without gradients.

        Raises:
            ParameterError: if there are more than 1,000 latent units.
        """
        return log_determinant(self, z)

    def check_invariants(self) -> bool:
        """Return whether the embedding is isometric."""
        identity = torch.eye(self.embedding.in_dim, device=self.maps[0].convex.linear.device)
        basis = self.embedding(identity)
        return torch.allclose(basis @ basis.T, identity, atol=1e-4)

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fit the embedding to data, as `Embedding.initialize_from_data` does."""
        self.embedding.initialize_from_data(data, noise)

    @torch.no_grad()
    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        origin = torch.zeros(self.latent_dim + self.context_dim).to(eta)
        self.maps[-1].convex.linear.add_(eta - self(origin))


def _check_dims(latent_dim: int, intermediate_dims: Sequence[int], natural_dim: int) -> None:
    if latent_dim > natural_dim:
        raise ParameterError(
            f"an injective decoder expects latent_dim <= natural dimension, got "
            f"latent_dim={latent_dim} with natural_dim={natural_dim}: use latent_dim <= "
            f"{natural_dim}, or inverse_lipschitz=None for an ordinary decoder."
        )
    dims = (latent_dim, *intermediate_dims, natural_dim)
    if list(dims) != sorted(dims):
        raise ParameterError(
            f"maps of an injective decoder expect dimensions that do not decrease, got {dims}."
        )


def _one_per_map(name: str, constants: float | Sequence[float], n_maps: int) -> tuple[float, ...]:
    if not isinstance(constants, Sequence):
        return (constants,) * n_maps
    if len(constants) != n_maps:
        raise ParameterError(
            f"{name} expects one number, or one for each of the decoder's maps, got "
            f"{len(constants)} for {n_maps}: there is one map if latent_dim equals the natural "
            "dimension, else two, and one more for each of intermediate_dims."
        )
    return tuple(constants)
