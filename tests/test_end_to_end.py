"""Real daemons, a real cache and real JWT libraries: whatever happens to the keys, no token is rejected.

Two daemons rotate one key set every few seconds; one of them is killed in the middle. Meanwhile an issuer signs with
whatever key is current, and verifiers behind two points of presence check every token at once, and again in the last
moment in which they may accept it. Everybody goes as far as the policy allows, and nobody knows of the others.
"""

from __future__ import annotations

import heapq
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import boto3
import jwt
import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet as JoserfcKeys
from jwt.utils import base64url_encode, der_to_raw_signature

from rotator import app
from rotator import signer as signing
from rotator.errors import Refused, Stale
from rotator.keys import facts, plan
from rotator.settings import Configuration
from tests import emulators, nginx
from tests.accounts import Account, moto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from rotator.engine import Engine
    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet, Policy

pytestmark = [
    pytest.mark.slow,
    # Most verifiers know no other name for it, so rotator says EdDSA by default.
    pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864"),
]

#: Kids that each algorithm signs with before the run ends: one rotation less.
KIDS = 6

#: The policy, in seconds. One clock runs here, but caches count in whole seconds, and so does ``exp``.
LIFETIME, TOKEN_LIFETIME, SIGNER_LAG, LEEWAY, SKEW = 12, 3, 1, 1, 1
MAX_AGE, STALE, VERIFIER_CACHE = 1, 1, 2

TOML = """
[policy]
algorithms = {algorithms}
lifetime = "{lifetime}s"
token_lifetime = "{token_lifetime}s"
signer_lag = "{signer_lag}s"
cache_max_age = "{max_age}s"
cache_stale = "{stale}s"
verifier_cache = "{verifier_cache}s"
verifier_leeway = "{leeway}s"
clock_skew = "{skew}s"
[schedule]
interval = "1s"
[server]
port = 0
[[keysets]]
name = "acme"
# moto answers a GET of any …/.well-known/jwks.json with a set of its own.
path = "{path}"
public_url = {urls}
"""

PATH = "acme/jwks.json"


def configured(
    account: Account, file: Path, urls: Sequence[str] = (), seconds: Mapping[str, float] | None = None
) -> Path:
    """The configuration of both daemons, in ``file``."""
    durations = {
        "lifetime": LIFETIME,
        "token_lifetime": TOKEN_LIFETIME,
        "signer_lag": SIGNER_LAG,
        "max_age": MAX_AGE,
        "stale": STALE,
        "verifier_cache": VERIFIER_CACHE,
        "leeway": LEEWAY,
        "skew": SKEW,
        **(seconds or {}),
    }
    algorithms, places = json.dumps(account.algorithms), json.dumps(urls)
    policy = TOML.format(algorithms=algorithms, urls=places, path=PATH, **durations)
    file.write_text(account.toml + policy, encoding="utf-8")
    return file


# -- the issuer ------------------------------------------------------------------------------------------------------


#: RFC 7517, appendix A.1: any key on the curve will do to name it.
P256 = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}


@dataclass(frozen=True)
class Signer:
    kid: str
    read_at: float
    sign: Callable[..., str]


def led_to(account: Account, alg: str) -> Signer:
    """The key that issuers are led to now."""
    read_at = time.monotonic()
    if account.scheme == "secretsmanager":
        secret = account.secrets.get_secret_value(SecretId=f"{account.name}/acme/{alg}")
        private = json.loads(secret["SecretString"])
        key = jwt.PyJWK.from_dict(private)
        return Signer(
            private["kid"], read_at, lambda claims, head: jwt.encode(claims, key, algorithm=alg, headers=head)
        )
    pointer = account.s3.get_object(Bucket=account.ledger, Key=f"acme/{alg}.pointer.json")
    named = json.loads(pointer["Body"].read())
    arn = named["key_arn"]
    return Signer(named["kid"], read_at, lambda claims, head: signed_by_kms(account, alg, arn, claims, head))


def signed_by_kms(account: Account, alg: str, arn: str, claims: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    parts = ({"alg": alg, "typ": "JWT", **head}, claims)
    message = b".".join(base64url_encode(json.dumps(part).encode()) for part in parts)
    signature = account.kms.sign(
        KeyId=arn,
        Message=message,
        MessageType="RAW",
        SigningAlgorithm="ECDSA_SHA_256" if alg == "ES256" else "ED25519_SHA_512",
    )["Signature"]
    if alg == "ES256":
        signature = der_to_raw_signature(signature, jwt.PyJWK.from_dict(P256).key.curve)
    return b".".join((message, base64url_encode(signature))).decode("ascii")


@dataclass(frozen=True)
class Token:
    text: str
    kid: str
    exp: int


class Issuer:
    """Looks which key is current as seldom as ``signer_lag`` allows, and signs with it all the time."""

    def __init__(self, account: Account, verifiers: Sequence[Verifier]) -> None:
        self._account, self._verifiers = account, verifiers
        self.kids: dict[str, list[str]] = {alg: [] for alg in account.algorithms}
        self.signed = 0

    def run(self, stop: threading.Event, pace: float) -> None:
        signers: dict[str, Signer] = {}
        while not stop.wait(pace):
            for alg in self._account.algorithms:
                signer = signers.get(alg)
                if signer is None or time.monotonic() - signer.read_at > 0.8 * SIGNER_LAG:
                    signer = signers[alg] = led_to(self._account, alg)
                if time.monotonic() - signer.read_at <= SIGNER_LAG:
                    self._sign(alg, partial(signer.sign, head={"kid": signer.kid}))

    def _sign(self, alg: str, sign: Callable[[dict[str, Any]], str]) -> None:
        now = int(time.time())
        exp = now + TOKEN_LIFETIME
        claims = {"iss": "https://id.acme.example", "sub": str(self.signed), "iat": now, "exp": exp}
        text = sign(claims)
        kid = jwt.get_unverified_header(text)["kid"]
        if kid not in self.kids[alg]:
            self.kids[alg].append(kid)
        self.signed += 1
        for verifier in self._verifiers:
            verifier.deliver(Token(text, kid, exp))


class PythonIssuer(Issuer):
    """The same with ``rotator.signer``, which looks for itself which key is current."""

    def run(self, stop: threading.Event, pace: float) -> None:
        signers = {alg: self._open(alg) for alg in self._account.algorithms}
        while not stop.wait(pace):
            for alg, signer in signers.items():
                # On a machine that is too busy to read in time, it says so and signs nothing.
                with suppress(Stale):
                    self._sign(alg, signer.sign)
        for signer in signers.values():
            signer.close()

    def _open(self, alg: str) -> signing.Signer:
        account = self._account

        class Session(boto3.Session):
            def client(self, *names: Any, **options: Any) -> Any:
                return super().client(*names, **{**options, "endpoint_url": account.endpoint})

        return signing.Signer.open(
            f"{account.scheme}://{account.name}#acme/{alg}",
            ledger=f"s3://{account.ledger}/",
            signer_lag=timedelta(seconds=SIGNER_LAG),
            token_lifetime=timedelta(seconds=TOKEN_LIFETIME),
            session=Session(),
        )


# -- the verifiers ---------------------------------------------------------------------------------------------------


def pyjwt(url: str, algorithms: Sequence[str], cache: float) -> Callable[[str], object]:
    """As PyJWT's documentation does it. Its cooldown of 30 s keeps it from asking again for a kid it does not know."""
    client = jwt.PyJWKClient(url, cache_jwk_set=True, lifespan=cache, timeout=10)

    def verify(text: str) -> object:
        key = client.get_signing_key_from_jwt(text)
        return jwt.decode(text, key, algorithms=list(algorithms), leeway=LEEWAY, options={"require": ["exp"]})

    return verify


def joserfc(url: str, algorithms: Sequence[str], cache: float) -> Callable[[str], object]:
    """The set is kept as long as the policy allows, and what is not in it does not exist."""
    claims = joserfc_jwt.JWTClaimsRegistry(leeway=LEEWAY, exp={"essential": True})
    keys, until = JoserfcKeys([]), 0.0

    def verify(text: str) -> object:
        nonlocal keys, until
        if time.monotonic() >= until:
            keys, until = JoserfcKeys.import_key_set(fetch(url)), time.monotonic() + cache
        token = joserfc_jwt.decode(text, keys, algorithms=list(algorithms))
        claims.validate(token.claims)
        return token.claims

    return verify


def fetch(url: str) -> Any:
    """The document at ``url``, if it is what any verifier can read."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
        assert answer.headers["Content-Type"] == "application/jwk-set+json"
    kids = [key["kid"] for key in found["keys"]]
    assert kids
    assert len(set(kids)) == len(kids)
    assert not any({"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & key.keys() for key in found["keys"])
    return found


@dataclass(order=True)
class Check:
    at: float
    number: int
    token: Token = field(compare=False)


class Verifier:
    """Checks every token twice: when it arrives, and just before nobody may accept it any more."""

    def __init__(self, name: str, verify: Callable[[str], object]) -> None:
        self.name, self._verify = name, verify
        self._due: list[Check] = []
        self._more = threading.Condition()
        self._number = itertools.count()
        self._closing = False
        self.accepted = self.overdue = 0
        self.rejected: list[str] = []

    def deliver(self, token: Token) -> None:
        with self._more:
            for at in (time.time(), token.exp + LEEWAY - 0.4):
                heapq.heappush(self._due, Check(at, next(self._number), token))
            self._more.notify()

    def close(self) -> None:
        with self._more:
            self._closing = True
            self._more.notify()

    def run(self) -> None:
        while check := self._next():
            token = check.token
            try:
                self._verify(token.text)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the user is logged out
                # A machine that is too busy to ask in time is no rejection.
                if time.time() >= token.exp + LEEWAY:
                    self.overdue += 1
                else:
                    left = token.exp + LEEWAY - time.time()
                    self.rejected.append(f"{self.name}, {token.kid}, {left:.2f} s before its end: {exc!r}")
            else:
                self.accepted += 1

    def _next(self) -> Check | None:
        with self._more:
            while not self._due or self._due[0].at > time.time():
                if self._closing and not self._due:
                    return None
                self._more.wait(self._due[0].at - time.time() if self._due else None)
            return heapq.heappop(self._due)


class Traffic:
    """An issuer and verifiers at work, in threads."""

    def __init__(self, account: Account, verifiers: Sequence[Verifier], pace: float) -> None:
        self.verifiers = verifiers
        self.issuer, self.signer = Issuer(account, verifiers), PythonIssuer(account, verifiers)
        self._pace, self._stop = pace, threading.Event()
        self._pool = ThreadPoolExecutor(len(verifiers) + 2)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(each.run, self._stop, self._pace) for each in (self.issuer, self.signer)]
        self._running += [self._pool.submit(verifier.run) for verifier in self.verifiers]
        return self

    def goes_on(self) -> bool:
        """Whether the issuer is at work; raises what ended it."""
        for running in self._running[:2]:
            if running.done():
                running.result()
        return not self._stop.is_set()

    def rejected(self) -> list[str]:
        return [line for verifier in self.verifiers for line in verifier.rejected]

    def end(self) -> None:
        """Issue no more, see the last tokens to their end, and raise what went wrong in a thread."""
        self.__exit__()
        for done in self._running:
            done.result()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for running in self._running[:2]:
            running.exception(30)
        for verifier in self.verifiers:
            verifier.close()
        self._pool.shutdown()


# -- daemons ---------------------------------------------------------------------------------------------------------


class Daemon:
    """``rotator run`` as a process of its own."""

    def __init__(self, file: Path, log: Path) -> None:
        self.log = log
        with log.open("a") as said:
            self._process = subprocess.Popen(command(file, "run"), stdout=subprocess.DEVNULL, stderr=said)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> float:
        """Ask it to end; how many seconds it took to end with exit code 0."""
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(10) == 0
        return time.monotonic() - begun


@contextmanager
def daemon(file: Path, log: Path) -> Iterator[Daemon]:
    running = Daemon(file, log)
    try:
        yield running
    finally:
        running.kill()


def command(file: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "rotator", "--config", str(file), *words]


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


# -- the story -------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What came of a run."""

    seconds: float
    kids: Mapping[str, list[str]]
    kids_of_signer: Mapping[str, list[str]]
    signed: int
    accepted: int
    overdue: int
    rejected: list[str]
    caches: Counter[str]
    steps: Counter[tuple[str, str]]
    failures: list[str]
    keys_made: int
    status: dict[str, Any]
    pointers: Mapping[str, str]
    terminated: list[float]


def run(account: Account, home: Path) -> Told:
    begun = time.monotonic()
    home.mkdir()
    with ExitStack() as stack:
        places = stack.enter_context(nginx.places(f"{account.origin}/", home / "nginx"))
        near, far = (f"{url}/{PATH}" for url in places.urls)
        # rotator looks at one point of presence; what the other one holds is for the policy to know.
        file = configured(account, home / "rotator.toml", [near])
        subprocess.run(command(file, "init"), check=True, stdout=subprocess.DEVNULL)
        engine = app.engines(Configuration.load(file))["acme"]
        first = stack.enter_context(daemon(file, home / "first.log"))
        second = stack.enter_context(daemon(file, home / "second.log"))
        until(lambda: all(map(engine.look().ring.current, account.algorithms)), 20, "a first key signs")

        origin, algorithms = f"{account.origin}/{PATH}", account.algorithms
        verifiers = [
            Verifier("PyJWT, near", pyjwt(near, algorithms, VERIFIER_CACHE)),
            Verifier("PyJWT, far", pyjwt(far, algorithms, VERIFIER_CACHE)),
            Verifier("joserfc, near", joserfc(near, algorithms, VERIFIER_CACHE)),
            Verifier("joserfc, far", joserfc(far, algorithms, VERIFIER_CACHE)),
            # The first to miss a key that leaves.
            Verifier("joserfc, eager", joserfc(origin, algorithms, 0.2)),
        ]
        with Traffic(account, verifiers, pace=0.2) as traffic:

            def signed_with(count: int) -> bool:
                return traffic.goes_on() and all(len(kids) >= count for kids in traffic.issuer.kids.values())

            until(lambda: signed_with(3), 150, "two rotations")
            if account.scheme == "kms":
                # Killed between the record of an attempt and the key, it would leave the other one waiting for five
                # minutes, as it should: KMS may still be making that key.
                until(lambda: made(engine.look().ring, algorithms), 30, "every next key is made")
            second.kill()
            time.sleep(2)
            second = stack.enter_context(daemon(file, second.log))
            until(lambda: signed_with(KIDS), 150, f"{KIDS - 1} rotations")
            traffic.end()

        terminated = [each.terminate() for each in (first, second)]
        status = subprocess.run(command(file, "status", "--json"), check=True, capture_output=True, text=True)
        lines = [*first.lines(), *second.lines()]
        return Told(
            seconds=time.monotonic() - begun,
            kids=traffic.issuer.kids,
            kids_of_signer=traffic.signer.kids,
            signed=traffic.issuer.signed + traffic.signer.signed,
            accepted=sum(verifier.accepted for verifier in verifiers),
            overdue=sum(verifier.overdue for verifier in verifiers),
            rejected=traffic.rejected(),
            caches=places.answers(),
            steps=Counter((line["step"], line.get("kid", "")) for line in lines if line["event"] == "step"),
            # That some verifiers know only RS256 is told at each start.
            failures=[json.dumps(line) for line in lines if line["level"] != "info" and line["event"] != "verifiers"],
            keys_made=account.private_keys_ever_made(),
            status=json.loads(status.stdout)["keysets"][0],
            pointers={alg: led_to(account, alg).kid for alg in algorithms},
            terminated=terminated,
        )


def made(ring: Keyring, algorithms: Sequence[str]) -> bool:
    standing_by = {key.alg for key in ring.keys if key.standby and key.created_at}
    return standing_by >= set(algorithms) and all(key.created_at for key in ring.keys)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Told]]]:
    """Both runs at once: most of the time they sleep."""
    home = tmp_path_factory.mktemp("end-to-end")
    with moto() as secrets, emulators.ministack() as kms, ThreadPoolExecutor(2) as pool:
        accounts = {
            "Secrets Manager + S3": Account(secrets, "secretsmanager", "e2e", ["RS256", "ES256"]),
            "KMS + S3": Account(kms, "kms", "e2e", ["ES256", "EdDSA"]),
        }
        yield {name: pool.submit(run, account, home / account.scheme) for name, account in accounts.items()}


@pytest.mark.parametrize("name", ["Secrets Manager + S3", "KMS + S3"])
def test_no_token_is_rejected_while_keys_rotate_and_a_daemon_is_killed(
    name: str, runs: Mapping[str, Future[Told]]
) -> None:
    told = runs[name].result()
    rotations = min(len(kids) for kids in told.kids.values()) - 1
    print(  # noqa: T201 - what the run was worth
        f"\n{name}: {rotations} rotations in {told.seconds:.0f} s; {told.signed} tokens,"
        f" {told.accepted} times accepted, {len(told.rejected)} times rejected, {told.overdue} not asked in time;"
        f" caches: {dict(told.caches)}; stopped within {max(told.terminated):.1f} s"
    )
    assert told.rejected == []
    assert rotations >= 4
    assert told.accepted >= 1000
    assert told.overdue <= told.accepted / 20, "too busy to prove anything"
    assert told.caches["HIT"] > 0
    assert told.caches["STALE"] > 0, "nobody ever saw a copy that was past its max-age"
    assert told.failures == []

    one_winner = {kid: count for (step, kid), count in told.steps.items() if step in {"create", "activate"}}
    assert set(one_winner.values()) == {1}, "two workers both did it"

    status = told.status
    assert status["error"] is None
    assert status["foreign"] == {}
    recorded = [key["kid"] for key in status["keys"] if key["created_at"]] + [key["kid"] for key in status["forgotten"]]
    assert told.keys_made == len(recorded), "every private key that was made is known"
    current = {key["alg"]: key["kid"] for key in status["keys"] if key["stage"] == "current"}
    assert current == told.pointers
    for alg, kids in told.kids.items():
        assert set(kids) <= set(recorded)
        assert len(told.kids_of_signer[alg]) >= len(kids) - 1
        assert len([key for key in status["keys"] if key["alg"] == alg and key["activated_at"]]) >= 3


# -- the same without a gate -----------------------------------------------------------------------------------------


def at_once(_: KeySet, key: Key) -> datetime | None:
    return key.published_at


def not_at_all(_: Policy, __: Key, superseded_at: datetime) -> datetime:
    return superseded_at


@contextmanager
def short(home: Path, **seconds: float) -> Iterator[tuple[Engine, Traffic]]:
    """A key set that rotates only when it is asked, with traffic and an engine in this process."""
    with moto() as url:
        account = Account(url, "secretsmanager", "short")
        file = configured(account, home / "rotator.toml", seconds={"lifetime": 3600, **seconds})
        loaded = Configuration.load(file)
        engine = app.engines(loaded)["acme"]
        engine.init()
        engine.tick()
        cache: timedelta = loaded.keysets[0].policy.verifier_cache
        origin = f"{account.origin}/{PATH}"
        verifier = Verifier("joserfc", joserfc(origin, ["ES256"], cache.total_seconds()))
        with Traffic(account, [verifier], pace=0.05) as traffic:
            until(lambda: traffic.goes_on() and verifier.accepted > 10, 20, "tokens are accepted")
            yield engine, traffic


def test_without_the_gate_of_a_promotion_the_same_traffic_meets_rejections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with short(tmp_path, verifier_cache=30) as (engine, traffic):
        with pytest.raises(Refused, match="caches may lack the next key"):
            engine.rotate(["ES256"])
        for module in (plan, facts):
            monkeypatch.setattr(module, "gate", at_once)
        # The key that stood by first is in the verifier's copy; its successor is not.
        for _ in range(2):
            assert traffic.rejected() == []
            engine.rotate(["ES256"])
            engine.tick()
        until(traffic.rejected, 10, "a verifier meets a key that its copy lacks")
        traffic.end()
    assert all("No key for kid" in line for line in traffic.rejected())


def test_without_retention_the_same_traffic_meets_rejections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with short(tmp_path, verifier_cache=0.2, max_age=1, stale=0, skew=0) as (engine, traffic):
        for deadline in ("stop_at", "withdraw_at"):
            monkeypatch.setattr(plan, deadline, not_at_all)
        time.sleep(2)
        assert traffic.rejected() == []
        engine.rotate(["ES256"])
        engine.tick()
        until(traffic.rejected, 10, "a verifier meets a token whose key has left")
        traffic.end()
    assert all("No key for kid" in line for line in traffic.rejected())
