"""Experiments: many models, each fitted and measured once.

Import from the modules themselves. This package imports none of them, so that the presets load
without the libraries that sweeps need.
"""
