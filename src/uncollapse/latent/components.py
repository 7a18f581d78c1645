"""Mixture priors, with components that are kept apart, or learned."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

from uncollapse._utils.errors import ParameterError
from uncollapse.latent.priors import DiagonalNormal, Prior, diagonal_normal, mixture

MAX_RADIUS = 1e3  # of a ball without neighbors
DEFAULT_SEPARATION = math.sqrt(2)  # the distance of unit vectors
TANGLED = 0.5  # means closer than this share of their separation are moved to free places


class GaussianMixture(Prior):
    """p(z) = (1/c) sum_y N(z; m_y, S_y), the prior of a mixture VAE (W21 example 1, K23 definition
    4.2).

    Args:
        n_components: c.
        latent_dim: l.
    """

    def __init__(self, n_components: int, latent_dim: int) -> None:
        super().__init__()
        self.n_components = n_components
        self.latent_dim = latent_dim

    @abstractmethod
    def components(self) -> Distribution:
        """Return p(z|y) for all y, with batch shape (c,)."""

    @abstractmethod
    def start_at(self, means: Float[Tensor, "c l"], covariances: Float[Tensor, "c l l"]) -> None:
        """Start at components like these, as far as the prior allows."""

    def forward(self) -> MixtureSameFamily:
        components = self.components()
        return mixture(components.mean.new_zeros(self.n_components), components)

    def log_given_component(self, z: Float[Tensor, "*batch c l"]) -> Float[Tensor, "*batch c"]:
        """Return log p(z_y|y) in nats, for one z of each component."""
        log_density: Tensor = self.components().log_prob(z)
        return log_density

    def log_joint(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch c"]:
        """Return log p(z, y) for all y, in nats."""
        return self.log_given_component(z.unsqueeze(-2)) - math.log(self.n_components)

    def responsibilities(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch c"]:
        """Return p(y|z)."""
        return self.log_joint(z).softmax(-1)

    @torch.no_grad()
    def entropy_bound(self) -> float:
        """Return E_y h(z|y) <= h(z), in nats."""
        return float(self.components().entropy().mean())

    @torch.no_grad()
    def component_information_bound(self) -> float:
        """Return a lower bound on I(y; z) under the prior, in nats.

        It rests on Bhattacharyya distances, which are |m_i - m_j|^2 / 8 for unit scales.
        """
        components = self.components()
        means, covariances = components.mean.double(), _covariances(components).double()
        log_volumes = torch.linalg.slogdet(covariances).logabsdet
        rows = []
        for mean, covariance, log_volume in zip(means, covariances, log_volumes, strict=True):
            average, gap = (covariance + covariances) / 2, (mean - means).unsqueeze(-1)
            bent = (torch.linalg.slogdet(average).logabsdet - (log_volume + log_volumes) / 2) / 2
            rows.append((gap * torch.linalg.solve(average, gap)).sum((-2, -1)) / 8 + bent)
        return information_of_distances(torch.stack(rows))


def _covariances(components: Distribution) -> Float[Tensor, "c l l"]:
    if isinstance(components, MultivariateNormal):
        covariances: Tensor = components.covariance_matrix
        return covariances
    return torch.diag_embed(components.variance)


class FactorizedComponents(GaussianMixture):
    """Components N(m_y, diag(s_y^2))."""

    @property
    @abstractmethod
    def means(self) -> Float[Tensor, "c l"]:
        """Means m."""

    @property
    @abstractmethod
    def scales(self) -> Float[Tensor, "c l"]:
        """Standard deviations s."""

    def components(self) -> DiagonalNormal:
        return diagonal_normal(self.means, self.scales)


class UnitComponents(FactorizedComponents):
    """Components N(e_y, I), with nothing learned: B1'y of K23 definition 4.2.

    Means stay sqrt(2) apart.

    Raises:
        ParameterError: if there are more components than latent units.
    """

    eye: Tensor

    def __init__(self, n_components: int, latent_dim: int) -> None:
        super().__init__(n_components, latent_dim)
        if n_components > latent_dim:
            raise ParameterError(
                f"prior 'unit' expects n_components <= latent_dim, got {n_components} and "
                f"{latent_dim}. Use prior 'separated', fewer components, or more units."
            )
        self.register_buffer("eye", torch.eye(n_components, latent_dim))

    @property
    def means(self) -> Float[Tensor, "c l"]:
        return self.eye

    @property
    def scales(self) -> Float[Tensor, "c l"]:
        return torch.ones_like(self.eye)

    def start_at(self, means: Float[Tensor, "c l"], covariances: Float[Tensor, "c l l"]) -> None:
        """Do nothing, as these components are fixed."""

    def check_invariants(self) -> bool:
        """Return whether the means are the unit vectors."""
        return torch.equal(self.eye, torch.eye(self.n_components, self.latent_dim).to(self.eye))


class LearnedComponents(FactorizedComponents):
    """Components with learned means and scales, as in the code of both papers.

    Nothing keeps them apart.
    """

    def __init__(self, n_components: int, latent_dim: int) -> None:
        super().__init__(n_components, latent_dim)
        self.loc = nn.Parameter(torch.randn(n_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(n_components, latent_dim))

    @property
    def means(self) -> Float[Tensor, "c l"]:
        return self.loc

    @property
    def scales(self) -> Float[Tensor, "c l"]:
        return self.log_scale.exp()

    @torch.no_grad()
    def start_at(self, means: Float[Tensor, "c l"], covariances: Float[Tensor, "c l l"]) -> None:
        """Start at these means and the scales of these covariances."""
        self.loc.copy_(means)
        self.log_scale.copy_(covariances.diagonal(dim1=-2, dim2=-1).log() / 2)


class FullComponents(GaussianMixture):
    """Components with learned means and full covariances (W21 section 2.2).

    Nothing keeps them apart. The Cholesky factor of a covariance has an exponential diagonal.
    """

    def __init__(self, n_components: int, latent_dim: int) -> None:
        super().__init__(n_components, latent_dim)
        self.loc = nn.Parameter(torch.randn(n_components, latent_dim))
        self.log_diagonal = nn.Parameter(torch.zeros(n_components, latent_dim))
        self.below = nn.Parameter(torch.zeros(n_components, latent_dim, latent_dim))

    def components(self) -> MultivariateNormal:
        factor = self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())
        return MultivariateNormal(self.loc, scale_tril=factor, validate_args=False)

    @torch.no_grad()
    def start_at(self, means: Float[Tensor, "c l"], covariances: Float[Tensor, "c l l"]) -> None:
        """Start at these components."""
        factor = torch.linalg.cholesky(covariances.double())
        self.loc.copy_(means)
        self.below.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal(dim1=-2, dim2=-1).log())


class SeparatedComponents(FactorizedComponents):
    r"""Components of scale 1 with learned means that always are at least `separation` apart.

    A mean moves in an open ball around an anchor, m_y = a_y + r_y v_y / sqrt(1 + |v_y|^2). The
    anchors are fixed before training. r_y is half the excess of the distance from a_y to the
    nearest anchor over the separation, so that |m_y - m_k| >= |a_y - a_k| - r_y - r_k >=
    separation.

    Args:
        n_components: c.
        latent_dim: l.
        separation: the least distance between two means, in standard deviations of a component.
    """

    anchors: Tensor
    radii: Tensor

    def __init__(
        self, n_components: int, latent_dim: int, separation: float = DEFAULT_SEPARATION
    ) -> None:
        super().__init__(n_components, latent_dim)
        self.separation = separation
        drawn = torch.randn(n_components, latent_dim)
        # There are no values on the meta device, where models are built to count parameters.
        anchors, radii = (drawn, drawn[:, 0]) if drawn.is_meta else _spread(drawn, separation)
        self.register_buffer("anchors", anchors)
        self.register_buffer("radii", radii)
        self.moves = nn.Parameter(torch.zeros(n_components, latent_dim))

    @property
    def means(self) -> Float[Tensor, "c l"]:
        length = (1 + self.moves.square().sum(-1, keepdim=True)).sqrt()
        return self.anchors + self.radii[:, None] * self.moves / length

    @property
    def scales(self) -> Float[Tensor, "c l"]:
        return torch.ones_like(self.anchors)

    @torch.no_grad()
    def start_at(self, means: Float[Tensor, "c l"], covariances: Float[Tensor, "c l l"]) -> None:
        """Start at these means, in units of the components' mean scale; spread means that are too
        close."""
        variance = covariances.diagonal(dim1=-2, dim2=-1).mean()
        anchors, radii = _spread(means / variance.sqrt(), self.separation)
        self.anchors.copy_(anchors)
        self.radii.copy_(radii)
        self.moves.zero_()

    def check_invariants(self) -> bool:
        """Return whether anchors and radii are such that the separation holds."""
        apart = _distances(self.anchors) - self.radii - self.radii[:, None]
        rounding = 1e-4 * self.separation + 1e-6 * float(self.anchors.abs().max())
        return bool((self.radii >= 0).all() and (apart >= self.separation - rounding).all())


def information_of_distances(distances: Float[Tensor, "c c"]) -> float:
    r"""Return a lower bound on I(y; z) in nats, for y uniform over c components.

    I(y; z) >= -(1/c) sum_i log (1/c) sum_j exp(-d_ij), with Bhattacharyya distances d (Kolchinsky &
    Tracey 2017, equation 10).
    """
    return float(-((-distances).logsumexp(1) - math.log(len(distances))).mean())


def _spread(means: Tensor, separation: float) -> tuple[Tensor, Tensor]:
    """Return anchors like these means, at least twice the separation apart, and their radii."""
    means = _untangled(means, separation)
    factor = 2 * separation / max(1e-6, float(_distances(means).min()))
    if factor > 1:
        means = means.mean(0) + factor * (means - means.mean(0))
    rounding = 1e-6 * float(means.abs().max())
    return means, ((_distances(means).amin(1) - separation) / 2 - rounding).clamp(0, MAX_RADIUS)


def _untangled(means: Tensor, separation: float) -> Tensor:
    """Move means that almost coincide with an earlier one along the first axis to a free place.

    Scaling such means apart instead would send all others far away.
    """
    means = means.clone()
    # Far from the origin, float32 has no smaller steps.
    unit = max(2 * separation, 1e-6 * float(means.abs().max()))
    for index in range(1, len(means)):
        if _nearest(means[:index], means[index]) >= TANGLED * separation:
            continue
        others, place = torch.cat([means[:index], means[index + 1 :]]), means[index].clone()
        for step in range(1, 8 * len(means)):
            means[index, 0] = place[0] + unit * ((step + 1) // 2) * (-1) ** step
            if _nearest(others, means[index]) >= 2 * separation:
                break
    return means


def _nearest(means: Tensor, point: Tensor) -> float:
    return float(torch.linalg.vector_norm(means - point, dim=-1).min())


def _distances(means: Tensor) -> Tensor:
    """Return the distances between all means, with infinity on the diagonal."""
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf)


PRIORS: dict[str, type[GaussianMixture]] = {
    "separated": SeparatedComponents,
    "unit": UnitComponents,
    "learned": LearnedComponents,
    "full": FullComponents,
}
