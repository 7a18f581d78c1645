r"""Exponential families p(x|eta) = h(x) exp(T(x)·eta - A(eta)), in minimal natural parameters.

A decoder puts out natural parameters, because its inverse Lipschitz constant is a statement about
them, and a family turns them into a distribution: ``family(eta)`` is p(x|z). A Gaussian of scale
sigma has eta = mean / sigma; a learned scale outside the natural parameter could undo any
constraint on the decoder.
"""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
