"""The marginal likelihood by annealed importance sampling (AIS; Neal 2001), which checks plain
importance sampling (Wu et al. 2017)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import seeded
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.measures.likelihood import importance_log_likelihood_per_row
from uncollapse.models import LatentModel, differentiable_twice, gradient, to_device

N_ROWS, MAX_EVALUATIONS = 16, 1024
N_CHAINS, N_TEMPERATURES, N_LEAPFROG = 16, 100, 5
# Hamiltonian Monte Carlo works well at this rate of accepted proposals (Neal 2011).
ACCEPTED, FIRST_STEP, STEP_GROWTH = 0.65, 0.3, 1.05


def ais_log_likelihood(model: Any, X: Any = None) -> Estimate | None:
    """Estimate the mean of log p(x) in nats by annealed importance sampling, on 16 random rows.

    It is unknown where log p(x|z) has no gradient in z, or each symbol of a sequence has its own z.
    """
    with evaluate(model, X) as data:
        if not data.can_move_latents:
            return None
        rows = data.few_rows(N_ROWS, N_CHAINS, MAX_EVALUATIONS)
        return Estimate.mean_of(ais_log_likelihood_per_row(data.model, rows, verbose=data.verbose))


def ais_gain(model: Any, X: Any = None, n_samples: int = 64) -> Estimate | None:
    """Estimate the AIS gain over importance sampling: log p(x) by AIS, less log p(x) by plain
    importance sampling, in nats, on the rows of `ais_log_likelihood`.

    A gain above its error says that q(z|x) misses a part of the true posterior. `n_samples` is the
    number of draws of plain importance sampling for each row.
    """
    with evaluate(model, X) as data:
        if not data.can_move_latents:
            return None
        rows = data.few_rows(N_ROWS, N_CHAINS, MAX_EVALUATIONS)
        annealed = ais_log_likelihood_per_row(data.model, rows, verbose=data.verbose)
        plain = importance_log_likelihood_per_row(data.model, rows, n_samples)
        return Estimate.mean_of(annealed - plain)


def ais_log_likelihood_per_row(
    model: LatentModel,
    rows: np.ndarray,
    n_chains: int = N_CHAINS,
    n_temperatures: int = N_TEMPERATURES,
    verbose: bool = False,
) -> np.ndarray:
    """Estimate log p(x) of each row in nats, shape (n,), by AIS from q(z|x) to the true posterior,
    with steps of Hamiltonian Monte Carlo at `n_temperatures`.

    Like plain importance sampling it is a lower bound in expectation, apart from step sizes that
    follow the acceptance rate. The chains move to the true posterior, so q(z|x) need not cover it.
    With one temperature it is plain importance sampling. A chain that meets a density of NaN has
    weight 0.
    """
    x = to_device(model, rows)
    with (
        seeded(0),
        torch.no_grad(),
        progress_bar("annealed importance sampling", n_temperatures, verbose) as advance,
    ):
        path = _Path(model, x)
        z = path.q.sample(torch.Size([n_chains]))
        places = torch.sigmoid(torch.linspace(-4, 4, n_temperatures + 1, dtype=torch.double))
        betas = ((places - places[0]) / (places[-1] - places[0])).tolist()
        log_weight = torch.zeros(z.shape[:-1], dtype=torch.double, device=z.device)
        step = z.new_full((1, len(x), 1), FIRST_STEP)
        for before, beta in pairwise(betas):
            log_q, log_p = path.log_densities(z)
            log_weight += (beta - before) * (log_p - log_q).double()
            z, accepted = path.move(z, beta, step)
            growth = torch.where(accepted > ACCEPTED, STEP_GROWTH, 1 / STEP_GROWTH)
            step = step * growth[None, :, None]
            advance("")
    found = log_weight.nan_to_num(-math.inf, math.inf, -math.inf).logsumexp(0) - math.log(n_chains)
    return np.asarray(found.cpu().numpy())


class _Path:
    """The densities q(z|x)^(1 - b) p(x, z)^b of a batch of rows, for b from 0 to 1."""

    def __init__(self, model: LatentModel, x: Tensor) -> None:
        self.model, self.x = model, x
        self.q = model.posterior(x)
        # Steps are in units of the posterior deviations, to suit narrow and broad units alike.
        self.scale = self.q.variance.sqrt()

    def log_densities(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log q(z|x) and log p(x, z), in nats."""
        log_p = self.model.prior().log_prob(z) + self.model.log_likelihood(self.x, z)
        return self.q.log_prob(z), log_p

    def at(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Compute the log density at `beta`, up to a constant, and its gradient."""
        with torch.enable_grad(), differentiable_twice():
            z = z.detach().requires_grad_()
            log_q, log_p = self.log_densities(z)
            log_density = (1 - beta) * log_q + beta * log_p
            score = gradient(log_density, z)
        return log_density.detach(), score

    def move(self, z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step of Hamiltonian Monte Carlo; return z and each row's acceptance rate."""
        momentum = torch.randn_like(z)
        stride = step * self.scale
        log_density, score = self.at(z, beta)
        moved, speed = z, momentum + stride / 2 * score
        for index in range(N_LEAPFROG):
            moved = moved + stride * speed
            proposed, score = self.at(moved, beta)
            speed = speed + stride / (2 if index == N_LEAPFROG - 1 else 1) * score
        change = proposed - log_density + (momentum.square() - speed.square()).sum(-1) / 2
        accepted = torch.rand_like(change).log() < change  # NaN is never accepted.
        return torch.where(accepted[..., None], moved, z), accepted.to(z).mean(0)
