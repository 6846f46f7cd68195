"""jwcrypto, with a set that the application keeps."""

from __future__ import annotations

from importlib.metadata import version

from jwcrypto.jwk import JWKSet
from jwcrypto.jwt import JWT

from tests.clients.drivers.line import Cached, Setup, answer

setup = Setup.given()
keys = Cached(setup, lambda body: JWKSet.from_json(body.decode("utf-8")))


def verify(token: str) -> None:
    claims = {"iss": setup.issuer, "aud": setup.audience, "exp": None}
    read = JWT(algs=setup.algorithms, check_claims=claims, expected_type="JWS")
    read.leeway = int(setup.leeway)
    read.deserialize(token, keys())


answer(f"jwcrypto {version('jwcrypto')}", verify)
