"""The mutual information that a decoder guarantees before it has seen any data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from uncollapse._utils.errors import ParameterError
from uncollapse.adapters import adapt_model
from uncollapse.families import Gaussian
from uncollapse.measures.estimate import Estimate
from uncollapse.models import ComposedModel


def information_floor(
    latent_dim: int, constant: float, scale: float = 1.0, prior_entropy: float | None = None
) -> float:
    r"""Compute a lower bound on the mutual information I(x; z) of a model with a Gaussian decoder,
    known before training.

        I(x; z) >= (l/2) log(1 + (L/s)^2 exp(2 h(z) / l) / (2 pi e))

    For the standard normal prior this is (l/2) log(1 + (L/s)^2). I(x; z) is the mean over the
    model's own x of KL(p(z|x) || p(z)), which the KL of a VAE estimates; the floor does not bound
    the KL of q on given data. It holds for one Brenier map, and for two around an isometric
    embedding B, and is attained by f(z) = L B z.

    Proof: project x onto the range of B, which cannot add information. There z -> B'f(z) has a
    Jacobian that is a product of positive definite matrices >= L2 I and >= L1 I, so its determinant
    is >= L^l and the entropy of the image is >= h(z) + l log L. The entropy power inequality adds
    the noise.

    Args:
        latent_dim: l.
        constant: L, the decoder's total inverse Lipschitz constant.
        scale: the noise s in the units of the decoder's output: 1 in natural parameters, sigma for
            a decoder of means.
        prior_entropy: differential entropy h(z) of the prior, in nats; by default that of the
            standard normal.

    Returns:
        The floor, in nats.

    Raises:
        ParameterError: if `latent_dim` or `scale` is not positive, `constant` is negative, or a
            number is not finite.

    >>> round(information_floor(latent_dim=2, constant=1.0), 6) == round(math.log(2), 6)
    True
    """
    _check(latent_dim, scale)
    if not (math.isfinite(constant) and constant >= 0):
        raise ParameterError(f"constant expects a finite number >= 0, got {constant}.")
    if constant == 0:
        return 0.0
    normal_entropy = latent_dim / 2 * math.log(2 * math.pi * math.e)
    entropy = normal_entropy if prior_entropy is None else prior_entropy
    if not math.isfinite(entropy):
        raise ParameterError(f"prior_entropy expects a finite number of nats, got {entropy}.")
    log_ratio = math.log(constant) - math.log(scale)
    log_signal_to_noise = 2 * log_ratio + 2 * (entropy - normal_entropy) / latent_dim
    return latent_dim / 2 * float(np.logaddexp(0, log_signal_to_noise))


def inverse_lipschitz_for(nats: float, latent_dim: int, scale: float = 1.0) -> float:
    """Compute the total inverse Lipschitz constant that guarantees this mutual information; the
    inverse of `information_floor`.

    Args:
        nats: the mutual information to guarantee, under the standard normal prior.
        latent_dim: l.
        scale: as in `information_floor`.

    Returns:
        s sqrt(exp(2 nats / l) - 1). Two equal maps each take its square root.

    Raises:
        ParameterError: if `nats` is negative or not finite, or another argument is not positive.

    >>> round(information_floor(16, inverse_lipschitz_for(5.0, 16)), 9)
    5.0
    """
    _check(latent_dim, scale)
    if not (math.isfinite(nats) and nats >= 0):
        raise ParameterError(f"nats expects a finite number >= 0, got {nats}.")
    try:
        return scale * math.sqrt(math.expm1(2 * nats / latent_dim))
    except OverflowError:
        raise ParameterError(
            f"{nats} nats in {latent_dim} units need a constant beyond floating point: ask for "
            "less."
        ) from None


def model_information_floor(model: Any) -> Estimate | None:
    """Compute the information floor of a model, in nats, without data.

    The model is whatever `uncollapse.diagnose` takes. The floor is None where it is not proved:
    families other than the Gaussian, three maps, latents without a density, models of other
    libraries.
    """
    own = adapt_model(model).model
    if not (isinstance(own, ComposedModel) and own.has_density):
        return None
    constant = own.decoder.information_constant
    if constant is None or type(own.family) is not Gaussian:
        return None
    # Natural parameters are means in units of the noise, hence the scale of 1.
    entropy = own.prior.entropy_bound()
    return Estimate(information_floor(own.latent_dim, constant, prior_entropy=entropy))


def _check(latent_dim: int, scale: float) -> None:
    if latent_dim < 1 or latent_dim != int(latent_dim):
        raise ParameterError(f"latent_dim expects a positive integer, got {latent_dim}.")
    if not (math.isfinite(scale) and scale > 0):
        raise ParameterError(f"scale expects a positive finite number, got {scale}.")
