"""What the AWS variables and the SDK's files say of S3: server, region, certificates, patience."""

import functools
import os
from typing import Any, NamedTuple

import botocore.session
from botocore.exceptions import BotoCoreError

from mpc_model.errors import UserError


class Settings(NamedTuple):
    """What the variables and the SDK's files say now; clients are kept for each, so that a change takes effect at once.

    Both clients get the same: boto3 reads the files itself, Arrow's reads only credentials there.
    """

    endpoint: str | None
    region: str | None
    timeout: float  # seconds
    style: str  # of addresses: path, virtual or auto
    certificates: str | None  # a file
    identity: tuple[tuple[str, str], ...]  # every AWS variable


class _Profile(NamedTuple):
    """What the SDK's files say of the profile that is chosen, and what variables say that go before them."""

    endpoint: str | None
    region: str | None
    style: str | None
    certificates: str | None


def settings() -> Settings:
    """The settings of this moment. UserError where they cannot be used."""
    variable = os.environ.get
    try:
        timeout = float(variable("MPC_S3_TIMEOUT") or 30)
    except ValueError:
        raise UserError(f"MPC_S3_TIMEOUT is a number of seconds, not {variable('MPC_S3_TIMEOUT')!r}") from None
    identity = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    profile = _profile(identity)
    region = variable("AWS_REGION") or profile.region or ("us-east-1" if profile.endpoint else None)
    style = profile.style or ("path" if profile.endpoint else "auto")
    return Settings(profile.endpoint, region, timeout, style, profile.certificates, identity)


@functools.lru_cache(maxsize=16)
def _profile(identity: tuple[tuple[str, str], ...]) -> _Profile:
    try:
        session = botocore.session.Session()
        scoped = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(scoped.get("services"), {})
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or _below(services, "s3").get("endpoint_url")
            or scoped.get("endpoint_url")
        )
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            endpoint = None
        certificates = session.get_config_variable("ca_bundle")
        region = session.get_config_variable("region")
    except BotoCoreError as error:
        raise UserError(f"S3 cannot be used: {error}; check the AWS variables") from None
    if certificates and not os.path.isfile(certificates):
        raise UserError(f"S3 cannot be used: there is no file of certificates {certificates}; check AWS_CA_BUNDLE")
    style = _below(scoped, "s3").get("addressing_style")
    return _Profile(endpoint or None, region or None, style, certificates or None)


def _below(section: dict[str, Any], key: str) -> dict[str, str]:
    """The lines that are indented below a key of the SDK's files."""
    lines = section.get(key)
    return lines if isinstance(lines, dict) else {}
