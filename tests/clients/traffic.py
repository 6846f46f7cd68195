"""An issuer and its verifiers at work: each token is checked when it arrives, and in the last moment of its life."""

from __future__ import annotations

import heapq
import itertools
import json
import threading
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from rotator.keys import material
from rotator.keys.algorithms import algorithm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from tests.clients.clients import Running

Phase = Literal["steady", "rotation", "revoke"]
PHASES: tuple[Phase, ...] = ("steady", "rotation", "revoke")

ISSUER, AUDIENCE = "https://id.acme.example", "api"

#: Seconds between two tokens of one algorithm, and before its end at which a token is checked again.
PACE, BRINK = 0.8, 0.6


@dataclass(frozen=True)
class Signing:
    """A private key that issuers were led to."""

    alg: str
    kid: str
    private: PrivateKeyTypes

    def token(self, number: int, lifetime: int, *, stolen: bool = False) -> Token:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(number), "iat": now, "exp": now + lifetime}
        parts = ({"alg": self.alg, "kid": self.kid, "typ": "JWT"}, claims)
        message = ".".join(material.b64u(json.dumps(part).encode()) for part in parts)
        signature = material.sign(self.private, algorithm(self.alg), message.encode())
        return Token(f"{message}.{material.b64u(signature)}", self.alg, self.kid, now + lifetime, stolen)


@dataclass(frozen=True)
class Token:
    text: str
    alg: str
    kid: str
    exp: int
    stolen: bool = False
    """Signed with a copy of a key, which is revoked at the same time: how long it is trusted is told, not judged."""


class Pointer:
    """What an issuer on this machine follows: ``pointer.json``, and the PEM file that it names."""

    def __init__(self, directory: Path, alg: str) -> None:
        self._directory, self._alg = directory / alg, alg
        self._kept: Signing | None = None

    def read(self) -> Signing | None:
        """The key that signs now; ``None``: none does."""
        with suppress(FileNotFoundError):
            said = json.loads((self._directory / "pointer.json").read_bytes())
            if said["kid"] is None:
                return None
            if self._kept is None or self._kept.kid != said["kid"]:
                pem = (self._directory / said["key"]).read_bytes()
                self._kept = Signing(self._alg, said["kid"], material.load_private_pem(pem))
            return self._kept
        return None


class Issuer:
    """Looks which key is current as seldom as ``signer_lag`` allows, and signs with it all the time."""

    def __init__(self, keys: Path, algorithms: Sequence[str], lifetime: int, signer_lag: float) -> None:
        self._pointers = {alg: Pointer(keys, alg) for alg in algorithms}
        self._lifetime, self._lag = lifetime, signer_lag
        self._numbers = itertools.count()
        self.kids: dict[str, list[str]] = {alg: [] for alg in algorithms}
        self.began: dict[str, float] = {}
        self.signing: dict[str, Signing] = {}
        self._read_at = dict.fromkeys(algorithms, float("-inf"))

    def tokens(self) -> Iterator[Token]:
        """A token of each algorithm that has a key."""
        for alg, pointer in self._pointers.items():
            if time.monotonic() - self._read_at[alg] > self._lag - PACE - 0.1:
                self._read_at[alg] = time.monotonic()
                found = pointer.read()
                if found is None:
                    self.signing.pop(alg, None)
                else:
                    self.signing[alg] = found
            signing = self.signing.get(alg)
            if signing and time.monotonic() - self._read_at[alg] < self._lag:
                if signing.kid not in self.kids[alg]:
                    self.began[signing.kid] = time.time()
                    self.kids[alg].append(signing.kid)
                yield signing.token(next(self._numbers), self._lifetime)


@dataclass
class Count:
    """What a client said to the tokens of one algorithm in one phase."""

    accepted: int = 0
    rejected: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return self.accepted + len(self.rejected)


@dataclass(order=True)
class Check:
    at: float
    number: int
    token: Token = field(compare=False)


class Checker:
    """Gives a client the tokens it is due, and counts what it says."""

    def __init__(self, running: Running, leeway: float, traffic: Traffic) -> None:
        self.running, self._leeway, self._traffic = running, leeway, traffic
        self._due: list[Check] = []
        self._more = threading.Condition()
        self._number = itertools.count()
        self._closing = False
        self.counts: dict[tuple[str, Phase], Count] = defaultdict(Count)
        self.overdue = 0
        #: Revoked kid → when a stolen token was first rejected; ``None``: not yet.
        self.trusted: dict[str, float | None] = {}

    def deliver(self, token: Token) -> None:
        if self.running.client.verifier.uses(token.alg):
            self._push(token, time.time(), token.exp + self._leeway - BRINK)

    def _push(self, token: Token, *moments: float) -> None:
        with self._more:
            for at in moments:
                heapq.heappush(self._due, Check(at, next(self._number), token))
            self._more.notify()

    def steal(self, token: Token) -> None:
        """Ask for a stolen token until it is rejected."""
        if self.running.client.verifier.uses(token.alg):
            self.trusted[token.kid] = None
            self._push(token, time.time())

    def close(self) -> None:
        with self._more:
            self._closing = True
            self._more.notify()

    def run(self) -> None:
        while check := self._next():
            self._check(check.token)

    def _check(self, token: Token) -> None:
        phase = self._traffic.phase(token.alg)
        said = self.running.ask(token.text)
        now = time.time()
        if token.stolen:
            self._trust(token, said, now)
        elif token.kid in self._traffic.revoked:
            # The one exception to the promise.
            pass
        elif said == "ok":
            self.counts[token.alg, phase].accepted += 1
        elif now >= token.exp + self._leeway:
            # A machine that is too busy to ask in time is no rejection.
            self.overdue += 1
        else:
            left = token.exp + self._leeway - now
            self.counts[token.alg, phase].rejected.append(f"{token.kid}, {left:.1f} s before its end: {said}")

    def _trust(self, token: Token, said: str, now: float) -> None:
        if said != "ok":
            self.trusted[token.kid] = now
        elif not self._closing:
            self._push(token, now + 0.5)

    def _next(self) -> Check | None:
        with self._more:
            while True:
                if self._closing and not self._due:
                    return None
                wait = self._due[0].at - time.time() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)
                self._more.wait(wait)


class Traffic:
    """The issuer and the checkers in threads; what is told about them may be read all the time."""

    def __init__(self, issuer: Issuer, clients: Sequence[Running], leeway: float) -> None:
        self.issuer = issuer
        self.checkers = [Checker(client, leeway, self) for client in clients]
        self.revoked: set[str] = set()
        self._revoking: set[str] = set()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(clients) + 1)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(checker.run) for checker in self.checkers]
        self._running.append(self._pool.submit(self._issue))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Sign no more, and wait until each token was asked for to its end."""
        self._stop.set()
        for checker in self.checkers:
            checker.close()
        self._pool.shutdown()

    def phase(self, alg: str) -> Phase:
        if alg in self._revoking:
            return "revoke"
        return "rotation" if len(self.issuer.kids[alg]) > 1 else "steady"

    def revoke(self, stolen: Mapping[str, Token]) -> None:
        """From now on the keys of these tokens, one of each algorithm, are revoked."""
        self._revoking |= stolen.keys()
        self.revoked |= {token.kid for token in stolen.values()}
        for checker in self.checkers:
            for token in stolen.values():
                checker.steal(token)

    def rejected(self) -> list[str]:
        return [
            f"{checker.running.client.title}, {alg}, {phase}: {line}"
            for checker in self.checkers
            for (alg, phase), count in list(checker.counts.items())
            for line in count.rejected
        ]

    def goes_on(self) -> bool:
        """``True``, or what went wrong in a thread."""
        for each in self._running:
            if each.done():
                each.result()
        return True

    def _issue(self) -> None:
        while not self._stop.wait(PACE):
            for token in self.issuer.tokens():
                for checker in self.checkers:
                    checker.deliver(token)
