"""Annealed importance sampling (Neal 2001), the referee of importance weights (Wu et al. 2017)."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import seeded
from uncollapse.models import LatentModel, differentiable_twice, gradient, to_device

N_CHAINS, N_TEMPERATURES, N_LEAPFROG = 16, 100, 5
# Hamiltonian Monte Carlo goes well where this share of proposals is accepted (Neal 2011).
ACCEPTED, FIRST_STEP, STEP_GROWTH = 0.65, 0.3, 1.05


def annealed_log_likelihood(
    model: LatentModel,
    rows: np.ndarray,
    n_chains: int = N_CHAINS,
    n_temperatures: int = N_TEMPERATURES,
    verbose: bool = False,
) -> np.ndarray:
    """log p(x) of each row by annealed importance sampling, from q(z|x) to the true posterior, by
    Hamiltonian Monte Carlo.

    Like the mean of plain importance weights, it is too low rather than too high; as the chains
    move to where the posterior is, it does not need a q(z|x) that covers it. With one temperature
    it is the estimate by plain weights. Steps follow the share of proposals that the chains accept,
    so that it is a bound in expectation but for that.

    Args:
        model: in evaluation; its z has a density.
        rows: shape (n, *features), as the model observes them.
        n_chains: for each row.
        n_temperatures: steps on the way.
        verbose: show a progress bar where there is a terminal.

    Returns:
        Shape (n,), in nats. A chain that has met densities that are no numbers weighs nothing.
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
        log_weight, step = (
            torch.zeros(z.shape[:-1], dtype=torch.double, device=z.device),
            z.new_full((1, len(x), 1), FIRST_STEP),
        )
        for before, beta in pairwise(betas):
            log_q, log_p = path.ends(z)
            log_weight += (beta - before) * (log_p - log_q).double()
            z, accepted = _move(path, z, beta, step)
            step = (
                step * torch.where(accepted > ACCEPTED, STEP_GROWTH, 1 / STEP_GROWTH)[None, :, None]
            )
            advance("")
    found = log_weight.nan_to_num(-math.inf, math.inf, -math.inf).logsumexp(0) - math.log(n_chains)
    return np.asarray(found.cpu().numpy())


class _Path:
    """The densities q(z|x)^(1 - b) p(x, z)^b of a batch of rows, for b from 0 to 1."""

    def __init__(self, model: LatentModel, x: Tensor) -> None:
        self.model, self.x = model, x
        self.q: Distribution = model.posterior(x)
        self.scale = (
            self.q.variance.sqrt()
        )  # so that a step is as good for narrow units as for broad ones

    def ends(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z|x) and log p(x, z), in nats."""
        log_p = self.model.prior().log_prob(z) + self.model.log_likelihood(self.x, z)
        return self.q.log_prob(z), log_p

    def at(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """The logarithm of the density, up to a constant, and its gradient."""
        with torch.enable_grad(), differentiable_twice():
            z = z.detach().requires_grad_()
            log_q, log_p = self.ends(z)
            log_density = (1 - beta) * log_q + beta * log_p
            score = gradient(log_density, z)
        return log_density.detach(), score


def _move(path: _Path, z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor]:
    """One step of Hamiltonian Monte Carlo, in units of the scales of q(z|x), and the share that
    each row has accepted."""
    momentum = torch.randn_like(z)
    stride = step * path.scale
    log_density, score = path.at(z, beta)
    moved, speed = z, momentum + stride / 2 * score
    for place in range(N_LEAPFROG):
        moved = moved + stride * speed
        proposed, score = path.at(moved, beta)
        speed = speed + stride / (2 if place == N_LEAPFROG - 1 else 1) * score
    change = proposed - log_density + (momentum.square() - speed.square()).sum(-1) / 2
    accepted = torch.rand_like(change).log() < change  # never where it is NaN
    return torch.where(accepted[..., None], moved, z), accepted.to(z).mean(0)
