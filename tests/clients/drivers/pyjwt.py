"""PyJWT with PyJWKClient, whose cooldown of 30 s keeps it from asking again for a kid it does not know."""

from __future__ import annotations

from importlib.metadata import version

import jwt

from tests.clients.drivers.line import Setup, answer

setup = Setup.given()
client = jwt.PyJWKClient(setup.url, lifespan=setup.cache)
#: It refuses names that it does not know at each call, not here.
algorithms = [alg for alg in setup.algorithms if alg in jwt.algorithms.get_default_algorithms()]


def verify(token: str) -> object:
    key = client.get_signing_key_from_jwt(token)
    return jwt.decode(
        token, key, algorithms=algorithms, issuer=setup.issuer, audience=setup.audience, leeway=setup.leeway
    )


answer(f"PyJWT {version('PyJWT')}", verify)
