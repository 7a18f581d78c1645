"""Certificates: what a model's constants guarantee, as theorems that return numbers."""

from uncollapse.certificates.certificate import Certificate, certify
from uncollapse.certificates.information_floor import information_floor, inverse_lipschitz_for

__all__ = ["Certificate", "certify", "information_floor", "inverse_lipschitz_for"]
