"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
