"""What the README claims about the speed of ``Signer``, as ratios against the bare call measured in the same run.

pytest -m slow tests/benchmarks/test_signer_speed.py -s        # prints the table
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.signer import Signer
from rotator.signer.sources import Named, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

CLAIMS = {
    "iss": "https://id.acme.example",
    "sub": "user-1234",
    "aud": "https://api.acme.example",
    "iat": 1_795_000_000,
    "exp": 1_795_003_600,
    "jti": "0a5c3c2e-6f0f-4a53-9d0c-6f3f4f5a1b2c",
}

#: Bare calls of each algorithm, as somebody writes them who has the key at hand.
BARE: dict[str, Callable[[Any], Callable[[bytes], bytes]]] = {
    "Ed25519": lambda key: key.sign,
    "ES256": lambda key: partial(key.sign, signature_algorithm=ec.ECDSA(hashes.SHA256())),
    "RS256": lambda key: partial(key.sign, padding=padding.PKCS1v15(), algorithm=hashes.SHA256()),
}

ROUNDS, SECONDS = 80, 0.01


class Memory:
    """A source that is read at no cost, and counts it."""

    def __init__(self, alg: str) -> None:
        self.alg, self.where, self.reads = alg, "memory", 0
        self.key: Any = material.generate(ALGORITHMS[alg], 2048)
        self.public = jwks.public_jwk(material.spki(self.key), ALGORITHMS[alg])

    def read(self) -> Named:
        self.reads += 1
        kid = self.public["kid"]
        return Named(kid, kid, lambda: loaded(self.key, ALGORITHMS[self.alg], self.public, self.where))


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def speed(bare: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float, float]:
    """Bare ÷ ours, and the microseconds of both: medians of rounds that take turns, in CPU time of this thread."""
    times = max(1, int(SECONDS / seconds(bare, 5)))
    pairs = [(seconds(bare, times), seconds(ours, times)) for _ in range(ROUNDS)]
    ratio = statistics.median(bare_one / our_one for bare_one, our_one in pairs)
    floor, mine = (min(column) * 1e6 for column in zip(*pairs, strict=True))
    return ratio, floor, mine


def seconds(call: Callable[[], object], times: int) -> float:
    started = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - started) / times


@pytest.mark.parametrize("alg", BARE)
def test_a_token_costs_little_more_than_its_signature(alg: str) -> None:
    source = Memory(alg)
    header = b64(json.dumps({"alg": alg, "kid": source.public["kid"]}, separators=(",", ":")).encode())
    sign, body = BARE[alg](source.key), json.dumps(CLAIMS, separators=(",", ":")).encode()

    def bare() -> bytes:
        message = header + b"." + b64(body)
        return message + b"." + b64(sign(message))

    def bare_claims() -> bytes:
        message = header + b"." + b64(json.dumps(CLAIMS, separators=(",", ":")).encode())
        return message + b"." + b64(sign(message))

    with Signer(source, signer_lag=timedelta(hours=2)) as signer:
        found = speed(bare, lambda: signer.sign(body)), speed(bare_claims, lambda: signer.sign(CLAIMS))
    for what, (ratio, floor, mine) in zip(("bytes", "claims"), found, strict=True):
        print(f"{alg:<8} {what:<7} {ratio:>5.2f}  ≥ 0.9; {floor:.1f} µs ÷ {mine:.1f} µs")  # noqa: T201 - the table
    assert min(ratio for ratio, _, _ in found) >= 0.9
    # Nothing was asked of anybody meanwhile.
    assert source.reads == 1
