"""Models from an estimator's checked parameters, and their start at the data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from uncollapse import models
from uncollapse._utils.errors import ParameterError
from uncollapse._utils.machine import memory_bytes
from uncollapse._utils.moments import mean_over_rows
from uncollapse._utils.random import seeded
from uncollapse.certificates.information_floor import inverse_lipschitz_for
from uncollapse.families import Categorical, Family, Gaussian, get_family
from uncollapse.maps import (
    EMBEDDINGS,
    MAX_CONSTANT,
    POTENTIALS,
    Decoder,
    InverseLipschitzDecoder,
    PrincipalDirections,
)
from uncollapse.maps.embedding import MAX_PRINCIPAL_ROWS
from uncollapse.networks import MLPDecoder
from uncollapse.strategies import get_strategy

MAX_PRINCIPAL_VALUES = 2**27
DEFAULT_CONSTANT = 0.5
# Where annealing begins if nothing is said: the highest constant that K23 try.
ANNEALED_CONSTANT = 5.0


def available_devices() -> list[str]:
    """The kinds of device that this machine has, the fastest first."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [name for name, is_there in there.items() if is_there]


def resolve_device(device: str) -> str:
    """The kind of device to use: the fastest for "auto".

    Raises:
        InputError: if this machine has no such device.
    """
    available = available_devices()
    if device == "auto":
        return available[0]
    if device not in available:
        raise ParameterError(
            f"device expects one that this machine has ({', '.join(available)}), got {device!r}: "
            "use 'auto'."
        )
    return device


def lightning_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What Lightning's trainer is told about the hardware.

    Raises:
        InputError: if processes that have been started do not go with the parameters, or would not
            begin alike.
    """
    started, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), parameters["devices"]
    if started > 1 and devices not in ("auto", started):
        raise ParameterError(
            f"{started} processes were started on this machine, got devices={devices}: give "
            f"devices={started}."
        )
    several = devices != 1 or parameters["num_nodes"] > 1
    if several and not isinstance(parameters["random_state"], int):
        raise ParameterError(
            "several processes expect one seed, got random_state=None: give a number, such as "
            "random_state=0."
        )
    if several and get_strategy(parameters["strategy"]).needs_validation:
        raise ParameterError(
            f"strategy 'lagging' trains on one device, got devices={devices}: give devices=1."
        )
    return {
        "accelerator": {"cuda": "gpu"}.get(parameters["device"], parameters["device"]),
        "devices": devices,
        "num_nodes": parameters["num_nodes"],
        "strategy": "ddp"
        if several and parameters["parallel_strategy"] == "auto"
        else parameters["parallel_strategy"],
        "precision": {"float32": "32-true", "bfloat16": "bf16-mixed"}[parameters["precision"]],
    }


def build_family(parameters: Mapping[str, Any], n_features: int) -> Family:
    """The family that the parameters ask for, fresh for so many features."""
    return get_family(parameters["family"]).for_features(n_features)


def build_decoder(parameters: Mapping[str, Any], family: Family, n_features: int) -> Decoder:
    """The decoder that the parameters ask for.

    Raises:
        InputError: if the parameters do not suit the family or the number of features.
    """
    latent_dim, hidden = parameters["latent_dim"], parameters["hidden"]
    natural_dim = family.natural_dim(n_features)
    constants = _constants(parameters, family, natural_dim)
    if constants is None:
        return MLPDecoder(latent_dim, natural_dim, hidden)
    if latent_dim > natural_dim:
        which = (
            ""
            if natural_dim == n_features
            else f", which are {natural_dim} natural parameters under family {family.name!r}"
        )
        raise ParameterError(
            f"an injective decoder expects latent_dim <= natural dimension, got "
            f"latent_dim={latent_dim} with "
            f"n_features={n_features}{which}: use latent_dim <= {natural_dim}, or "
            "inverse_lipschitz=None for an ordinary decoder."
        )
    return InverseLipschitzDecoder(
        latent_dim,
        natural_dim,
        hidden,
        constants,
        EMBEDDINGS[parameters["embedding"]],
        math.inf if parameters["lipschitz"] is None else parameters["lipschitz"],
        POTENTIALS[parameters["potential"]],
        parameters["intermediate_dims"],
    )


def encoder_widths(parameters: Mapping[str, Any]) -> tuple[int, ...]:
    """Widths of the encoder's hidden layers: those of the decoder if nothing is said."""
    widths: tuple[int, ...] | None = parameters["encoder_hidden"]
    return parameters["hidden"] if widths is None else widths


def sequence_decoder(parameters: Mapping[str, Any], family: Categorical) -> Decoder:
    """The decoder of [z; h], or of z where the context is additive, that the parameters of a
    sequential VAE ask for.

    Raises:
        InputError: if there are more latent units than natural parameters.
    """
    latent_dim, natural_dim = parameters["latent_dim"], family.natural_dim(1)
    constants = _constants(
        {**parameters, "min_information": None, "lipschitz": None, "intermediate_dims": ()},
        family,
        natural_dim,
    )
    if constants is None:
        return MLPDecoder(latent_dim + parameters["hidden_dim"], natural_dim, ())
    if latent_dim > natural_dim:
        raise ParameterError(
            f"an injective decoder expects fewer latent units than symbols, got "
            f"latent_dim={latent_dim} with {natural_dim + 1}: "
            f"use latent_dim <= {natural_dim}, or inverse_lipschitz=None for an ordinary decoder."
        )
    context_dim = parameters["hidden_dim"] if parameters["context"] == "joint" else 0
    return InverseLipschitzDecoder(
        latent_dim,
        natural_dim,
        parameters["hidden"],
        constants,
        PrincipalDirections,
        context_dim=context_dim,
    )


def _constants(
    parameters: Mapping[str, Any], family: Family, natural_dim: int
) -> float | tuple[float, ...] | None:
    """The inverse Lipschitz constants that the parameters ask for; None for an ordinary decoder."""
    given, nats = parameters["inverse_lipschitz"], parameters["min_information"]
    if given is None and (parameters["lipschitz"] is not None or parameters["intermediate_dims"]):
        raise ParameterError(
            "lipschitz and intermediate_dims are for injective decoders, got "
            "inverse_lipschitz=None: give a constant, or neither."
        )
    _check_adjustment(parameters, family)
    if nats is None:
        if given != "auto":
            constants: float | tuple[float, ...] | None = given
            return constants
        start = ANNEALED_CONSTANT if parameters["annealing"] else DEFAULT_CONSTANT
        return start if family.fills_space else 0.0
    if given != "auto":
        raise ParameterError(
            f"min_information sets the constants itself, got inverse_lipschitz={given} as well: "
            "give one of the two."
        )
    if type(family) is not Gaussian:
        instead = (
            "set inverse_lipschitz instead"
            if family.fills_space
            else "its link would undo any constant"
        )
        raise ParameterError(
            f"min_information expects family 'gaussian', the one for which a floor on I(x; z) is "
            f"known, got {family.name!r}: "
            f"{instead}, and estimate the model's information by uc.diagnose on its own samples."
        )
    if parameters["intermediate_dims"]:
        raise ParameterError(
            f"min_information expects one map or two, for which its floor is proved, got "
            f"intermediate_dims={parameters['intermediate_dims']}: leave "
            "intermediate_dims out, or set inverse_lipschitz instead."
        )
    if parameters.get("prior") in ("learned", "full"):
        raise ParameterError(
            f"min_information expects a prior whose scales are fixed, got prior "
            f"{parameters['prior']!r}, whose scales could undo "
            "it: use 'separated' or 'unit'."
        )
    total = inverse_lipschitz_for(nats, parameters["latent_dim"])
    constant = total if parameters["latent_dim"] == natural_dim else math.sqrt(total)
    if constant > MAX_CONSTANT:
        raise ParameterError(
            f"min_information={nats:g} takes constants of {constant:.3g}, beyond {MAX_CONSTANT:g}: "
            "ask for less."
        )
    return constant


def _check_adjustment(parameters: Mapping[str, Any], family: Family) -> None:
    """Refuse to adjust constants that are not there, or that something else rests on."""
    asked = [name for name in ("annealing", "target_kl") if parameters[name]]
    if not asked:
        return
    given = parameters["inverse_lipschitz"]
    others = [name for name in ("min_information", "lipschitz") if parameters[name] is not None]
    others += (
        ["inverse_lipschitz"] if parameters["target_kl"] and given not in ("auto", None, 0) else []
    )
    if len(asked + others) > 1:
        raise ParameterError(
            f"{' and '.join(asked + others)} each decide over the constants: give one of them."
        )
    positive = given == "auto" or all(given if isinstance(given, tuple) else (given,))
    if not (positive and family.fills_space):
        raise ParameterError(
            f"{asked[0]} adjusts positive inverse Lipschitz constants, got "
            f"inverse_lipschitz={given} with family {family.name!r}: "
            "leave inverse_lipschitz out, and take a family that keeps a constant."
        )


def check_memory(build: Callable[[], models.VAE], parameters: Mapping[str, Any]) -> None:
    """Refuse what cannot be trained in this machine's memory, before the operating system ends the
    process for asking."""
    asked = (
        "latent_dim",
        "hidden",
        *(("encoder_hidden",) if parameters.get("encoder_hidden") else ()),
    )
    sizes = ", ".join(f"{name}={parameters[name]}" for name in asked)
    try:
        with seeded(0), torch.device("meta"):  # some pieces are drawn even so
            n_parameters = sum(parameter.numel() for parameter in build().parameters())
    except RuntimeError as error:  # more than can be counted
        raise ParameterError(
            f"a model with {sizes} is too large ({error}): use fewer or narrower layers."
        ) from None
    needed = 4 * 4 * n_parameters  # float32: parameters, gradients and Adam's two moments
    if (
        parameters.get("lipschitz") is not None
    ):  # the products of all directions of a ridge sum, and their gradients
        needed += 2 * 4 * sum(parameters["hidden"]) ** 2
    there = memory_bytes()
    if needed > there:
        raise ParameterError(
            f"training a model with {sizes} takes {needed / 2**30:.3g} GiB, and this machine has "
            f"{there / 2**30:.3g}: use fewer or "
            "narrower layers."
        )


@torch.no_grad()
def initialize_from_data(model: models.VAE, rows: np.ndarray) -> None:
    """Start a model at the data: the decoder at the mean of their statistics, the encoder at their
    location and scale."""
    family = model.family
    signal, natural_dim = model.decoder.constant**2, family.natural_dim(rows.shape[1])
    # z of variance 1 moves the decoder's output by the constant at least, in latent_dim of its
    # dimensions, whose noise is so much less than all there is. (The posterior of such a z has the
    # variance 1 / (1 + signal).)
    family.initialize_from_data(
        rows, 1 - min(1.0, model.latent_dim / natural_dim) * signal / (1 + signal)
    )
    # At constants up to 1 the posterior begins about as wide as it is to be. A wide one would send
    # its noise, stretched by a large constant, through exponentials that overflow.
    model.posterior.initialize_from_data(rows, min(1.0, math.sqrt(2 / (1 + signal))))
    some = some_rows(rows, natural_dim)
    model.decoder.initialize_from_data(family.sufficient(torch.as_tensor(some)).numpy())
    start = family.inverse_link(family.natural(mean_over_rows(family.sufficient, rows)))
    model.decoder.start_at(start.float())


def some_rows(rows: np.ndarray, width: int) -> np.ndarray:
    """As many random rows as principal directions of statistics of this width need."""
    n = min(MAX_PRINCIPAL_ROWS, max(1, MAX_PRINCIPAL_VALUES // width))
    return rows if len(rows) <= n else rows[np.random.default_rng(0).permutation(len(rows))[:n]]
