"""Trials: models fitted to data and measured, each once, wherever there is a machine for it."""

from uncollapse.trials.doing import Place, do_trials
from uncollapse.trials.results import ResultsFile
from uncollapse.trials.rule import Rule
from uncollapse.trials.trial import FitTrial, Kept, Parts, Trial

__all__ = ["FitTrial", "Kept", "Parts", "Place", "ResultsFile", "Rule", "Trial", "do_trials"]
