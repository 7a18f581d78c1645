"""Short fits and reports give what the version before gave: see `tests/behaviour.py`."""

import json

import numpy as np
import pytest

from tests import behaviour

pytestmark = pytest.mark.slow
RECORD = json.loads(behaviour.RECORD.read_text())
# Products differ in their last bits between processors, and the steps of Adam multiply that.
CLOSE = {"rtol": 2e-3, "atol": 2e-4}


def check(found, recorded):
    if isinstance(recorded, dict):
        assert found.keys() == recorded.keys()
        for key in recorded:
            check(found[key], recorded[key])
    elif isinstance(recorded, list | tuple) and recorded and not isinstance(recorded[0], str):
        assert len(found) == len(recorded)
        for one, other in zip(found, recorded, strict=True):
            check(one, other)
    elif isinstance(recorded, float):
        np.testing.assert_allclose(found, recorded, **CLOSE)
    else:
        assert found == recorded


@pytest.mark.parametrize("name", behaviour.FITS)
def test_fits_end_where_they_did(name):
    check(json.loads(json.dumps(behaviour.describe_fit(name))), RECORD["fits"][name])


@pytest.mark.parametrize("name", behaviour.REPORTS)
def test_reports_say_what_they_did(name):
    check(json.loads(json.dumps(behaviour.describe_report(name))), RECORD["reports"][name])
