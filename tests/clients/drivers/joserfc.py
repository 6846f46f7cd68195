"""joserfc, with a set that the application keeps."""

from __future__ import annotations

import json
from importlib.metadata import version

from joserfc import jwt
from joserfc.jwk import KeySet

from tests.clients.drivers.line import Cached, Setup, answer

setup = Setup.given()
keys = Cached(setup, lambda body: KeySet.import_key_set(json.loads(body)))
claims = jwt.JWTClaimsRegistry(
    leeway=int(setup.leeway), iss={"value": setup.issuer}, aud={"value": setup.audience}, exp={"essential": True}
)


def verify(token: str) -> None:
    claims.validate(jwt.decode(token, keys(), algorithms=setup.algorithms).claims)


answer(f"joserfc {version('joserfc')}", verify)
