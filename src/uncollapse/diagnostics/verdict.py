"""What the numbers mean, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from uncollapse.measures.estimate import Estimate
from uncollapse.measures.information import ACTIVE_SHARE

HEALTHY = "healthy"
PARTLY = "partly collapsed"
COLLAPSED = "collapsed"  # where nothing tells whether the model is to blame or the inference
IN_MODEL = "collapsed in the model"
IN_INFERENCE = "collapsed in inference"
MISMATCH = "prior mismatch"

# A component that tells less than this about x is dead.
DEAD_COMPONENT_NATS = 0.01
# What refining posteriors must recover to count.
RECOVERED_NATS = 0.1
# The share of the KL, and the nats, that q(z) must lie off the prior for a mismatch.
MISMATCH_SHARE, MISMATCH_NATS = 0.25, 0.5
MAX_NAMED = 8


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        units: a row for each unit, with ``unit`` and ``informative``.
        estimates: by the names of the report.
        refined_share: explained by refined posteriors, of each unit; None where they were not
            refined.
        is_ours: whether a remedy can name arguments of this package's estimators.
        keeps_constant: whether the family keeps an inverse Lipschitz constant.
    """

    units: pd.DataFrame
    estimates: dict[str, Estimate | None]
    refined_share: np.ndarray | None
    is_ours: bool
    keeps_constant: bool

    @property
    def dead(self) -> list[int]:
        """Units that the data do not move."""
        return [int(unit) for unit in self.units.loc[~self.units["informative"], "unit"]]

    @property
    def asleep(self) -> list[int]:
        """Those of them that refined posteriors do move: the decoder uses them, and the encoder
        does not."""
        recovered = self.estimates.get("recovered_nats")
        if (
            self.refined_share is None
            or recovered is None
            or not recovered.exceeds(0)
            or recovered.value < RECOVERED_NATS
        ):
            return []
        return [unit for unit in self.dead if self.refined_share[unit] >= ACTIVE_SHARE]

    @property
    def unused(self) -> list[int]:
        """Units that the data move under q(z|x), though the decoder does not use them: refined
        posteriors let go of them."""
        recovered = self.estimates.get("recovered_nats")
        if self.refined_share is None or recovered is None or not recovered.exceeds(0):
            return []
        alive = (int(unit) for unit in self.units.loc[self.units["informative"], "unit"])
        return [unit for unit in alive if self.refined_share[unit] < ACTIVE_SHARE]

    @property
    def mismatch(self) -> Estimate | None:
        """KL(q(z) || p(z)) where it is large, by its estimate or, near the cap, by its Gaussian
        part."""
        kl = self.estimates["kl_nats"]
        limit = max(MISMATCH_NATS, MISMATCH_SHARE * kl.value) if kl else np.inf
        found = [
            self.estimates.get(name) for name in ("aggregate_kl_nats", "aggregate_gaussian_kl_nats")
        ]
        return next((estimate for estimate in found if estimate and estimate.exceeds(limit)), None)


def judge(evidence: Evidence) -> tuple[str, str]:
    """The verdict, and a few sentences with its evidence and what to do."""
    n, dead, unused = len(evidence.units), evidence.dead, evidence.unused
    lost = sorted({*dead, *unused})
    if not lost:
        return _judge_living(evidence)
    kl = evidence.estimates["kl_nats"]
    parts = [
        _who(dead, n, "respond", "to the data"),
        _who(unused, n, "move", "with the data, but the decoder does not use them"),
    ]
    found = f"{'; '.join(part for part in parts if part)}; the KL is {kl.value if kl else np.nan:.3g} nats."
    asleep = evidence.asleep
    if len(lost) < n:
        verdict = PARTLY
    elif evidence.refined_share is None:
        verdict = COLLAPSED
    else:
        verdict = IN_INFERENCE if asleep else IN_MODEL
    return verdict, f"{verdict.capitalize()}: {found} {_cause(evidence, lost, asleep)}"


def _who(units: Sequence[int], n: int, verb: str, how: str) -> str:
    """Which units do or do not do something, as a clause."""
    if not units:
        return ""
    denied = verb == "respond"
    if len(units) == n:
        return (
            f"none of the {n} latent units responds {how}"
            if denied
            else f"all {n} latent units {verb} {how}"
        )
    return f"{len(units)} of {n} latent units {'do not ' if denied else ''}{verb} {how} ({_names(units)})"


def _judge_living(evidence: Evidence) -> tuple[str, str]:
    """The verdict where every unit is alive."""
    n, kl, told = (
        len(evidence.units),
        evidence.estimates["kl_nats"],
        evidence.estimates.get("component_information_nats"),
    )
    carried = f"the KL is {kl.value if kl else np.nan:.3g} nats"
    if told and told.value < DEAD_COMPONENT_NATS:
        return PARTLY, (
            f"Partly collapsed: all {n} latent units respond to the data, but their component does "
            "not (I(x; y) is "
            f"{told.value:.2g} nats); {carried}. Remedy: a prior that keeps its components apart, "
            "a higher inverse_lipschitz, or "
            "another random_state."
        )
    if mismatch := evidence.mismatch:
        return MISMATCH, (
            f"Prior mismatch: all {n} latent units respond to the data, but where they lie is not "
            "where the prior is: KL(q(z) || "
            f"p(z)) is {mismatch.value:.3g} nats of the KL's {kl.value if kl else np.nan:.3g}. "
            "Draws from the prior will not look "
            f"like the data. {_fit_the_prior(evidence)}"
        )
    return HEALTHY, f"Healthy: all {n} latent units respond to the data; {carried}.{_gap(evidence)}"


def _cause(evidence: Evidence, dead: Sequence[int], asleep: Sequence[int]) -> str:
    recovered = evidence.estimates.get("recovered_nats")
    if asleep:
        who = (
            _them(asleep)
            if len(asleep) == len(dead)
            else f"unit{'s' * (len(asleep) > 1)} {_names(asleep)}"
        )
        return (
            f"The decoder does use {who}: posteriors refined on the frozen decoder recover "
            f"{recovered.value if recovered else 0:.3g} nats, so that the encoder is to blame. "
            f"{_train_the_encoder(evidence)}"
        )
    blamed = "" if recovered is None else (
        f"Posteriors refined on the frozen decoder gain {max(0.0, recovered.value):.2g} nats, and "
        f"do not use {_them(dead)}: the "
        "model is to blame, not the inference. "
    )  # fmt: skip
    return f"{blamed}{_below_floor(evidence)}{_hold_the_latents(evidence)}"


def _below_floor(evidence: Evidence) -> str:
    information, floor = (
        evidence.estimates.get(f"{name}_nats")
        for name in ("mutual_information", "information_floor")
    )
    if not (
        information and floor and information.value + 3 * information.standard_error < floor.value
    ):
        return ""
    return (
        f"The decoder guarantees {floor.value:.3g} nats on its own samples, which these data do "
        "not reach: they are unlike the "
        "model, or it has to train longer. "
    )


def _hold_the_latents(evidence: Evidence) -> str:
    alive = int(evidence.units["informative"].sum())
    supported = evidence.estimates.get("supported_units")
    at_noise = ""
    if supported is not None:
        n = int(supported.value)
        at_noise = f"At the decoder's noise the data support {n} unit{'s' * (n != 1)}, and {alive} {'is' if alive == 1 else 'are'} alive. "
        if alive >= n:
            enough = max(
                1, n, alive
            )  # data that curve can keep more alive than a linear model would
            fewer = f"latent_dim={enough}" if evidence.is_ours else f"{enough} latent units"
            kept = (
                "; or inverse_lipschitz, which keeps units alive at a price in likelihood"
                if evidence.keeps_constant
                else ""
            )
            return f"{at_noise}Remedy: {fewer}, or a smaller noise, so that there is more for latents to explain{kept}."
    if not evidence.is_ours:
        return (
            f"{at_noise}Remedy: a smaller weight of the KL at first (warm-up, or free bits), a "
            "weaker decoder, or uc.VAE with "
            "inverse_lipschitz, whose decoder cannot ignore its latents."
        )
    if not evidence.keeps_constant:  # the family has a link, which would undo a constant
        return f"{at_noise}Remedy: use fewer units (latent_dim), or a family that keeps an inverse Lipschitz constant."
    return f"{at_noise}Remedy: set or raise inverse_lipschitz, or use fewer units (latent_dim)."


def _train_the_encoder(evidence: Evidence) -> str:
    if evidence.is_ours:
        return "Remedy: train longer (max_epochs), or strategy='lagging', or strategy='semi_amortized'."
    return "Remedy: train the encoder longer or more often than the decoder (lagging inference), or refine its posteriors."


def _fit_the_prior(evidence: Evidence) -> str:
    if evidence.is_ours:
        return "Remedy: train longer (max_epochs), give data like those of the training, or use a mixture prior (uc.MixtureVAE)."
    return "Remedy: train longer, give data like those of the training, or fit a prior to q(z) (a mixture, VampPrior or flow)."


def _gap(evidence: Evidence) -> str:
    """What is lost by an encoder whose units are all alive."""
    recovered = evidence.estimates.get("recovered_nats")
    if recovered is None or not recovered.exceeds(RECOVERED_NATS):
        return ""
    return f" Posteriors refined one by one would gain {recovered.value:.3g} nats of ELBO, the amortisation gap."


def _them(units: Sequence[int]) -> str:
    return "them" if len(units) > 1 else "it"


def _names(units: Sequence[int]) -> str:
    return ", ".join(map(str, units[:MAX_NAMED])) + (", ..." if len(units) > MAX_NAMED else "")
