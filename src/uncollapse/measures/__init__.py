"""Measures of trained models: public functions of a model and data that never train.

Each takes `model`, whatever `uncollapse.diagnose` takes, and its data `X`; or, in place of both, an
`Evaluation`, which has read the data once for several measures. Each returns an `Estimate`, a
number with its standard error (informations are in nats), or a record where several numbers belong
together. None stands for a number that is unknown for this kind of model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uncollapse.measures.ais import ais_gain, ais_log_likelihood
    from uncollapse.measures.components import clustering_accuracy, component_measures
    from uncollapse.measures.estimate import Estimate
    from uncollapse.measures.evaluation import Evaluation, evaluate
    from uncollapse.measures.fisher import fisher_divergence
    from uncollapse.measures.identifiability import Identifiability, is_identifiable
    from uncollapse.measures.inference_gap import Refinement, refinement
    from uncollapse.measures.information import (
        MutualInformation,
        aggregate_gaussian_kl,
        aggregate_kl,
        kl,
        mutual_information,
    )
    from uncollapse.measures.likelihood import ImportanceLogLikelihood, importance_log_likelihood
    from uncollapse.measures.probe import linear_probe
    from uncollapse.measures.tempering import rate_distortion
    from uncollapse.measures.units import (
        active_units,
        collapse_curves,
        informative_units,
        kl_per_unit,
        supported_units,
        unit_table,
    )

__all__ = [
    "Estimate",
    "Evaluation",
    "Identifiability",
    "ImportanceLogLikelihood",
    "MutualInformation",
    "Refinement",
    "active_units",
    "aggregate_gaussian_kl",
    "aggregate_kl",
    "ais_gain",
    "ais_log_likelihood",
    "clustering_accuracy",
    "collapse_curves",
    "component_measures",
    "evaluate",
    "fisher_divergence",
    "importance_log_likelihood",
    "informative_units",
    "is_identifiable",
    "kl",
    "kl_per_unit",
    "linear_probe",
    "mutual_information",
    "rate_distortion",
    "refinement",
    "supported_units",
    "unit_table",
]
# Modules that are imported when a public name is first asked for.
_MODULES = (
    "ais",
    "components",
    "estimate",
    "evaluation",
    "fisher",
    "identifiability",
    "inference_gap",
    "information",
    "likelihood",
    "probe",
    "tempering",
    "units",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
