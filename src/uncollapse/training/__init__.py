"""Training: one loop with observers, on one or several devices."""

from uncollapse.training.batches import Batches
from uncollapse.training.budget import Budget
from uncollapse.training.fit import fit
from uncollapse.training.observers import Epoch, Observer

__all__ = ["Batches", "Budget", "Epoch", "Observer", "fit"]
