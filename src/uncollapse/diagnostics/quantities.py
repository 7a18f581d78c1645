"""What the numbers of reports are called, and what they mean."""

from __future__ import annotations

from typing import NamedTuple


class Quantity(NamedTuple):
    """A number that a report can hold.

    Attributes:
        label: in a table of one column for each model.
        meaning: in a few words.
        short: in a table of one row for each model, where it is shown there.
    """

    label: str
    meaning: str
    short: str = ""


QUANTITIES = {
    "nll_nats": Quantity("Negative log-likelihood, nats", "-log p(x) by importance sampling", "NLL"),
    "importance_draws": Quantity("Importance draws for a row", "K, doubled until the mean settles if it is not given"),
    "effective_sample_size": Quantity("Effective sample size", "of the K importance weights of a row, median"),
    "annealing_gain_nats": Quantity(
        "Likelihood that annealing finds beyond it, nats",
        "log p(x) by annealed importance sampling, less that by plain weights, on some rows",
    ),
    "kl_nats": Quantity("KL(q(z|x) ‖ p(z)), nats", "the rate, mean over the data; with y where there is one", "KL"),
    "kl_y_nats": Quantity("of this, of the component y", "KL(q(y|x) ‖ 1/c)"),
    "kl_z_nats": Quantity("of this, of z given y", "the rest, of z given the component"),
    "mutual_information_nats": Quantity("Mutual information I(x; z), nats", "I(x; z) under q, which cannot exceed its cap", "MI"),
    "information_cap_nats": Quantity("Cap of its estimate", "the logarithm of the number of rows that are compared", "cap"),
    "aggregate_kl_nats": Quantity("KL(q(z) ‖ p(z)), nats", "KL - I(x; z); unknown near the cap"),
    "aggregate_gaussian_kl_nats": Quantity(
        "It is at least, nats", "KL(N ‖ p(z)) of the Gaussian N with the moments of q(z): a lower bound without a cap"
    ),
    "fisher_divergence": Quantity("Relative Fisher divergence", "F(p(z) ‖ p(z|x)), mean over the data, or over 64 rows of them"),
    "active_units": Quantity("Active units (Burda's rule)", "Var E[z|x] ≥ 0.01 (Burda et al. 2016)", "AU"),
    "informative_units": Quantity(
        "Informative units (scale-free)", "at least 1% of the unit's variance comes from the data", "informative"
    ),
    "supported_units": Quantity(
        "Units that the data support", "eigenvalues of the data's covariance above the decoder's noise; known for Gaussian decoders"
    ),
    "recovered_nats": Quantity(
        "ELBO recovered by refined posteriors, nats", "what posteriors that are fitted row by row gain, on the frozen decoder"
    ),
    "information_floor_nats": Quantity(
        "Information floor of the model, nats", "guaranteed I(x; z) of the model; known for Gaussian decoders"
    ),
    "component_information_nats": Quantity("Mutual information I(x; y) of the component, nats", "I(x; y) under q"),
    "component_floor_nats": Quantity(
        "Floor of I(y; z) under the prior, nats", "I(y; z) under the prior is not below this, by the distances of its components"
    ),
    "live_components": Quantity(
        "Live components", "components most probable for a tenth of an equal share of the data at least; none if I(x; y) is 0"
    ),
    "majority_accuracy": Quantity(
        "Accuracy, majority label of each component", "agreement with the labels, each component taking its most frequent one"
    ),
    "matched_accuracy": Quantity(
        "Accuracy, components matched with labels", "agreement with the labels, each component taking another one (Hungarian)"
    ),
    "probe_accuracy": Quantity(
        "Accuracy of a linear probe",
        "of a logistic regression from posterior means to the labels, on rows that it was not "
        "fitted to",
        "probe",
    ),
}  # fmt: skip
