"""The life of a key set on an emulator, phase by phase, behind a proxy: what may go wrong in it, and how it must end.

Hours and weeks pass by setting the clock of rotator ahead; the proxy sets the clock of the store ahead with it.
"""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest.mock import patch

from rotator import app
from rotator.errors import RotatorError
from rotator.keys.keyring import Key
from rotator.settings import Configuration
from tests import accounts, emulators
from tests.accounts import Account
from tests.proxy import proxy, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rotator.engine import Engine
    from tests.proxy import Call, Fault, Proxy

ALG = "ES256"

#: The deadlines are far apart: what a fault delays by hours still belongs to its phase.
TOML = """
[policy]
algorithms = ["ES256"]
signer_lag = "1d"
token_lifetime = "3d"
[server]
port = 0
[[keysets]]
name = "acme"
path = "acme/jwks.json"
public_url = "{origin}/acme/jwks.json"
"""

#: What happens in a life, in this order, and how long nothing happens before it.
PHASES: Mapping[str, timedelta] = {
    "init": timedelta(0),
    "first keys": timedelta(0),
    "rotation": timedelta(days=31),
    "stop": timedelta(days=2),
    "retirement": timedelta(days=4),
    "revoke": timedelta(days=1),
    "revoke in a promotion": timedelta(days=31),
}

#: One engine is built at a time: while it is, the clock of the composition root is its.
_building = threading.Lock()


@dataclass(frozen=True)
class Phase:
    """What came of a phase: its calls, those requests that met a fault, and the state once all was put right."""

    calls: list[Call]
    hit: list[Call]
    error: RotatorError | None
    state: dict[str, Any]

    def differs_from(self, fair: Phase) -> dict[str, Any]:
        """What is not as in ``fair``: as it is here, and as it is there."""
        return {name: (told, fair.state[name]) for name, told in self.state.items() if told != fair.state[name]}


class Life:
    """A key set of its own in the account behind ``proxy``."""

    def __init__(self, home: Path, proxy: Proxy, upstream: str, scheme: str) -> None:
        name = f"life-{uuid.uuid4().hex[:12]}"
        self.proxy = proxy
        self.account = Account(upstream, scheme, name, [ALG], through=proxy.url)
        self.file = home / f"{name}.toml"
        self.file.write_text(self.account.toml + TOML.format(origin=self.account.origin), encoding="ascii")
        self._configuration = Configuration.load(self.file)
        self._attempts: set[datetime] = set()
        self.stolen = ""
        """The kid of the key that a person revokes."""
        self.ahead = timedelta(0)
        self.wait(timedelta(0))

    def wait(self, time: timedelta) -> None:
        self.ahead += time
        self.proxy.ahead = self.ahead

    @property
    def engine(self) -> Engine:
        """A worker that begins now and remembers nothing."""
        with _building, patch.object(app, "now", lambda: datetime.now(UTC) + self.ahead):
            return app.engines(self._configuration)["acme"]

    @property
    def revoked(self) -> bool:
        """Whether the revoke of :attr:`stolen` is recorded."""
        key = self.engine.ledger().by_kid(self.stolen)
        return bool(key and key.revoked_at)

    def live(self, phase: str, act: Act) -> Phase:
        """``phase`` as ``act`` does it, in whatever weather; then time passes in fair weather, and all is put right."""
        self.wait(PHASES[phase])
        if phase == "revoke in a promotion":
            self._stall_in_a_promotion()
        if phase.startswith("revoke"):
            ring = self.engine.ledger()
            self.stolen = kid_of(ring.promoting(ALG) or ring.current(ALG))
        self.proxy.begin()
        error = None
        try:
            act(self, phase)
        except RotatorError as exc:
            error = exc
        calls, hit = self.proxy.begin()
        self._put_right(phase)
        return Phase(calls, hit, error, self.state())

    def _stall_in_a_promotion(self) -> None:
        """A worker records that it promotes a key, and is heard of no more."""
        recorded = False

        def weather(call: Call) -> Fault | None:
            nonlocal recorded
            if recorded:
                return refused
            recorded = call.operation == "PutObject"
            return None

        self.proxy.begin(weather)
        with suppress(RotatorError):
            self.engine.tick()
        self.proxy.begin()

    def _put_right(self, phase: str) -> None:
        if phase == "init":
            self.engine.init()
            return
        if phase.startswith("revoke"):
            # Whoever was told that nothing was recorded says it again; said twice, it is the same.
            self.engine.revoke(self.stolen, "stolen")
        # First what another attempt at CreateKey waits for, then the interval of the sweep.
        for time in (timedelta(minutes=6), timedelta(hours=7)):
            self.wait(time)
            outcome = self.engine.tick()
            self._attempts |= set(outcome.ring.attempts)
            assert outcome.plan.step is None
            assert outcome.ring.trouble is None
            assert outcome.clock_fault is None
            assert outcome.foreign == {}

    # -- what must be the same in the end ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that there is, with keys named by their age, and without what differs from life to life."""
        if self.account.scheme == "kms":
            assert self.account.private_keys_ever_made() <= len(self._attempts)
        ring = self.engine.ledger()
        names: dict[str | None, str] = {}
        for number, key in enumerate(ring.keys, 1):
            names.update({each: f"key {number}" for each in (key.id, key.kid, key.handle) if each})

        def named(each: str | None) -> str:
            return names.get(each, "none" if each is None else "unknown")

        return {
            "ledger": {named(key.id): facts_of(key) for key in ring.keys},
            "forgotten": len(ring.retired),
            "successions": dict(ring.successions),
            "document": self._document(named),
            **(self._in_kms(named) if self.account.scheme == "kms" else self._in_secrets_manager(named)),
        }

    def _document(self, named: Callable[[str], str]) -> object:
        found = self.account.s3.list_objects_v2(Bucket=self.account.public).get("Contents", [])
        # A probe that cannot be deleted leaves one byte behind, which harms nobody.
        there = [each["Key"] for each in found if ".probe-" not in each["Key"]]
        assert there in ([], ["acme/jwks.json"])
        if not there:
            return None
        got = self.account.s3.get_object(Bucket=self.account.public, Key="acme/jwks.json")
        kids = sorted(named(key["kid"]) for key in json.load(got["Body"])["keys"])
        return kids, got["CacheControl"], got["ContentType"]

    def _in_secrets_manager(self, named: Callable[[str], str]) -> dict[str, Any]:
        names = [each["Name"] for each in self.account.secrets.list_secrets()["SecretList"]]
        if f"{self.account.name}/acme/{ALG}" not in names:
            return {"secret": None}
        return {
            "secret": {
                named(kid): sorted(
                    "rotator" if label.startswith("rotator-") else label
                    for label in labels
                    # A fence that was begun twice leaves two copies of the key, until the next one.
                    if not label.startswith("rotator-fence-")
                )
                for kid, labels in self.account.in_secret(ALG).items()
            }
        }

    def _in_kms(self, named: Callable[[str | None], str]) -> dict[str, Any]:
        keys, aliases = {}, {}
        for arn in self.account.kms_keys():
            metadata = self.account.kms.describe_key(KeyId=arn)["KeyMetadata"]
            # ministack lets a DisableKey that comes late hide that deletion was scheduled; AWS refuses such a call.
            state = "PendingDeletion" if "DeletionDate" in metadata else metadata["KeyState"]
            # A key that was made and forgotten is no orphan once it is scheduled for deletion.
            if named(arn) != "unknown" or state != "PendingDeletion":
                keys[named(arn)] = state
            for alias in self.account.kms.list_aliases(KeyId=arn)["Aliases"]:
                name = alias["AliasName"].rpartition("/")[2]
                # Issuers do not follow it; a move of it that failed is made up for by the next move or disable.
                if name != "current":
                    aliases[named(name)] = named(arn)
        found = self.account.s3.list_objects_v2(Bucket=self.account.ledger).get("Contents", [])
        pointer = None
        if f"acme/{ALG}.pointer.json" in [each["Key"] for each in found]:
            got = self.account.s3.get_object(Bucket=self.account.ledger, Key=f"acme/{ALG}.pointer.json")
            pointer = named(json.load(got["Body"])["id"])
        return {"kms": keys, "aliases": aliases, "pointer": pointer}


def facts_of(key: Key) -> tuple[str, list[str]]:
    happened = [each.name for each in fields(Key) if each.name.endswith(("_at", "_due")) and getattr(key, each.name)]
    return str(key.stage), happened


def kid_of(key: Key | None) -> str:
    assert key
    assert key.kid
    return key.kid


Act: TypeAlias = "Callable[[Life, str], None]"
"""Does a phase of a life, or tries to."""


def done_here(life: Life, phase: str) -> None:
    """``phase`` in this process, as the commands do it."""
    engine = life.engine
    if phase == "init":
        engine.init()
        return
    if phase.startswith("revoke"):
        engine.revoke(life.stolen, "stolen")
    engine.tick()


# -- many of them ----------------------------------------------------------------------------------------------------

#: The kind of key store, and what starts the emulator for it.
SERVERS: Mapping[str, tuple[str, Callable[[], AbstractContextManager[str]]]] = {
    "Secrets Manager + S3": ("secretsmanager", accounts.moto),
    "KMS + S3": ("kms", emulators.ministack),
}


class Lives:
    """Lives on one emulator, several at once, and a fair one to compare them with."""

    def __init__(self, make: Callable[[Proxy], Life], proxies: Sequence[Proxy], act: Act) -> None:
        self._make, self._count = make, len(proxies)
        self._proxies: SimpleQueue[Proxy] = SimpleQueue()
        for each in proxies:
            self._proxies.put(each)
        self.fair = self._live(dict.fromkeys(PHASES, act))

    def all(self, staged: Sequence[Mapping[str, Act]]) -> list[dict[str, Phase]]:
        """What comes of a life for each of ``staged``, which say how its phases go; the others are done here."""
        with ThreadPoolExecutor(self._count) as pool:
            return list(pool.map(self._live, staged))

    def _live(self, staged: Mapping[str, Act]) -> dict[str, Phase]:
        proxy = self._proxies.get()
        try:
            life = self._make(proxy)
            return {phase: life.live(phase, staged.get(phase, done_here)) for phase in PHASES}
        finally:
            self._proxies.put(proxy)


@contextmanager
def at_once(server: str, home: Path, count: int, act: Act = done_here) -> Iterator[Lives]:
    """``count`` lives at once on a new emulator; ``act`` does the fair one."""
    scheme, start = SERVERS[server]
    with ExitStack() as stack:
        upstream = stack.enter_context(start())
        proxies = [stack.enter_context(proxy(upstream)) for _ in range(count)]
        yield Lives(lambda each: Life(home, each, upstream, scheme), proxies, act)
