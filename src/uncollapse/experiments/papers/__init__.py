"""Experiments of the papers W21 and K23, each reproduced with one command."""

from uncollapse.experiments.papers.reproduce import EXPERIMENTS, reproduce

__all__ = ["EXPERIMENTS", "reproduce"]
