"""A model on data: the posteriors and the sample of rows that measures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, SequentialSampler

from uncollapse._utils.errors import DataError
from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import drawing_from, random_indices, seeded
from uncollapse._utils.validation import check_labels, living_workers
from uncollapse.adapters import AdaptedModel, adapt_model
from uncollapse.measures.batches import Reservoir, n_rows, row_batches
from uncollapse.measures.posteriors import Posteriors, infer
from uncollapse.measures.sums import UnitSums
from uncollapse.measures.worker_pool import WorkerPool
from uncollapse.models import LatentModel, differentiable_twice, evaluating, to_device

# Numeric labels with more values than this are a scale, not classes.
MAX_CLASSES = 20
# Draws of z that tell whether the likelihood depends on it.
N_PROBES = 8
MIN_ROWS = 4  # The least number of rows for measures that evaluate the decoder many times.


@dataclass(frozen=True)
class Evaluation:
    """A model in evaluation mode and its data, read once.

    Sums go over all rows. Measures that compare rows, or evaluate the decoder many times for each,
    take a random sample of at most 10,000 rows (fewer where these take more than 256 MB).

    Attributes:
        adapted: the model and what its library knows of it.
        pool: evaluates the model on batches of rows.
        sums: KL and moments of each unit over all rows.
        sample: a random sample of the rows as they are read, shape (n, *features).
        labels: of the sample; text where they are classes, float64 on a scale, None without labels.
        rows: the sample as the model observes it.
        posteriors: q(z|x) of the sample.
        verbose: show progress bars in a terminal.
    """

    adapted: AdaptedModel
    pool: WorkerPool[LatentModel]
    sums: UnitSums
    sample: np.ndarray
    labels: np.ndarray | None
    rows: np.ndarray
    posteriors: Posteriors
    verbose: bool

    @property
    def model(self) -> LatentModel:
        """The model in evaluation mode."""
        return self.adapted.model

    @property
    def classes(self) -> np.ndarray | None:
        """The labels of the sample, if they are classes."""
        return self.labels if self.labels is not None and self.labels.dtype.kind == "U" else None

    @cached_property
    def order(self) -> np.ndarray:
        """A random order of the sample, as files are often sorted."""
        return random_indices(len(self.rows))

    def few_rows(self, n: int, n_draws: int, max_evaluations: int) -> np.ndarray:
        """Return at most n random rows, as many as `max_evaluations` allows for `n_draws` of z."""
        rows = self.rows[self.order[:n]]
        costs = self.model.evaluations_in_memory(rows, n_draws)
        n_affordable = int((costs.cumsum() <= max_evaluations).sum())
        few: np.ndarray = rows[: max(MIN_ROWS, n_affordable)]
        return few

    @cached_property
    def has_gradient(self) -> bool:
        """Whether log p(x|z) can be differentiated in z, and z can take any value."""
        if not self.model.is_unbounded:
            return False
        x = to_device(self.model, self.rows[:1])
        with seeded(0), torch.enable_grad(), differentiable_twice():
            z = self.model.draw_prior(N_PROBES).requires_grad_()
            log_p = self.model.log_likelihood(x, z.unsqueeze(1))
        if log_p.requires_grad:
            (gradient,) = torch.autograd.grad(log_p.sum(), z, allow_unused=True)
            if gradient is not None:
                return True
        return bool((log_p == log_p[0]).all())  # A constant has a gradient of 0.

    @property
    def can_move_latents(self) -> bool:
        """Whether gradients can move the z of a row, as refinement and AIS need."""
        return self.has_gradient and self.model.n_places == 1


@contextmanager
def evaluate(
    model: Any,
    X: Any = None,
    labels: Any = None,
    *,
    devices: int | Literal["auto"] = 1,
    verbose: bool = False,
) -> Iterator[Evaluation]:
    """Read data once for several measures, with the model in evaluation mode.

    Every measure takes an `Evaluation` in place of a model and its data:

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> vae = uc.VAE(latent_dim=1, max_epochs=1, random_state=0, verbose=False).fit(X)
    >>> with uc.measures.evaluate(vae, X) as data:
    ...     rate, information = uc.measures.kl(data), uc.measures.mutual_information(data)

    Args:
        model: any model that `uncollapse.diagnose` accepts. An `Evaluation` is yielded as it is.
        X: data, as `uncollapse.diagnose` takes them, at least 2 rows.
        labels: one for each row, or None to take those that a loader gives beside its data.
        devices: the largest number of devices that share the rows, or "auto" for all GPUs.
        verbose: show progress bars in a terminal.

    Raises:
        InputError: if the data or the labels do not suit the model, or the model cannot be copied
            to several devices.
    """
    if isinstance(model, Evaluation):
        yield model
        return
    adapted = adapt_model(model)
    with (
        living_workers(),
        evaluating(adapted.model),
        seeded(0),
        WorkerPool(adapted.model, devices) as pool,
    ):
        yield _read(adapted, X, labels, pool, verbose)


def _read(
    adapted: AdaptedModel, X: Any, labels: Any, pool: WorkerPool[LatentModel], verbose: bool
) -> Evaluation:
    total = n_rows(X)
    given = None if labels is None else _check_labels(labels, total)
    is_loader = isinstance(X, DataLoader)
    if given is not None and is_loader and not isinstance(X.sampler, SequentialSampler):
        raise DataError(
            "labels cannot be matched with the rows of a loader that shuffles: yield them "
            "together with the data."
        )
    sums, reservoir = UnitSums(adapted.model), Reservoir()
    with progress_bar("inferring posteriors", total, verbose) as advance:
        # The draws of a loader do not depend on those of the model.
        batches = drawing_from(0, row_batches(adapted, X))
        for rows, own, observed, posteriors in pool.map(_infer_batch, batches):
            n = reservoir.n_seen
            reservoir.add(rows, own if given is None else given[n : n + len(rows)])
            sums.add(posteriors, observed)
            advance("", reservoir.n_seen)
    if sums.n < 2:
        raise DataError(f"a diagnosis expects at least 2 rows, got {sums.n}.")
    if given is not None and len(given) != sums.n:
        raise DataError(f"labels expect one value for each of the {sums.n} rows, got {len(given)}.")
    sample = reservoir.rows
    rows = adapted.model.observe(sample)
    kept = _kept_labels(reservoir.labels, given)
    return Evaluation(adapted, pool, sums, sample, kept, rows, infer(pool, rows), verbose)


def _infer_batch(model: LatentModel, batch: tuple[np.ndarray, Any]) -> tuple[Any, ...]:
    """Return the rows, their labels, the rows as the model observes them, and their posteriors."""
    rows, labels = batch
    observed = model.observe(rows)
    return rows, labels, observed, infer(model, observed)


def _kept_labels(found: list[Any], given: np.ndarray | None) -> np.ndarray | None:
    """Return the labels of the sample, or None unless every row has one."""
    if given is not None:
        return np.array(found, given.dtype)
    return None if any(label is None for label in found) else _check_labels(found, None)


def _check_labels(labels: Any, n: int | None) -> np.ndarray:
    """Return labels on a scale as numbers, and all others as text."""
    what = "the rows" if n is None else f"the {n} rows"
    try:
        labels = labels.tolist() if isinstance(labels, torch.Tensor) else labels
        series = pd.Series(list(labels)).infer_objects()
    except (TypeError, ValueError):
        raise DataError(
            f"labels expect one value for each of {what}, got {type(labels).__name__}."
        ) from None
    if n not in (None, len(series)) or any(np.ndim(label) for label in series):
        raise DataError(
            f"labels expect one value for each of {what}, got {np.shape(labels) or len(series)}."
        )
    check_labels(series.to_numpy())
    if series.dtype.kind in "iuf" and series.nunique() > MAX_CLASSES:
        return series.to_numpy(np.float64)
    return np.array([str(label) for label in series])
