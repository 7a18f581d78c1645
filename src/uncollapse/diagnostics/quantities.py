"""Labels and meanings of the numbers of a report."""

from __future__ import annotations

from typing import NamedTuple


class Quantity(NamedTuple):
    """A number of a report.

    Attributes:
        label: in tables with a column for each model.
        meaning: in a few words.
        short: heading in tables with a row for each model; empty where these leave it out.
    """

    label: str
    meaning: str
    short: str = ""


QUANTITIES = {
    "nll_nats": Quantity("Negative log-likelihood, nats", "-log p(x), importance sampling", "NLL"),
    "importance_draws": Quantity("Importance samples per row", "K, doubled until the mean settles"),
    "effective_sample_size": Quantity("Effective sample size", "of K weights, median over rows"),
    "annealing_gain_nats": Quantity(
        "AIS gain over importance sampling, nats",
        "log p(x) by annealed importance sampling minus that by importance sampling, on a few rows",
    ),
    "kl_nats": Quantity("KL(q(z|x) ‖ p(z)), nats", "mean over the data, y included", "KL"),
    "kl_y_nats": Quantity("KL of the component y, nats", "KL(q(y|x) ‖ 1/c)"),
    "kl_z_nats": Quantity("KL of z given y, nats", "rest of the KL, of z given the component"),
    "mutual_information_nats": Quantity(
        "Mutual information I(x; z), nats", "I(x; z) under q; its estimate is at most log n", "MI"
    ),
    "information_cap_nats": Quantity(
        "Largest MI that n rows can show (log n)", "log of the number of compared rows", "log n"
    ),
    "aggregate_kl_nats": Quantity(
        "KL(q(z) ‖ p(z)), nats", "KL minus I(x; z); unknown where I(x; z) is near log n"
    ),
    "aggregate_gaussian_kl_nats": Quantity(
        "KL(q(z) ‖ p(z)), lower bound, nats", "KL(N ‖ p(z)) of a Gaussian N with q(z)'s moments"
    ),
    "fisher_divergence": Quantity(
        "Relative Fisher divergence", "F(p(z) ‖ p(z|x)), averaged over the data or 64 of the rows"
    ),
    "active_units": Quantity(
        "Active units (Burda's rule)", "units with Var E[z|x] ≥ 0.01 (Burda et al. 2016)", "AU"
    ),
    "informative_units": Quantity(
        "Informative units (scale-free)",
        "units with at least 1% of their variance explained by x",
        "informative",
    ),
    "supported_units": Quantity(
        "Units supported by the data",
        "eigenvalues of the data covariance above the decoder noise; Gaussian decoders only",
    ),
    "recovered_nats": Quantity(
        "ELBO gain of refined posteriors, nats", "fitted to each row on the frozen decoder"
    ),
    "information_floor_nats": Quantity(
        "Information floor, nats", "lower bound on the model's I(x; z); Gaussian decoders only"
    ),
    "component_information_nats": Quantity("Mutual information I(x; y), nats", "I(x; y) under q"),
    "component_floor_nats": Quantity(
        "I(y; z) under the prior, lower bound, nats", "from the distances between its components"
    ),
    "live_components": Quantity(
        "Live components",
        "components assigned a tenth of an equal share of the data or more; 0 if I(x; y) is 0",
    ),
    "majority_accuracy": Quantity(
        "Accuracy, majority label of each component",
        "share of labels that are the most frequent one of their component",
    ),
    "matched_accuracy": Quantity(
        "Accuracy, components matched with labels",
        "share of labels that agree with components matched one-to-one (Hungarian)",
    ),
    "probe_accuracy": Quantity(
        "Accuracy of a linear probe",
        "logistic regression from posterior means to labels, on held-out rows",
        "probe",
    ),
}
