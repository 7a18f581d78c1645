"""The diagnosis of a model of any library: one pass over all data, and a closer look at a sample of
them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, SequentialSampler

from uncollapse._utils.errors import DataError, InputError, ParameterError
from uncollapse._utils.progress import progress_bar, spinner
from uncollapse._utils.random import drawing_from, seeded
from uncollapse._utils.validation import check_count, check_labels, living_workers
from uncollapse.adapters import AdaptedModel, adapt_model, evaluating
from uncollapse.certificates.certificate import Certificate, can_be_certified, certificate
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.diagnostics.gallery import N_PICTURES, make_gallery, project_to_plane
from uncollapse.diagnostics.report import MAX_CLASSES, Report
from uncollapse.diagnostics.verdict import DEAD_COMPONENT_NATS, Evidence, judge
from uncollapse.latent import CategoricalLayer, ComponentPosterior, GaussianMixture
from uncollapse.measures.ais import N_CHAINS, annealed_log_likelihood
from uncollapse.measures.batches import Reservoir, n_rows, row_batches
from uncollapse.measures.clustering import (
    component_information_density,
    live_components,
    majority_accuracy,
    matched_accuracy,
)
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.fisher import relative_fisher_divergence
from uncollapse.measures.information import Posteriors, infer, information
from uncollapse.measures.likelihood import importance_log_likelihood, marginal_likelihood
from uncollapse.measures.probe import linear_probe
from uncollapse.measures.refinement import N_DRAWS, Refinement, refine
from uncollapse.measures.row_map import RowMap, row_map
from uncollapse.measures.supported_units import supported_units
from uncollapse.measures.units import Units
from uncollapse.models import ComposedModel, LatentModel, differentiable_twice, to_device

# Points of the picture of the latents.
N_POINTS = 2000
# Rows that are looked at one by one, fewer where a row takes many evaluations of the decoder, as a
# document does.
N_REFINED, N_REFEREED, N_CERTIFIED, MIN_ROWS = 64, 16, 100, 4
# Draws of z that tell whether the likelihood moves with it.
N_PROBES = 8
MAX_REFINED_AT_ONCE, MAX_REFEREED_AT_ONCE = 4096, 1024


@living_workers()
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
    to blame where they do not.

    The memory that it takes does not grow with the number of rows: sums go over all of them, and
    what compares rows with each other, or takes many draws for each, looks at a random sample of
    10,000 (fewer, if 10,000 take more than 256 MB).

    Args:
        model: a fitted estimator of this package, a model of pythae or scvi-tools, or any object
            with `prior()`, `posterior(x)` and `likelihood(z)` that return distributions of PyTorch;
            of a pair of functions, `from_functions` makes one.
        X: data, preferably not those of the training, at least 2 rows: whatever the model takes,
            arrays (memory-mapped ones too), a data set or a loader of PyTorch, an AnnData for
            models of scvi-tools.
        labels: for colours in the picture of the latents, and, if they are classes, for accuracies,
            shape (n,). Those that a loader gives beside its data are taken if these are not given.
        name: what to call the model.
        image_shape: (height, width) if the rows are images; found in rows of such a shape.
        n_importance: importance samples for each row; doubled until the likelihood settles if not
            given.
        thorough: refine posteriors on the frozen decoder, which tells a collapse in the model from
            one in the inference, let annealed importance sampling judge the likelihood, and compute
            the certificate. Takes about as long as all else.
        devices: at most how many of the model's kind share what is done row by row, each with a
            copy of the model, or "auto" for all GPUs; on the CPU, how many workers. The report is
            that of one device.
        verbose: show progress bars where there is a terminal.

    Raises:
        InputError: if the data do not suit the model, the labels or the image shape do not suit the
            data, or the model cannot be copied to several devices.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> report = uc.diagnose(uc.VAE(latent_dim=1, max_epochs=5, random_state=0).fit(X), X)
    >>> report.verdict
    'healthy'
    """
    if n_importance is not None:
        check_count("n_importance", n_importance)
    subject = adapt_model(model)
    with (
        evaluating(subject.model),
        seeded(0),
        row_map(subject.model, devices) as work,
    ):
        survey = _survey(subject, X, labels, work, verbose)
        return _Diagnosis(subject, survey, work, thorough, verbose).report(
            name, image_shape, n_importance
        )


@dataclass(frozen=True)
class _Survey:
    """What a pass over all rows finds.

    Attributes:
        units: sums over all rows.
        rows: a random sample, as they are read, shape (n, *features).
        labels: of the sample; None where there are none.
    """

    units: Units
    rows: np.ndarray
    labels: np.ndarray | None


def _survey(subject: AdaptedModel, X: Any, labels: Any, work: RowMap, verbose: bool) -> _Survey:
    total = n_rows(X)
    if (
        labels is not None
        and isinstance(X, DataLoader)
        and not isinstance(X.sampler, SequentialSampler)
    ):
        raise DataError(
            "labels expect rows in their order, got a loader that shuffles: let it give them "
            "beside the data."
        )
    given = None if labels is None else _check_labels(labels, total)
    sums, sample = Units(subject.model), Reservoir()
    with progress_bar("inferring posteriors", total, verbose) as advance:
        read = drawing_from(
            0, row_batches(subject, X)
        )  # what a loader draws is its own, whoever looks at rows meanwhile
        for rows, own, observed, posteriors in work.map(_look, read):
            n = sample.n_seen
            sample.add(rows, own if given is None else given[n : n + len(rows)])
            sums.add(posteriors, observed)
            advance("", sample.n_seen)
    n = sample.n_seen
    if n < 2:
        raise DataError(f"a diagnosis expects at least 2 rows, got {n}.")
    if given is not None and len(given) != n:
        raise DataError(f"labels expect one value for each of the {n} rows, got {len(given)}.")
    return _Survey(sums, sample.rows, _sampled_labels(sample.labels, given))


def _look(model: LatentModel, batch: tuple[np.ndarray, Any]) -> tuple[Any, ...]:
    """The rows, their labels, the rows as the model observes them, and their posteriors."""
    rows, labels = batch
    observed = model.observe(rows)
    return rows, labels, observed, infer(model, observed)


def _sampled_labels(found: list[Any], given: np.ndarray | None) -> np.ndarray | None:
    """Labels of the sample, of those that were given, or else of those that came with the data, if
    they all have one."""
    if given is not None:
        return np.array(found, given.dtype)
    return None if any(label is None for label in found) else _check_labels(found, None)


def _check_labels(labels: Any, n: int | None) -> np.ndarray:
    """Numbers as they are where they are a scale, and anything else as text."""
    what = "the rows" if n is None else f"the {n} rows"
    try:
        labels = labels.tolist() if isinstance(labels, torch.Tensor) else labels
        series = pd.Series(list(labels)).infer_objects()
    except (TypeError, ValueError):
        raise DataError(
            f"labels expect one value for each of {what}, got {type(labels).__name__}."
        ) from None
    if len(series) != (len(series) if n is None else n) or any(np.ndim(label) for label in series):
        raise DataError(
            f"labels expect one value for each of {what}, got {np.shape(labels) or len(series)}."
        )
    check_labels(series.to_numpy())
    if series.dtype.kind in "iuf" and series.nunique() > MAX_CLASSES:
        return series.to_numpy(np.float64)
    return np.array([str(label) for label in series])


class _Diagnosis:
    """A closer look at the sample."""

    def __init__(
        self, subject: AdaptedModel, survey: _Survey, work: RowMap, thorough: bool, verbose: bool
    ) -> None:
        self.subject, self.survey, self.work, self.verbose = subject, survey, work, verbose
        self.model = subject.model
        self.rows = self.model.observe(survey.rows)
        self.posteriors = infer(self.model, self.rows, work)
        # Files are often sorted: what looks at some rows only looks at random ones.
        self.shuffled = np.random.default_rng(0).permutation(len(self.rows))
        self.has_gradient = _has_gradient(self.model, self.rows[:1])
        self.is_thorough = thorough and self.has_gradient and self.model.n_places == 1
        self.notes = list(subject.notes)
        if not self.has_gradient and self.model.has_density:
            why = "log p(x|z) has no gradient in z" if self.model.is_unbounded else "z has bounds"
            self.notes.append(f"What moves z by the gradient of log p(x|z) is unknown, as {why}.")

    def report(
        self, name: str | None, image_shape: tuple[int, int] | None, n_importance: int | None
    ) -> Report:
        """Everything, the slow parts first."""
        shape = _image_shape(self.survey.rows, image_shape)
        refinement = self._refined() if self.is_thorough else None
        estimates = self._likelihood(n_importance)
        proof = self._certificate() if self.is_thorough else None
        with spinner("estimating information and divergences", self.verbose):
            units = self.survey.units.table()
            estimates |= self._latents(units) | self._components() | self._probed()
            estimates["recovered_nats"] = None if refinement is None else refinement.recovered_nats
            estimates = self._finite(estimates)
            evidence = Evidence(
                units=units,
                estimates=estimates,
                refined_share=None
                if estimates["recovered_nats"] is None or refinement is None
                else refinement.explained_share,
                is_ours=self.subject.is_ours,
                keeps_constant=isinstance(self.model, ComposedModel)
                and self.model.family.fills_space,
            )
            verdict, advice = judge(evidence)
            points, some = self.shuffled[:N_POINTS], self.shuffled[:N_PICTURES]
            labels = self.survey.labels
            return Report(
                name=name or self.subject.name,
                n_examples=self.survey.units.n,
                verdict=verdict,
                advice=advice,
                notes=(*self.notes, *_cautions(estimates, units)),
                estimates=estimates,
                units=units,
                collapse_curves=self.survey.units.collapse_curves(),
                certificate=proof,
                history=self.subject.history,
                points=project_to_plane(self.posteriors.means[points]),
                labels=None if labels is None else labels[points],
                gallery=make_gallery(
                    self.subject, self.survey.rows[some], self.posteriors.means[some], units, shape
                ),
            )

    def _likelihood(self, n_importance: int | None) -> dict[str, Estimate | None]:
        found = marginal_likelihood(
            self.model, self.rows[self.shuffled], n_importance, self.verbose, self.work
        )
        estimates: dict[str, Estimate | None] = {
            "nll_nats": Estimate(-found.mean.value, found.mean.standard_error),
            "importance_draws": Estimate(float(found.n_samples)),
            "effective_sample_size": Estimate(found.effective_sample_size),
        }
        if found.has_settled is False:
            self.notes.append(
                f"The likelihood has not settled at {found.n_samples:,} importance draws: the NLL "
                "is too high."
            )
        if self.is_thorough:
            estimates["annealing_gain_nats"] = Estimate.mean_of(
                self._annealing_gain(found.n_samples)
            )
        return estimates

    def _annealing_gain(self, n_samples: int) -> np.ndarray:
        """What annealing finds of log p(x) beyond so many importance weights, of each of some rows,
        in nats."""
        rows = self._affordable(N_REFEREED, N_CHAINS, MAX_REFEREED_AT_ONCE)
        annealed = annealed_log_likelihood(self.model, rows, verbose=self.verbose)
        return annealed - importance_log_likelihood(self.model, rows, n_samples)

    def _refined(self) -> Refinement:
        rows = self._affordable(N_REFINED, N_DRAWS, MAX_REFINED_AT_ONCE)
        return refine(self.model, rows, self.verbose)

    def _certificate(self) -> Certificate | None:
        if not (self.subject.is_ours and can_be_certified(self.model)):
            return None
        assert isinstance(self.model, ComposedModel)
        try:
            rows = self.rows[self.shuffled[:N_CERTIFIED]]
            return certificate(
                self.model,
                rows,
                self.subject.name,
                verbose=self.verbose,
                n_smoothed=0,
            )
        except InputError as error:
            self.notes.append(f"There is no certificate: {error}")
            return None

    def _affordable(self, n: int, n_draws: int, at_once: int) -> np.ndarray:
        """So many random rows, or as many as can be evaluated at once."""
        rows = self.rows[self.shuffled[:n]]
        within = int((self.model.evaluations(rows, n_draws).cumsum() <= at_once).sum())
        return rows[: max(MIN_ROWS, within)]

    def _latents(self, units: pd.DataFrame) -> dict[str, Estimate | None]:
        told = information(self.model, self.rows, self.posteriors, self.shuffled)
        if told.is_uncertain:
            self.notes.append(
                f"I(x; z) is near what {len(told.rows):,} rows can tell, {told.cap:.2f} nats: it "
                "is at least about as large as it "
                "seems, and nothing more is known."
            )
        enumerated = isinstance(self.model, ComposedModel) and isinstance(
            self.model.posterior, ComponentPosterior
        )
        floor = (
            model_information_floor(self.model) if isinstance(self.model, ComposedModel) else None
        )
        supported = supported_units(self.model, self.rows)
        kl = self.posteriors.kl.astype(np.float64)
        rest = Estimate.mean_of(kl[told.rows] - told.density)
        is_unknown = enumerated or told.is_uncertain  # an enumerated KL is that of z and y together
        return {
            "kl_nats": self.survey.units.kl.estimate(),
            "mutual_information_nats": told.estimate,
            "information_cap_nats": Estimate(told.cap),
            "aggregate_kl_nats": None
            if is_unknown
            else Estimate(rest.value, math.hypot(rest.standard_error, told.doubt)),
            "aggregate_gaussian_kl_nats": self.survey.units.aggregate_gaussian_kl(self.model),
            "fisher_divergence": relative_fisher_divergence(self.model, self.rows)
            if self.has_gradient
            else None,
            "active_units": Estimate(float(units["active"].sum())),
            "informative_units": Estimate(float(units["informative"].sum())),
            "supported_units": None if supported is None else Estimate(float(supported)),
            "information_floor_nats": None if floor is None else Estimate(floor),
        }

    def _components(self) -> dict[str, Estimate | None]:
        components = self.posteriors.components
        if components is None or not isinstance(self.model, ComposedModel):
            return {}
        return _component_estimates(self.model, self.posteriors, components, self._classes())

    def _finite(self, estimates: dict[str, Estimate | None]) -> dict[str, Estimate | None]:
        """The estimates, with None for those that densities which are not finite have spoilt."""
        spoilt = [
            name
            for name, estimate in estimates.items()
            if estimate is not None and not math.isfinite(estimate.value)
        ]
        if spoilt:
            self.notes.append(
                f"Densities of this model are not finite on some rows, and so {', '.join(spoilt)} "
                "are unknown."
            )
        return {name: None if name in spoilt else estimate for name, estimate in estimates.items()}

    def _probed(self) -> dict[str, Estimate | None]:
        if (classes := self._classes()) is None:
            return {}
        return {
            "probe_accuracy": linear_probe(
                self.posteriors.means, self.posteriors.variances, classes, self.shuffled
            )
        }

    def _classes(self) -> np.ndarray | None:
        """The labels of the sample, if they are classes."""
        labels = self.survey.labels
        return labels if labels is not None and labels.dtype.kind == "U" else None


def _component_estimates(
    model: ComposedModel, posteriors: Posteriors, components: np.ndarray, classes: np.ndarray | None
) -> dict[str, Estimate | None]:
    assert isinstance(model.prior, GaussianMixture | CategoricalLayer)
    assert posteriors.kl_y is not None
    kl_y = posteriors.kl_y.astype(np.float64)
    told = component_information_density(kl_y, components)
    n_live = live_components(components).sum() if told.mean() >= DEAD_COMPONENT_NATS else 0
    found: dict[str, Estimate | None] = {
        "kl_y_nats": Estimate.mean_of(kl_y),
        "kl_z_nats": Estimate.mean_of(posteriors.kl - kl_y),
        "component_information_nats": Estimate.mean_of(told),
        "component_floor_nats": Estimate(model.prior.component_information_bound()),
        "live_components": Estimate(float(n_live)),
    }
    if classes is not None:
        clusters = components.argmax(1)
        found["majority_accuracy"] = Estimate.share(
            majority_accuracy(classes, clusters), len(classes)
        )
        found["matched_accuracy"] = Estimate.share(
            matched_accuracy(classes, clusters), len(classes)
        )
    return found


def _has_gradient(model: LatentModel, row: np.ndarray) -> bool:
    """Whether log p(x|z) can be differentiated in z, wherever z is."""
    if not model.is_unbounded:
        return False
    x = to_device(model, row)
    with seeded(0), torch.enable_grad(), differentiable_twice():
        z = model.draw_prior(N_PROBES).requires_grad_()
        log_p = model.log_likelihood(x, z.unsqueeze(1))
    if (
        log_p.requires_grad
        and torch.autograd.grad(log_p.sum(), z, allow_unused=True)[0] is not None
    ):
        return True
    return bool((log_p == log_p[0]).all())  # which has a gradient, of 0


def _image_shape(rows: np.ndarray, given: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width, as given, or of rows that have them."""
    n_numbers = math.prod(rows.shape[1:])
    if given is not None and (
        np.ndim(given) != 1 or len(given) != 2 or min(given) < 1 or math.prod(given) != n_numbers
    ):
        raise ParameterError(
            f"image_shape expects a height and a width with {n_numbers} pixels in all, got {given}."
        )
    is_grey = rows.ndim == 3 or (rows.ndim == 4 and rows.shape[1] == 1)
    return (rows.shape[-2], rows.shape[-1]) if given is None and is_grey else given


def _cautions(estimates: dict[str, Estimate | None], units: pd.DataFrame) -> list[str]:
    """What readers of the numbers must know."""
    known = {key: estimate for key, estimate in estimates.items() if estimate is not None}
    cautions = []
    gain = known.get("annealing_gain_nats")
    if (
        gain is not None
        and "nll_nats" in known
        and gain.exceeds(max(0.1, 0.001 * abs(known["nll_nats"].value)))
    ):
        cautions.append(
            f"Importance weights miss {gain.value:.2g} nats of log p(x) that annealing finds: the "
            "NLL is too high by as much."
        )
    if units["kl_nats"].isna().all():
        cautions.append(
            "The KL does not fall into units in closed form, of this posterior and this prior: "
            "that of a unit is between the "
            "Gaussians with the moments of q(z_d|x) and p(z_d)."
        )
    return cautions
