"""The experiments of the papers, to be computed anew with one command."""

from uncollapse.experiments.papers.reproduce import EXPERIMENTS, reproduce

__all__ = ["EXPERIMENTS", "reproduce"]
