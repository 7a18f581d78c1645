"""Training: one loop, watched by small observers; the only room beside diagnoses with Lightning."""

from uncollapse.training.batches import Batches
from uncollapse.training.budget import Budget
from uncollapse.training.fit import fit
from uncollapse.training.observers import Epoch, Observer

__all__ = ["Batches", "Budget", "Epoch", "Observer", "fit"]
