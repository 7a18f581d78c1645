"""Presets: the models of the papers by name."""

import re

import pytest

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.experiments.presets import PRESETS
from uncollapse.models import EnumeratedMixtureModel
from uncollapse.strategies import RefinedPosterior


@pytest.mark.parametrize(
    ("data", "name"), [(data, name) for data in PRESETS for name in PRESETS[data]]
)
def test_every_preset_builds(data, name):
    estimator = uc.preset(name, data, latent_dim=2)
    model = estimator.build(estimator.set_params(hidden=(8,)).check_settings(), 12)
    assert model.latent_dim == 2 * getattr(
        model.prior, "n_places", 1
    )  # A delta-VAE has a z for every symbol.
    assert (model.decoder.constants == ()) == (not name.startswith(("IL-", "LID")))
    assert isinstance(model.posterior, RefinedPosterior) == (name == "SA-VAE")
    assert isinstance(model, EnumeratedMixtureModel) == (name in ("GMVAE", "LIDMVAE", "LIDGMVAE"))
    assert (
        model.family.name
        == {"image": "bernoulli", "table": "gaussian", "text": "categorical"}[data]
    )


def test_settings_of_presets():
    assert uc.preset("beta-VAE").objective == {"elbo": {"beta": 0.2}}
    assert uc.preset("lagging-vae", data="text").strategy == {"lagging": {"every": 15}}
    assert uc.preset("LIDVAE").inverse_lipschitz == 0
    assert uc.preset("IL-LIDMVAE-annealed", data="image", n_components=10).annealing is True
    assert uc.preset("SA-VAE", data="image", strategy={"semi_amortized": {"n_steps": 5}}).strategy[
        "semi_amortized"
    ] == {"n_steps": 5}


def test_help_names_every_preset(command_line):
    _, told, _ = command_line("compare", "--help")
    words = set(re.findall(r"[\w-]+", told))
    assert {name.removesuffix("-annealed") for names in PRESETS.values() for name in names} <= words


def test_unknown_presets_are_refused():
    with pytest.raises(
        InputError, match="there is no preset 'SAVAE' for data 'table': did you mean 'SA-VAE'"
    ):
        uc.preset("SAVAE")
    with pytest.raises(
        InputError, match="data expects one of 'image', 'table', 'text', got 'sound'"
    ):
        uc.preset("VAE", data="sound")
    with pytest.raises(InputError, match="there is no parameter 'latents'"):
        uc.preset("VAE", latents=3)
    with pytest.raises(InputError, match="did you mean 'LIDSVAE'"):
        uc.preset("LIDVAE", data="text")
