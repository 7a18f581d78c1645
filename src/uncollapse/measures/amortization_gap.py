"""The amortization gap: the ELBO gained by posteriors fitted row by row on the frozen decoder.

It tells a collapse of the model from a collapse of the inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import seeded
from uncollapse.latent import DiagonalNormal, diagonal_normal, draw
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.measures.posteriors import explained_share
from uncollapse.models import LatentModel, differentiable_twice, kl_per_unit, to_device

N_ROWS, MAX_EVALUATIONS = 64, 4096
N_STEPS, N_DRAWS, FIRST_RATE = 200, 8, 0.1
DRAWS_AT_ONCE = 8
N_CANDIDATES, N_CHOOSING_DRAWS, N_MEASURING_DRAWS = 64, 64, 256


@dataclass(frozen=True)
class Refinement:
    """The best diagonal Gaussian posterior of each row, where it beats the encoder's.

    Attributes:
        recovered: gained ELBO, shape (n,), in nats.
        means: of these posteriors, shape (n, latent_dim).
        variances: the same shape.
    """

    recovered: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def recovered_nats(self) -> Estimate:
        """The gained ELBO, mean over the rows."""
        return Estimate.mean_of(self.recovered)

    @property
    def explained_share(self) -> np.ndarray:
        """The share of each unit's variance that x explains under these posteriors, shape
        (latent_dim,)."""
        return explained_share(self.means, self.variances)


def refinement(model: Any, X: Any = None) -> Refinement | None:
    """Refine the posteriors of 64 random rows on the frozen decoder; `recovered_nats` is the
    amortization gap.

    It is unknown where log p(x|z) has no gradient in z, or each symbol of a sequence has its own z.
    """
    with evaluate(model, X) as data:
        if not data.can_move_latents:
            return None
        rows = data.few_rows(N_ROWS, N_DRAWS, MAX_EVALUATIONS)
        return refine(data.model, rows, data.verbose)


def refine(model: LatentModel, rows: np.ndarray, verbose: bool = False) -> Refinement:
    """Fit a diagonal Gaussian to each row's posterior by the ELBO, from the encoder's posterior and
    from the best of 64 draws of the prior.

    A row keeps its q(z|x) unless a fit is better by more than two standard errors. The draws that
    decide this are not those that measure the gain, so that it is not overstated.
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
        chosen = _choose(_elbos(model, x, q, fits, N_CHOOSING_DRAWS))
        elbos = _elbos(model, x, q, fits, N_MEASURING_DRAWS).mean(1)
        # Moments of the encoder's posterior and of both fits, shape (3, 2, n, latent_dim).
        moments = torch.stack([torch.stack([each.mean, each.variance]) for each in (q, *fits)])
        kept = moments.gather(0, chosen[:, None, :, None].expand(1, *moments.shape[1:]))[0]
        recovered = (elbos.gather(0, chosen) - elbos[:1])[0]
    return Refinement(*(part.double().cpu().numpy() for part in (recovered, *kept)))


def _choose(elbos: Tensor) -> Tensor:
    """Return for each row the index of the fit that is surely better than q(z|x), or 0, shape (1,
    n)."""
    # The second half of the draws mirrors the first.
    first, second = (elbos[1:] - elbos[0]).chunk(2, 1)
    gains = (first + second) / 2
    surely = gains.mean(1) - 2 * gains.std(1) / math.sqrt(gains.shape[1])
    none = torch.zeros_like(surely[:1])
    return torch.cat([none, surely.nan_to_num(-torch.inf)]).argmax(0, keepdim=True)


def _elbos(
    model: LatentModel, x: Tensor, q: Distribution, fits: Sequence[DiagonalNormal], n_draws: int
) -> Tensor:
    """Compute the ELBO of each row with q(z|x) and with each fit, at the same draws, shape (1 +
    fits, draws, n)."""
    pieces = torch.split(_mirrored_noise(n_draws, x, model.latent_dim), DRAWS_AT_ONCE)
    return torch.stack(
        [torch.cat([_elbo(model, x, each, noise) for noise in pieces]) for each in (q, *fits)]
    )


def _elbo(model: LatentModel, x: Tensor, q: Distribution, noise: Tensor) -> Tensor:
    """Compute the ELBO at draws of z, shape (draws, n). It is log p(x) at each draw if q is the
    exact posterior."""
    if isinstance(q, MixtureSameFamily):
        # An enumerated posterior has a component beside z, and a bound of its own.
        return model.terms(x, model.latents(q, noise)).elbo
    z, log_q = draw(q, noise)
    return model.log_likelihood(x, z) + model.prior().log_prob(z) - log_q


def _best_of_prior(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the draw from the prior that explains each row best, and the deviations of the
    prior."""
    z = model.draw_prior(N_CANDIDATES)
    pieces = [piece.unsqueeze(1).expand(-1, len(x), -1) for piece in torch.split(z, DRAWS_AT_ONCE)]
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
) -> DiagonalNormal:
    """Maximize the ELBO of each row over diagonal Gaussians by Adam, with steps in z measured in
    `unit`."""
    shift, log_scale = torch.zeros_like(mean, requires_grad=True), scale.log().requires_grad_()
    optimizer = torch.optim.Adam([shift, log_scale], lr=FIRST_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    for _ in range(N_STEPS):
        with torch.enable_grad(), differentiable_twice():
            loss = _loss(model, x, diagonal_normal(mean + unit * shift, log_scale.exp()))
            shift.grad, log_scale.grad = torch.autograd.grad(loss, [shift, log_scale])
        optimizer.step()
        schedule.step()
        advance("")
    return diagonal_normal((mean + unit * shift).detach(), log_scale.detach().exp())


def _loss(model: LatentModel, x: Tensor, q: DiagonalNormal) -> Tensor:
    """Compute the negative ELBO of all rows, with the KL in closed form where there is one."""
    z, log_q = draw(q, _mirrored_noise(N_DRAWS, x, model.latent_dim))
    p = model.prior()
    units = kl_per_unit(q, p)
    kl = log_q - p.log_prob(z) if units is None else units.sum(-1)
    return (kl - model.log_likelihood(x, z)).mean(0).sum()


def _mirrored_noise(n_draws: int, x: Tensor, latent_dim: int) -> Tensor:
    """Draw standard normal noise whose second half mirrors the first, shape (draws, n,
    latent_dim)."""
    half = torch.randn(n_draws // 2, len(x), latent_dim).to(x)
    return torch.cat([half, -half])
