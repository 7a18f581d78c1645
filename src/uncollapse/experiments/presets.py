"""Models of the papers and their rivals, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from uncollapse._utils.errors import ParameterError
from uncollapse.estimators.settings import SETTINGS, EstimatorSettings, check_settings

if TYPE_CHECKING:
    from uncollapse.estimators import Estimator

Arguments = dict[str, Any]

# Arguments that rivals of an injective decoder change in an ordinary VAE.
RIVALS: dict[str, Arguments] = {
    "VAE": {},
    "beta-VAE": {"objective": {"elbo": {"beta": 0.2}}},
    "annealed-VAE": {"objective": {"elbo": {"warmup_steps": 1000}}},
    "cyclical-VAE": {"objective": "cyclical"},
    "free-bits-VAE": {"objective": "free_bits"},
    "IWAE": {"objective": "importance_weighted"},
    "LR-VAE": {"objective": "latent_reconstruction"},
    "SA-VAE": {"strategy": {"semi_amortized": {}}},
    "Lagging-VAE": {"strategy": "lagging"},
}
# For text, two of them take their authors' settings: refinement steps of 1 on means over 32
# documents, and blocks of 15 steps.
TEXT_RIVALS: dict[str, Arguments] = {
    **RIVALS,
    "SA-VAE": {"strategy": {"semi_amortized": {"learning_rate": 1 / 32}}},
    "Lagging-VAE": {"strategy": {"lagging": {"every": 15}}},
}
# A preset fixes arguments that other decoders cannot take, so that the settings of a comparison
# reach only the models that can.
NO_CONTROL: Arguments = {"annealing": False, "target_kl": None}
ORDINARY: Arguments = {"inverse_lipschitz": None, **NO_CONTROL}
ORDINARY_ROWS: Arguments = {
    **ORDINARY,
    "min_information": None,
    "lipschitz": None,
    "intermediate_dims": (),
}
INJECTIVE: Arguments = {"inverse_lipschitz": 0.0, **NO_CONTROL}
INJECTIVE_ROWS: Arguments = {**INJECTIVE, "min_information": None}
ANNEALED: Arguments = {"annealing": True}
# Mixtures as in the code of both papers: a learned prior from a random start, and a bound that
# enumerates the components.
AS_PUBLISHED: Arguments = {"prior": "learned", "inference": "enumerate", "warmup_epochs": 0}

# The name of the estimator and the fixed arguments, by the name of the preset.
Presets = dict[str, tuple[str, Arguments]]
ROW_PRESETS: Presets = {
    **{name: ("VAE", {**ORDINARY_ROWS, **changes}) for name, changes in RIVALS.items()},
    "LIDVAE": ("VAE", INJECTIVE_ROWS),
    "IL-LIDVAE": ("VAE", {}),
    "IL-LIDVAE-annealed": ("VAE", ANNEALED),
    "GMVAE": ("MixtureVAE", {**ORDINARY_ROWS, **AS_PUBLISHED}),
    "LIDMVAE": ("MixtureVAE", {**INJECTIVE_ROWS, **AS_PUBLISHED}),
    "LIDGMVAE": ("MixtureVAE", {**INJECTIVE_ROWS, **AS_PUBLISHED}),
    "IL-LIDMVAE": ("MixtureVAE", {}),
    "IL-LIDMVAE-annealed": ("MixtureVAE", ANNEALED),
}
TEXT_PRESETS: Presets = {
    **{name: ("SequenceVAE", {**ORDINARY, **changes}) for name, changes in TEXT_RIVALS.items()},
    "delta-VAE": ("SequenceVAE", {**ORDINARY, "committed_rate": 0.1}),
    "LIDSVAE": ("SequenceVAE", INJECTIVE),
    "IL-LIDSVAE": ("SequenceVAE", {}),
    "IL-LIDSVAE-annealed": ("SequenceVAE", ANNEALED),
}
IMAGE_PRESETS: Presets = {
    name: (estimator, {"family": "bernoulli", **arguments})
    for name, (estimator, arguments) in ROW_PRESETS.items()
}
PRESETS: dict[str, Presets] = {"image": IMAGE_PRESETS, "table": ROW_PRESETS, "text": TEXT_PRESETS}
# The models that are compared by default.
ROW_MODELS = (
    "VAE",
    "beta-VAE",
    "free-bits-VAE",
    "LR-VAE",
    "SA-VAE",
    "Lagging-VAE",
    "LIDVAE",
    "IL-LIDVAE",
)
TEXT_MODELS = ("VAE", "beta-VAE", "free-bits-VAE", "SA-VAE", "Lagging-VAE", "LIDSVAE", "IL-LIDSVAE")
DEFAULT_MODELS = {"image": ROW_MODELS, "table": ROW_MODELS, "text": TEXT_MODELS}


class Preset(NamedTuple):
    """The name of a preset, that of its estimator, and the arguments that it fixes."""

    name: str
    estimator: str
    arguments: Arguments


def preset(name: str, data: str = "table", **overrides: Any) -> Estimator:
    """Return an estimator by the name that the papers give to the model.

    Args:
        name: "VAE", "beta-VAE" (0.2), "annealed-VAE" (over 1,000 steps), "cyclical-VAE",
            "free-bits-VAE", "IWAE", "LR-VAE" (latent reconstruction), "SA-VAE", "Lagging-VAE". For
            rows also "LIDVAE", "IL-LIDVAE", "GMVAE", "LIDMVAE" (or "LIDGMVAE"), "IL-LIDMVAE". For
            text also "delta-VAE" (0.1 nats a symbol), "LIDSVAE" and "IL-LIDSVAE". Names that begin
            with "IL-" also exist with "-annealed" at the end.
        data: "image" (grey levels or bits from 0 to 1), "table" (real numbers) or "text".
        overrides: arguments of the estimator, which override those of the preset.

    Raises:
        ParameterError: if there is no such preset for such data, or the estimator does not take an
            argument.

    >>> preset("Lagging-VAE", data="text", latent_dim=16).strategy
    {'lagging': {'every': 15}}
    """
    found = find_preset(name, data)
    from uncollapse._utils.parameters import check_parameters
    from uncollapse.estimators import Estimator

    kind, arguments = Estimator.registry[found.estimator], {**found.arguments, **overrides}
    check_parameters(kind, arguments)
    return kind(**arguments)


def find_preset(name: str, data: str) -> Preset:
    """Return a preset; upper and lower case are alike."""
    if data not in PRESETS:
        expected = ", ".join(map(repr, PRESETS))
        raise ParameterError(f"data expects one of {expected}, got {data!r}.")
    known = {key.lower(): key for key in PRESETS[data]}
    if str(name).lower() not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=1)
        expected = f"expected one of {', '.join(known.values())}."
        hint = f"did you mean {known[close[0]]!r}?" if close else expected
        raise ParameterError(f"there is no preset {name!r} for data {data!r}: {hint}")
    found = known[str(name).lower()]
    return Preset(found, *PRESETS[data][found])


def choose_settings(
    models: Sequence[str] | None,
    data: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, tuple[str, EstimatorSettings]]:
    """Return the estimator and the settings of each model of a comparison, by preset.

    Args:
        models: names of presets; a selection by default.
        data: "image", "table" or "text".
        given: settings, each for the presets that have it and do not fix it.
        defaults: settings that suit the data; they may apply to none of the models.

    Raises:
        ParameterError: if a preset is unknown or named twice, a setting applies to none, or an
            argument cannot be used.
    """
    presets = [find_preset(name, data) for name in models or DEFAULT_MODELS[data]]
    if len({preset.name for preset in presets}) < max(len(presets), 2):
        names = ", ".join(preset.name for preset in presets)
        raise ParameterError(f"a comparison expects two or more distinct models, got {names}.")
    wanted = {"random_state": 0, **(defaults or {}), **given}
    chosen, unused = {}, set(given)
    for name, estimator, fixed in presets:
        free = {field.name for field in fields(SETTINGS[estimator])} - set(fixed)
        taken = {key: value for key, value in wanted.items() if key in free}
        chosen[name] = estimator, check_settings(estimator, {**taken, **fixed})
        unused -= set(taken)
    for key in unused:
        if not any(hasattr(settings, key) for settings in SETTINGS.values()):
            check_settings(presets[0].estimator, {key: given[key]})  # raises, with a suggestion
    if unused:
        raise ParameterError(
            f"the settings {', '.join(sorted(unused))} apply to none of {', '.join(chosen)}. "
            "Leave them out, or name a model that takes them and does not fix them itself."
        )
    return chosen


def check_comparison(models: Sequence[str] | None, given: Mapping[str, Any]) -> None:
    """Check the arguments of a comparison before it is known whether its data are rows or text."""
    errors = {}
    for data in ("text", "table"):
        try:
            choose_settings(models, data, given)
        except ParameterError as error:
            errors[data] = error
    if len(errors) == 2:
        known = {name.lower() for name in TEXT_PRESETS}
        are_text = models is not None and {name.lower() for name in models} <= known
        raise errors["text" if are_text else "table"]
