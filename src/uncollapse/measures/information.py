"""How much the posteriors q(z|x) of a data set say, and in which units."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.special import logsumexp
from torch.distributions import Independent, Normal

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import RowNoise, seeded
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.row_map import RowMap, map_rows
from uncollapse.models import LatentModel, component_kl, to_device

# Burda et al. 2016: a unit is active if the variance over x of its posterior mean is at least this.
ACTIVE_VARIANCE = 0.01
# The scale-free rule: at least this share of the variance of a unit comes from the data.
ACTIVE_SHARE = 0.01
# Rows in the estimate of the mutual information, whose cost grows with their square.
MAX_INFORMATION_ROWS = 5000
CHUNK = 500
MAX_PAIRED_ROWS, PAIRS_AT_ONCE = 1000, 8  # where posteriors are not Gaussian
# Draws of z for each row where its KL or its component has no closed form.
N_POSTERIOR_DRAWS = 64
# An estimate of the mutual information this close to its cap, in nats, or with this much of a bias
# taken out, says only that the information is large; and what a bias falls by at the least when the
# rows double.
CAP_MARGIN, MAX_CORRECTION, LEAST_RATIO = 0.5, 0.5, 1.3
PURPOSE = "posteriors"


@dataclass(frozen=True)
class Posteriors:
    """The posteriors q(z|x) of n rows.

    Attributes:
        means: shape (n, latent_dim).
        variances: shape (n, latent_dim).
        kl: KL(q(z|x) || p(z)) in nats, with the component where the prior has several, shape (n,).
        kl_units: its parts by unit, shape (n, latent_dim), given the component where it is
            enumerated; None where it does not fall into units, as for a flow or under a mixture
            that is summed out.
        components: q(y|x), shape (n, c); None without components.
        kl_y: KL(q(y|x) || 1/c) in nats, shape (n,); None without components.
    """

    means: np.ndarray
    variances: np.ndarray
    kl: np.ndarray
    kl_units: np.ndarray | None
    components: np.ndarray | None
    kl_y: np.ndarray | None


def infer(model: LatentModel, rows: np.ndarray, work: RowMap | None = None) -> Posteriors:
    """The posteriors of rows, shape (n, *features), as the model observes them; `work` as for
    `map_rows`.

    Raises:
        InputError: if they are not finite.
    """
    found = map_rows(model, rows, _draws_needed(model, rows), PURPOSE, _infer, work=work)
    posteriors = Posteriors(**{field.name: found.get(field.name) for field in fields(Posteriors)})  # type: ignore[arg-type]
    if not np.isfinite(posteriors.means).all():
        raise DataError(
            "the posteriors of these data are not finite: expected data like those of the "
            "training; check their scale."
        )
    if not np.isfinite(posteriors.kl).all():
        raise DataError(
            "KL(q(z|x) || p(z)) is not finite on these data: expected a posterior that is only "
            "where the prior can be, and data "
            "like those of the training."
        )
    return posteriors


@torch.inference_mode()
def _infer(model: LatentModel, x: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fields of `Posteriors` that there are."""
    latents = model.infer(x, noise)
    found = {
        "means": latents.q.mean,
        "variances": latents.q.variance,
        "kl": latents.kl if latents.kl.dim() == 1 else latents.kl.mean(0),
        "kl_units": model.kl_by_unit(latents),
        "components": latents.components,
        "kl_y": None
        if latents.components is None
        else _component_kl(model, x, noise, latents.components),
    }
    return {name: value for name, value in found.items() if value is not None}


def _component_kl(
    model: LatentModel, x: torch.Tensor, noise: torch.Tensor, components: torch.Tensor
) -> torch.Tensor:
    """KL(q(y|x) || 1/c), less the bias of a q(y|x) that is a mean over draws, as the two halves of
    the draws show it."""
    if len(noise) == 1:
        return component_kl(components)
    halves = [model.infer(x, half).components for half in noise.chunk(2)]
    return (
        2 * component_kl(components)
        - sum(component_kl(half) for half in halves if half is not None) / 2
    )


@torch.inference_mode()
def _draws_needed(model: LatentModel, rows: np.ndarray) -> int:
    """Draws of z for each row: one where the KL has a closed form, and does not use it."""
    x, noise = (
        rows[:1],
        RowNoise(rows[:1], "draws needed").normal((2, model.latent_dim)).swapaxes(0, 1),
    )
    return (
        1
        if model.infer(to_device(model, x), to_device(model, noise)).kl.dim() == 1
        else N_POSTERIOR_DRAWS
    )


def active_units(means: np.ndarray) -> np.ndarray:
    """Burda's rule: Var_x E[z_d|x] >= 0.01.

    An absolute rule, for comparison with papers: a large inverse Lipschitz constant shrinks the
    means of live units.

    Args:
        means: posterior means, shape (n, latent_dim).

    Returns:
        Booleans, shape (latent_dim,).
    """
    return np.asarray(means.var(axis=0) >= ACTIVE_VARIANCE)


def explained_share(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Var_x E[z_d|x] / (Var_x E[z_d|x] + E_x Var[z_d|x]), between 0 (a collapsed unit) and 1,
    whatever the scale of z.

    Args:
        means: posterior means, shape (n, latent_dim).
        variances: posterior variances, the same shape.
    """
    between, within = means.var(axis=0), variances.mean(axis=0)
    return np.asarray(between / (between + within))


def informative_units(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The scale-free rule: the data explain at least 1% of the unit's variance. Booleans, shape
    (latent_dim,)."""
    return explained_share(means, variances) >= ACTIVE_SHARE


@dataclass(frozen=True)
class Information:
    """What is known of I(x; z) under q, by some rows.

    Attributes:
        rows: their indices.
        density: log q(z|x) - log q(z) at a z of each, less the bias of q(z), in nats.
        correction: what was taken out, in nats; 0 near the cap, where nothing tells the bias.
        doubt: by how much two ways of taking it out differ.
    """

    rows: np.ndarray
    density: np.ndarray
    correction: float
    doubt: float

    @property
    def cap(self) -> float:
        """The logarithm of the number of rows, which a mixture of their posteriors cannot exceed,
        in nats."""
        return math.log(len(self.rows))

    @property
    def is_uncertain(self) -> bool:
        """Whether the information is at least about as large as it seems, and nothing more is
        known."""
        return self.density.mean() > self.cap - CAP_MARGIN or self.correction > MAX_CORRECTION

    @property
    def estimate(self) -> Estimate:
        """I(x; z), in nats."""
        plain = Estimate.mean_of(self.density)
        return Estimate(min(plain.value, self.cap), math.hypot(plain.standard_error, self.doubt))


def mutual_information(model: LatentModel, rows: np.ndarray) -> Estimate:
    """I(x; z) under q, in nats; its estimate does not exceed the logarithm of the number of rows.

    Args:
        model: in training or evaluation.
        rows: shape (n, *features), in random order, as the model observes them.
    """
    return information(model, rows, infer(model, rows), np.arange(len(rows))).estimate


def information(
    model: LatentModel, rows: np.ndarray, posteriors: Posteriors, order: np.ndarray
) -> Information:
    """I(x; z) by the first rows of a random order, as many as can be compared with each other
    (Hoffman & Johnson 2016).

    q(z) is estimated by the mixture of the posteriors of n rows, which knows too few of them, so
    that the information comes out too low, by a bias that falls with n and leaves log n as a cap.
    Halves and quarters of the rows tell how it falls, and it is taken out.
    """
    with torch.inference_mode():
        q = model.posterior(to_device(model, rows[:1]))
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        some = order[:MAX_INFORMATION_ROWS]
        noise = np.random.default_rng(0).standard_normal((len(some), posteriors.means.shape[1]))
        densities = information_densities(posteriors.means[some], posteriors.variances[some], noise)
    else:
        some = order[:MAX_PAIRED_ROWS]
        densities = _pairwise_densities(model, rows[some])
    return without_bias(some, densities)


def without_bias(rows: np.ndarray, densities: np.ndarray) -> Information:
    """The density at n -> infinity, from those by all rows, by halves and by quarters, shape (3,
    n)."""
    whole, halves, quarters = densities.mean(1)
    if len(rows) < 8 or whole > math.log(len(rows)) - CAP_MARGIN or halves >= whole:
        return Information(rows, densities[0], 0.0, 0.0)
    # A bias that goes with n^-g falls by 2^g from halves to all: 2 for small informations, less for
    # large ones.
    ratio = float(np.clip((halves - quarters) / (whole - halves), LEAST_RATIO, 2.0))
    first_order, correction = whole - halves, (whole - halves) / (ratio - 1)
    density = densities[0] + (densities[0] - densities[1]) / (ratio - 1)
    return Information(rows, density, correction, correction - first_order)


def _pairwise_densities(model: LatentModel, rows: np.ndarray) -> np.ndarray:
    """`information_densities` for posteriors of any kind, which takes n^2 evaluations of their
    density."""
    with torch.inference_mode(), seeded(0):
        q = model.posterior(to_device(model, rows))
        z = q.sample()
        log_q = (
            torch.cat([q.log_prob(piece.unsqueeze(1)) for piece in torch.split(z, PAIRS_AT_ONCE)])
            .cpu()
            .double()
            .numpy()
        )
    return np.asarray(log_q.diagonal() - _log_means(log_q, 0))


def information_densities(
    means: np.ndarray, variances: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """log q(z|x) - log q(z) at one z for each x, in nats, with q(z) by the rows that are given.

    Args:
        means: means of diagonal Gaussian posteriors, shape (n, latent_dim), in random order.
        variances: their variances, the same shape.
        noise: standard normal draws, the same shape; they decide one z for each x.

    Returns:
        Shape (3, n), with q(z) as the mixture of the posteriors of all rows, of the half of them
        that x is in, and of the quarter.
    """
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    z = means + np.sqrt(variances) * noise
    precision = 1 / variances
    # log q(z_i|x_j) = c_j - |z_i - m_j|^2 / 2 in units of the precision, expanded so that matrix
    # products do the work.
    offset = -0.5 * ((means**2 * precision).sum(1) + np.log(2 * np.pi * variances).sum(1))
    densities = np.empty((3, len(z)))
    for start in range(0, len(z), CHUNK):
        rows = slice(start, start + CHUNK)
        log_q = offset - 0.5 * z[rows] ** 2 @ precision.T + z[rows] @ (means * precision).T
        own = log_q[np.arange(len(log_q)), np.arange(start, start + len(log_q))]
        densities[:, rows] = own - _log_means(log_q, start)
    return densities


def _log_means(log_q: np.ndarray, start: int) -> np.ndarray:
    """log q(z) at some z, the first of which is of row `start`, by all rows, by those of its half,
    and by those of its quarter."""
    places = np.arange(log_q.shape[1])
    found = []
    for n_parts in (1, 2, 4):
        part = places * n_parts // len(places)
        is_own = part[start : start + len(log_q), None] == part
        found.append(logsumexp(np.where(is_own, log_q, -np.inf), axis=1) - np.log(is_own.sum(1)))
    return np.stack(found)
