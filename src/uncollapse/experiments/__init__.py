"""Trials: models fitted to data and measured, each once, wherever there is a machine for it."""

from uncollapse.experiments.results import ResultsFile
from uncollapse.experiments.run import Place, do_trials
from uncollapse.experiments.stopping import Rule
from uncollapse.experiments.trial import FitTrial, Kept, Parts, Trial

__all__ = ["FitTrial", "Kept", "Parts", "Place", "ResultsFile", "Rule", "Trial", "do_trials"]
