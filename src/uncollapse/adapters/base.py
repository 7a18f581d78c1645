"""Models of any library in the form that diagnoses read."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, constraints

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.random import seeded, seeded_in_turn
from uncollapse._utils.vocabulary import Vocabulary
from uncollapse.latent import diagonal_normal, is_diagonal_normal
from uncollapse.models import LatentModel, support_of

N_MOMENT_DRAWS = 256
# Supports that do not depend on the parameters of a distribution.
FIXED_SUPPORTS = (
    constraints.boolean,
    constraints.unit_interval,
    constraints.positive,
    constraints.nonnegative,
    constraints.nonnegative_integer,
)
NO_HISTORY = pd.DataFrame(
    columns=["epoch", "loss", "reconstruction", "kl", "seconds", "evaluations"]
)
# Methods of `VAEProtocol`, as error messages name them.
REQUIRED = ("prior()", "posterior(x)", "likelihood(z)")


@runtime_checkable
class VAEProtocol(Protocol):
    """A VAE that can be diagnosed: p(z), q(z|x) and p(x|z) as distributions of PyTorch.

    The dimensions after the batch may be batch or event dimensions: a Normal of shape
    (batch, latent_dim) is fine.
    """

    def prior(self) -> Distribution:
        """Return p(z), one distribution over R^latent_dim."""

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x) for a batch of data."""

    def likelihood(self, z: Tensor) -> Distribution:
        """Return p(x|z) for a batch of latents, shape (batch, latent_dim)."""


@dataclass(frozen=True)
class AdaptedModel:
    """A model in the form that diagnoses read.

    Attributes:
        name: of the model.
        model: prior, posterior and likelihood.
        read: converts a batch of data to rows, shape (n, *features), float32.
        history: a row for each epoch of the training; empty if unknown.
        batches: iterates over data of a special kind in batches of rows; None for data that can be
            sliced.
        vocabulary: of documents; None for other data.
        decode: maps codes to documents; None for other data.
        is_ours: whether advice can name arguments of this package's estimators.
        notes: cautions for readers of the numbers.
    """

    name: str
    model: LatentModel
    read: Callable[[Any], np.ndarray]
    history: pd.DataFrame = field(default_factory=NO_HISTORY.copy)
    batches: Callable[[Any], Iterator[np.ndarray]] | None = None
    vocabulary: Vocabulary | None = None
    decode: Callable[[np.ndarray], list[Any]] | None = None
    is_ours: bool = False
    notes: tuple[str, ...] = ()


class ForeignModel(LatentModel):
    """A `LatentModel` around any object with a prior, a posterior and a likelihood.

    Args:
        source: the object. Modules among its attributes are put into evaluation mode during a
            diagnosis.

    Raises:
        ParameterError: if the prior is not one distribution over R^latent_dim.
    """

    def __init__(self, source: VAEProtocol) -> None:
        super().__init__()
        self.source = source
        held = vars(source).values() if hasattr(source, "__dict__") else ()
        self.parts = nn.ModuleList(part for part in held if isinstance(part, nn.Module))
        with torch.no_grad(), seeded(0):
            p = as_joint(source.prior(), 0, "prior()")
            shape, z = p.event_shape, p.sample()
        self._placement = next(self.parameters(), z)
        if len(shape) != 1:
            raise ParameterError(
                f"prior() expects one distribution over R^latent_dim, got one over shape "
                f"{tuple(shape)}."
            )
        self._latent_dim = shape[0]

    @property
    def latent_dim(self) -> int:
        return self._latent_dim

    @property
    def has_density(self) -> bool:
        support = support_of(self.prior())
        return support is None or not support.is_discrete

    @property
    def is_unbounded(self) -> bool:
        support = support_of(self.prior())
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support in (constraints.real, constraints.real_vector)

    @property
    def placement(self) -> Tensor:
        return self._placement

    def prior(self) -> Distribution:
        """Return p(z); a Normal is moved to the device of the model."""
        p = as_joint(self.source.prior(), 0, "prior()")
        if is_diagonal_normal(p):
            device = self.placement.device
            loc, scale = p.base_dist.loc.to(device), p.base_dist.scale.to(device)
            return diagonal_normal(loc, scale)
        return p

    def posterior(self, x: Tensor) -> Distribution:
        q = as_joint(_call(self.source.posterior, x, "posterior(x)"), 1, "posterior(x)")
        if q.batch_shape != (len(x),) or q.event_shape != (self.latent_dim,):
            raise ParameterError(
                f"posterior(x) expects a distribution over R^{self.latent_dim}, as prior() is, for "
                f"each of {len(x)} rows, got batch shape {tuple(q.batch_shape)} and event shape "
                f"{tuple(q.event_shape)}."
            )
        return q if is_diagonal_normal(q) else SeededPosterior(q)

    def likelihood(self, z: Float[Tensor, "batch latent"]) -> Distribution:
        return as_joint(_call(self.source.likelihood, z, "likelihood(z)"), 1, "likelihood(z)")

    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        p = self.likelihood(z.reshape(-1, self.latent_dim))
        shape = (len(x), *p.event_shape)
        if x.numel() != np.prod(shape):
            raise DataError(
                f"likelihood(z) expects rows of shape {tuple(p.event_shape)}, got data whose rows "
                f"have shape {tuple(x.shape[1:])}."
            )
        _check_support(p, x.reshape(shape))
        log_p: Tensor = p.log_prob(
            x.reshape(shape).expand(*z.shape[:-2], *shape).reshape(-1, *p.event_shape)
        )
        return log_p.reshape(z.shape[:-1])

    def expected(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch *means"]:
        """Return E[x|z], the mean of 256 draws if there is no closed form."""
        del x
        return moments(self.likelihood(z))[0]


class SeededPosterior(Independent):  # type: ignore[type-arg]
    """A q(z|x) of any kind, with its own sampler seeded by the given noise."""

    def __init__(self, q: Distribution) -> None:
        base, n_units = q, 0
        if isinstance(q, Independent):
            base, n_units = q.base_dist, q.reinterpreted_batch_ndims
        super().__init__(base, n_units, validate_args=False)
        self.q = q

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the draw for standard normal noise, and its log density in nats."""
        if isinstance(self.q, MultivariateNormal):
            z = self.q.loc + (self.q.scale_tril @ noise.to(self.q.loc).unsqueeze(-1)).squeeze(-1)
        else:
            digest = hashlib.blake2b(noise.cpu().numpy().tobytes(), digest_size=4).digest()
            with seeded_in_turn(int.from_bytes(digest, "little")):
                z = self.q.sample(noise.shape[:-2])
        return z, self.log_prob(z)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        log_q: Tensor = self.q.log_prob(value.expand(*shape, -1))
        return log_q

    @property
    def mean(self) -> Tensor:
        """E[z|x], from 256 draws if there is no closed form."""
        return moments(self.q)[0]

    @property
    def variance(self) -> Tensor:
        """Var[z|x], from 256 draws if there is no closed form."""
        return moments(self.q)[1]


def as_joint(distribution: Any, n_batch: int, what: str) -> Distribution:
    """Return the distribution with ``n_batch`` batch dimensions; the rest become event dimensions.

    Raises:
        ParameterError: if what the method `what` has returned is not a distribution of PyTorch, or
            has too few batch dimensions.
    """
    if not isinstance(distribution, Distribution):
        raise ParameterError(
            f"{what} expects a distribution of torch.distributions, got "
            f"{type(distribution).__name__}."
        )
    n_loose = len(distribution.batch_shape) - n_batch
    if n_loose < 0:
        expected = "a batch of distributions" if n_batch else "one distribution"
        raise ParameterError(
            f"{what} expects {expected}, got batch shape {tuple(distribution.batch_shape)} and "
            f"event shape {tuple(distribution.event_shape)}."
        )
    if not n_loose:
        return distribution
    if isinstance(distribution, Independent):
        n_loose += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return Independent(distribution, n_loose, validate_args=False)


def moments(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and variance, from 256 draws with a fixed seed if there is no closed form."""
    try:
        mean, variance = distribution.mean, distribution.variance
        if not mean.isnan().any():  # the mean of a Categorical is NaN in PyTorch
            return mean, variance
    except NotImplementedError:
        pass
    with seeded_in_turn(0):
        z = distribution.sample((N_MOMENT_DRAWS,))
    return z.mean(0), z.var(0)


def _check_support(p: Distribution, x: Tensor) -> None:
    """Raise `DataError` for data outside the support of p(x|z), whatever its parameters are."""
    base = p.base_dist if isinstance(p, Independent) else p
    support = support_of(base)
    if support in FIXED_SUPPORTS and not support.check(x).all():
        raise DataError(
            f"X lies outside the support of p(x|z): {type(base).__name__} expects values that are "
            f"{support}. Transform the data, or use another likelihood."
        )


def _call(method: Callable[[Tensor], Any], value: Tensor, what: str) -> Any:
    try:
        return method(value)
    # PyTorch raises this for shapes, types and devices that do not fit.
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        given = f"shape {tuple(value.shape)} and type {value.dtype}"
        raise DataError(f"{what} cannot take an input of {given}: {first}") from error
