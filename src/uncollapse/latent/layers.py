"""Priors of two layers, z and then w given z; the decoder sees w (W21 definition 4)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, constraints

from uncollapse._utils.errors import ParameterError
from uncollapse.families import Bernoulli, ContinuousBernoulli, Family, Gaussian, Poisson
from uncollapse.latent.components import information_of_distances
from uncollapse.latent.priors import Prior, mixture

# Families with T(w) = w and one natural parameter for each column, which fills R.
LAYER_FAMILIES: tuple[type[Family], ...] = (Gaussian, Bernoulli, ContinuousBernoulli, Poisson)
NODES, WEIGHTS = hermegauss(32)
N_HALVINGS = 40


class Layer(Prior):
    """p(w) = E_p(z) EF(w | B1'z), with an exact expectation.

    B1 is the K x M identity (W21 definition 4), so that w_d depends on z_d alone, and on nothing
    for d > K. It has full row rank and the family is minimal, hence z -> p(w|z) is injective.
    Nothing is learned.

    Args:
        family: family of w: bernoulli, continuous_bernoulli, poisson, or gaussian of scale 1.
        top_dim: K, the dimension of z.
        latent_dim: M >= K, the dimension of w.

    Raises:
        ParameterError: if the family is another one, or K > M.
    """

    eye: Tensor

    def __init__(self, family: Family, top_dim: int, latent_dim: int) -> None:
        super().__init__()
        _check_family(family)
        if not 1 <= top_dim <= latent_dim:
            raise ParameterError(
                f"a layer expects 1 <= K <= M for its K x M matrix to have full row rank, got "
                f"K={top_dim} and M={latent_dim}. Use fewer components or dimensions of z, or more "
                "units of w."
            )
        self.family = family.for_features(latent_dim)
        self.top_dim = top_dim
        self.latent_dim = latent_dim
        self.register_buffer("eye", torch.eye(top_dim, latent_dim))

    def natural(self, z: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch M"]:
        """Return B1'z, the natural parameters of p(w|z)."""
        return F.pad(z, (0, self.latent_dim - self.top_dim))

    def given(self, z: Float[Tensor, "*batch K"]) -> Distribution:
        """Return p(w|z)."""
        distribution: Distribution = self.family(self.natural(z))
        return distribution

    @abstractmethod
    def expected(self, w: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch K"]:
        """Return E[z|w], which is p(z = e_k|w) if z is one of K unit vectors."""

    @abstractmethod
    def entropy_given_top(self) -> float:
        """Return h(w|z) in nats, if w has a density."""

    @property
    def has_density(self) -> bool:
        """Whether w has a density, rather than being discrete."""
        support = self.given(self.eye[:, : self.top_dim]).support
        return support is None or not support.is_discrete

    @torch.no_grad()
    def entropy_bound(self) -> float:
        """Return h(w|z) <= h(w) in nats; -infinity, hence no bound, if w is discrete."""
        return self.entropy_given_top() if self.has_density else -math.inf

    def check_invariants(self) -> bool:
        """Return whether the unit vectors and the family are intact."""
        is_eye = torch.equal(self.eye, torch.eye(*self.eye.shape).to(self.eye))
        return is_eye and self.family.check_invariants()


class CategoricalLayer(Layer):
    """p(w) = (1/K) sum_k EF(w | e_k): z is one of K unit vectors, uniformly.

    With a Gaussian family this is `UnitComponents`.
    """

    def forward(self) -> MixtureSameFamily:
        return mixture(self.eye.new_zeros(self.top_dim), self.family(self.eye))

    def expected(self, w: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch K"]:
        log_given: Tensor = self.family(self.eye).log_prob(w.unsqueeze(-2))
        return log_given.softmax(-1)

    def entropy_given_top(self) -> float:
        return float(self.family(self.eye).entropy().mean())

    @torch.no_grad()
    def component_information_bound(self) -> float:
        """Return a lower bound on I(z; w) in nats, also for a discrete w.

        The Bhattacharyya distance in an exponential family is (A(eta) + A(eta')) / 2 - A((eta +
        eta') / 2), summed over columns.
        """
        eta = self.eye.double()
        single = self.family.log_partition(eta).sum(-1)
        middle = self.family.log_partition((eta[:, None] + eta[None]) / 2).sum(-1)
        return information_of_distances((single[:, None] + single[None]) / 2 - middle)


class NormalLayer(Layer):
    """p(w) = E_z EF(w | B1'z) with z ~ N(0, I_K).

    p(w) factorizes over d. Each factor is an integral over one number, by Gauss-Hermite quadrature
    around its peak: p(z_d|w_d) is log-concave, as A is convex. The relative error is below 1e-9.
    """

    def forward(self) -> Integrated:
        return Integrated(self)

    def log_prob(self, w: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch"]:
        """Return log p(w), in nats."""
        return self._log_joint(w)[1].logsumexp(0).sum(-1)

    def expected(self, w: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch K"]:
        z, log_joint = self._log_joint(w)
        return (log_joint.softmax(0) * z).sum(0)[..., : self.top_dim]

    def entropy_given_top(self) -> float:
        nodes = torch.as_tensor(NODES).to(self.eye)
        weights = torch.as_tensor(WEIGHTS / WEIGHTS.sum()).to(self.eye)
        entropies: Tensor = self.given(nodes[:, None].expand(-1, self.top_dim)).entropy()
        return float(weights @ entropies)

    def _log_joint(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return nodes B1'z and weighted log p(w_d, z_d), both of shape (nodes, *batch, M)."""
        seen = self.eye.sum(0)  # 0 for d > K, where nodes are at 0 with their prior weight
        center, scale = self._peak(w.detach(), seen)
        node, weight = (
            torch.as_tensor(values).to(w).reshape(-1, *(1 for _ in w.shape))
            for values in (NODES, WEIGHTS)
        )
        z = center + scale * node
        given = cast(Independent[Any], self.family(seen * z))
        log_weight = (weight / weight.sum()).log() + scale.log() + (node.square() - z.square()) / 2
        return seen * z, given.base_dist.log_prob(w) + log_weight

    @torch.no_grad()
    def _peak(self, w: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the peak of p(z_d|w_d) and the scale of the Gaussian there; 0 and 1 for d > K.

        The peak is the root of w - E[w|z] - z, which falls in z, between 0 and the value at 0.
        """
        origin = torch.zeros_like(w)
        end = seen * (w - self.family.expectation(origin))
        for _ in range(N_HALVINGS):
            middle = (origin + end) / 2
            before = (w - self.family.expectation(middle) - middle) * end > 0
            origin, end = torch.where(before, middle, origin), torch.where(before, end, middle)
        return end, (1 + seen * self.family(end).variance).rsqrt()


class Integrated(Distribution):
    """p(w) under a `NormalLayer`."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, layer: NormalLayer) -> None:
        super().__init__(event_shape=torch.Size([layer.latent_dim]), validate_args=False)
        self.layer = layer

    def log_prob(self, value: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch"]:
        return self.layer.log_prob(value)

    @torch.no_grad()
    def sample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()
    ) -> Tensor:
        """Draw w, each from a z of its own."""
        eye = self.layer.eye
        z = torch.randn(*sample_shape, self.layer.top_dim, dtype=eye.dtype, device=eye.device)
        w: Tensor = self.layer.given(z).sample()
        return w


def _check_family(family: Family) -> None:
    if not isinstance(family, LAYER_FAMILIES):
        names = ", ".join(kind.name for kind in LAYER_FAMILIES)
        raise ParameterError(
            "a layer expects a family whose statistic is the value, with one natural parameter in "
            f"R for each column ({names}), got {family.name!r}. Use one of those."
        )
    if isinstance(family, Gaussian) and family.fixed_scale != 1:
        scale = "a learned one" if family.fixed_scale is None else f"{family.fixed_scale:g}"
        raise ParameterError(
            f"a layer expects family 'gaussian' of scale 1, got {scale}. Use Gaussian(scale=1.0)."
        )
