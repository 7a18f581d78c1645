"""The posterior refined on the frozen decoder: is the model to blame for a collapse, or the
inference?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import seeded
from uncollapse.latent import draw
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.information import explained_share
from uncollapse.models import LatentModel, differentiable_twice, kl_per_unit, to_device

N_STEPS, N_DRAWS, FIRST_RATE = 200, 8, 0.1
DRAWS_AT_ONCE = 8
Gaussians = Independent[Normal]
N_CANDIDATES, N_CHOOSING_DRAWS, N_MEASURING_DRAWS = 64, 64, 256


@dataclass(frozen=True)
class Refinement:
    """Posteriors of rows, as good as Gaussians get when each row's is fitted by itself, where that
    beats the encoder's.

    Attributes:
        recovered: ELBO that is gained, shape (n,), in nats.
        means: of these posteriors, shape (n, latent_dim).
        variances: the same shape.
    """

    recovered: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def recovered_nats(self) -> Estimate:
        """What is recovered, mean over the rows."""
        return Estimate.mean_of(self.recovered)

    @property
    def explained_share(self) -> np.ndarray:
        """Of each unit's variance, by the fitted posteriors, shape (latent_dim,)."""
        return explained_share(self.means, self.variances)


def refine(model: LatentModel, rows: np.ndarray, verbose: bool = False) -> Refinement:
    """Fit a diagonal Gaussian to each row's posterior, by the ELBO, from the encoder's and from the
    best of 64 draws of the prior.

    A row keeps its q(z|x) unless a fit is better by more than two errors, which other draws decide
    than those that measure it, so that what is recovered is not overstated.

    Args:
        model: in evaluation; its z has a density.
        rows: shape (n, *features), as the model observes them.
        verbose: show a progress bar where there is a terminal.
    """
    x = to_device(model, rows)
    with (
        seeded(0),
        torch.no_grad(),
        progress_bar("refining posteriors", 2 * N_STEPS, verbose) as advance,
    ):
        q = model.posterior(x)
        scale = q.variance.sqrt()
        best, spread = _best_of_prior(model, x)
        starts = [(q.mean, scale, scale), (best, spread / 10, spread)]
        fits = [_fit(model, x, *start, advance) for start in starts]
        chosen = _choice(_elbos(model, x, q, fits, N_CHOOSING_DRAWS))
        elbos = _elbos(model, x, q, fits, N_MEASURING_DRAWS).mean(1)
        moments = torch.stack(
            [torch.stack([each.mean, each.variance]) for each in (q, *fits)]
        )  # (3, 2, n, latent_dim)
        kept = moments.gather(0, chosen[:, None, :, None].expand(1, *moments.shape[1:]))[0]
        recovered = (elbos.gather(0, chosen) - elbos[:1])[0]
    return Refinement(*(part.double().cpu().numpy() for part in (recovered, *kept)))


def _choice(elbos: Tensor) -> Tensor:
    """For each row, the number of the fit that is better than its q(z|x) for sure, or 0, shape (1,
    n)."""
    first, second = (elbos[1:] - elbos[0]).chunk(
        2, 1
    )  # of draws, the second half mirrors the first
    gains = (first + second) / 2
    surely = gains.mean(1) - 2 * gains.std(1) / math.sqrt(gains.shape[1])
    return torch.cat([torch.zeros_like(surely[:1]), surely.nan_to_num(-torch.inf)]).argmax(
        0, keepdim=True
    )


def _elbos(
    model: LatentModel, x: Tensor, q: Distribution, fits: Sequence[Gaussians], n_draws: int
) -> Tensor:
    """The ELBO of each row with the encoder's posterior, and with those fitted, at the same draws,
    shape (1 + fits, draws, n)."""
    pieces = torch.split(_mirrored(n_draws, x, model.latent_dim), DRAWS_AT_ONCE)
    return torch.stack(
        [torch.cat([_elbo(model, x, each, noise) for noise in pieces]) for each in (q, *fits)]
    )


def _elbo(model: LatentModel, x: Tensor, q: Distribution, noise: Tensor) -> Tensor:
    """The ELBO at draws of z, shape (draws, n): log p(x) at each of them, if q is the exact
    posterior."""
    if isinstance(
        q, MixtureSameFamily
    ):  # an enumerated posterior has the component beside z, and a bound of its own
        return model.terms(x, model.latents(q, noise)).elbo
    z, log_q = draw(q, noise)
    return model.log_likelihood(x, z) + model.prior().log_prob(z) - log_q


def _best_of_prior(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, the draw from the prior that explains it best, and the deviations of the
    prior."""
    z = model.draw_prior(N_CANDIDATES)
    pieces = (piece.unsqueeze(1).expand(-1, len(x), -1) for piece in torch.split(z, DRAWS_AT_ONCE))
    log_p = torch.cat([model.log_likelihood(x, piece) for piece in pieces]).nan_to_num(-math.inf)
    best = z[log_p.argmax(0)]
    return best, z.std(0).clamp(min=1e-6).expand_as(best)


def _fit(
    model: LatentModel,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    unit: Tensor,
    advance: Callable[[str], None],
) -> Gaussians:
    """The diagonal Gaussian that maximises the ELBO of each row, by Adam, whose steps in z are
    measured in a unit."""
    shift, log_scale = torch.zeros_like(mean, requires_grad=True), scale.log().requires_grad_()
    optimiser = torch.optim.Adam([shift, log_scale], lr=FIRST_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
    for _ in range(N_STEPS):
        with torch.enable_grad(), differentiable_twice():
            loss = _loss(model, x, _gaussian(mean + unit * shift, log_scale.exp()))
            shift.grad, log_scale.grad = torch.autograd.grad(loss, [shift, log_scale])
        optimiser.step()
        schedule.step()
        advance("")
    return _gaussian((mean + unit * shift).detach(), log_scale.detach().exp())


def _loss(model: LatentModel, x: Tensor, q: Gaussians) -> Tensor:
    """The negative ELBO of all rows, with the KL in closed form where there is one, under the prior
    of z alone."""
    z, log_q = draw(q, _mirrored(N_DRAWS, x, model.latent_dim))
    p = model.prior()
    units = kl_per_unit(q, p)
    kl = log_q - p.log_prob(z) if units is None else units.sum(-1)
    return (kl - model.log_likelihood(x, z)).mean(0).sum()


def _mirrored(n_draws: int, x: Tensor, latent_dim: int) -> Tensor:
    """Standard normal noise whose second half mirrors the first, shape (draws, n, latent_dim)."""
    half = torch.randn(n_draws // 2, len(x), latent_dim).to(x)
    return torch.cat([half, -half])


def _gaussian(mean: Tensor, scale: Tensor) -> Gaussians:
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
