"""How well labels can be read off latents by a linear model."""

from __future__ import annotations

import warnings

import numpy as np

from uncollapse.measures.estimate import Estimate

MAX_PROBED_ROWS = 5000
N_FOLDS = 5


def linear_probe(
    means: np.ndarray, variances: np.ndarray, labels: np.ndarray, order: np.ndarray
) -> Estimate | None:
    """The accuracy of a logistic regression from posterior means to labels, on rows that it was not
    fitted to.

    Each unit is measured in its total deviation, of the means and of the posteriors around them, so
    that a penalty is fair to units of any scale, and a collapsed unit stays as small as it is. The
    means come without the noise around them: what little they tell may be read all the same, and
    the mutual information says how much it is.

    Args:
        means: posterior means, shape (n, latent_dim).
        variances: posterior variances, the same shape.
        labels: shape (n,). Labels that a single one of the rows has are left out.
        order: of the rows, at random; the first 5,000 are looked at.

    Returns:
        The share that is right over the folds of a stratified cross-validation, and its binomial
        error; None if there are no two labels to be told apart.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows = order[:MAX_PROBED_ROWS]
    classes, which, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    kept = counts[which] > 1
    if len(classes[counts > 1]) < 2:
        return None
    rows, which = rows[kept], which[kept]
    deviation = np.sqrt(means.var(0) + variances.mean(0))
    folds = StratifiedKFold(
        min(N_FOLDS, int(counts[counts > 1].min())), shuffle=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # what it has found by then serves as well
        guesses = cross_val_predict(
            LogisticRegression(max_iter=500), means[rows] / deviation, which, cv=folds
        )
    return Estimate.share(float((guesses == which).mean()), len(rows))
