"""Real input at size: all of Fashion-MNIST, for three of the ten epochs that `uncollapse fit
fashion-mnist inverse_lipschitz=1.5` takes."""

import numpy as np
import pytest

import uncollapse as uc
from uncollapse.data import load
from uncollapse.data.images import FASHION_MNIST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(FASHION_MNIST.find(name) is None for name in FASHION_MNIST.md5),
        reason="Fashion-MNIST is not on this machine (UNCOLLAPSE_DATA)",
    ),
]


def test_the_data_are_whole():
    train, test = load("fashion-mnist"), load("fashion-mnist", "test")
    assert train.X.shape == (60_000, 784)
    assert test.X.shape == (10_000, 784)
    assert np.bincount(train.labels).tolist() == [6000] * 10


@pytest.mark.filterwarnings("ignore:X holds values strictly between 0 and 1")
def test_three_epochs_reach_246_nats_with_every_unit_alive():
    train, test = load("fashion-mnist"), load("fashion-mnist", "test")
    settings = {**train.defaults, "max_epochs": 3}
    vae = uc.VAE(inverse_lipschitz=1.5, random_state=0, **settings).fit(train.X)
    report = uc.diagnose(vae, test.X[:2000], n_importance=64, thorough=False)
    print(report)
    assert report.estimates["nll_nats"].value <= 246
    assert report.estimates["active_units"].value == 64
    assert report.verdict == "healthy"
