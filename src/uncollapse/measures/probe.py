"""The accuracy of a linear classifier on posterior means."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate

MAX_ROWS = 5000
N_FOLDS = 5


def linear_probe(model: Any, X: Any = None, labels: Any = None) -> Estimate | None:
    """Estimate the accuracy of a logistic regression from posterior means to labels, on held-out
    ones of 5,000 random rows.

    The inputs are means without posterior noise. They may reveal labels from little information;
    the mutual information says how much there is.

    Args:
        model: a model, or an `Evaluation`.
        X: its data.
        labels: classes, one for each row. Classes with a single row are left out.

    Returns:
        The accuracy of a stratified cross-validation with its binomial error; None without two
        classes.
    """
    with evaluate(model, X, labels) as data:
        if data.classes is None:
            return None
        posteriors, some = data.posteriors, data.order[:MAX_ROWS]
        # A unit is divided by its total deviation, of means and of posteriors around them. Then the
        # penalty treats scales alike, and a collapsed unit stays small.
        deviation = np.sqrt(posteriors.means.var(0) + posteriors.variances.mean(0))
        return probe_accuracy(posteriors.means[some] / deviation, data.classes[some])


def probe_accuracy(features: np.ndarray, labels: np.ndarray) -> Estimate | None:
    """Cross-validate a logistic regression from features, shape (n, d), to labels, shape (n,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    classes, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[which] > 1
    if len(classes[counts > 1]) < 2:
        return None
    features, which = features[kept], which[kept]
    n_folds = min(N_FOLDS, int(counts[counts > 1].min()))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are enough here.
        guesses = cross_val_predict(LogisticRegression(max_iter=500), features, which, cv=folds)
    return Estimate.share(float((guesses == which).mean()), len(which))
