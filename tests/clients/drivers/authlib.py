"""Authlib's own JOSE module, with a set that the application keeps."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version

from tests.clients.drivers.line import Cached, Setup, answer

# It points to joserfc, which stands in the table, too; who uses Authlib today mostly uses this.
warnings.simplefilter("ignore")

from authlib.jose import JsonWebKey, JsonWebToken  # noqa: E402

setup = Setup.given()
keys = Cached(setup, lambda body: JsonWebKey.import_key_set(json.loads(body)))
decoder = JsonWebToken(setup.algorithms)
options = {
    "iss": {"essential": True, "value": setup.issuer},
    "aud": {"essential": True, "value": setup.audience},
    "exp": {"essential": True},
}


def verify(token: str) -> None:
    decoder.decode(token, keys(), claims_options=options).validate(leeway=int(setup.leeway))


answer(f"Authlib {version('Authlib')}", verify)
