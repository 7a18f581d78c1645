"""Measures of trained models: public functions of a model and data that never train.

Each takes a `model` that `uncollapse.diagnose` accepts, and data `X`; or, in place of both, an
`Evaluation`, which has read the data once for several measures. Each returns an `Estimate`, a
number with its standard error (informations are in nats), or a record where several numbers belong
together. None stands for a number that is unknown for this kind of model.
"""

from uncollapse._utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
