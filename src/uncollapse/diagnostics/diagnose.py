"""The diagnosis of a model: a table of measures, a verdict and a page."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd

from uncollapse._utils.errors import InputError, ParameterError
from uncollapse._utils.progress import spinner
from uncollapse._utils.validation import check_count
from uncollapse.certificates.certificate import Certificate, can_be_certified, certify_rows
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.diagnostics.gallery import N_PICTURES, make_gallery, project_to_plane
from uncollapse.diagnostics.report import Report
from uncollapse.diagnostics.verdict import Evidence, judge
from uncollapse.measures.ais import ais_gain
from uncollapse.measures.amortization_gap import Refinement, refinement
from uncollapse.measures.components import (
    clustering_accuracy,
    component_measures,
    linear_probe,
)
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import Evaluation, evaluate
from uncollapse.measures.fisher import fisher_divergence
from uncollapse.measures.information import (
    aggregate_gaussian_kl,
    aggregate_kl,
    kl,
    mutual_information,
)
from uncollapse.measures.likelihood import importance_log_likelihood
from uncollapse.measures.units import active_units, informative_units, supported_units
from uncollapse.models import ComposedModel

# Points in the picture of the latents, and rows of the certificate.
N_POINTS, N_CERTIFIED = 2000, 100
Estimates = dict[str, Estimate | None]


def diagnose(
    model: Any,
    X: Any,
    labels: Any = None,
    *,
    name: str | None = None,
    image_shape: tuple[int, int] | None = None,
    n_importance: int | None = None,
    thorough: bool = True,
    devices: int | Literal["auto"] = 1,
    verbose: bool = True,
) -> Report:
    """Measure how much a model's latents say about data, and whether the model or the inference is
    to blame for a collapse.

    The memory does not grow with the number of rows: sums go over all of them, and measures that
    compare rows, or take many draws for each, use a random sample of 10,000 (fewer where these take
    more than 256 MB). The numbers are those of the functions in `uncollapse.measures`.

    Args:
        model: a fitted estimator of this package, a model of pythae or scvi-tools, or any object
            with `prior()`, `posterior(x)` and `likelihood(z)` that return distributions of PyTorch;
            `from_functions` makes one from a pair of functions.
        X: data, preferably not those of the training, at least 2 rows: whatever the model takes,
            arrays (memory-mapped ones too), a data set or a loader of PyTorch, an AnnData for
            models of scvi-tools.
        labels: shape (n,), for colors in the picture of the latents, and for accuracies if they
            are classes; by default those that a loader gives beside its data.
        name: of the model, in the report.
        image_shape: (height, width) if the rows are images; by default that of the rows.
        n_importance: importance samples for each row; by default doubled until the likelihood
            settles.
        thorough: refine posteriors on the frozen decoder, which tells a collapse of the model from
            one of the inference, check the likelihood by annealed importance sampling, and compute
            the certificate. Doubles the time.
        devices: the largest number of devices that share the rows, each with a copy of the model,
            or "auto" for all GPUs; on the CPU, the number of workers. The report is the same.
        verbose: show progress bars in a terminal.

    Raises:
        InputError: if the data do not suit the model, the labels or the image shape do not suit the
            data, or the model cannot be copied to several devices.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> vae = uc.VAE(latent_dim=1, hidden=(8,), max_epochs=5, random_state=0).fit(X)
    >>> report = uc.diagnose(vae, X, thorough=False)
    >>> report.verdict
    'healthy'
    """
    if n_importance is not None:
        check_count("n_importance", n_importance)
    with evaluate(model, X, labels, devices=devices, verbose=verbose) as data:
        shape = _image_shape(data.sample, image_shape)
        notes = [*data.adapted.notes, *_gradient_notes(data)]
        thorough = thorough and data.can_move_latents
        refined = refinement(data) if thorough else None
        estimates = _likelihood(data, n_importance, thorough, notes)
        certificate = _certificate(data, notes) if thorough else None
        with spinner("estimating information and divergences", verbose):
            estimates |= _information(data, notes)
            if data.posteriors.components is not None:
                estimates |= _components(data)
            if data.classes is not None:
                estimates["probe_accuracy"] = linear_probe(data)
            estimates["recovered_nats"] = None if refined is None else refined.recovered_nats
            estimates = _known(estimates, notes)
            units = data.sums.table()
            verdict, advice = judge(_evidence(data, units, estimates, refined))
            points, some = data.order[:N_POINTS], data.order[:N_PICTURES]
            means = data.posteriors.means
            return Report(
                name=name or data.adapted.name,
                n_examples=data.sums.n,
                verdict=verdict,
                advice=advice,
                notes=(*notes, *_cautions(estimates, units)),
                estimates=estimates,
                units=units,
                collapse_curves=data.sums.collapse_curves(),
                certificate=certificate,
                history=data.adapted.history,
                points=project_to_plane(means[points]),
                labels=None if data.labels is None else data.labels[points],
                gallery=make_gallery(data.adapted, data.sample[some], means[some], units, shape),
            )


def _likelihood(
    data: Evaluation, n_importance: int | None, thorough: bool, notes: list[str]
) -> Estimates:
    found = importance_log_likelihood(data, n_samples=n_importance)
    estimates: Estimates = {
        "nll_nats": Estimate(-found.value, found.standard_error),
        "importance_draws": Estimate(float(found.n_samples)),
        "effective_sample_size": Estimate(found.effective_sample_size),
    }
    if found.has_settled is False:
        notes.append(
            f"The likelihood has not settled at {found.n_samples:,} importance draws: the NLL is "
            "too high."
        )
    if thorough:
        estimates["annealing_gain_nats"] = ais_gain(data, n_samples=found.n_samples)
    return estimates


def _information(data: Evaluation, notes: list[str]) -> Estimates:
    information = mutual_information(data)
    if information.is_lower_bound:
        notes.append(
            f"I(x; z) is near the largest value that {len(information.density):,} rows can show, "
            f"{information.cap:.2f} nats. It is a lower bound."
        )
    return {
        "kl_nats": kl(data),
        "mutual_information_nats": Estimate(information.value, information.standard_error),
        "information_cap_nats": Estimate(information.cap),
        "aggregate_kl_nats": aggregate_kl(data, information=information),
        "aggregate_gaussian_kl_nats": aggregate_gaussian_kl(data),
        "fisher_divergence": fisher_divergence(data),
        "active_units": active_units(data),
        "informative_units": informative_units(data),
        "supported_units": supported_units(data),
        "information_floor_nats": model_information_floor(data.model),
    }


def _components(data: Evaluation) -> Estimates:
    found, accuracy = component_measures(data), clustering_accuracy(data)
    estimates: Estimates = {}
    if found is not None:
        estimates |= {
            "kl_y_nats": found.kl_y,
            "kl_z_nats": found.kl_z,
            "component_information_nats": found.information,
            "component_floor_nats": found.floor,
            "live_components": found.n_live,
        }
    if accuracy is not None:
        estimates |= {"majority_accuracy": accuracy.majority, "matched_accuracy": accuracy.matched}
    return estimates


def _evidence(
    data: Evaluation, units: pd.DataFrame, estimates: Estimates, refined: Refinement | None
) -> Evidence:
    if estimates["recovered_nats"] is None:  # Unknown, or not finite.
        refined = None
    return Evidence(
        units=units,
        estimates=estimates,
        refined_share=None if refined is None else refined.explained_share,
        is_ours=data.adapted.is_ours,
        keeps_constant=isinstance(data.model, ComposedModel) and data.model.family.fills_space,
    )


def _certificate(data: Evaluation, notes: list[str]) -> Certificate | None:
    if not (data.adapted.is_ours and can_be_certified(data.model)):
        return None
    rows = data.rows[data.order[:N_CERTIFIED]]
    try:
        return certify_rows(data.model, rows, data.adapted.name, verbose=data.verbose)
    except InputError as error:
        notes.append(f"There is no certificate: {error}")
        return None


def _known(estimates: Estimates, notes: list[str]) -> Estimates:
    """Replace estimates that are not finite by None, and say so in a note."""
    spoilt = [key for key, value in estimates.items() if value and not math.isfinite(value.value)]
    if spoilt:
        notes.append(
            f"Densities of this model are not finite on some rows, and so {', '.join(spoilt)} "
            "are unknown."
        )
    return {key: None if key in spoilt else value for key, value in estimates.items()}


def _gradient_notes(data: Evaluation) -> list[str]:
    if data.has_gradient or not data.model.has_density:
        return []
    why = "log p(x|z) has no gradient in z" if data.model.is_unbounded else "z has bounds"
    return [f"Measures that move z by the gradient of log p(x|z) are unknown, as {why}."]


def _cautions(estimates: Estimates, units: pd.DataFrame) -> list[str]:
    """List what readers of the numbers must know."""
    cautions = []
    gain, nll = estimates.get("annealing_gain_nats"), estimates["nll_nats"]
    if gain and nll and gain.exceeds(max(0.1, 0.001 * abs(nll.value))):
        cautions.append(
            f"Importance sampling misses {gain.value:.2g} nats of log p(x) that AIS finds: the NLL "
            "is too high by as much."
        )
    if units["kl_nats"].isna().all():
        cautions.append(
            "The KL of this posterior and this prior is not a sum over units. The KL of a unit is "
            "between the Gaussians with the moments of q(z_d|x) and p(z_d)."
        )
    return cautions


def _image_shape(rows: np.ndarray, given: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width as given, or those of grey images."""
    n_numbers = math.prod(rows.shape[1:])
    if given is not None and (
        np.ndim(given) != 1 or len(given) != 2 or min(given) < 1 or math.prod(given) != n_numbers
    ):
        raise ParameterError(
            f"image_shape expects a height and a width with {n_numbers} pixels in all, got {given}."
        )
    is_grey = rows.ndim == 3 or (rows.ndim == 4 and rows.shape[1] == 1)
    return (rows.shape[-2], rows.shape[-1]) if given is None and is_grey else given
