"""How posteriors are found: encoders trained beside the decoder, ahead of it, or refined for every
example.

`get_strategy` returns the strategy that ``strategy=`` names.
"""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
