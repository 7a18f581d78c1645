"""`compare`: train several models on one budget and measure them on the same data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sklearn.base import clone

from uncollapse._utils.errors import InputError, NonFiniteLossError
from uncollapse.data import NAMED, Data, are_documents
from uncollapse.diagnostics.comparison import BUDGETS, Comparison, Entry
from uncollapse.estimators import Estimator
from uncollapse.estimators.settings import to_dict
from uncollapse.experiments.presets import choose_settings
from uncollapse.experiments.trial import N_IMPORTANCE, measure, rate_distortion_curve
from uncollapse.training.budget import Budget


@dataclass(frozen=True)
class Conditions:
    """Data that the models of a comparison are measured on, with the options of `compare`."""

    X: Any
    labels: Any = None
    image_shape: tuple[int, int] | None = None
    n_importance: int = N_IMPORTANCE
    verbose: bool = True

    def entry(self, name: str, budget: str | None, estimator: Estimator) -> Entry:
        """Measure a fitted estimator."""
        report = measure(
            estimator,
            self.X,
            self.labels,
            n_importance=self.n_importance,
            name=name,
            image_shape=self.image_shape,
            verbose=self.verbose,
        )
        return Entry(name, budget, report, rate_distortion_curve(estimator, self.X))


def compare(
    X: Any,
    test: Any,
    labels: Any = None,
    *,
    models: Sequence[str] | None = None,
    data: str | None = None,
    image_shape: tuple[int, int] | None = None,
    n_importance: int = N_IMPORTANCE,
    verbose: bool = True,
    **settings: Any,
) -> Comparison:
    """Train models on one budget, and measure them on the same test data.

    The first model trains for `max_epochs`. Each of the others is trained twice: with the same
    number of decoder evaluations, and for the same time.

    Args:
        X: training data, shape (n, n_features), or documents.
        test: data that the models are measured on, at least 2 rows or documents.
        labels: of the test data. A linear probe measures how well the latents predict classes.
        models: names of presets (`uc.preset`). By default the VAE, its rivals, and the injective
            models.
        data: "image", "table" or "text", as for `uc.preset`. By default strings and sequences of
            different lengths are text, and everything else a table.
        image_shape: (height, width) if the rows are images.
        n_importance: importance samples of each example.
        verbose: show progress bars on a terminal.
        settings: arguments of the estimators. Each applies to the models that take it, except
            those whose preset fixes it. `random_state` is 0 by default.

    Raises:
        InputError: if a preset is unknown, a setting applies to none of the models, or the first
            model cannot be trained or measured on these data. One step of training finds this out
            before the rest.
        NonFiniteLossError: if the training of the first model fails. A later failure becomes an
            entry with its error.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(300, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> found = uc.compare(X[:200], X[200:], models=["VAE", "IL-LIDVAE"], latent_dim=1,
    ...                    hidden=(8,), max_epochs=2, verbose=False)
    >>> found.table()[["budget", "model"]].to_numpy().tolist()
    [['evaluations', 'VAE'], ['evaluations', 'IL-LIDVAE'], ['seconds', 'VAE'], ['seconds',
    'IL-LIDVAE']]
    """
    kind = data or ("text" if are_documents(X) else "table")
    estimators = build_estimators(models, kind, {**settings, "verbose": verbose})
    conditions = Conditions(test, labels, image_shape, n_importance, verbose)
    return Comparison(tuple(run_comparison(estimators, X, conditions)))


def describe(
    source: str,
    train: Data,
    test: Data,
    estimators: Mapping[str, Estimator],
    settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """Describe the data, the settings and the budgets of a comparison in sentences."""
    first, leader = next(iter(estimators.items()))
    examples = "documents" if train.is_text else f"rows of {train.X.shape[1]:,} features"
    share = len(test.X) / (len(train.X) + len(test.X))
    part = "its test split" if source in NAMED else f"{share:.0%} of all, held out at random"
    given = [f"{key} = {value}" for key, value in {**train.defaults, **settings}.items()]
    return (
        f"{source}: {len(train.X):,} {examples} to train on; {len(test.X):,} others, {part}, for "
        "all measurements.",
        f"Seed {leader.random_state}. Settings: {', '.join(given) or 'the defaults'}.",
        f"{first} trains for {leader.max_epochs} epochs. Every other model is trained twice: with "
        "the same number of decoder evaluations, and for the same time.",
    )


def build_estimators(
    models: Sequence[str] | None,
    data: str,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Estimator]:
    """Return estimators by the names of their presets. The arguments are those of
    `choose_settings`."""
    return {
        name: Estimator.registry[estimator](**to_dict(chosen))
        for name, (estimator, chosen) in choose_settings(models, data, settings, defaults).items()
    }


def run_comparison(
    estimators: Mapping[str, Estimator], X: Any, conditions: Conditions
) -> Iterator[Entry]:
    """Train the estimators as `compare` does, and yield the entry of each when it is measured."""
    (first, leader), *others = estimators.items()
    rehearsal = clone(leader).set_params(verbose=False).fit(X, budget=Budget(evaluations=1))
    # Mistakes in the test data are found before the training.
    replace(conditions, n_importance=1, verbose=False).entry(first, None, rehearsal)
    yield conditions.entry(first, None, leader.fit(X))
    used = leader.history_.iloc[-1]
    for budget in BUDGETS:
        for name, estimator in others:
            try:
                fitted = estimator.fit(X, budget=Budget(**{budget: used[budget]}))
                entry = conditions.entry(name, budget, fitted)
            except (InputError, NonFiniteLossError) as error:
                entry = Entry(name, budget, error=str(error))
            yield entry
