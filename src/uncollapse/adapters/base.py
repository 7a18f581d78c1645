"""A model of any library as the (prior, posterior, likelihood) that diagnoses read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.random import seeded, seeded_in_turn
from uncollapse._utils.vocabulary import Vocabulary
from uncollapse.models import LatentModel

N_MOMENT_DRAWS = 256
# Supports that do not depend on a distribution's parameters.
ANYBODYS = (
    constraints.boolean,
    constraints.unit_interval,
    constraints.positive,
    constraints.nonnegative,
    constraints.nonnegative_integer,
)
NO_HISTORY = pd.DataFrame(
    columns=["epoch", "loss", "reconstruction", "kl", "seconds", "evaluations"]
)


@runtime_checkable
class VAEProtocol(Protocol):
    """What a model must say of itself to be diagnosed: p(z), q(z|x) and p(x|z), as distributions of
    PyTorch.

    Batches of distributions may be independent over further dimensions or not: a Normal of shape
    (batch, latent_dim) will do.
    """

    def prior(self) -> Distribution:
        """p(z), one distribution over R^latent_dim."""

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x) for a batch of data."""

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z) for a batch of latents, shape (batch, latent_dim)."""


@dataclass(frozen=True)
class AdaptedModel:
    """A model that is ready to be diagnosed.

    Attributes:
        name: what to call it.
        model: in the terms that diagnoses read.
        read: makes rows of a batch of data, shape (n, *features), float32.
        history: of the training, a row for each epoch; empty where it is not known.
        batches: goes through data of its own kind, in batches of rows; None where they can be
            sliced.
        vocabulary: of documents, where the data are such.
        decode: documents that codes stand for, where the data are such.
        is_ours: whether a remedy can name arguments of this package's estimators.
        notes: what a reader must know of the way it is read.
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
    """A model of any origin, around whatever has a prior, a posterior and a likelihood.

    Args:
        source: the model. Modules among its attributes keep their mode but while it is looked at.

    Raises:
        InputError: if its prior is not one distribution over R^latent_dim.
    """

    def __init__(self, source: VAEProtocol) -> None:
        super().__init__()
        self.source = source
        held = vars(source).values() if hasattr(source, "__dict__") else ()
        self.parts = nn.ModuleList(part for part in held if isinstance(part, nn.Module))
        with torch.no_grad(), seeded(0):
            p = joint(source.prior(), 0, "prior()")
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
        """Dimension of z."""
        return self._latent_dim

    @property
    def has_density(self) -> bool:
        """Whether z has a density."""
        return not _is_discrete(self.prior())

    @property
    def is_unbounded(self) -> bool:
        """Whether the prior's density is positive everywhere."""
        support = _support(self.prior())
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support in (constraints.real, constraints.real_vector)

    @property
    def placement(self) -> Tensor:
        """A tensor of the type and on the device that the model computes with."""
        return self._placement

    def prior(self) -> Distribution:
        """p(z), on the device of the model where it is a Normal."""
        p = joint(self.source.prior(), 0, "prior()")
        if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
            loc, scale = (
                part.to(self.placement.device) for part in (p.base_dist.loc, p.base_dist.scale)
            )
            return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        return p

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x)."""
        q = joint(_called(self.source.posterior, x, "posterior(x)"), 1, "posterior(x)")
        if q.batch_shape != (len(x),) or q.event_shape != (self.latent_dim,):
            raise ParameterError(
                f"posterior(x) expects a distribution over R^{self.latent_dim}, as prior() is, for "
                f"each of {len(x)} rows, got "
                f"batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)}."
            )
        return q if isinstance(q, Independent) and isinstance(q.base_dist, Normal) else SelfDrawn(q)

    def likelihood(self, z: Float[Tensor, "batch latent"]) -> Distribution:
        """p(x|z)."""
        return joint(_called(self.source.likelihood, z, "likelihood(z)"), 1, "likelihood(z)")

    def _kl_per_unit(self, q: Distribution) -> Float[Tensor, "batch latent"] | None:
        return super()._kl_per_unit(q.q if isinstance(q, SelfDrawn) else q)

    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z) of each row, in nats."""
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
        """E[x|z], of 256 draws where there is no closed form."""
        del x
        return moments(self.likelihood(z))[0]


class SelfDrawn(Distribution):
    """A q(z|x) of any kind, drawn by its own means from a seed that the noise decides."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, q: Distribution) -> None:
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.q = q

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The draw that standard normal noise decides, and its log density in nats."""
        if isinstance(self.q, MultivariateNormal):
            z = self.q.loc + (self.q.scale_tril @ noise.to(self.q.loc).unsqueeze(-1)).squeeze(-1)
        else:
            with seeded_in_turn(
                int.from_bytes(
                    hashlib.blake2b(noise.cpu().numpy().tobytes(), digest_size=4).digest(), "little"
                )
            ):
                z = self.q.sample(noise.shape[:-2])
        return z, self.log_prob(z)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats, for z that broadcast with the batch."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        log_q: Tensor = self.q.log_prob(value.expand(*shape, -1))
        return log_q

    def sample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()
    ) -> Tensor:
        """Draws of z."""
        return self.q.sample(torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """E[z|x], of 256 draws where there is no closed form."""
        return moments(self.q)[0]

    @property
    def variance(self) -> Tensor:
        """Var[z|x], of 256 draws where there is no closed form."""
        return moments(self.q)[1]


def joint(distribution: Any, n_batch: int, what: str) -> Distribution:
    """The distribution over all its dimensions but the first, which are a batch.

    Raises:
        InputError: if it is none of PyTorch's distributions, or its event takes up the batch.
    """
    if not isinstance(distribution, Distribution):
        raise ParameterError(
            f"{what} expects a distribution of torch.distributions, got "
            f"{type(distribution).__name__}."
        )
    n_loose = len(distribution.batch_shape) - n_batch
    if n_loose < 0:
        raise ParameterError(
            f"{what} expects {'a batch of distributions' if n_batch else 'one distribution'}, got "
            "batch shape "
            f"{tuple(distribution.batch_shape)} and event shape {tuple(distribution.event_shape)}."
        )
    if not n_loose:
        return distribution
    if isinstance(distribution, Independent):
        distribution, n_loose = (
            distribution.base_dist,
            n_loose + distribution.reinterpreted_batch_ndims,
        )
    return Independent(distribution, n_loose, validate_args=False)


def moments(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and variance, of 256 draws from a fixed seed where there is no closed form."""
    try:
        mean, variance = distribution.mean, distribution.variance
        if not mean.isnan().any():  # as torch has it for categories
            return mean, variance
    except NotImplementedError:
        pass
    with seeded_in_turn(0):
        z = distribution.sample((N_MOMENT_DRAWS,))
    return z.mean(0), z.var(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation, and back in the mode they were in afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_support(p: Distribution, x: Tensor) -> None:
    """Raise `InputError` for data that p(x|z) cannot have made, whatever its parameters."""
    support = _support(p.base_dist if isinstance(p, Independent) else p)
    if support is not None and support in ANYBODYS and not support.check(x).all():  # type: ignore[no-untyped-call]
        kind = type(p.base_dist if isinstance(p, Independent) else p).__name__
        raise DataError(
            f"p(x|z) has no density at these data: {kind} expects values that are {support}, got "
            "others."
        )


def _is_discrete(distribution: Distribution) -> bool:
    support = _support(distribution)
    return support is not None and support.is_discrete


def _support(distribution: Distribution) -> constraints.Constraint | None:
    """Where it can be; None where it does not say."""
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _called(function: Callable[[Tensor], Any], value: Tensor, what: str) -> Any:
    try:
        return function(value)
    except RuntimeError as error:  # shapes, types and devices that do not fit, as torch says it
        first = str(error).strip().splitlines()[0]
        raise DataError(
            f"{what} cannot take an input of shape {tuple(value.shape)} and type {value.dtype}: "
            f"{first}"
        ) from error
