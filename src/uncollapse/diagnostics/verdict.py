"""The verdict of a diagnosis: rules over the estimates, and sentences with evidence and remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from uncollapse.measures.components import DEAD_COMPONENT_NATS
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.sums import ACTIVE_SHARE

HEALTHY = "healthy"
PARTLY = "partly collapsed"
COLLAPSED = "collapsed"  # the cause, model or inference, is unknown
IN_MODEL = "collapsed in the model"
IN_INFERENCE = "collapsed in inference"
MISMATCH = "prior mismatch"

# The encoder is at fault only if refined posteriors gain at least this much ELBO.
RECOVERED_NATS = 0.1
# KL(q(z) || p(z)) is a mismatch above this share of the KL and this many nats.
MISMATCH_SHARE, MISMATCH_NATS = 0.25, 0.5
MAX_NAMED = 8

# What to do, by the verdict and by whether arguments of this package's estimators can be named.
REMEDIES = {
    (IN_MODEL, True): ("Remedy: set or raise inverse_lipschitz, or use fewer units (latent_dim)."),
    (IN_MODEL, False): (
        "Remedy: a smaller weight of the KL at first (warm-up, or free bits), a weaker decoder, or "
        "uc.VAE with inverse_lipschitz, whose decoder cannot ignore its latents."
    ),
    (IN_INFERENCE, True): (
        "Remedy: train longer (max_epochs), or use strategy='lagging' or strategy='semi_amortized'."
    ),
    (IN_INFERENCE, False): (
        "Remedy: train the encoder longer or more often than the decoder (lagging inference), or "
        "refine its posteriors."
    ),
    (MISMATCH, True): (
        "Remedy: train longer (max_epochs), give data like the training data, or use a mixture "
        "prior (uc.MixtureVAE)."
    ),
    (MISMATCH, False): (
        "Remedy: train longer, give data like the training data, or fit a prior to q(z) (a "
        "mixture, VampPrior or flow)."
    ),
}
NO_CONSTANT = (
    "Remedy: use fewer units (latent_dim), or a family that keeps an inverse Lipschitz constant."
)


@dataclass(frozen=True)
class Evidence:
    """Measurements that decide the verdict.

    Attributes:
        units: a row for each unit, with ``unit`` and ``informative``.
        estimates: by the names of the report.
        refined_share: explained share of each unit under refined posteriors; None if they were not
            refined.
        is_ours: whether remedies can name arguments of this package's estimators.
        keeps_constant: whether the family keeps an inverse Lipschitz constant.
    """

    units: pd.DataFrame
    estimates: dict[str, Estimate | None]
    refined_share: np.ndarray | None
    is_ours: bool
    keeps_constant: bool

    @property
    def uninformative(self) -> list[int]:
        """Units that carry no information about the data."""
        return [int(unit) for unit in self.units.loc[~self.units["informative"], "unit"]]

    @property
    def recoverable(self) -> list[int]:
        """Uninformative units that the decoder uses: they are informative once refined."""
        share, gain = self._refined_share(), self.estimates.get("recovered_nats")
        if share is None or gain is None or gain.value < RECOVERED_NATS:
            return []
        return [unit for unit in self.uninformative if share[unit] >= ACTIVE_SHARE]

    @property
    def unused(self) -> list[int]:
        """Informative units that the decoder does not use: they are uninformative once refined."""
        share = self._refined_share()
        if share is None:
            return []
        informative = self.units.loc[self.units["informative"], "unit"]
        return [int(unit) for unit in informative if share[unit] < ACTIVE_SHARE]

    def _refined_share(self) -> np.ndarray | None:
        """Explained shares under refined posteriors, if these gain any ELBO."""
        gain = self.estimates.get("recovered_nats")
        return self.refined_share if gain is not None and gain.exceeds(0) else None

    @property
    def mismatch(self) -> Estimate | None:
        """KL(q(z) || p(z)) or its Gaussian lower bound, whichever is large; None if none is."""
        kl = self.estimates["kl_nats"]
        limit = max(MISMATCH_NATS, MISMATCH_SHARE * kl.value) if kl else math.inf
        names = ("aggregate_kl_nats", "aggregate_gaussian_kl_nats")
        found = [self.estimates.get(name) for name in names]
        return next((estimate for estimate in found if estimate and estimate.exceeds(limit)), None)

    @property
    def lost(self) -> list[int]:
        """Units that are uninformative or unused."""
        return sorted({*self.uninformative, *self.unused})

    @property
    def dead_component(self) -> Estimate | None:
        """I(x; y) if it is so small that the component of a mixture is dead."""
        found = self.estimates.get("component_information_nats")
        return found if found and found.value < DEAD_COMPONENT_NATS else None

    @property
    def missed_floor(self) -> Estimate | None:
        """Information floor of the model, if I(x; z) on these data is below it."""
        names = ("mutual_information_nats", "information_floor_nats")
        found, floor = map(self.estimates.get, names)
        if found and floor and found.value + 3 * found.standard_error < floor.value:
            return floor
        return None

    @property
    def kl_nats(self) -> str:
        """The KL as text."""
        kl = self.estimates["kl_nats"]
        return f"{kl.value if kl else math.nan:.3g}"


def judge(evidence: Evidence) -> tuple[str, str]:
    """Return the verdict, and a few sentences with its evidence and a remedy."""
    verdict, lost = _verdict(evidence), evidence.lost
    if lost:
        explanation = f"{_name_lost(evidence)} {_explain_lost(evidence, lost)}"
    else:
        n = len(evidence.units)
        explanation = f"all {n} latent units are informative{_explain_kept(evidence, verdict)}"
    return verdict, f"{verdict.capitalize()}: {explanation}"


def _verdict(evidence: Evidence) -> str:
    if evidence.lost:
        if len(evidence.lost) < len(evidence.units):
            return PARTLY
        if evidence.refined_share is None:
            return COLLAPSED
        return IN_INFERENCE if evidence.recoverable else IN_MODEL
    if evidence.dead_component:
        return PARTLY
    return MISMATCH if evidence.mismatch else HEALTHY


def _explain_kept(evidence: Evidence, verdict: str) -> str:
    """Explain the verdict where every unit is informative."""
    if component := evidence.dead_component:
        return (
            f", but their component is not (I(x; y) is {component.value:.2g} nats); the KL is "
            f"{evidence.kl_nats} nats. Remedy: a prior with well-separated components, a higher "
            "inverse_lipschitz, or another random_state."
        )
    if mismatch := evidence.mismatch:
        return (
            f", but q(z) is far from the prior: KL(q(z) || p(z)) is {mismatch.value:.3g} nats of "
            f"the KL's {evidence.kl_nats}. Draws from the prior will not look like the data. "
            f"{REMEDIES[verdict, evidence.is_ours]}"
        )
    gain, gap = evidence.estimates.get("recovered_nats"), ""
    if gain is not None and gain.exceeds(RECOVERED_NATS):
        gap = (
            f" Refining the posterior of each row would gain {gain.value:.3g} nats of ELBO, the "
            "amortization gap."
        )
    return f"; the KL is {evidence.kl_nats} nats.{gap}"


def _name_lost(evidence: Evidence) -> str:
    n, parts = len(evidence.units), []
    for units, state in (
        (evidence.uninformative, "uninformative"),
        (evidence.unused, "informative but unused by the decoder"),
    ):
        if len(units) == n:
            parts.append(f"all {n} latent units are {state}")
        elif units:
            verb = "is" if len(units) == 1 else "are"
            parts.append(f"{len(units)} of {n} latent units {verb} {state} ({_names(units)})")
    return f"{'; '.join(parts)}; the KL is {evidence.kl_nats} nats."


def _explain_lost(evidence: Evidence, lost: Sequence[int]) -> str:
    """Say whether model or inference is at fault, and what to do."""
    gain, units = evidence.estimates.get("recovered_nats"), evidence.recoverable
    if gain is not None and units:
        who = f"unit{'s' * (len(units) > 1)} {_names(units)}"
        return (
            f"The decoder uses {who if len(units) < len(lost) else _them(units)}: posteriors "
            f"refined on the frozen decoder gain {gain.value:.3g} nats, so the encoder is at "
            f"fault. {REMEDIES[IN_INFERENCE, evidence.is_ours]}"
        )
    sentences = []
    if gain is not None:
        sentences.append(
            f"Posteriors refined on the frozen decoder gain {max(0.0, gain.value):.2g} nats and do "
            f"not use {_them(lost)}, so the model is at fault and not the inference."
        )
    if floor := evidence.missed_floor:
        sentences.append(
            f"The decoder guarantees {floor.value:.3g} nats on its own samples, which these data "
            "do not reach: they are unlike the model, or it has to train longer."
        )
    return " ".join([*sentences, _fix_the_model(evidence)])


def _fix_the_model(evidence: Evidence) -> str:
    supported = evidence.estimates.get("supported_units")
    n_informative = int(evidence.units["informative"].sum())
    count = ""
    if supported is not None:
        n = int(supported.value)
        count = (
            f"At the decoder's noise the data support {n} unit{'s' * (n != 1)}, and "
            f"{n_informative} {'is' if n_informative == 1 else 'are'} informative. "
        )
        if n_informative >= n:
            # Curved data can keep more units informative than a linear model would.
            enough = max(1, n_informative)
            fewer = f"latent_dim={enough}" if evidence.is_ours else f"{enough} latent units"
            constant = (
                "; or inverse_lipschitz, which keeps units informative at a price in likelihood"
            )
            return (
                f"{count}Remedy: {fewer}, or less noise, which leaves more for the latents to "
                f"explain{constant * evidence.keeps_constant}."
            )
    if evidence.is_ours and not evidence.keeps_constant:
        # Such a family needs a link, which would undo the constant.
        return f"{count}{NO_CONSTANT}"
    return f"{count}{REMEDIES[IN_MODEL, evidence.is_ours]}"


def _them(units: Sequence[int]) -> str:
    return "it" if len(units) == 1 else "them"


def _names(units: Sequence[int]) -> str:
    return ", ".join(map(str, units[:MAX_NAMED])) + (", ..." if len(units) > MAX_NAMED else "")
