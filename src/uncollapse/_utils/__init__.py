"""Utilities that all other packages may import; none depends on a model."""
