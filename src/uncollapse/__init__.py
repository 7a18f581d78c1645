"""Variational autoencoders that do not collapse, and diagnosis of those that do.

The names of `__init__.pyi` are imported when they are first used, so that importing the package
takes no time and loads no torch.

Docstrings call two papers by short names. W21 is Wang, Blei & Cunningham 2021, "Posterior collapse
and latent variable non-identifiability". K23 is Kinoshita, Oono, Fukumizu, Yoshida & Maeda 2023,
"Controlling posterior collapse by an inverse Lipschitz constraint on the decoder network".
"""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
