"""The experiments of the papers, to be computed anew with one command."""

from uncollapse.reproduce.runner import EXPERIMENTS, reproduce

__all__ = ["EXPERIMENTS", "reproduce"]
