"""Training of any latent variable model: `uc.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from uncollapse._utils.errors import DataError, InputError, one_line
from uncollapse._utils.random import derived_seed, seeded
from uncollapse._utils.validation import check_count, check_positive, check_seed
from uncollapse.models import LatentModel, RowModel, evaluating
from uncollapse.objectives import Objective, get_objective
from uncollapse.strategies import Strategy, get_strategy
from uncollapse.training.batches import Batches, BatchesInMemory
from uncollapse.training.best import Best
from uncollapse.training.budget import Budget, check_budget
from uncollapse.training.loop import COLUMNS, LoopSettings, Training, train
from uncollapse.training.observers import Callbacks, Epoch, Observer

if TYPE_CHECKING:
    import pandas as pd

Specification = str | Mapping[str, Mapping[str, Any]] | None


def fit(
    model: LatentModel,
    X: Any,
    *,
    objective: Specification | Objective = None,
    strategy: Specification | Strategy = None,
    max_epochs: int = 50,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    validation: Any = None,
    budget: Budget | None = None,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    observers: Sequence[Observer] = (),
    hardware: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Train a latent variable model on rows, in place.

    The model may be composed of any parts: its prior, posterior, decoder and family can be the
    package's or the user's own. Estimators such as `uc.VAE` train their models in the same loop,
    after they have initialized them from the data; here the model is trained as it is.

    Args:
        model: a `uc.models.LatentModel`.
        X: rows, an array or a tensor of shape (n, ...), or `uc.training.Batches`. Grey levels
            under a Bernoulli family are binarized anew at each step.
        objective: an `Objective`, its name, or ``{name: arguments}``; the negative ELBO if None.
        strategy: a `Strategy`, its name, or ``{name: arguments}``; "joint" if None.
        max_epochs: passes over the rows.
        batch_size: rows of a step.
        learning_rate: Adam's highest learning rate; it rises over the first 2% of the steps and
            falls to 0 along half a cosine.
        seed: seed of all draws; the global generators are restored at the end.
        validation: validation split, whose ELBO selects the epoch that is kept. A strategy such as
            "lagging" needs one.
        budget: overrides `max_epochs`.
        callbacks: functions that are called with each `uc.training.Epoch`.
        observers: objects that act between steps and epochs, in this order.
        hardware: arguments of Lightning's Fabric: accelerator, devices, num_nodes, strategy and
            precision. The model's own device and type if not given.
        verbose: whether to show a progress bar on a terminal.

    Returns:
        The history, a row for each epoch: epoch, loss, reconstruction and kl in nats per example,
        seconds, evaluations of the decoder, and, with `validation`, the negative ELBO on it.

    Raises:
        InputError: if an argument or the data cannot be used, or the model does not accept the
            data. The model is then unchanged.
        NonFiniteLossError: if a loss or a parameter is not finite; the model is then in its last
            good state.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the model keeps what it has learned.

    >>> import torch, uncollapse as uc
    >>> encoder = uc.networks.PerceptronEncoder(5, out_dim=4, hidden=(16,))
    >>> model = uc.models.VAEModel(
    ...     uc.latent.StandardNormal(2),
    ...     uc.latent.DiagonalGaussian(encoder),
    ...     uc.maps.InverseLipschitzDecoder(2, 5, (16,), 0.5),
    ...     uc.families.Gaussian(),
    ... )
    >>> history = uc.fit(model, torch.randn(200, 5), max_epochs=2, verbose=False)
    >>> len(history)
    2
    """
    import pandas as pd

    for name, count in (("max_epochs", max_epochs), ("batch_size", batch_size)):
        check_count(name, count)
    check_positive("learning_rate", learning_rate)
    check_seed("seed", seed)
    check_budget(budget)
    batches = X if isinstance(X, Batches) else BatchesInMemory(_rows(model, X), batch_size, seed)
    held_out = None if validation is None else _rows(model, validation, "validation")
    chosen = objective if isinstance(objective, Objective) else get_objective(objective)
    chosen_strategy = strategy if isinstance(strategy, Strategy) else get_strategy(strategy)
    if chosen_strategy.needs_validation:
        if held_out is None:
            raise DataError(
                f"strategy {chosen_strategy.name!r} needs a validation split. Give validation=."
            )
        chosen_strategy.validation = model.observe(held_out.cpu().numpy())
    watching = [*([] if held_out is None else [Best(held_out)]), *observers, Callbacks(callbacks)]
    posterior = model.posterior
    try:
        chosen_strategy.modify_model(model)
        with seeded(derived_seed(seed, "objective")):
            some = model.observe_anew(next(batches.batches(0))[:2].to(model.placement))
            _check_shapes(model, some)
            chosen.check(model, some)
            chosen.prepare(model, some, max_epochs * batches.n_batches)
    except BaseException:
        model.posterior = posterior
        raise
    settings = LoopSettings(
        max_epochs=max_epochs,
        learning_rate=learning_rate,
        seed=seed,
        budget=budget,
        hardware=hardware,
        verbose=verbose,
    )
    training = Training(model, chosen, batches, settings, chosen_strategy, watching)
    try:
        train(training)
    finally:
        model.eval()
    columns = COLUMNS if held_out is not None else COLUMNS[:-1]
    return pd.DataFrame(training.history, columns=list(columns))


@torch.no_grad()
def _check_shapes(model: LatentModel, x: torch.Tensor) -> None:
    """Raise `DataError` if the model cannot compute its bound on a few rows."""
    try:
        with evaluating(model):  # statistics of batches stay as they are
            model(x)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"the model does not accept rows of shape {tuple(x.shape[1:])} ({one_line(error)}). "
            "Give rows that its parts were built for."
        ) from error


def _rows(model: LatentModel, X: Any, name: str = "X") -> torch.Tensor:
    """Return data as a tensor of the model's type.

    Raises:
        DataError: if a value is not finite, or lies outside the support of the model's family.
    """
    rows = torch.as_tensor(X).to(model.placement.dtype)
    if rows.dim() < 2 or len(rows) < 2:
        raise DataError(f"{name} expects at least 2 rows, shape (n, ...), got {tuple(rows.shape)}.")
    if not bool(rows.isfinite().all()):
        raise DataError(f"{name} expects finite numbers, got NaN or infinity. Drop those rows.")
    if isinstance(model, RowModel):
        model.family.check(rows.cpu().numpy())
    return rows
