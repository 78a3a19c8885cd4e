"""Methods of adaptation are chosen by name."""

import pytest

from mpc_model.errors import UserError
from pipelines.training.adaptation import ADAPTATIONS


def test_an_unknown_method_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"unknown adaptation 'nothing'"):
        ADAPTATIONS.require("nothing")
