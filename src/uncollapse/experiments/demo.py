"""The demonstration: an ordinary VAE collapses, an inverse-Lipschitz VAE does not, on the same data
and budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from uncollapse._utils.files import check_writable, write_text
from uncollapse.data import Data, load
from uncollapse.diagnostics import Report, diagnose, render_page
from uncollapse.estimators import VAE
from uncollapse.families import Gaussian

# In grey levels of 0 ... 16. Its square exceeds the eigenvalues of the data's covariance, so that
# an ordinary VAE stands to gain nothing from its latents.
GREY_LEVELS = 16
SIGMA = 14
BUDGET: dict[str, Any] = {
    "latent_dim": 8,
    "hidden": (256, 256),
    "max_epochs": 60,
    "batch_size": 100,
    "learning_rate": 1e-3,
}
INVERSE_LIPSCHITZ = 0.6
MODELS = {"VAE": None, "LIDVAE": 0.0, "IL-LIDVAE": INVERSE_LIPSCHITZ}

TITLE = "The same data, the same budget: one VAE collapses, one cannot"


def introduction(train: Data, test: Data, seed: int) -> tuple[str, ...]:
    """What the three models share, why this setting, and in what they differ."""
    eigenvalues = np.linalg.eigvalsh(np.cov(GREY_LEVELS * train.X.T))
    exceeded = int((eigenvalues < SIGMA**2).sum())
    width = " × ".join(map(str, BUDGET["hidden"]))
    return (
        f"Three VAEs learn scikit-learn's handwritten digits: 8 × 8 pixels, grey levels 0 to "
        f"{GREY_LEVELS}, {len(train.X):,} to "
        f"train on and {len(test.X):,} others for this report. All have {BUDGET['latent_dim']} "
        f"latent units, networks of {width} "
        f"units, {BUDGET['max_epochs']} epochs, seed {seed}, and a Gaussian decoder with a "
        f"standard deviation of {SIGMA} grey "
        "levels. Only the kind of decoder differs.",
        "Why this noise: with a linear decoder, a unit pays for its KL only where an eigenvalue of "
        "the data's covariance exceeds "
        f"the decoder's variance (Lucas et al. 2019). {SIGMA}² = {SIGMA**2} exceeds {exceeded} of "
        f"the {len(eigenvalues)} "
        f"eigenvalues, of which the largest is {eigenvalues[-1]:.0f}. So the likelihood hardly "
        "suffers when a model ignores its "
        "latents, and nothing keeps an ordinary VAE from it, although the digits can be told apart "
        "by them.",
        "VAE has an ordinary decoder. LIDVAE (Wang, Blei, Cunningham 2021) makes it injective, "
        "which forbids exact collapse, not "
        "near-collapse. IL-LIDVAE (Kinoshita et al. 2023) makes it inverse Lipschitz: natural "
        "parameters move at least L₁L₂ times "
        f"as far as z; here L₁ = L₂ = {INVERSE_LIPSCHITZ}. For a Gaussian decoder this guarantees "
        "information in nats before any "
        "training, the information floor. Its price in likelihood stands in the table.",
    )


def run_demo(
    output: Path, seed: int = 0, overwrite: bool = False, tell: Callable[[str], None] = print
) -> list[Report]:
    """Train the three models, and write the page that compares them.

    Args:
        output: where the page goes.
        seed: of all three trainings.
        overwrite: whether a page that is already there may be replaced.
        tell: receives a line about each step.

    Raises:
        InputError: if the page cannot be written.
    """
    check_writable(output, overwrite)
    train, test = load("digits"), load("digits", split="test")
    reports = []
    for name, constant in MODELS.items():
        tell(f"training {name} on {len(train.X):,} digits, seed {seed}")
        family = Gaussian(scale=SIGMA / GREY_LEVELS)
        vae = VAE(inverse_lipschitz=constant, family=family, random_state=seed, **BUDGET).fit(
            train.X
        )
        reports.append(diagnose(vae, test.X, test.labels, name=name, image_shape=test.image_shape))
    write_text(output, render_page(reports, TITLE, introduction(train, test, seed)), overwrite)
    return reports
