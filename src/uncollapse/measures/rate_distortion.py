"""What a model's latents cost, against what is lost without them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from uncollapse.latent import GaussianChain, GaussianMixture, Prior
from uncollapse.measures.row_map import map_rows
from uncollapse.models import ComposedModel, LatentModel

MAX_ROWS = 1000
# Steps on the way from the prior to the posterior, denser where distortion falls fastest.
SHARES = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.75, 1.0)


def rate_distortion(model: ComposedModel, rows: np.ndarray) -> pd.DataFrame:
    """The curve of rates and distortions (Alemi et al. 2018) that a model can be set to after
    training.

    Each q(z|x) is drawn towards the prior as q(z|x)^t p(z)^(1-t), in closed form for Gaussians, and
    step by step for chains; a prior with components stands there as the Gaussian of its mean and
    its variances, so that its rate can fall before it rises, and q(y|x) is tempered as well where
    it is enumerated. The rate KL(q_t(z|x) || p(z)) and the distortion -E log p(x|z) are measured,
    so that every point can be reached. Their sum is the negative ELBO.

    Args:
        model: in evaluation.
        rows: shape (n, data_dim), as the family observes them; `MAX_ROWS` random ones are enough.

    Returns:
        A row for each t: ``share``, ``rate`` and ``distortion`` in nats per example. The last, at t
            = 1, is the model as it is, and
        the only one of a model whose posteriors are no Gaussians.
    """
    points = map_rows(model, rows, 1, "rates and distortions", _points)["points"].mean(
        0, dtype=np.float64
    )
    shares = SHARES if len(points) == len(SHARES) else (1.0,)
    return pd.DataFrame({"share": shares, "rate": points[:, 0], "distortion": points[:, 1]})


@torch.inference_mode()
def _points(model: LatentModel, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Rate and distortion of each row for each share that is known, shape (batch, shares, 2)."""
    assert isinstance(model, ComposedModel)
    q = model.posterior(x)
    each = (_tempered(q, model.prior, share) for share in SHARES)
    return {
        "points": torch.stack(
            [_point(model, x, noise[0], between) for between in each if between is not None], 1
        )
    }


def _point(model: ComposedModel, x: Tensor, noise: Tensor, q: Distribution) -> Tensor:
    """Rate and distortion of each row, shape (batch, 2)."""
    latents = model.latents(q, noise)
    return torch.stack([latents.kl, -model.terms(x, latents).log_px_z], -1)


def _tempered(q: Distribution, prior: Prior, share: float) -> Distribution | None:
    """q^share p^(1 - share); None where it is not known."""
    if share == 1:
        return q
    if isinstance(q, GaussianChain):
        return q.towards(prior(), share)
    if _is_gaussian(q):
        return _between(q, prior(), share)
    if (
        isinstance(q, MixtureSameFamily)
        and _is_gaussian(q.component_distribution)
        and isinstance(prior, GaussianMixture)
    ):
        which = Categorical(logits=share * q.mixture_distribution.logits, validate_args=False)
        return MixtureSameFamily(
            which,
            _between(q.component_distribution, prior.components(), share),
            validate_args=False,
        )
    return None


def _between(q: Distribution, p: Distribution, share: float) -> Independent[Normal]:
    """q^share p^(1 - share), with p as if it were a Gaussian whose units are independent."""
    own, other = share / q.variance, (1 - share) / p.variance
    mean = (own * q.mean + other * p.mean) / (own + other)
    return Independent(
        Normal(mean, (own + other).rsqrt(), validate_args=False), 1, validate_args=False
    )


def _is_gaussian(q: Distribution) -> bool:
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)
