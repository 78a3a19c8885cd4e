"""What the AWS variables say."""

import pytest

from mpc_model.errors import UserError
from pipelines.runtime import s3_settings


def test_settings_follow_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://b")
    monkeypatch.setenv("MPC_S3_TIMEOUT", "4.5")
    settings = s3_settings.settings()
    assert (settings.endpoint, settings.timeout) == ("http://b", 4.5)
    monkeypatch.setenv("MPC_S3_TIMEOUT", "soon")
    with pytest.raises(UserError, match="MPC_S3_TIMEOUT is a number of seconds, not 'soon'"):
        s3_settings.settings()
