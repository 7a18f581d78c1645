"""The verdict of a diagnosis: rules over the estimates, and sentences with evidence and remedy."""

from __future__ import annotations

import math
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
        "Remedy: KL warm-up, free bits, a weaker decoder, or "
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
    def informative(self) -> np.ndarray:
        """Whether each unit carries information about the data."""
        return self.units["informative"].to_numpy(bool)

    @property
    def used(self) -> np.ndarray:
        """Whether the decoder uses each unit.

        It uses the informative units, or if refined posteriors gain any ELBO, the units that are
        informative under these.
        """
        gain = self.estimates.get("recovered_nats")
        if self.refined_share is None or gain is None or not gain.exceeds(0):
            return self.informative
        return np.asarray(self.refined_share[self.units["unit"].to_numpy(int)] >= ACTIVE_SHARE)

    @property
    def lost(self) -> np.ndarray:
        """Whether each unit is uninformative or unused."""
        return np.asarray(~(self.informative & self.used))

    @property
    def recoverable(self) -> np.ndarray:
        """Whether the decoder uses each unit, although the encoder leaves it uninformative."""
        gain = self.estimates.get("recovered_nats")
        counts = gain is not None and gain.value >= RECOVERED_NATS
        return np.asarray(~self.informative & self.used & counts)

    @property
    def mismatch(self) -> Estimate | None:
        """KL(q(z) || p(z)) or its Gaussian lower bound, the first that is large, else None."""
        kl = self.estimates["kl_nats"]
        limit = max(MISMATCH_NATS, MISMATCH_SHARE * kl.value) if kl else math.inf
        for name in ("aggregate_kl_nats", "aggregate_gaussian_kl_nats"):
            found = self.estimates.get(name)
            if found and found.exceeds(limit):
                return found
        return None

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
    lost, mismatch = evidence.lost, evidence.mismatch
    if not lost.any():
        verdict = MISMATCH if mismatch else HEALTHY
        if evidence.dead_component:
            verdict = PARTLY
        explanation = _explain_kept(evidence, mismatch)
    else:
        verdict = IN_INFERENCE if evidence.recoverable.any() else IN_MODEL
        if evidence.refined_share is None:
            verdict = COLLAPSED
        if not lost.all():
            verdict = PARTLY
        explanation = f"{_name_lost(evidence)} {_explain_lost(evidence)}"
    return verdict, f"{verdict.capitalize()}: {explanation}"


def _explain_kept(evidence: Evidence, mismatch: Estimate | None) -> str:
    """Explain the verdict where every unit is informative and used."""
    kept, kl = f"{_all(len(evidence.units))} informative", evidence.kl_nats
    if component := evidence.dead_component:
        return (
            f"{kept}, but their component is not (I(x; y) is {component.value:.2g} nats); the KL "
            f"is {kl} nats. Remedy: a prior with well-separated components, a higher "
            "inverse_lipschitz, or another random_state."
        )
    if mismatch:
        return (
            f"{kept}, but q(z) is far from the prior: KL(q(z) || p(z)) is {mismatch.value:.3g} "
            f"nats of the KL's {kl}. Draws from the prior will not look like the data. "
            f"{REMEDIES[MISMATCH, evidence.is_ours]}"
        )
    gain, gap = evidence.estimates.get("recovered_nats"), ""
    if gain is not None and gain.exceeds(RECOVERED_NATS):
        gap = (
            f" Refining the posterior of each row would gain {gain.value:.3g} nats of ELBO, the "
            "amortization gap."
        )
    return f"{kept}; the KL is {kl} nats.{gap}"


def _name_lost(evidence: Evidence) -> str:
    n, parts = len(evidence.units), []
    for mask, state in (
        (~evidence.informative, "uninformative"),
        (evidence.informative & ~evidence.used, "informative but unused by the decoder"),
    ):
        if mask.all():
            parts.append(f"{_all(n)} {state}")
        elif mask.any():
            verb = "is" if mask.sum() == 1 else "are"
            parts.append(
                f"{mask.sum()} of {n} latent units {verb} {state} ({_names(evidence, mask)})"
            )
    return f"{'; '.join(parts)}; the KL is {evidence.kl_nats} nats."


def _explain_lost(evidence: Evidence) -> str:
    """Say whether model or inference is at fault, and what to do."""
    gain = evidence.estimates.get("recovered_nats")
    lost, recoverable = evidence.lost, evidence.recoverable
    them = "it" if lost.sum() == 1 else "them"
    if gain is not None and recoverable.any():
        who = them
        if (recoverable != lost).any():
            noun = "unit" if recoverable.sum() == 1 else "units"
            who = f"{noun} {_names(evidence, recoverable)}"
        return (
            f"The decoder uses {who}: posteriors refined "
            f"on the frozen decoder gain {gain.value:.3g} nats, so the encoder is at fault. "
            f"{REMEDIES[IN_INFERENCE, evidence.is_ours]}"
        )
    sentences = []
    if gain is not None:
        sentences.append(
            f"Posteriors refined on the frozen decoder gain {max(0.0, gain.value):.2g} nats and do "
            f"not use {them}, so the model is at fault and not the inference."
        )
    if floor := evidence.missed_floor:
        sentences.append(
            f"The decoder guarantees {floor.value:.3g} nats on its own samples, which these data "
            "do not reach. They differ from those samples, or the model needs more training."
        )
    return " ".join([*sentences, _fix_the_model(evidence)])


def _fix_the_model(evidence: Evidence) -> str:
    supported = evidence.estimates.get("supported_units")
    n_informative, count = int(evidence.informative.sum()), ""
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


def _all(n: int) -> str:
    return "the latent unit is" if n == 1 else f"all {n} latent units are"


def _names(evidence: Evidence, mask: np.ndarray) -> str:
    units = evidence.units.loc[mask, "unit"].astype(int).tolist()
    return ", ".join(map(str, units[:MAX_NAMED])) + (", ..." if len(units) > MAX_NAMED else "")
