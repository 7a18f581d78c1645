"""The models of the papers, and their rivals, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import check_parameters
from uncollapse.estimators import Estimator

# What rivals change of an ordinary VAE, whatever the data.
RIVALS: dict[str, dict[str, Any]] = {
    "VAE": {},
    "beta-VAE": {"objective": {"elbo": {"beta": 0.2}}},  # W21's
    "annealed-VAE": {"objective": {"elbo": {"warmup_steps": 1000}}},
    "cyclical-VAE": {"objective": "cyclical"},
    "free-bits-VAE": {"objective": "free_bits"},
    "IWAE": {"objective": "importance_weighted"},
    "LR-VAE": {"objective": "latent_reconstruction"},
    "SA-VAE": {"strategy": {"semi_amortized": {}}},
    "Lagging-VAE": {"strategy": "lagging"},
}
# Of text, as their authors have it: refinement in steps of 1 on means over 32 documents, and blocks
# of 15.
RIVALS_OF_TEXT: dict[str, dict[str, Any]] = {
    **RIVALS,
    "SA-VAE": {"strategy": {"semi_amortized": {"learning_rate": 1 / 32}}},
    "Lagging-VAE": {"strategy": {"lagging": {"every": 15}}},
}
# What is for other decoders than an ordinary one, or than one with a constant of 0, is fixed with
# them, so that no setting of a comparison reaches those that cannot take it.
FREE: dict[str, Any] = {"annealing": False, "target_kl": None}
ORDINARY: dict[str, Any] = {"inverse_lipschitz": None, **FREE}
ORDINARY_OF_ROWS: dict[str, Any] = {
    **ORDINARY,
    "min_information": None,
    "lipschitz": None,
    "intermediate_dims": (),
}
INJECTIVE: dict[str, Any] = {"inverse_lipschitz": 0.0, **FREE}
INJECTIVE_OF_ROWS: dict[str, Any] = {**INJECTIVE, "min_information": None}
ANNEALED: dict[str, Any] = {"annealing": True}
# Of mixtures, as both papers' code has it: a learned prior from a random start, and a bound that
# enumerates the components.
AS_PUBLISHED: dict[str, Any] = {"prior": "learned", "inference": "enumerate", "warmup_epochs": 0}

# By name: the estimator, and its arguments.
Models = Mapping[str, tuple[str, dict[str, Any]]]
OF_ROWS: Models = {
    **{name: ("VAE", {**ORDINARY_OF_ROWS, **changes}) for name, changes in RIVALS.items()},
    "LIDVAE": ("VAE", INJECTIVE_OF_ROWS),
    "IL-LIDVAE": ("VAE", {}),
    "IL-LIDVAE-annealed": ("VAE", ANNEALED),
    "GMVAE": ("MixtureVAE", {**ORDINARY_OF_ROWS, **AS_PUBLISHED}),
    "LIDMVAE": ("MixtureVAE", {**INJECTIVE_OF_ROWS, **AS_PUBLISHED}),
    "LIDGMVAE": ("MixtureVAE", {**INJECTIVE_OF_ROWS, **AS_PUBLISHED}),
    "IL-LIDMVAE": ("MixtureVAE", {}),
    "IL-LIDMVAE-annealed": ("MixtureVAE", ANNEALED),
}
OF_TEXT: Models = {
    **{name: ("SequenceVAE", {**ORDINARY, **changes}) for name, changes in RIVALS_OF_TEXT.items()},
    "delta-VAE": ("SequenceVAE", {**ORDINARY, "committed_rate": 0.1}),
    "LIDSVAE": ("SequenceVAE", INJECTIVE),
    "IL-LIDSVAE": ("SequenceVAE", {}),
    "IL-LIDSVAE-annealed": ("SequenceVAE", ANNEALED),
}
PRESETS: dict[str, Models] = {
    "image": {
        name: (kind, {"family": "bernoulli", **arguments})
        for name, (kind, arguments) in OF_ROWS.items()
    },
    "table": OF_ROWS,
    "text": OF_TEXT,
}


def preset(name: str, data: str = "table", **overrides: Any) -> Estimator:
    """An estimator by the name that the papers give it.

    Args:
        name: "VAE", "beta-VAE" (0.2), "annealed-VAE" (over 1,000 steps), "cyclical-VAE",
            "free-bits-VAE", "IWAE", "LR-VAE" (latent reconstruction), "SA-VAE", "Lagging-VAE"; of
            rows, also "LIDVAE", "IL-LIDVAE", "GMVAE", "LIDMVAE" (or "LIDGMVAE"), "IL-LIDMVAE"; of
            text, also "delta-VAE" (0.1 nats a symbol), "LIDSVAE" and "IL-LIDSVAE". Names that begin
            with "IL-" have an "-annealed" beside them.
        data: "image" (grey levels or bits from 0 to 1), "table" (real numbers) or "text".
        overrides: arguments of the estimator, which go over those of the preset.

    Raises:
        InputError: if there is no such preset for such data, or the estimator does not take an
            argument.

    >>> preset("Lagging-VAE", data="text", latent_dim=16).strategy
    {'lagging': {'every': 15}}
    """
    _, kind, arguments = named(name, data)
    given = {**arguments, **overrides}
    check_parameters(Estimator.registry[kind], given)
    return Estimator.registry[kind](**given)


def named(name: str, data: str) -> tuple[str, str, dict[str, Any]]:
    """A preset's name as it is written, that of its estimator, and the arguments by which it is
    what its name says.

    Raises:
        InputError: if there is no such preset for such data.
    """
    if data not in PRESETS:
        raise ParameterError(f"data expects one of {', '.join(map(repr, PRESETS))}, got {data!r}.")
    known = {key.lower(): key for key in PRESETS[data]}
    if str(name).lower() not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=1)
        hint = (
            f"did you mean {known[close[0]]!r}?"
            if close
            else f"expected one of {', '.join(known.values())}."
        )
        raise ParameterError(f"there is no preset {name!r} for data {data!r}: {hint}")
    preset_name = known[str(name).lower()]
    return preset_name, *PRESETS[data][preset_name]
