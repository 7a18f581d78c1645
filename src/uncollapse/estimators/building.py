"""Models built from an estimator's validated settings, and initialized from data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from uncollapse import models
from uncollapse._utils.errors import ParameterError
from uncollapse._utils.machine import memory_bytes
from uncollapse._utils.moments import mean_over_rows
from uncollapse._utils.random import random_indices, seeded
from uncollapse.certificates.information_floor import inverse_lipschitz_for
from uncollapse.estimators.settings import (
    DeviceName,
    EstimatorSettings,
    MixtureSettings,
    SequenceSettings,
    VAESettings,
)
from uncollapse.families import Categorical, Family, Gaussian
from uncollapse.maps import (
    EMBEDDINGS,
    MAX_CONSTANT,
    POTENTIALS,
    Decoder,
    InverseLipschitzDecoder,
    PrincipalDirections,
)
from uncollapse.maps.embedding import MAX_PRINCIPAL_ROWS, MAX_ROWS_BESIDE_CONTEXT
from uncollapse.networks import MLPDecoder

if TYPE_CHECKING:
    from uncollapse.estimators.plan import TrainingData

MAX_PRINCIPAL_VALUES = 2**27
DEFAULT_CONSTANT = 0.5
UNSEEN_COUNT = 0.5  # added to counts, as some symbols may occur in held-out documents only
OUTLIER = 2.0  # documents farther from the mean than this many median distances are moved closer
ANNEALED_CONSTANT = 5.0  # the highest constant that K23 try, from which annealing starts


def available_devices() -> list[DeviceName]:
    """Return the kinds of device that this machine has, the fastest first."""
    kinds: dict[DeviceName, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [name for name, is_available in kinds.items() if is_available]


def resolve_device(device: DeviceName) -> DeviceName:
    """Return the kind of device to use; the fastest for "auto".

    Raises:
        ParameterError: if this machine has no such device.
    """
    available = available_devices()
    if device == "auto":
        return available[0]
    if device not in available:
        raise ParameterError(
            f"device expects one of {', '.join(available)} on this machine, got {device!r}. "
            "Use 'auto'."
        )
    return device


def row_decoder(settings: VAESettings, family: Family, n_features: int) -> Decoder:
    """Build the decoder of a model of rows.

    Raises:
        ParameterError: if the settings do not suit the family or the number of features.
    """
    latent_dim, natural_dim = settings.latent_dim, family.natural_dim(n_features)
    constants = _row_constants(settings, family, natural_dim)
    if constants is None:
        return MLPDecoder(latent_dim, natural_dim, settings.hidden)
    if latent_dim > natural_dim:
        which = (
            ""
            if natural_dim == n_features
            else f", which are {natural_dim} natural parameters under family {family.name!r}"
        )
        raise ParameterError(
            "an injective decoder expects latent_dim <= natural dimension, got "
            f"latent_dim={latent_dim} with n_features={n_features}{which}. Use latent_dim <= "
            f"{natural_dim}, or inverse_lipschitz=None for an ordinary decoder."
        )
    return InverseLipschitzDecoder(
        latent_dim,
        natural_dim,
        settings.hidden,
        constants,
        EMBEDDINGS[settings.embedding],
        math.inf if settings.lipschitz is None else settings.lipschitz,
        POTENTIALS[settings.potential],
        settings.intermediate_dims,
    )


def sequence_decoder(settings: SequenceSettings, family: Categorical) -> Decoder:
    """Build the decoder of [z; h], or of z where the context is additive, for a sequential VAE.

    Raises:
        ParameterError: if there are more latent units than natural parameters.
    """
    latent_dim, natural_dim = settings.latent_dim, family.natural_dim(1)
    constants = _constants(settings, family)
    if constants is None:
        return MLPDecoder(latent_dim + settings.hidden_dim, natural_dim, ())
    if latent_dim > natural_dim:
        raise ParameterError(
            "an injective decoder expects latent_dim below the number of symbols, got "
            f"{latent_dim} with {natural_dim + 1} symbols. Use latent_dim <= {natural_dim}, or "
            "inverse_lipschitz=None for an ordinary decoder."
        )
    return InverseLipschitzDecoder(
        latent_dim,
        natural_dim,
        settings.hidden,
        constants,
        PrincipalDirections,
        context_dim=settings.hidden_dim if settings.context == "joint" else 0,
    )


def _row_constants(
    settings: VAESettings, family: Family, natural_dim: int
) -> float | tuple[float, ...] | None:
    """Return the inverse Lipschitz constants for a model of rows; None for an ordinary decoder."""
    given = settings.inverse_lipschitz
    if given is None and (settings.lipschitz is not None or settings.intermediate_dims):
        raise ParameterError(
            "lipschitz and intermediate_dims are for injective decoders, got "
            "inverse_lipschitz=None. Set inverse_lipschitz, or leave both out."
        )
    others = ("min_information", "lipschitz")
    chosen = _constants(settings, family, [name for name in others if getattr(settings, name)])
    if settings.min_information is None:
        return chosen
    _check_floor(settings, family)
    total = inverse_lipschitz_for(settings.min_information, settings.latent_dim)
    constant = total if settings.latent_dim == natural_dim else math.sqrt(total)
    if constant > MAX_CONSTANT:
        raise ParameterError(
            f"min_information={settings.min_information:g} takes constants of {constant:.3g}, "
            f"above the limit of {MAX_CONSTANT:g}. Lower min_information."
        )
    return constant


def _check_floor(settings: VAESettings, family: Family) -> None:
    """Raise `ParameterError` where no constants guarantee `min_information`."""
    given = settings.inverse_lipschitz
    if given != "auto":
        raise ParameterError(
            f"min_information sets the constants itself, got inverse_lipschitz={given} as well. "
            "Give one of the two."
        )
    if type(family) is not Gaussian:
        instead = (
            "Set inverse_lipschitz instead"
            if family.fills_space
            else "Its link would undo any constant. Leave min_information out"
        )
        raise ParameterError(
            "min_information expects family 'gaussian', the only one with a known floor on "
            f"I(x; z), got {family.name!r}. {instead}, and estimate the model's information by "
            "uc.diagnose on its own samples."
        )
    if settings.intermediate_dims:
        raise ParameterError(
            "min_information expects one map or two, for which its floor is proved, got "
            f"intermediate_dims={settings.intermediate_dims}. Leave intermediate_dims out, or set "
            "inverse_lipschitz instead."
        )
    if isinstance(settings, MixtureSettings) and settings.prior in ("learned", "full"):
        raise ParameterError(
            f"min_information expects a prior with fixed scales, got prior {settings.prior!r}, "
            "whose scales could undo it. Use 'separated' or 'unit'."
        )


def _constants(
    settings: EstimatorSettings, family: Family, others: Sequence[str] = ()
) -> float | tuple[float, ...] | None:
    """Return the inverse Lipschitz constants that are given, or their defaults.

    Args:
        settings: of the estimator.
        family: of p(x|z).
        others: names of further settings that determine the constants.

    Raises:
        ParameterError: if constants are to be adjusted that are absent or determined otherwise.
    """
    given = settings.inverse_lipschitz
    asked = [name for name in ("annealing", "target_kl") if getattr(settings, name)]
    if asked:
        fixed = (
            ["inverse_lipschitz"] if settings.target_kl and given not in ("auto", None, 0) else []
        )
        rivals = [*asked, *others, *fixed]
        if len(rivals) > 1:
            raise ParameterError(
                f"{' and '.join(rivals)} each determine the constants. Give one of them."
            )
        positive = given == "auto" or all(given if isinstance(given, tuple) else (given,))
        if not (positive and family.fills_space):
            raise ParameterError(
                f"{asked[0]} adjusts positive inverse Lipschitz constants, got "
                f"inverse_lipschitz={given} with family {family.name!r}. Leave inverse_lipschitz "
                "out, and take a family that keeps a constant."
            )
    if given != "auto":
        return given
    start = ANNEALED_CONSTANT if settings.annealing else DEFAULT_CONSTANT
    return start if family.fills_space else 0.0


def check_memory(
    build: Callable[[Any, int], models.ComposedModel], settings: EstimatorSettings, size: int
) -> None:
    """Raise `ParameterError` for a model that this machine's memory cannot train, before the
    operating system ends the process."""
    named = ("latent_dim", "hidden", "encoder_hidden")
    sizes = ", ".join(
        f"{name}={getattr(settings, name)}" for name in named if getattr(settings, name, None)
    )
    try:
        with seeded(0), torch.device("meta"):  # some parts draw even on the meta device
            n_parameters = sum(
                parameter.numel() for parameter in build(settings, size).parameters()
            )
    except RuntimeError as error:  # more than PyTorch can count
        raise ParameterError(
            f"a model with {sizes} is too large ({error}). Use fewer or narrower layers."
        ) from None
    needed = 4 * 4 * n_parameters  # float32: parameters, gradients and Adam's two moments
    if getattr(settings, "lipschitz", None):  # products of all directions of a ridge sum, twice
        needed += 2 * 4 * sum(settings.hidden) ** 2
    available = memory_bytes()
    if needed > available:
        raise ParameterError(
            f"training a model with {sizes} takes {needed / 2**30:.3g} GiB, and this machine has "
            f"{available / 2**30:.3g}. Use fewer or narrower layers."
        )


@torch.no_grad()
def initialize_from_data(model: models.RowModel, rows: np.ndarray) -> None:
    """Initialize the decoder from the mean of the data's statistics, and the encoder from their
    location and scale."""
    family = model.family
    signal, natural_dim = model.decoder.constant**2, family.natural_dim(rows.shape[1])
    # z of variance 1 moves latent_dim of the decoder's outputs by the constant at least, and only
    # the rest of their variance is noise. The posterior of such a z has variance 1 / (1 + signal).
    family.initialize_from_data(
        rows, 1 - min(1.0, model.latent_dim / natural_dim) * signal / (1 + signal)
    )
    # At constants up to 1 the posterior starts about as wide as it will be. At large constants, a
    # wide posterior would send stretched noise through exponentials that overflow.
    posterior: Any = model.posterior
    posterior.initialize_from_data(rows, min(1.0, math.sqrt(2 / (1 + signal))))
    some = some_rows(rows, natural_dim)
    model.decoder.initialize_from_data(family.sufficient(torch.as_tensor(some)).numpy())
    start = family.inverse_link(family.natural(mean_over_rows(family.sufficient, rows)))
    model.decoder.start_at(start.float())


@torch.no_grad()
def initialize_sequences(model: models.SequenceModel, data: TrainingData) -> None:
    """Initialize the decoder from symbol frequencies, and align z with those that vary most."""
    model.decoder.initialize_from_data(*_shares(data, model.latent_dim))
    model.decoder.start_at(_log_odds(data))


def _shares(data: TrainingData, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of the most frequent symbols in documents, and the noise of such shares.

    Args:
        data: documents.
        at_least: least number of symbols, if there are as many.

    Returns:
        shares: shape (n, m), float32.
        noise: standard deviations by chance alone, up to a factor, shape (m,). The variance of a
            share is proportional to its mean, plus the average 1 / V, without which the chance
            occurrences of the rarest symbols would dominate.
    """
    n_symbols = min(data.size - 1, max(MAX_ROWS_BESIDE_CONTEXT, at_least))
    some = some_rows(data.rows, n_symbols)
    counts = np.zeros((len(some), n_symbols), np.float32)
    documents, places = np.nonzero((some >= 0) & (some < n_symbols))
    np.add.at(counts, (documents, some[documents, places].astype(np.int64)), 1)
    shares = counts / (some >= 0).sum(1, keepdims=True)
    noise = np.sqrt(shares.mean(0) + 1 / data.size)
    return _without_outliers(shares, noise), noise


def _without_outliers(shares: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the shares with outliers moved closer to the mean, so that a document that repeats one
    word does not determine a direction."""
    mean = shares.mean(0)
    distance = np.linalg.norm((shares - mean) / noise, axis=1)
    limit = OUTLIER * np.median(distance)
    far = distance > limit
    moved = shares.copy()
    moved[far] = mean + (limit / distance[far])[:, None] * (shares[far] - mean)
    return moved


def _log_odds(data: TrainingData) -> torch.Tensor:
    """Return the natural parameters of the frequencies of symbols in training."""
    symbols = data.rows[data.rows >= 0].astype(np.int64)
    counts = np.bincount(symbols, minlength=data.size) + UNSEEN_COUNT
    return torch.as_tensor(np.log(counts[:-1] / counts[-1]), dtype=torch.float32)


def some_rows(rows: np.ndarray, width: int) -> np.ndarray:
    """Return as many random rows as principal directions of statistics of this width need."""
    n = min(MAX_PRINCIPAL_ROWS, max(1, MAX_PRINCIPAL_VALUES // width))
    return rows if len(rows) <= n else rows[random_indices(len(rows), n)]
