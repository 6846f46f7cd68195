"""What an issuer may rely on: the right key, for no longer than rotator counts on, whatever else happens."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jws
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet as JoserfcKeys

from rotator.errors import AccessDenied, ConfigurationError, KeyStopped, NoCurrentKey, Refused, Stale, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.signer import Clock, Signer, compact
from rotator.signer.follower import Follower, Known
from rotator.signer.sources import Loaded, Named, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.errors import RotatorError

LAG = timedelta(hours=2)
CLAIMS = {"iss": "https://id.acme.example", "sub": "u1"}
START = 1_800_000_000.0


@dataclass
class Time:
    """Both clocks of a machine."""

    elapsed: float = 1_000.0
    wall: float = START

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.elapsed, lambda: self.wall)

    def passes(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += seconds


@dataclass
class Home:
    """A pointer and the keys behind it; counts what is asked of it."""

    alg: str = "ES256"
    where: str = "the pointer"
    remote: bool = False
    kid: str | None = None
    fault: Exception | None = None
    before_answer: Callable[[], object] = lambda: None
    after_read: Callable[[], object] = lambda: None
    reads: int = 0
    loads: list[str] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> str:
        private = material.generate(ALGORITHMS[self.alg], 2048)
        public = jwks.public_jwk(material.spki(private), ALGORITHMS[self.alg])
        self.keys[public["kid"]] = {"private": private, "public": public}
        self.kid = public["kid"]
        return self.kid

    def read(self) -> Named | None:
        self.reads += 1
        self.before_answer()
        if self.fault:
            raise self.fault
        kid = self.kid
        self.after_read()
        return None if kid is None else Named(kid, kid, lambda: self.load(kid))

    def load(self, kid: str) -> Loaded:
        self.loads.append(kid)
        key = self.keys[kid]
        found = loaded(key["private"], ALGORITHMS[self.alg], key["public"], self.where)

        def sign(message: bytes) -> bytes:
            if kid in self.stopped:
                raise KeyStopped(f"Key {kid} is disabled in KMS.")
            return found.sign(message)

        return Loaded(sign, slow=self.remote)

    @property
    def jwks(self) -> Any:
        return {"keys": [key["public"] for key in self.keys.values()]}


@pytest.fixture
def at() -> Time:
    return Time()


@pytest.fixture
def home() -> Home:
    return Home()


def follow(home: Home, at: Time, **options: Any) -> Signer:
    return Signer(home, **{"signer_lag": LAG, "background": False, "clock": at.clock, **options})


def parts(token: str) -> tuple[dict[str, Any], bytes]:
    header, payload, _ = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return json.loads(header), payload


def kid_in(token: str) -> str:
    kid = parts(token)[0]["kid"]
    assert isinstance(kid, str)
    return kid


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_rfc_8037_appendix_a4_is_signed_to_the_letter() -> None:
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    key = loaded(material.load_private_jwk(jwk), ALGORITHMS["EdDSA"], jwk, "RFC 8037")
    message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    assert material.b64u(key.sign(message)) == (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


#: RFC 7515 appendix A.2: the primes of its key, what is signed, and the signature.
A2_P = (
    "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDc"
    "mnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc"
)
A2_Q = (
    "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-"
    "TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc"
)
A2_PAYLOAD = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
A2_SIGNATURE = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t"
    "1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12j"
    "zDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQ"
    "Ge77Rw"
)


def test_rfc_7515_appendix_a2_is_signed_to_the_letter() -> None:
    p, q = (int.from_bytes(material.unb64u(text), "big") for text in (A2_P, A2_Q))
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    private = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, p * q)).private_key()
    public = jwks.public_jwk(material.spki(private), ALGORITHMS["RS256"])
    key = loaded(private, ALGORITHMS["RS256"], public, "RFC 7515")
    message = b"eyJhbGciOiJSUzI1NiJ9." + compact.b64u(A2_PAYLOAD)
    assert compact.b64u(key.sign(message)).decode() == A2_SIGNATURE


def test_rfc_7520_section_4_1_is_signed_to_the_letter() -> None:
    folder = Path(__file__).parents[2] / "shared" / "vectors" / "rfc"
    if not (folder / "3_4.rsa_private_key.json").exists():
        pytest.skip("../shared/vectors is not here")
    jwk = json.loads((folder / "3_4.rsa_private_key.json").read_text())
    key = loaded(material.load_private_jwk(jwk), ALGORITHMS["RS256"], jwk, "RFC 7520")
    vector = json.loads(next((folder / "jws").glob("4_1*")).read_text())
    protected, payload, signature = vector["output"]["compact"].split(".")
    assert material.b64u(key.sign(f"{protected}.{payload}".encode())) == signature


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_token_is_a_jwt_to_every_library_that_knows_its_algorithm(alg: str) -> None:
    home = Home(alg)
    with Signer(home, signer_lag=LAG, background=False) as signer:
        exp = datetime.now(UTC) + timedelta(minutes=5)
        token = signer.sign({**CLAIMS, "exp": exp, "aud": ["api"]}, {"typ": "at+jwt"})
    header, payload = parts(token)
    assert header == {"alg": alg, "kid": home.kid, "typ": "at+jwt"}
    assert json.loads(payload) == {**CLAIMS, "exp": int(exp.timestamp()), "aud": ["api"]}
    public = home.jwks["keys"][0]
    signature = material.unb64u(token.rsplit(".", 1)[1])
    assert material.verify(public, ALGORITHMS[alg], token.rsplit(".", 1)[0].encode(), signature)
    if alg in {"Ed25519", "Ed448"} or alg.startswith("ML-DSA"):
        return
    assert jwt.decode(token, jwt.PyJWK(public), algorithms=[alg], audience="api")["sub"] == "u1"
    keys = JoserfcKeys.import_key_set(home.jwks)
    assert joserfc_jwt.decode(token, keys, algorithms=[alg]).claims["sub"] == "u1"


def test_a_token_is_a_jwt_to_authlib(home: Home, at: Time) -> None:
    with warnings.catch_warnings(record=True):
        # It says of itself that joserfc comes after it.
        authlib = pytest.importorskip("authlib.jose", reason="Authlib is not installed")
    token = follow(home, at).sign(CLAIMS)
    assert authlib.jwt.decode(token, authlib.JsonWebKey.import_key_set(home.jwks))["sub"] == "u1"


def test_bytes_are_signed_as_they_are(home: Home, at: Time) -> None:
    payload = bytes(range(256))
    token = follow(home, at).sign(payload)
    assert parts(token) == ({"alg": "ES256", "kid": home.kid}, payload)
    assert jws.deserialize_compact(token, JoserfcKeys.import_key_set(home.jwks)).payload == payload


def test_a_typ_of_none_is_left_out(home: Home, at: Time) -> None:
    assert "typ" not in parts(follow(home, at).sign(CLAIMS, {"typ": None}))[0]


def test_headers_that_say_what_the_key_says_are_fine(home: Home, at: Time) -> None:
    # As joserfc and Authlib want them.
    token = follow(home, at).sign(CLAIMS, {"alg": "ES256", "kid": home.kid, "cty": "x"})
    assert parts(token)[0] == {"alg": "ES256", "kid": home.kid, "typ": "JWT", "cty": "x"}


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({"alg": "none"}, "alg is the current key's"),
        ({"kid": "mine"}, "kid is the current key's"),
        ({"b64": False, "crit": ["b64"]}, "b64"),
        ({"jwk": {"kty": "EC", "d": "AA"}}, "private member"),
        ({"x": float("nan")}, "not JSON compliant"),
    ],
)
def test_a_header_that_contradicts_the_key_is_refused(
    home: Home, at: Time, headers: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        follow(home, at).sign(CLAIMS, headers)


@pytest.mark.parametrize("payload", ["text", 1, None, [1], memoryview(b"x")])
def test_what_is_neither_claims_nor_bytes_is_refused(home: Home, at: Time, payload: Any) -> None:
    with pytest.raises(TypeError, match="give claims"):
        follow(home, at).sign(payload)


@pytest.mark.parametrize("claims", [{"a": {1, 2}}, {"a": b"x"}, {"a": object()}])
def test_claims_that_are_no_json_are_refused(home: Home, at: Time, claims: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot stand in JSON"):
        follow(home, at).sign(claims)


def test_numbers_that_are_none_are_refused(home: Home, at: Time) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        follow(home, at).sign({"a": float("nan")})


def test_a_datetime_without_a_zone_is_refused(home: Home, at: Time) -> None:
    with pytest.raises(ValueError, match="time zone"):
        follow(home, at).sign({"exp": datetime(2030, 1, 1)})  # noqa: DTZ001 - that is the fault


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": START + 3600},
        {"exp": START + 3600.9},  # rounded up
        {"exp": START + 3600, "iat": START},
        {"exp": START + 10, "iat": None},
        {"exp": datetime.fromtimestamp(START + 3600, UTC), "iat": datetime.fromtimestamp(START, UTC)},
        {"exp": START - 5},
    ],
)
def test_claims_that_end_within_token_lifetime_are_signed(home: Home, at: Time, claims: dict[str, Any]) -> None:
    assert follow(home, at, token_lifetime=timedelta(hours=1)).sign(claims)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"exp": None},
        {"exp": START + 3602},
        {"exp": START + 3600, "iat": START - 1},
        # exp − iat is an hour, and the token lives for two.
        {"exp": START + 7200, "iat": START + 3600},
        {"exp": datetime.fromtimestamp(START + 3605, UTC)},
        {"exp": 1e300},
    ],
)
def test_claims_that_outlive_token_lifetime_are_refused(home: Home, at: Time, claims: dict[str, Any]) -> None:
    signer = follow(home, at, token_lifetime=timedelta(hours=1))
    with pytest.raises(Refused, match=r"token_lifetime \(1h\)"):
        signer.sign(claims)


@pytest.mark.parametrize("exp", ["soon", True, float("nan"), float("inf"), [1]])
def test_an_exp_that_is_no_time_is_refused(home: Home, at: Time, exp: Any) -> None:
    signer = follow(home, at, token_lifetime=timedelta(hours=1))
    with pytest.raises(ValueError, match="claim exp"):
        signer.sign({"exp": exp})


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize("huge", [10**400, -(10**400)], ids=["huge", "-huge"])
def test_a_time_that_no_calendar_holds_is_refused(home: Home, at: Time, name: str, huge: int) -> None:
    signer = follow(home, at, token_lifetime=timedelta(hours=1))
    with pytest.raises(ValueError, match=f"claim {name} must be a number of seconds"):
        signer.sign({"exp": START + 60, name: huge})


# -- which key, and for how long -------------------------------------------------------------------------------------


def test_it_follows_a_rotation_and_loads_each_key_once(home: Home, at: Time) -> None:
    signer, first = follow(home, at), home.kid
    for _ in range(5):
        assert kid_in(signer.sign(CLAIMS)) == first
        at.passes(400)
    second = home.rotate()
    at.passes(400)
    assert kid_in(signer.sign(CLAIMS)) == second
    assert home.loads == [first, second]


def test_signing_asks_nobody_between_reads(home: Home, at: Time) -> None:
    signer = follow(home, at)
    for _ in range(100):
        signer.sign(CLAIMS)
    assert home.reads == 1


def test_without_an_answer_it_signs_until_signer_lag_and_not_a_moment_longer(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.passes(LAG.total_seconds() - 0.001)
    assert signer.sign(CLAIMS)
    at.passes(0.001)
    with pytest.raises(Stale, match=r"not read for 2h .*S3 is away") as raised:
        signer.sign(CLAIMS)
    assert isinstance(raised.value.__cause__, StoreError)
    assert raised.value.exit_code == 3


def test_when_aws_is_back_it_signs_again(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.passes(LAG.total_seconds() + 1)
    with pytest.raises(Stale):
        signer.sign(CLAIMS)
    home.fault = None
    at.passes(1)
    assert kid_in(signer.sign(CLAIMS)) == home.kid
    assert signer.status().fault is None


def test_callers_do_not_hang_on_an_aws_that_is_away(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.passes(LAG.total_seconds() + 1)
    for _ in range(50):
        with pytest.raises(Stale):
            signer.sign(CLAIMS)
    assert home.reads == 2


def test_without_a_thread_few_callers_wait_for_an_aws_that_is_away(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.passes(300)
    for _ in range(1200):
        at.passes(1)
        signer.sign(CLAIMS)
    assert home.reads <= 1 + 5


def test_a_denied_read_is_as_good_as_none(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = AccessDenied("grant secretsmanager:GetSecretValue")
    at.passes(LAG.total_seconds() - 1)
    assert signer.sign(CLAIMS)
    at.passes(1)
    with pytest.raises(Stale, match="grant secretsmanager"):
        signer.sign(CLAIMS)


def test_signer_lag_counts_from_when_the_read_began(home: Home, at: Time) -> None:
    # The answer takes an hour: it may be an hour old.
    home.after_read = lambda: at.passes(3600)
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.passes(3599)
    assert signer.sign(CLAIMS)
    at.passes(1)
    with pytest.raises(Stale):
        signer.sign(CLAIMS)


def test_a_read_that_takes_longer_than_signer_lag_is_no_use(home: Home, at: Time) -> None:
    signer = follow(home, at)
    at.passes(LAG.total_seconds())
    home.after_read = lambda: at.passes(LAG.total_seconds())
    with pytest.raises(Stale, match="took longer"):
        signer.sign(CLAIMS)


def test_a_stalled_read_does_not_undo_a_later_one(home: Home, at: Time) -> None:
    signer = follow(home, at)
    at.passes(60)
    later: list[str] = []

    def overtaken() -> None:
        home.after_read = lambda: None
        at.passes(1)
        later.append(home.rotate())
        signer.refresh()
        at.passes(1)

    home.after_read = overtaken
    signer.refresh()
    assert later == [kid_in(signer.sign(CLAIMS))]


def test_after_a_suspend_that_only_the_date_noticed_it_reads_first(home: Home, at: Time) -> None:
    signer = follow(home, at)
    second = home.rotate()
    at.wall += LAG.total_seconds()
    assert kid_in(signer.sign(CLAIMS)) == second


def test_a_suspend_that_only_the_date_noticed_ends_it_where_nothing_answers(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.wall += LAG.total_seconds()
    with pytest.raises(Stale):
        signer.sign(CLAIMS)


def test_a_date_set_back_lengthens_nothing(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    at.wall -= 86_400
    at.passes(LAG.total_seconds())
    with pytest.raises(Stale):
        signer.sign(CLAIMS)


@pytest.mark.parametrize("fault", [None, StoreError("S3 is away.")])
def test_without_a_key_it_does_not_open_and_only_the_error_says_so(
    home: Home, at: Time, fault: RotatorError | None, caplog: pytest.LogCaptureFixture
) -> None:
    home.kid, home.fault = None, fault
    with pytest.raises(StoreError if fault else NoCurrentKey, match="away" if fault else "names no key"):
        follow(home, at)
    assert caplog.records == []


def test_when_the_pointer_is_cleared_it_stops_with_the_next_read_and_goes_on_with_the_next_key(
    home: Home, at: Time
) -> None:
    signer = follow(home, at)
    home.kid = None
    at.passes(600)
    with pytest.raises(NoCurrentKey):
        signer.sign(CLAIMS)
    assert signer.status().kid is None
    second = home.rotate()
    with pytest.raises(NoCurrentKey):
        signer.sign(CLAIMS)
    at.passes(2)
    assert kid_in(signer.sign(CLAIMS)) == second


def test_refresh_follows_a_revoke_at_once(home: Home, at: Time) -> None:
    signer = follow(home, at)
    second = home.rotate()
    signer.refresh()
    assert kid_in(signer.sign(CLAIMS)) == second
    home.kid = None
    with pytest.raises(NoCurrentKey):
        signer.refresh()


def test_a_refresh_that_fails_says_so_and_leaves_the_key(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.fault = StoreError("S3 is away.")
    with pytest.raises(StoreError, match="away"):
        signer.refresh()
    assert signer.sign(CLAIMS)
    assert signer.status().fault == "S3 is away."


def test_a_key_that_cannot_sign_never_takes_over(home: Home, at: Time) -> None:
    signer, first = follow(home, at), home.kid
    second = home.rotate()
    home.keys[second]["public"] = home.keys[first or ""]["public"]
    at.passes(600)
    assert kid_in(signer.sign(CLAIMS)) == first
    assert "damaged" in (signer.status().fault or "")
    at.passes(LAG.total_seconds())
    with pytest.raises(Stale, match="damaged"):
        signer.sign(CLAIMS)


def test_a_key_that_was_stopped_gives_way_to_the_one_the_pointer_names(home: Home, at: Time) -> None:
    signer, first = follow(home, at), home.kid
    home.stopped.add(first or "")
    second = home.rotate()
    at.passes(1)
    token = signer.sign(CLAIMS, {"typ": "at+jwt"})
    assert kid_in(token) == second
    assert home.reads == 2


@pytest.mark.parametrize("fault", [None, StoreError("S3 is away.")])
def test_a_stopped_key_that_has_no_successor_is_an_error(home: Home, at: Time, fault: RotatorError | None) -> None:
    signer = follow(home, at)
    home.stopped.add(home.kid or "")
    home.fault = fault
    at.passes(1)
    with pytest.raises(KeyStopped, match="disabled in KMS"):
        signer.sign(CLAIMS)
    assert home.reads == 2


def test_a_successor_that_is_stopped_too_is_an_error(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.stopped |= {home.kid or "", home.rotate()}
    with pytest.raises(KeyStopped):
        signer.sign(CLAIMS)


def test_its_status_says_how_it_stands(home: Home, at: Time) -> None:
    signer = follow(home, at)
    read_at = datetime.fromtimestamp(START, UTC)
    status = signer.status()
    assert (status.kid, status.alg, status.read_at, status.fault) == (home.kid, "ES256", read_at, None)
    assert status.signs_until == read_at + LAG


# -- what it does not take -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"signer_lag": timedelta(0)}, "1s is the least"),
        ({"signer_lag": timedelta(days=999_999_999)}, "more than ten years is no policy"),
        ({"refresh_every": timedelta(0)}, "refresh_every is 0s"),
        ({"refresh_every": LAG}, "at most half of signer_lag"),
        ({"token_lifetime": timedelta(0)}, "token_lifetime is 0s"),
    ],
)
def test_durations_that_make_no_sense_are_refused(home: Home, at: Time, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        follow(home, at, **options)


def test_it_shows_no_key_and_is_not_copied(home: Home, at: Time) -> None:
    signer = follow(home, at)
    assert repr(signer) == f"<Signer of the pointer: {home.kid}>"
    with pytest.raises(TypeError, match="in each process"):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        copy.copy(signer)


def test_a_closed_signer_signs_nothing(home: Home, at: Time) -> None:
    with follow(home, at) as signer:
        pass
    for call in (lambda: signer.sign(CLAIMS), signer.refresh, signer.status):
        with pytest.raises(Refused, match="closed"):
            call()
    assert repr(signer) == "<Signer of the pointer: no key>"


def test_a_read_that_ends_after_the_close_brings_no_key_back(home: Home, at: Time) -> None:
    signer = follow(home, at)
    home.after_read = signer.close
    with pytest.raises(NoCurrentKey):
        signer.refresh()
    assert (signer._follower.known, signer._follower._loaded) == (Known(), None)


# -- in the background -----------------------------------------------------------------------------------------------


SOON: dict[str, Any] = {"signer_lag": timedelta(seconds=2), "refresh_every": timedelta(seconds=0.05)}


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_background_follows_a_rotation_though_nobody_signs(home: Home) -> None:
    with Signer(home, **SOON) as signer:
        second = home.rotate()
        eventually(lambda: signer.status().kid == second)
        assert kid_in(signer.sign(CLAIMS)) == second
    assert len(home.loads) == 2


def test_failures_are_told_once_and_reads_go_on(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rotator.signer"), Signer(home, **SOON) as signer:
        home.fault = StoreError("S3 is away.")
        eventually(lambda: home.reads > 5)
        home.fault = None
        eventually(lambda: signer.status().fault is None)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["The pointer is tried again: S3 is away."]


def test_a_bug_in_a_source_ends_neither_the_thread_nor_the_lag(home: Home) -> None:
    with Signer(home, **SOON) as signer:
        home.fault = ZeroDivisionError("d: 12345")
        eventually(lambda: signer.status().fault)
        assert signer.status().fault == "Reading the pointer failed: ZeroDivisionError."
        home.fault = None
        eventually(lambda: signer.status().fault is None)


def test_in_the_background_too_it_is_stale_after_signer_lag(home: Home) -> None:
    with Signer(home, signer_lag=timedelta(seconds=1), refresh_every=timedelta(seconds=0.05)) as signer:
        home.fault = StoreError("S3 is away.")
        assert signer.sign(CLAIMS)
        time.sleep(1.1)
        with pytest.raises(Stale):
            signer.sign(CLAIMS)
        home.fault = None
        eventually(lambda: signer.status().fault is None)
        assert signer.sign(CLAIMS)


def stall(going: threading.Event, let_go: threading.Event) -> None:
    going.set()
    let_go.wait(10)


def test_a_stalled_read_keeps_nobody_from_signing(home: Home) -> None:
    going, let_go = threading.Event(), threading.Event()
    with Signer(home, **SOON) as signer:
        home.before_answer = partial(stall, going, let_go)
        assert going.wait(10)
        time.sleep(0.2)  # twice the interval, and more
        started = time.monotonic()
        assert signer.sign(CLAIMS)
        assert time.monotonic() - started < 1
        home.before_answer = lambda: None
        let_go.set()


def thread_of(signer: Signer) -> threading.Thread:
    thread = signer._follower._thread
    assert thread
    assert thread.is_alive()
    return thread


def test_the_thread_ends_with_the_signer(home: Home) -> None:
    with Signer(home, signer_lag=LAG) as signer:
        thread = thread_of(signer)
    thread.join(10)
    assert not thread.is_alive()


def test_the_thread_of_a_signer_that_is_forgotten_ends(home: Home) -> None:
    signer = Signer(home, signer_lag=LAG)
    thread = thread_of(signer)
    del signer
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_many_threads_share_one_signer_through_rotations(home: Home) -> None:
    """Every token names the key that signed it, and after a refresh nobody signs with the key before."""
    faults: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            floor = count[0]
            token = signer.sign(CLAIMS)
            public = home.keys[kid_in(token)]["public"]
            message, signature = token.rsplit(".", 1)
            if not material.verify(public, ALGORITHMS["ES256"], message.encode(), material.unb64u(signature)):
                faults.append("a token that does not verify")
            if kids.index(kid_in(token)) < floor:
                faults.append("a key that was superseded before the call")

    with Signer(home, **SOON) as signer:
        kids, count = [home.kid or ""], [0]
        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        for _ in range(20):
            private = material.generate(ALGORITHMS["ES256"], 0)
            public = jwks.public_jwk(material.spki(private), ALGORITHMS["ES256"])
            kids.append(public["kid"])
            home.keys[public["kid"]] = {"private": private, "public": public}
            home.kid = public["kid"]
            signer.refresh()
            count[0] = len(kids) - 1
            time.sleep(0.01)
        stop.set()
        for worker in workers:
            worker.join()
    assert faults == []
    assert home.loads == kids


def test_many_threads_that_meet_a_stale_key_make_one_read(home: Home, at: Time) -> None:
    signer = follow(home, at)
    at.passes(LAG.total_seconds())
    home.before_answer = lambda: time.sleep(0.05)
    tokens: list[str] = []
    workers = [threading.Thread(target=lambda: tokens.append(signer.sign(CLAIMS))) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (len(tokens), home.reads, len(home.loads)) == (16, 2, 1)


def test_reads_that_meet_a_new_key_at_once_load_it_once(home: Home, at: Time) -> None:
    signer = follow(home, at)
    second = home.rotate()
    readers = [threading.Thread(target=signer.refresh) for _ in range(4)]
    # Each has read, and none has been able to take over yet what it read.
    with signer._follower._noting:
        for reader in readers:
            reader.start()
        eventually(lambda: home.reads == 5)
        time.sleep(0.05)
    for reader in readers:
        reader.join()
    assert home.loads.count(second) == 1
    assert kid_in(signer.sign(CLAIMS)) == second


def test_while_one_caller_reads_the_others_sign(home: Home, at: Time) -> None:
    signer = follow(home, at)
    at.passes(600)
    going, let_go = threading.Event(), threading.Event()
    home.before_answer = partial(stall, going, let_go)
    reader = threading.Thread(target=signer.sign, args=(CLAIMS,))
    reader.start()
    assert going.wait(10)
    assert signer.sign(CLAIMS)
    let_go.set()
    reader.join()
    assert home.reads == 2


def fork(work: Callable[[], bool]) -> None:
    """``work`` in a forked child, which must come to an end and find it true."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            os._exit(2)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert ended[1] == 0


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_worker_signs_and_follows_by_itself(home: Home) -> None:
    with Signer(home, **SOON) as signer:
        # A lock that a thread of the parent holds at this moment is held for ever in the child.
        with signer._follower._noting, signer._follower._asking, signer._follower._loading:

            def work() -> bool:
                first = kid_in(signer.sign(CLAIMS)) == home.kid
                second = home.rotate()
                eventually(lambda: signer.status().kid == second)
                return first and kid_in(signer.sign(CLAIMS)) == second

            fork(work)
        assert kid_in(signer.sign(CLAIMS)) == home.kid


def test_where_no_thread_can_be_made_the_callers_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Signer(home, signer_lag=timedelta(seconds=1)) as signer:
        time.sleep(1.01)
        assert signer.sign(CLAIMS)
    assert home.reads == 2


def test_the_default_clock_goes_on(home: Home) -> None:
    clock = Clock()
    before = clock.elapsed(), clock.wall()
    time.sleep(0.01)
    assert clock.elapsed() - before[0] >= 0.009
    assert clock.wall() > before[1]


def test_reads_of_a_fleet_are_spread(home: Home) -> None:
    follower = Follower(home, 7200, 300, Time().clock, background=True)
    follower.read()
    dues = {follower._due() for _ in range(20)}
    assert len(dues) == 20
    assert all(1000 + 240 <= due <= 1000 + 300 for due in dues)


# -- event loops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True])
def test_an_event_loop_signs_and_refreshes(at: Time, remote: bool) -> None:
    home = Home(remote=remote)

    async def work() -> None:
        async with follow(home, at) as signer:
            tokens = await asyncio.gather(*(signer.asign(CLAIMS) for _ in range(20)))
            assert {kid_in(token) for token in tokens} == {home.kid}
            second = home.rotate()
            await signer.arefresh()
            assert kid_in(await signer.asign(CLAIMS)) == second

    asyncio.run(work())


def test_an_event_loop_opens_a_signer(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(NoCurrentKey):
            await Signer.aopen(f"{tmp_path.as_uri()}/keys#acme/ES256", signer_lag=LAG)

    asyncio.run(work())


@pytest.mark.parametrize("remote", [False, True])
def test_an_event_loop_goes_on_while_a_signature_waits_for_aws(at: Time, remote: bool) -> None:
    home = Home(remote=remote)

    async def work() -> int:
        signer = follow(home, at)
        at.passes(LAG.total_seconds())
        home.before_answer = lambda: time.sleep(0.2)
        token, ticks = asyncio.ensure_future(signer.asign(CLAIMS)), 0
        while not token.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await token
        return ticks

    assert asyncio.run(work()) > 5


# -- without the daemon ----------------------------------------------------------------------------------------------


WITHOUT = """
import sys
for name in "apscheduler typer pydantic pydantic_settings structlog rich httpx prometheus_client".split():
    sys.modules[name] = None
{without}
from datetime import timedelta
import rotator.signer
assert "boto3" not in sys.modules or sys.modules["boto3"] is None
assert "cryptography" not in sys.modules
{work}
"""


def run(without: str, work: str) -> str:
    script = WITHOUT.format(without=without, work=work)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_needs_nothing_of_the_daemon_and_no_boto3() -> None:
    assert run("sys.modules['boto3'] = sys.modules['botocore'] = None", "print('fine')") == "fine"
