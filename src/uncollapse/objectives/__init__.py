"""Objectives: functions (model, x, step) -> Loss that training minimizes."""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
