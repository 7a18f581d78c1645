"""A contest of models on one budget: `compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sklearn.base import clone

from uncollapse._utils.errors import InputError, NonFiniteLossError, ParameterError
from uncollapse._utils.parameters import check_parameters
from uncollapse.data import NAMED, Data, are_documents, load
from uncollapse.diagnostics import diagnose
from uncollapse.diagnostics.comparison import BUDGETS, Comparison, Entry
from uncollapse.estimators import Estimator
from uncollapse.experiments.presets import named
from uncollapse.measures.rate_distortion import MAX_ROWS, rate_distortion
from uncollapse.training.budget import Budget

# Those that are compared if nothing is said: the VAE, its rivals, and the cures of the papers.
OF_ROWS = (
    "VAE",
    "beta-VAE",
    "free-bits-VAE",
    "LR-VAE",
    "SA-VAE",
    "Lagging-VAE",
    "LIDVAE",
    "IL-LIDVAE",
)
OF_TEXT = ("VAE", "beta-VAE", "free-bits-VAE", "SA-VAE", "Lagging-VAE", "LIDSVAE", "IL-LIDSVAE")


def compare(
    X: Any,
    test: Any,
    labels: Any = None,
    *,
    models: Sequence[str] | None = None,
    data: str | None = None,
    image_shape: tuple[int, int] | None = None,
    n_importance: int = 64,
    verbose: bool = True,
    **settings: Any,
) -> Comparison:
    """Train models on one budget, and measure them on the same test data.

    The first model takes its epochs. Each of the others is trained twice: until it has evaluated
    the decoder as often, and until it has taken as many seconds.

    Args:
        X: training data, shape (n, n_features), or documents.
        test: what the models are measured on, at least 2 rows or documents.
        labels: of the test data; if they are classes, a linear probe looks for them.
        models: names of presets (`uc.preset`); some of all kinds if not given.
        data: "image", "table" or "text", as for `uc.preset`. If not given, strings and sequences of
            different lengths are text, all else a table.
        image_shape: (height, width) if the rows are images.
        n_importance: importance samples for each example.
        verbose: show progress bars where there is a terminal.
        settings: arguments of the estimators, each for those that know it, and that are not told
            otherwise by what their name stands for. `random_state` is 0 if not given.

    Raises:
        InputError: if there is no such preset, a setting is of use to none of the models, or the
            first of them cannot be trained or measured on these data, which a step of training
            finds out before all else.
        NonFiniteLossError: if the training of the first fails. What fails later is an entry with
            its error.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(300, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> found = uc.compare(X[:200], X[200:], models=["VAE", "IL-LIDVAE"], latent_dim=1, max_epochs=5, verbose=False)
    >>> found.table()[["budget", "model"]].to_numpy().tolist()
    [['evaluations', 'VAE'], ['evaluations', 'IL-LIDVAE'], ['seconds', 'VAE'], ['seconds',
    'IL-LIDVAE']]
    """
    estimators = contestants(
        models, data or ("text" if are_documents(X) else "table"), {**settings, "verbose": verbose}
    )
    entries = run_comparison(
        estimators,
        X,
        test,
        labels,
        image_shape=image_shape,
        n_importance=n_importance,
        verbose=verbose,
    )
    return Comparison(tuple(entries))


def split(source: str, labels: str | None) -> tuple[Data, Data]:
    """Data to train on, and others: the parts of a named data set, or four fifths of a file and the
    rest, whatever the seed.

    Raises:
        InputError: if the data cannot be read, or are too few.
    """
    train = load(source, "train", labels)
    if source in NAMED:
        return train, load(source, "test")
    return train.hold_out()


def describe(
    source: str,
    train: Data,
    test: Data,
    estimators: Mapping[str, Estimator],
    settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """Sentences on what is compared."""
    first, leader = next(iter(estimators.items()))
    what = "documents" if train.is_text else f"rows of {train.X.shape[1]:,} features"
    share = len(test.X) / (len(train.X) + len(test.X))
    part = "its test part" if source in NAMED else f"{share:.0%} of all, held out at random"
    told = (
        ", ".join(f"{key} = {value}" for key, value in {**train.defaults, **settings}.items())
        or "none beyond the defaults"
    )
    return (
        f"{source}: {len(train.X):,} {what} to train on; {len(test.X):,} others, {part}, for all "
        "that is measured.",
        f"Seed {leader.random_state}. Settings: {told}.",
        f"{first} takes {leader.max_epochs} epochs. Every other model is trained twice: until it "
        "has evaluated the decoder as "
        "often, and until it has taken as many seconds.",
    )


def contestants(
    models: Sequence[str] | None,
    data: str,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Estimator]:
    """Estimators by the names of their presets.

    Args:
        models: the names.
        data: the kind, as for `uc.preset`.
        settings: as for `compare`.
        defaults: settings that the data suggest; they need not be of use.

    Raises:
        InputError: if there is no such preset, one is named twice, a setting is of use to none, or
            an argument cannot be used.
    """
    presets = [named(name, data) for name in models or (OF_TEXT if data == "text" else OF_ROWS)]
    if len({name for name, _, _ in presets}) < max(len(presets), 2):
        raise ParameterError(
            f"a comparison expects two models or more, each once, got "
            f"{', '.join(name for name, _, _ in presets)}."
        )
    wanted = {"random_state": 0, **(defaults or {}), **settings}
    estimators, useless = {}, set(settings)
    for name, kind, arguments in presets:
        known = Estimator.registry[kind]().get_params()
        taken = {
            key: value for key, value in wanted.items() if key in known and key not in arguments
        }
        estimators[name] = Estimator.registry[kind](
            **check_parameters(Estimator.registry[kind], {**taken, **arguments})
        )
        useless -= set(taken)
    if useless:
        raise ParameterError(
            f"the settings {', '.join(sorted(useless))} are of use to none of "
            f"{', '.join(estimators)}: leave them out, or name a "
            "model that takes them and does not fix them itself."
        )
    return estimators


def run_comparison(
    estimators: Mapping[str, Estimator],
    X: Any,
    test: Any,
    labels: Any = None,
    *,
    image_shape: tuple[int, int] | None = None,
    n_importance: int = 64,
    verbose: bool = True,
) -> Iterator[Entry]:
    """The entries of a comparison, one after the other as they are trained. The arguments are those
    of `compare`."""
    (first, leader), *others = estimators.items()
    measured = {"image_shape": image_shape, "n_importance": n_importance, "verbose": verbose}
    rehearsal = clone(leader).set_params(verbose=False).fit(X, budget=Budget(evaluations=1))
    _measure(
        first, None, rehearsal, test, labels, **{**measured, "n_importance": 1, "verbose": False}
    )  # or raise, before the work
    yield _measure(first, None, leader.fit(X), test, labels, **measured)
    used = leader.history_.iloc[-1]
    for budget in BUDGETS:
        for name, estimator in others:
            try:
                fitted = estimator.fit(X, budget=Budget(**{budget: used[budget]}))
                entry = _measure(name, budget, fitted, test, labels, **measured)
            except (InputError, NonFiniteLossError) as error:
                entry = Entry(name, budget, error=str(error))
            yield entry


def _measure(
    name: str, budget: str | None, estimator: Estimator, test: Any, labels: Any, **settings: Any
) -> Entry:
    report = diagnose(estimator, test, labels, name=name, thorough=False, **settings)
    curve = rate_distortion(estimator.model_, estimator.random_rows(test, MAX_ROWS))
    return Entry(name, budget, report, curve)
