"""What the README says of the speed of inspect, and of keys in other forms as ratios against joserfc in one run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from joserfc import jwk as joserfc_jwk

from rotator.inspect import inspect
from rotator.jose import keys as jose
from rotator.jose import reading
from rotator.keys import jwks, material
from rotator.keys.algorithms import algorithm
from tests.test_inspect import NOW, good, private, rsa_jwk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROUNDS, CALLS = 150, 50


def ratio(mine: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    """Many short runs in turn, the shortest of each: what else the machine does only ever adds."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for which, work in enumerate((mine, theirs)):
            started = time.perf_counter()
            for _ in range(CALLS):
                work()
            best[which] = min(best[which], time.perf_counter() - started)
    return best[0] / best[1]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("", *rows, sep="\n")  # noqa: T201 - who runs a benchmark wants to see it


def a_thousand() -> bytes:
    """1,000 keys of four kinds, each with a modulus or point of its own where that is cheap to make."""
    found = []
    for number in range(250):
        found += [
            rsa_jwk(n=int.from_bytes(material.unb64u(good("RS256")["n"]), "big") + 2 * number, kid=f"r{number}"),
            jwks.public_jwk(material.spki(material.generate(algorithm("ES256"), 0)), algorithm("ES256")),
            jwks.public_jwk(material.spki(material.generate(algorithm("EdDSA"), 0)), algorithm("EdDSA")),
            jwks.public_jwk(material.spki(material.generate(algorithm("ES512"), 0)), algorithm("ES512")),
        ]
    return json.dumps({"keys": found}).encode()


def test_a_thousand_keys_are_inspected_in_a_second(table: list[str]) -> None:
    body = a_thousand()
    taken = []
    for _ in range(5):
        started = time.process_time()
        report = inspect(reading.read(body), NOW, verifier_names=["openid", "alb"])
        taken.append(time.process_time() - started)
    table.append(f"inspect of 1,000 keys: {min(taken):.2f} s (< 1 s)")
    assert len(report.keys) == 1000
    assert min(taken) < 1


def test_a_thousand_rsa_keys_are_inspected_in_a_second(table: list[str]) -> None:
    start = int.from_bytes(material.unb64u(good("RS256")["n"]), "big")
    body = json.dumps({"keys": [rsa_jwk(n=start + 2 * number, kid=str(number)) for number in range(1000)]}).encode()
    started = time.process_time()
    assert len(inspect(reading.read(body), NOW).keys) == 1000
    taken = time.process_time() - started
    table.append(f"inspect of 1,000 RSA keys: {taken:.2f} s (< 1 s)")
    assert taken < 1


@pytest.mark.parametrize("alg", ["RS256", "ES256", "ES512", "EdDSA"])
def test_spki_to_jwk_is_no_slower_than_joserfc(alg: str, table: list[str]) -> None:
    spki, row = jose.spki(private(alg).public_key()), algorithm(alg)
    classes: dict[str, Any] = {"RSA": joserfc_jwk.RSAKey, "EC": joserfc_jwk.ECKey, "OKP": joserfc_jwk.OKPKey}
    theirs = classes[row.kty]
    assert jwks.public_members(spki, row) == {
        name: value for name, value in theirs.import_key(spki).as_dict(private=False).items() if name != "kid"
    }
    factor = ratio(lambda: jwks.public_members(spki, row), lambda: theirs.import_key(spki).as_dict(private=False))
    table.append(f"SPKI → JWK, {alg} ÷ joserfc: {factor:.2f} (≤ 1)")
    assert factor <= 1


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
def test_the_thumbprint_is_no_slower_than_joserfcs(alg: str, table: list[str]) -> None:
    jwk = {name: good(alg)[name] for name in algorithm(alg).public_members}
    assert jwks.thumbprint(jwk) == joserfc_jwk.thumbprint(jwk)
    factor = ratio(lambda: jwks.thumbprint(jwk), lambda: joserfc_jwk.thumbprint(jwk))
    table.append(f"thumbprint, {alg} ÷ joserfc: {factor:.2f} (≤ 1)")
    assert factor <= 1
