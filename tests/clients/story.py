"""The run: three rotations and more, one algorithm that goes and one that comes, a revoke; and what came of it.

``rotator run`` on local files, nginx as the CDN in front of every client. rotator looks at the origin, which knows each
key first: that the copies in nginx and in the clients are older is for the policy to know. First the schedule rotates;
then a person asks for a rotation every moment, and gets it as soon as it is safe. Take the gate away
(``tests.clients.unguarded``), and the same person gets it at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rotator import app
from rotator.keys.plan import gate
from rotator.serve import Server, Site
from rotator.settings import Configuration
from tests import nginx
from tests.clients import certificate
from tests.clients.clients import CLIENTS, Client, MissingError, Running, prepare
from tests.clients.drivers.line import Setup
from tests.clients.traffic import AUDIENCE, ISSUER, PACE, Count, Issuer, Phase, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from rotator.engine import Engine
    from rotator.keys.keyring import Key

#: The policy, in seconds: a second here is some minutes or hours of a policy for people.
LIFETIME, TOKEN_LIFETIME, SIGNER_LAG, LEEWAY, SKEW = 20, 4, 2, 1, 1
MAX_AGE, STALE, VERIFIER_CACHE = 6, 2, 6
STALENESS = MAX_AGE + STALE
PREPUBLISH = STALENESS + VERIFIER_CACHE + 2 * SKEW
#: A key that left is trusted for so long at most, and a moment for the clocks of caches, which count whole seconds.
TRUSTED = STALENESS + VERIFIER_CACHE + 2

#: What is configured first, and what after the change: RS384 goes; EdDSA, Ed25519 and ML-DSA-65 come.
FIRST = ("RS256", "PS256", "ES256", "RS384")
SECOND = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519", "ML-DSA-65")
GONE = tuple(sorted(set(FIRST) - set(SECOND)))
#: The columns of the table.
COLUMNS = (*FIRST, *(alg for alg in SECOND if alg not in FIRST))

ROTATIONS = 3

#: What the command line exits with when it would be unsafe.
REFUSED = 3
#: What it says where the daemon was faster with the steps; the request itself stands in the ledger.
OVERTAKEN = "changed by somebody else"

TOML = """
[stores]
keys = "file://{home}/keys"
ledger = "file://{home}/ledger"
public = "file://{home}/public"
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
max_keys = 100
max_creations_per_day = 500
[schedule]
interval = "1s"
[server]
port = 0
[[keysets]]
name = "acme"
issuer = "{issuer}"
public_url = "{origin}/{path}"
[[keysets.views]]
name = "classic"
shows = {shows}
public_url = "{origin}/{view}"
"""

PATH = "acme/.well-known/jwks.json"
#: For clients that read no set with an ML-DSA key (``kty: AKP``) in it.
VIEW = "acme/.well-known/jwks-classic.json"
SHOWN = tuple(alg for alg in COLUMNS if not alg.startswith("ML-DSA"))


def path_for(client: Client) -> str:
    """The document that ``client`` is told to read."""
    return VIEW if "AKP" in client.verifier.spoiled_by else PATH


@dataclass
class Told:
    """What came of a run."""

    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Client that could not be run here → why."""
    counts: dict[tuple[str, str, Phase], Count] = field(default_factory=dict)
    """(Client, alg, phase) → what it said to tokens that it must accept."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """(Client, alg that it is known to refuse) → what it said to a good token."""
    trusted: dict[str, list[float | None]] = field(default_factory=dict)
    """Client → how many seconds it trusted each revoked key after that had left; ``None``: to the end of the run."""
    rotations: dict[str, int] = field(default_factory=dict)
    documents: list[bytes] = field(default_factory=list)
    """Each document that was public, in their order."""
    around: list[tuple[bytes, bytes]] = field(default_factory=list)
    """What was public before a rotation, and after it."""
    caches: Counter[str] = field(default_factory=Counter)
    impatient: int = 0
    """How often a person was told to wait with a rotation."""
    overdue: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def rejected(self, client: str | None = None) -> list[str]:
        """Each token that was rejected, by ``client`` or by anybody."""
        return [
            f"{name}, {alg}, {phase}: {line}"
            for (name, alg, phase), count in self.counts.items()
            for line in count.rejected
            if client in {None, name}
        ]

    def asked(self, client: str | None = None) -> int:
        """How many times ``client``, or anybody, was asked."""
        return sum(count.asked for (name, _, _), count in self.counts.items() if client in {None, name})


class Person:
    """Configures ``rotator``, runs its daemon, and asks it for things; with or without prepublish."""

    def __init__(self, home: Path, ca: Path, *, guarded: bool) -> None:
        self.file, self._log = home / "rotator.toml", home / "daemon.log"
        self._guarded = guarded
        self._environment = {**os.environ, "SSL_CERT_FILE": str(ca)}

    def configures(self, algorithms: Sequence[str], lifetime: int, origin: str) -> None:
        text = TOML.format(
            home=self.file.parent,
            algorithms=json.dumps(algorithms),
            lifetime=lifetime,
            token_lifetime=TOKEN_LIFETIME,
            signer_lag=SIGNER_LAG,
            max_age=MAX_AGE,
            stale=STALE,
            verifier_cache=VERIFIER_CACHE,
            leeway=LEEWAY,
            skew=SKEW,
            issuer=ISSUER,
            origin=origin,
            path=PATH,
            view=VIEW,
            shows=json.dumps(SHOWN),
        )
        self.file.write_text(text, encoding="utf-8")

    @contextmanager
    def terminal(self) -> Iterator[None]:
        command = [sys.executable, "-m", "tests.clients.terminal", str(self.file)]
        self._terminal = subprocess.Popen(
            [*command, *([] if self._guarded else ["--unguarded"])],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield
        finally:
            self._terminal.communicate(timeout=30)

    def asks(self, *words: str) -> tuple[int, str]:
        """The exit code of ``rotator`` with these words, and what it says."""
        assert self._terminal.stdin is not None
        assert self._terminal.stdout is not None
        self._terminal.stdin.write(json.dumps(words) + "\n")
        self._terminal.stdin.flush()
        code, said = json.loads(self._terminal.stdout.readline())
        return code, said

    def tells(self, *words: str) -> None:
        code, said = self.asks(*words)
        assert code == 0 or OVERTAKEN in said, f"rotator {' '.join(words)}: {said}"

    @contextmanager
    def daemon(self) -> Iterator[None]:
        module = "rotator" if self._guarded else "tests.clients.unguarded"
        command = [sys.executable, "-m", module, "--config", str(self.file), "run"]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()

    def complaints(self) -> list[str]:
        """What the daemon said is wrong; that some verifiers cannot use some algorithm is what the table is about."""
        lines = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [json.dumps(line) for line in lines if line["level"] != "info" and line["event"] != "verifiers"]


class Watch:
    """Notes each document that the origin serves, and from when."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[tuple[float, bytes]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def at(self, moment: float) -> bytes:
        """What was public at ``moment``."""
        return [body for since, body in self.seen if since <= moment][-1]

    def without(self, kids: Collection[str]) -> float | None:
        """Since when none of ``kids`` is public any more; ``None``: one still is."""
        shown = [index for index, (_, body) in enumerate(self.seen) if any(kid.encode() in body for kid in kids)]
        return self.seen[shown[-1] + 1][0] if shown[-1] + 1 < len(self.seen) else None

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            with urllib.request.urlopen(self._url, timeout=10) as found:
                body = found.read()
            if not self.seen or self.seen[-1][1] != body:
                self.seen.append((time.time(), body))


@contextmanager
def origin(file: Path) -> Iterator[str]:
    """What the CDN asks: the public documents, with the headers that rotator wrote for them."""
    documents = app.public_documents(Configuration.load(file))
    server = Server(Site(documents, [("acme", PATH), ("acme", VIEW)]), "127.0.0.1", 0)
    try:
        yield server.url
    finally:
        server.close()


def run(*, guarded: bool = True, clients: Sequence[Client] = CLIENTS, say: Callable[[str], None] = print) -> Told:
    """Lead ``clients`` through the story; without ``guarded``, with prepublish set to zero."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rotator-clients-")))
        return _Story(home, clients, say, guarded=guarded).told(stack)


class _Story:
    def __init__(self, home: Path, clients: Sequence[Client], say: Callable[[str], None], *, guarded: bool) -> None:
        self._home, self._clients, self._tell = home, clients, say
        self._begun = time.monotonic()
        self._gone_at = 0.0
        self._result = Told()
        self._ca, self._certificate = certificate.made(home)
        self._person = Person(home, self._ca, guarded=guarded)

    def told(self, stack: ExitStack) -> Told:
        result, person = self._result, self._person
        # The origin finds its documents by a configuration, which then names the origin.
        person.configures(FIRST, LIFETIME, "http://127.0.0.1")
        there = stack.enter_context(origin(person.file))
        places = stack.enter_context(nginx.places(there, self._home / "nginx", 1, self._certificate))
        person.configures(FIRST, LIFETIME, there)
        running = self._started(stack, places.urls[0])
        stack.enter_context(person.terminal())
        person.tells("init")
        with person.daemon():
            self._until(lambda: self._has_current(FIRST), 60, "a first key of each algorithm signs")
            issuer = Issuer(self._home / "keys" / "acme", COLUMNS, TOKEN_LIFETIME, SIGNER_LAG)
            watch, other = (stack.enter_context(Watch(f"{there}/{path}")) for path in (PATH, VIEW))
            traffic = stack.enter_context(Traffic(issuer, running, LEEWAY))
            self._until(lambda: traffic.goes_on() and _rotated(issuer, FIRST, 1), 60, "the schedule rotates")
        self._note("the schedule has rotated every key")
        # From here on only a person rotates.
        person.configures(SECOND, 3600, there)
        with person.daemon():
            self._until(lambda: traffic.goes_on() and _rotated(issuer, SECOND, 0), 60, "the new algorithms sign")
            self._note(f"{' and '.join(alg for alg in SECOND if alg not in FIRST)} sign")
            for alg in GONE:
                person.tells("retire", "acme", "--alg", alg)
            self._until(lambda: traffic.goes_on() and not set(GONE) & issuer.signing.keys(), 20, "the old one ends")
            self._note(f"{' and '.join(GONE)} ended")
            # Whoever is not told to wait gets many more in that time.
            self._rotate(traffic, ROTATIONS, ROTATIONS * PREPUBLISH)
            self._until(lambda: traffic.goes_on() and self._all_stand_by(), 60, "every next key is known")
            self._revoke(traffic, watch)
            # Some clients look again only when they meet a new kid.
            self._rotate(traffic, min(len(issuer.kids[alg]) for alg in SECOND))
            time.sleep(2 * PACE + SIGNER_LAG)
            for client in running:
                for alg in set(COLUMNS) & issuer.signing.keys():
                    if not client.client.verifier.uses(alg):
                        token = issuer.signing[alg].token(0, 60)
                        result.refused[client.client.name, alg] = client.ask(token.text)
        # Every token is asked for to its end before anything is counted.
        traffic.end()
        traffic.goes_on()
        self._count(traffic, watch, other)
        result.caches = places.answers()
        result.failures += person.complaints()
        result.seconds = time.monotonic() - self._begun
        return result

    def _started(self, stack: ExitStack, place: str) -> list[Running]:
        started = []
        lacking = ""
        if any(client.npm for client in self._clients):
            try:
                prepare()
            except MissingError as exc:
                lacking = str(exc)
        for client in self._clients:
            if client.npm and lacking:
                self._result.missing[client.name] = lacking
            else:
                url = f"{place}/{path_for(client)}"
                setup = Setup(url, VERIFIER_CACHE, LEEWAY, ISSUER, AUDIENCE, list(COLUMNS), str(self._ca))
                started.append(stack.enter_context(Running(client, setup, self._home / f"{client.name}.log")))
        ready = []
        for each in started:
            try:
                each.ready()
            except MissingError as exc:
                self._result.missing[each.client.name] = str(exc)
            else:
                self._result.versions[each.client.name] = each.version
                ready.append(each)
        self._note(f"{len(ready)} clients are ready")
        return ready

    def _rotate(self, traffic: Traffic, times: int, seconds: float = 0.0) -> None:
        """A person asks for a rotation every moment, each time twice: so long, and until there were so many."""
        issuer = traffic.issuer
        begun = time.monotonic()
        while traffic.goes_on() and not (_rotated(issuer, SECOND, times) and time.monotonic() > begun + seconds):
            assert time.monotonic() < begun + 180, f"too few rotations: {issuer.kids}"
            for alg in sorted(SECOND * 2):
                self._ask_to_rotate(alg)
            time.sleep(0.5)
        self._note(f"a person rotated each key {times} times and more")

    def _ask_to_rotate(self, alg: str) -> None:
        code, said = self._person.asks("rotate", "acme", "--alg", alg)
        if code == REFUSED:
            self._result.impatient += 1
        elif code and OVERTAKEN not in said:
            self._result.failures.append(f"rotate: {said}")

    def _revoke(self, traffic: Traffic, watch: Watch) -> None:
        """Every current key is revoked at once, while somebody has copies of them."""
        issuer = traffic.issuer
        self._until(
            lambda: all(issuer.signing[alg].kid == key.kid for alg, key in self._current(SECOND).items()),
            20,
            "the issuer has caught up",
        )
        stolen = {alg: issuer.signing[alg].token(0, 3600, stolen=True) for alg in SECOND}
        traffic.revoke(stolen)
        for token in stolen.values():
            self._person.tells("revoke", "acme", token.kid, "--reason", "drill", "--yes", "--wait", "60s")
        self._until(lambda: traffic.goes_on() and watch.without(traffic.revoked), 20, "every revoked key is gone")
        self._gone_at = watch.without(traffic.revoked) or 0.0
        self._note("every current key is revoked, and gone where rotator looks")
        self._until(
            lambda: traffic.goes_on() and time.time() > self._gone_at + TRUSTED + 2, 60, "what is revoked is forgotten"
        )

    def _count(self, traffic: Traffic, watch: Watch, other: Watch) -> None:
        result = self._result
        for checker in traffic.checkers:
            name = checker.running.client.name
            for (alg, phase), count in checker.counts.items():
                result.counts[name, alg, phase] = count
            result.trusted[name] = [at and max(0.0, at - self._gone_at) for at in checker.trusted.values()]
            result.overdue += checker.overdue
        issuer = traffic.issuer
        result.rotations = {alg: len(kids) - 1 for alg, kids in issuer.kids.items()}
        result.documents = [body for _, body in [*watch.seen, *other.seen]]
        for alg in SECOND:
            # An issuer notices a rotation up to ``signer_lag`` after it: so long before that nobody had rotated yet.
            quiet = [issuer.began[kid] - SIGNER_LAG - 2 for kid in issuer.kids[alg][1:]]
            moments = list(pairwise([*quiet, time.time()]))
            result.around += [(each.at(one), each.at(two)) for each in (watch, other) for one, two in moments]

    # -- what the ledger says ----------------------------------------------------------------------------------------

    def _engine(self) -> Engine:
        return app.engines(Configuration.load(self._person.file))["acme"]

    def _current(self, algorithms: Sequence[str]) -> dict[str, Key]:
        ring = self._engine().look().ring
        found = {alg: ring.current(alg) for alg in algorithms}
        return {alg: key for alg, key in found.items() if key}

    def _has_current(self, algorithms: Sequence[str]) -> bool:
        return self._current(algorithms).keys() == set(algorithms)

    def _all_stand_by(self) -> bool:
        engine = self._engine()
        now = datetime.now(UTC)
        known = {
            key.alg
            for key in engine.look().ring.keys
            if key.standby and (opens := gate(engine.keyset, key)) and opens <= now
        }
        return known >= set(SECOND)

    def _until(self, true: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.25)

    def _note(self, what: str) -> None:
        self._tell(f"{time.monotonic() - self._begun:5.0f} s  {what}")


def _rotated(issuer: Issuer, algorithms: Sequence[str], times: int) -> bool:
    return all(len(issuer.kids[alg]) > times for alg in algorithms)
