"""The posterior refined on the frozen decoder: is the model to blame for a collapse, or the inference?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from uncollapse.diagnostics.collapse import explained_share
from uncollapse.diagnostics.estimate import Estimate
from uncollapse.latent import draw
from uncollapse.models import LatentModel, differentiable_twice, kl_per_unit, to_device
from uncollapse.noise import seeded
from uncollapse.progress import progress_bar

N_STEPS, N_DRAWS, FIRST_RATE = 200, 8, 0.1
Gaussians = Independent[Normal]
N_CANDIDATES, N_FINAL_DRAWS = 64, 64


@dataclass(frozen=True)
class Refinement:
    """Posteriors of rows as the encoder has them, and as good as Gaussians get when each row's is fitted by itself.

    Attributes:
        recovered: ELBO that is gained, shape (n,), in nats.
        means: of the fitted Gaussians, shape (n, latent_dim).
        variances: the same shape.
        encoder_means: of q(z|x), the same shape.
        encoder_variances: the same shape.
    """

    recovered: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    encoder_means: np.ndarray
    encoder_variances: np.ndarray

    @property
    def recovered_nats(self) -> Estimate:
        """What is recovered, mean over the rows."""
        return Estimate.mean_of(self.recovered)

    @property
    def explained_share(self) -> np.ndarray:
        """Of each unit's variance, by the fitted posteriors, shape (latent_dim,)."""
        return explained_share(self.means, self.variances)


def refine(model: LatentModel, rows: np.ndarray, verbose: bool = False) -> Refinement:
    """Fit a diagonal Gaussian to each row's posterior, by the ELBO, from the encoder's and from the best of 64 draws of the prior.

    Which of the two fits a row keeps, or whether it keeps its q(z|x), is decided by other draws than those that measure it, so that
    what is recovered is not overstated.

    Args:
        model: in evaluation; its z has a density.
        rows: shape (n, *features), as the model observes them.
        verbose: show a progress bar where there is a terminal.
    """
    x = to_device(model, rows)
    with seeded(0), torch.no_grad(), progress_bar("refining posteriors", 2 * N_STEPS, verbose) as advance:
        q = model.posterior(x)
        starts = [(q.mean, q.variance.sqrt()), _best_of_prior(model, x)]
        fits = [_fit(model, x, mean, scale, advance) for mean, scale in starts]
        elbos, shown = (_elbos(model, x, q, fits) for _ in range(2))  # by which they are chosen, and measured
        chosen = elbos.nan_to_num(-torch.inf).argmax(0, keepdim=True)
        moments = torch.stack([torch.stack([each.mean, each.variance]) for each in (q, *fits)])  # (3, 2, n, latent_dim)
        kept = moments.gather(0, chosen[:, None, :, None].expand(1, *moments.shape[1:]))[0]
        recovered = (shown.gather(0, chosen) - shown[:1])[0]
    return Refinement(*(part.double().cpu().numpy() for part in (recovered, *kept, *moments[0])))


def _elbos(model: LatentModel, x: Tensor, q: Distribution, fits: Sequence[Gaussians]) -> Tensor:
    """The ELBO of each row with the encoder's posterior, and with those fitted, at the same draws, shape (1 + fits, n)."""
    half = torch.randn(N_FINAL_DRAWS // 2, len(x), model.latent_dim).to(x)
    noise = torch.cat([half, -half])
    of_encoder = model.terms(x, model.latents(q, noise)).elbo
    return torch.stack([of_encoder.mean(0), *(_elbo_at(model, x, fit, noise).mean(0) for fit in fits)])


def _best_of_prior(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, the draw from the prior that explains it best, with a tenth of the prior's scale."""
    z = model.prior().sample(torch.Size([N_CANDIDATES]))
    log_p = model.log_likelihood(x, z.unsqueeze(1).expand(-1, len(x), -1))
    best = z[log_p.argmax(0)]
    return best, (z.std(0) / 10).clamp(min=1e-6).expand_as(best)


def _fit(model: LatentModel, x: Tensor, mean: Tensor, scale: Tensor, advance: Callable[[str], None]) -> Gaussians:
    """The diagonal Gaussian that maximises the ELBO of each row, by Adam, in units of the prior's spread."""
    shift, log_scale = mean.clone().requires_grad_(), scale.log().requires_grad_()
    optimiser = torch.optim.Adam([shift, log_scale], lr=FIRST_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
    for _ in range(N_STEPS):
        with torch.enable_grad(), differentiable_twice():
            half = torch.randn(N_DRAWS // 2, len(x), model.latent_dim).to(x)
            loss = -_elbo_at(model, x, _gaussian(shift, log_scale.exp()), torch.cat([half, -half])).mean(0).sum()
            shift.grad, log_scale.grad = torch.autograd.grad(loss, [shift, log_scale])
        optimiser.step()
        schedule.step()
        advance("")
    return _gaussian(shift.detach(), log_scale.detach().exp())


def _gaussian(mean: Tensor, scale: Tensor) -> Gaussians:
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


def _elbo_at(model: LatentModel, x: Tensor, q: Gaussians, noise: Tensor) -> Tensor:
    """The ELBO at draws of z, shape (draws, n), under the prior of z alone where it has components."""
    z, log_q = draw(q, noise)
    p = model.prior()
    units = kl_per_unit(q, p)
    return model.log_likelihood(x, z) - (log_q - p.log_prob(z) if units is None else units.sum(-1))
