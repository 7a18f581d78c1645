"""Distributions of the latents: priors p(z) and posteriors q(z|x)."""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
