"""Keys in KMS, on an emulator that keeps key states right; what it cannot show is staged on the wire."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import jwt
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from botocore.httpsession import URLLib3Session

from rotator.documents.filesystem import FilesystemDocuments
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Headers, Reading
from rotator.stores.kms import KmsKeys
from tests.contracts.key_store import KeyStoreContract, again, intend, ref_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_kms import KMSClient
    from mypy_boto3_resourcegroupstaggingapi import ResourceGroupsTaggingAPIClient

    from rotator.ports import Intent, KeyRef

MESSAGE = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ0ZXN0In0"
ES256, EDDSA, RS256 = ALGORITHMS["ES256"], ALGORITHMS["EdDSA"], ALGORITHMS["RS256"]
JSON = Headers("application/json", None)

#: What the emulator has of what KMS has; for ML-DSA see test_kms_ml_dsa.py.
EMULATED = [row.alg for row in ALGORITHMS.values() if row.kms_signing_algorithm and row.kty != "AKP"]


class Raw(BytesIO):
    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


@functools.cache
def build(service: str, url: str, attempts: int) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
    return boto3.client(service, endpoint_url=url, config=config)  # type: ignore[call-overload]


class Wire:
    """The clients a store is given, every request they send, and the faults staged between them and AWS."""

    def __init__(self, url: str) -> None:
        self._kms, self._kms_once = build("kms", url, 3), build("kms", url, 1)
        self._tagging = build("resourcegroupstaggingapi", url, 3)
        self._faults: list[tuple[str, Callable[[Any], AWSResponse | None]]] = []
        self._lock = threading.Lock()
        self.sent: list[tuple[str, dict[str, Any]]] = []

    @contextmanager
    def connected(self) -> Iterator[None]:
        clients = (self._kms, self._kms_once, self._tagging)
        for each in clients:
            each.meta.events.register("before-send", self._before_send)
        yield
        for each in clients:
            each.meta.events.unregister("before-send", self._before_send)

    def client(self) -> KMSClient:
        made: KMSClient = self._kms
        return made

    def client_once(self) -> KMSClient:
        made: KMSClient = self._kms_once
        return made

    def tagging(self) -> ResourceGroupsTaggingAPIClient:
        made: ResourceGroupsTaggingAPIClient = self._tagging
        return made

    def _before_send(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        operation = event_name.rsplit(".", 1)[1]
        with self._lock:
            self.sent.append((operation, json.loads(request.body)))
            staged = next((fault for fault in self._faults if fault[0] == operation), None)
            if staged:
                self._faults.remove(staged)
        return staged[1](request) if staged else None

    def counted(self) -> Counter[str]:
        """How often each operation went over the wire since this was last asked."""
        counts = Counter(operation for operation, _ in self.sent)
        self.sent.clear()
        return counts

    def stage(self, operation: str, fault: Callable[[Any], AWSResponse | None], times: int = 1) -> None:
        self._faults += [(operation, fault)] * times

    def answer(self, operation: str, body: dict[str, Any], status: int = 200, times: int = 1) -> None:
        """AWS is not asked, and answers with ``body``."""
        self.stage(
            operation,
            lambda request: AWSResponse(request.url, status, HTTPHeaders(), Raw(json.dumps(body).encode())),
            times,
        )

    def refuse(self, operation: str, code: str, times: int = 1) -> None:
        """AWS answers with the error ``code``, and does nothing."""
        self.answer(operation, {"__type": code, "message": "staged"}, 400, times)

    def lose(self, operation: str) -> None:
        """AWS does as it is told, and its answer is lost."""

        def apply(request: Any) -> AWSResponse | None:
            with closing(URLLib3Session()) as session:
                assert session.send(request).status_code == 200
            raise ReadTimeoutError(endpoint_url=request.url)

        self.stage(operation, apply)

    def crash(self, operation: str) -> None:
        """The process dies before it can send ``operation``."""

        def die(_: Any) -> AWSResponse | None:
            raise KeyboardInterrupt

        self.stage(operation, die)


class Papers(FilesystemDocuments):
    """The ledger's document store; ``after`` is called once, when a write is done and before it is answered."""

    after: Callable[[], None] | None = None
    date: datetime | None = None

    def read(self, path: str) -> Reading:
        return replace(super().read(path), date=self.date)

    def create(self, path: str, body: bytes, headers: Headers) -> str:
        return self._answered(super().create(path, body, headers))

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        return self._answered(super().replace(path, body, headers, version))

    def _answered(self, version: str) -> str:
        after, self.after = self.after, None
        if after:
            after()
        return version


class World:
    def __init__(self, url: str, root: Path) -> None:
        self.wire = Wire(url)
        self.root = root
        self.papers = Papers(root)
        self.prefix = f"test/{uuid4().hex[:12]}"
        self.slept: list[float] = []
        self.store = self.worker()

    def worker(self, **options: Any) -> KmsKeys:
        given: dict[str, Any] = {"client_once": self.wire.client_once, "sleep": self.slept.append} | options
        return KmsKeys(self.wire.client, self.wire.tagging, self.papers, given.pop("prefix", self.prefix), **given)

    def make(self, intent: Intent | None = None) -> KeyRef:
        intent = intent or intend("acme", ES256)
        return ref_to(intent, self.store.create(intent))

    def make_current(self) -> KeyRef:
        ref = self.make()
        self.store.move_pointer(self.store.read_pointer("acme", ES256), ref)
        return ref

    def state(self, arn: str) -> str:
        return self.wire.client().describe_key(KeyId=arn)["KeyMetadata"]["KeyState"]

    def aliases(self) -> dict[str, str]:
        """What each alias below the prefix names, by the part of its name after the prefix."""
        ours = f"alias/{self.prefix}/"
        pages = self.wire.client().list_aliases()["Aliases"]
        return {
            alias["AliasName"].removeprefix(ours): alias["TargetKeyId"]
            for alias in pages
            if alias["AliasName"].startswith(ours)
        }

    def current_alias(self) -> str | None:
        return self.aliases().get("acme/ES256/current")

    def write_pointer(self, body: bytes) -> None:
        self.papers.create("acme/ES256.pointer.json", body, JSON)

    def pointer(self) -> dict[str, Any]:
        document = self.papers.read("acme/ES256.pointer.json").document
        assert document
        fields: dict[str, Any] = json.loads(document.body)
        return fields


@pytest.fixture
def world(ministack_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(ministack_url, tmp_path / "ledgers")
    with made.wire.connected():
        yield made


def key_id(ref: KeyRef) -> str:
    return ref.handle.rsplit("/", 1)[1]


class TestKmsKeysKeepThePromisesOfAKeyStore(KeyStoreContract):
    @pytest.fixture
    def store(self, world: World) -> KmsKeys:
        return world.store

    @pytest.fixture
    def second(self, world: World) -> KmsKeys:
        return world.worker()


# Signing


@pytest.mark.parametrize("alg", EMULATED)
def test_what_kms_signs_is_a_jws_to_every_verifier(world: World, alg: str) -> None:
    algorithm = ALGORITHMS[alg]
    intent = intend("acme", algorithm)
    key = world.store.create(intent)
    public = jwks.public_jwk(key.spki, algorithm)
    registered = "EdDSA" if alg == "Ed25519" else alg  # PyJWT does not know the name of RFC 9864 yet
    header = material.b64u(json.dumps({"alg": registered, "kid": public["kid"]}).encode())
    payload = material.b64u(json.dumps({"iss": "acme"}).encode())
    signing_input = f"{header}.{payload}".encode()

    signature = world.store.sign(ref_to(intent, key), signing_input)

    assert material.verify(public, algorithm, signing_input, signature)
    token = f"{signing_input.decode()}.{material.b64u(signature)}"
    verifier = jwt.PyJWK(public | {"alg": registered})
    assert jwt.decode(token, verifier, algorithms=[registered]) == {"iss": "acme"}


@pytest.mark.parametrize("alg", ["RS512", "PS256", "ES384"])
def test_a_message_too_long_for_kms_is_hashed_here(world: World, alg: str) -> None:
    algorithm = ALGORITHMS[alg]
    intent = intend("acme", algorithm)
    key = world.store.create(intent)
    public = jwks.public_jwk(key.spki, algorithm)
    for message in (b"x" * 4096, b"x" * 4097):
        assert material.verify(public, algorithm, message, world.store.sign(ref_to(intent, key), message))
    assert [body["MessageType"] for operation, body in world.wire.sent if operation == "Sign"] == ["RAW", "DIGEST"]


def test_ed25519_cannot_sign_a_hash_and_says_how_long_a_message_may_be(world: World) -> None:
    ref = world.make(intend("acme", EDDSA))
    with pytest.raises(ConfigurationError, match="at most 4096 bytes with EdDSA; this message has 4097"):
        world.store.sign(ref, b"x" * 4097)


def test_a_key_that_cannot_sign_says_why(world: World) -> None:
    ref = world.make()
    world.store.disable(ref)
    with pytest.raises(StoreError, match=f"Key {ref.kid} of acme .* cannot sign: it is disabled in KMS"):
        world.store.sign(ref, MESSAGE)
    world.store.destroy(ref)
    with pytest.raises(StoreError, match="it is scheduled for deletion in KMS"):
        world.store.sign(ref, MESSAGE)
    foreign = ref.handle.replace(key_id(ref), str(uuid4()))
    with pytest.raises(StoreError, match="KMS knows no such key in this account and region"):
        world.store.sign(replace(ref, handle=foreign), MESSAGE)


def test_missing_permissions_name_themselves_and_throttling_may_pass(world: World) -> None:
    ref = world.make()
    world.wire.refuse("Sign", "AccessDeniedException")
    with pytest.raises(AccessDenied, match=f"kms:Sign on {ref.handle} is denied"):
        world.store.sign(ref, MESSAGE)
    world.wire.refuse("CreateKey", "ThrottlingException")
    with pytest.raises(StoreError, match="throttling") as raised:
        world.make()
    assert not isinstance(raised.value, AccessDenied)
    world.wire.refuse("DisableKey", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="kms:DisableKey"):
        world.store.disable(ref)
    world.wire.refuse("ScheduleKeyDeletion", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="kms:ScheduleKeyDeletion"):
        world.store.destroy(ref)


# Creating


def test_a_key_carries_the_tags_by_which_it_is_found_and_those_of_the_person_who_pays(world: World) -> None:
    intent = intend("acme", RS256)
    key = world.worker(tags={"team": "identity"}).create(replace(intent, rsa_bits=3072))
    tags = world.wire.client().list_resource_tags(KeyId=key.handle)["Tags"]
    assert {tag["TagKey"]: tag["TagValue"] for tag in tags} == {
        "team": "identity",
        "rotator:prefix": world.prefix,
        "rotator:keyset": "acme",
        "rotator:ledger": intent.ledger_id,
        "rotator:intent": intent.id,
        "rotator:attempt": intent.attempt,
    }
    about = world.wire.client().describe_key(KeyId=key.handle)["KeyMetadata"]
    assert (about["KeyUsage"], about["KeySpec"]) == ("SIGN_VERIFY", "RSA_3072")


def test_of_two_workers_that_create_at_once_the_loser_schedules_the_deletion_of_its_own_key(world: World) -> None:
    intent = intend("acme", ES256)
    together = threading.Barrier(2)

    def meet(_: Any) -> None:
        together.wait(30)

    world.wire.stage("CreateKey", meet, times=2)
    made = []
    workers = [threading.Thread(target=lambda: made.append(world.store.create(again(intent)))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)

    assert made[0] == made[1]
    assert world.state(made[0].handle) == "Enabled"
    [loser] = [body["KeyId"] for operation, body in world.wire.sent if operation == "ScheduleKeyDeletion"]
    assert loser != made[0].handle
    assert world.state(loser) == "PendingDeletion"
    assert [stray.handle for stray in world.store.strays("acme")] == [made[0].handle]


def test_a_loser_that_may_not_delete_its_key_still_returns_the_winners_and_leaves_a_stray(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    intent = intend("acme", ES256)
    winner: list[Any] = []
    world.wire.stage("CreateKey", lambda _: winner.append(world.store.create(again(intent))))
    world.wire.refuse("DisableKey", "AccessDeniedException")
    assert world.store.create(intent) == winner[0]
    assert "lost a race" in caplog.text
    assert {stray.attempt for stray in world.store.strays("acme")} > {intent.attempt}


def test_a_crash_between_key_and_alias_leaves_a_stray_that_is_found_and_discarded(world: World) -> None:
    intent = intend("acme", ES256)
    world.wire.crash("CreateAlias")
    with pytest.raises(KeyboardInterrupt):
        world.store.create(intent)

    [stray] = world.store.strays("acme")
    assert (stray.id, stray.attempt) == (intent.id, intent.attempt)
    assert timedelta(0) <= datetime.now(UTC) - stray.created_at < timedelta(minutes=1)
    key = world.store.create(again(intent))
    assert key.handle != stray.handle

    world.store.discard(stray)
    assert world.state(stray.handle) == "PendingDeletion"
    assert [left.handle for left in world.store.strays("acme")] == [key.handle]


def test_a_stray_that_may_not_be_deleted_is_at_least_disabled_and_stays_listed(world: World) -> None:
    ref = world.make()
    [stray] = world.store.strays("acme")
    world.wire.refuse("ScheduleKeyDeletion", "AccessDeniedException")
    with pytest.raises(AccessDenied):
        world.store.discard(stray)
    assert world.state(ref.handle) == "Disabled"
    assert world.store.strays("acme") == [stray]


def test_a_create_key_whose_answer_is_lost_is_not_sent_again_and_leaves_one_stray(world: World) -> None:
    intent = intend("acme", ES256)
    world.wire.lose("CreateKey")
    with pytest.raises(StoreError, match=r"kms:CreateKey with kms:TagResource on \* got no answer"):
        world.store.create(intent)
    assert world.wire.counted()["CreateKey"] == 1
    assert [stray.attempt for stray in world.store.strays("acme")] == [intent.attempt]


def test_a_create_alias_whose_answer_is_lost_meets_its_own_alias_and_keeps_the_key(world: World) -> None:
    intent = intend("acme", ES256)
    world.wire.lose("CreateAlias")
    key = world.store.create(intent)
    assert world.state(key.handle) == "Enabled"
    counts = world.wire.counted()
    assert (counts["CreateKey"], counts["CreateAlias"], counts["ScheduleKeyDeletion"]) == (1, 2, 0)


def test_a_key_that_kms_does_not_see_yet_is_waited_for_briefly(world: World) -> None:
    world.wire.refuse("CreateAlias", "NotFoundException", times=2)
    world.wire.refuse("GetPublicKey", "NotFoundException")
    world.wire.refuse("GetPublicKey", "KMSInvalidStateException")
    assert world.store.sign(world.make(), MESSAGE)
    assert world.slept == [0.2, 0.4, 0.2, 0.4]


def test_the_wait_for_a_key_is_bounded_and_the_next_attempt_adopts_it(world: World) -> None:
    intent = intend("acme", ES256)
    world.wire.refuse("GetPublicKey", "NotFoundException", times=5)
    with pytest.raises(StoreError, match=r"kms:GetPublicKey on arn:.* failed: NotFoundException"):
        world.store.create(intent)
    assert sum(world.slept) == pytest.approx(3.0)
    assert world.wire.counted()["CreateKey"] == 1
    world.store.create(again(intent))
    assert world.wire.counted()["CreateKey"] == 0


def test_denied_is_not_missing_so_no_second_key_is_made(world: World) -> None:
    world.wire.refuse("DescribeKey", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="kms:DescribeKey on alias/"):
        world.make()
    assert world.wire.counted()["CreateKey"] == 0


def test_an_alias_that_names_somebody_elses_key_is_refused_and_left_alone(world: World) -> None:
    intent = intend("acme", ES256)
    other = world.wire.client().create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P384")["KeyMetadata"]
    alias = f"alias/{world.prefix}/acme/ES256/{intent.id}"
    world.wire.client().create_alias(AliasName=alias, TargetKeyId=other["KeyId"])
    with pytest.raises(Refused, match="a ECC_NIST_P384 key that cannot sign ES256"):
        world.store.create(intent)
    assert world.state(other["Arn"]) == "Enabled"


def test_an_intent_whose_key_was_scheduled_for_deletion_behind_our_back_says_so(world: World) -> None:
    intent = intend("acme", ES256)
    ref = world.make(intent)
    world.wire.client().schedule_key_deletion(KeyId=ref.handle)
    with pytest.raises(StoreError, match=r"but it is scheduled for deletion in KMS\. Cancel .* or delete that alias"):
        world.store.create(again(intent))
    world.wire.client().delete_alias(AliasName=f"alias/{world.prefix}/acme/ES256/{intent.id}")
    assert world.store.create(again(intent)).handle != ref.handle


# The pointer


def test_an_issuer_needs_the_pointer_and_kms_sign_and_nothing_else(world: World) -> None:
    intent = intend("acme", ES256)
    key = world.store.create(intent)
    ref = ref_to(intent, key)
    world.store.move_pointer(world.store.read_pointer("acme", ES256), ref)

    pointer = world.pointer()
    assert {name: value for name, value in pointer.items() if name != "nonce"} == {
        "keyset": "acme",
        "alg": "ES256",
        "id": intent.id,
        "kid": ref.kid,
        "key_arn": key.handle,
    }
    signed = world.wire.client().sign(
        KeyId=pointer["key_arn"], Message=MESSAGE, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256"
    )
    signature = material.ecdsa_der_to_jose(signed["Signature"], ES256)
    assert material.verify(jwks.public_jwk(key.spki, ES256), ES256, MESSAGE, signature)


def test_no_two_writes_of_a_pointer_are_equal_even_when_it_returns_to_a_key(world: World) -> None:
    ref = world.make()
    pointer = world.store.read_pointer("acme", ES256)
    nonces = set()
    for _ in range(2):
        pointer = world.store.move_pointer(pointer, ref)
        nonces.add(world.pointer()["nonce"])
        pointer = world.store.fence("acme", ES256, pointer)
        nonces.add(world.pointer()["nonce"])
    assert len(nonces) == 4


def test_the_pointer_tells_the_document_stores_clock(world: World) -> None:
    world.papers.date = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert world.store.read_pointer("acme", ES256).date == world.papers.date
    world.make_current()
    assert world.store.read_pointer("acme", ES256).date == world.papers.date


@pytest.mark.parametrize("failure", [Conflict("412"), StoreError("no answer")])
def test_a_move_that_was_done_but_reported_as_failed_is_done(world: World, failure: StoreError) -> None:
    for _ in range(2):  # the first write creates, the second replaces
        before = world.store.read_pointer("acme", ES256)
        ref = world.make()

        def fail() -> None:
            raise failure

        world.papers.after = fail
        moved = world.store.move_pointer(before, ref)
        now = world.store.read_pointer("acme", ES256)
        assert (now.id, now.token) == (ref.id, moved.token)


def test_a_write_that_was_overtaken_after_its_answer_was_lost_is_not_taken_for_done(world: World) -> None:
    first, second = world.make(), world.make()
    before = world.store.read_pointer("acme", ES256)

    def overtake() -> None:
        world.store.move_pointer(world.store.read_pointer("acme", ES256), second)
        raise StoreError("no answer")

    world.papers.after = overtake
    with pytest.raises(StoreError, match="no answer"):
        world.store.move_pointer(before, first)
    assert world.store.read_pointer("acme", ES256).id == second.id


def test_a_write_that_is_denied_is_not_looked_for(world: World) -> None:
    def deny() -> None:
        raise AccessDenied("s3:PutObject")

    world.papers.after = deny
    with pytest.raises(AccessDenied):
        world.make_current()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"keyset": "acme", "alg": "ES', "it is no JSON object"),
        (b"", "it is no JSON object"),
        (b"[]", "it is no JSON object"),
        (b"[" * 100_000, "it is no JSON object"),
        (b'{"keyset": "other", "alg": "ES256", "id": null}', "belongs to 'other', 'ES256'"),
        (b'{"keyset": "acme", "alg": "RS256", "id": null}', "belongs to 'acme', 'RS256'"),
        (b'{"keyset": "acme", "alg": "ES256", "id": "i", "kid": "k"}', "do not name a KMS key"),
        (b'{"keyset": "acme", "alg": "ES256", "id": "i", "kid": 7, "key_arn": null}', "do not name a KMS key"),
        (
            b'{"keyset": "acme", "alg": "ES256", "id": "i", "kid": "k", "key_arn": "alias/x"}',
            "do not name a KMS key",
        ),
    ],
)
def test_a_pointer_that_rotator_did_not_write_is_refused_and_left_alone(world: World, body: bytes, fault: str) -> None:
    world.write_pointer(body)
    with pytest.raises(Refused, match=rf"ES256\.pointer\.json is not the pointer of acme, ES256: .*{fault}"):
        world.store.read_pointer("acme", ES256)
    with pytest.raises(Refused):
        world.store.check("acme", [ES256])
    document = world.papers.read("acme/ES256.pointer.json").document
    assert document is not None
    assert document.body == body


# The current alias


def test_the_current_alias_follows_the_pointer_and_goes_with_it(world: World) -> None:
    for _ in range(2):
        ref = world.make_current()
        assert world.current_alias() == key_id(ref)
    world.store.clear_pointer("acme", ES256, world.store.read_pointer("acme", ES256))
    assert world.current_alias() is None


def test_an_alias_set_by_a_worker_that_stalled_is_put_after_the_pointer_by_that_worker(world: World) -> None:
    world.make_current()
    slow, fast = world.make(), world.make()

    def overtake(_: Any) -> None:
        world.store.move_pointer(world.store.read_pointer("acme", ES256), fast)

    world.wire.stage("UpdateAlias", overtake)
    world.store.move_pointer(world.store.read_pointer("acme", ES256), slow)
    assert world.store.read_pointer("acme", ES256).id == fast.id
    assert world.current_alias() == key_id(fast)


def test_an_alias_that_cannot_follow_is_reported_and_fails_no_move(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    old = world.make_current()
    new = world.make()
    world.wire.refuse("UpdateAlias", "AccessDeniedException")
    moved = world.store.move_pointer(world.store.read_pointer("acme", ES256), new)
    assert moved.id == new.id
    assert world.current_alias() == key_id(old)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"alias/{world.prefix}/acme/ES256/current does not follow the pointer" in record.message
    assert "kms:UpdateAlias" in record.message


def test_a_stale_alias_is_put_right_by_a_fence_and_before_the_old_key_stays_disabled(world: World) -> None:
    old, stale = world.make_current(), world.make()
    for repair in (
        lambda: world.store.fence("acme", ES256, world.store.read_pointer("acme", ES256)),
        lambda: world.store.disable(old),
    ):
        world.wire.client().update_alias(AliasName=f"alias/{world.prefix}/acme/ES256/current", TargetKeyId=stale.handle)
        repair()
        assert world.current_alias() == key_id(old)


def test_without_the_current_alias_no_alias_but_the_intents_is_touched(world: World) -> None:
    world.store = world.worker(current_alias=False)
    ref = world.make_current()
    world.store.fence("acme", ES256, world.store.read_pointer("acme", ES256))
    world.store.disable(ref)
    assert list(world.aliases()) == [f"acme/ES256/{ref.id}"]


# The end of a key


@pytest.mark.parametrize("days", [7, 30])
def test_destroy_schedules_the_deletion_after_the_window_and_frees_the_alias(world: World, days: int) -> None:
    world.store = world.worker(deletion_window_days=days)
    ref = world.make()
    world.store.destroy(ref)
    about = world.wire.client().describe_key(KeyId=ref.handle)["KeyMetadata"]
    assert about["KeyState"] == "PendingDeletion"
    assert timedelta(days=days) - timedelta(minutes=1) < about["DeletionDate"] - datetime.now(UTC) <= timedelta(days)
    assert world.aliases() == {}


def test_a_key_that_is_being_deleted_can_be_disabled_destroyed_and_discarded_again(world: World) -> None:
    ref = world.make()
    [stray] = world.store.strays("acme")
    world.wire.client().schedule_key_deletion(KeyId=ref.handle)
    # The emulator does not refuse this; AWS does.
    world.wire.refuse("DisableKey", "KMSInvalidStateException", times=2)
    world.wire.refuse("ScheduleKeyDeletion", "KMSInvalidStateException", times=2)
    world.store.disable(ref)
    world.store.destroy(ref)
    world.store.discard(stray)
    assert world.slept == []


@pytest.mark.parametrize("code", ["NotFoundException", "KMSInvalidStateException"])
def test_the_end_of_a_key_that_kms_does_not_see_yet_is_waited_for_briefly(world: World, code: str) -> None:
    ref = world.make()
    for operation, end, state in (
        ("DisableKey", world.store.disable, "Disabled"),
        ("ScheduleKeyDeletion", world.store.destroy, "PendingDeletion"),
    ):
        world.wire.refuse(operation, code, times=2)
        end(ref)
        assert world.state(ref.handle) == state
    assert world.slept == [0.2, 0.4] * 2


def unseen(world: World, operation: str, at: datetime) -> None:
    """KMS does not see a key for as long as anybody waits, in ``operation`` and DescribeKey; its clock says ``at``."""
    body = json.dumps({"__type": "NotFoundException", "message": "staged"}).encode()
    date = HTTPHeaders.from_pairs([("date", format_datetime(at, usegmt=True))])
    for each in (operation, "DescribeKey"):
        world.wire.stage(each, lambda request: AWSResponse(request.url, 400, date, Raw(body)), times=5)


@pytest.mark.parametrize(("operation", "end"), [("DisableKey", "disable"), ("ScheduleKeyDeletion", "destroy")])
def test_a_young_key_that_kms_does_not_see_is_not_taken_for_gone(world: World, operation: str, end: str) -> None:
    made_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ref = replace(world.make(), created_at=made_at)
    unseen(world, operation, made_at + timedelta(days=6, hours=23))
    with pytest.raises(StoreError, match=f"{ref.handle} was made at 2026-01-02 03:04:05Z, .* may not see it yet"):
        getattr(world.store, end)(ref)
    assert world.state(ref.handle) == "Enabled"
    # No key that was made seven days ago can be hidden from KMS: this one was deleted.
    unseen(world, operation, made_at + timedelta(days=7))
    getattr(world.store, end)(ref)
    assert world.state(ref.handle) == "Enabled", "as it was staged"


def test_a_key_in_a_state_that_may_pass_is_not_taken_for_gone(world: World) -> None:
    ref = world.make()
    world.wire.refuse("DisableKey", "KMSInvalidStateException", times=5)
    with pytest.raises(StoreError, match="KMSInvalidStateException"):
        world.store.disable(ref)


def test_a_young_key_without_a_clock_to_tell_its_age_is_not_taken_for_gone(world: World) -> None:
    ref = replace(world.make(), created_at=datetime(2026, 1, 2, tzinfo=UTC))
    world.wire.refuse("DisableKey", "NotFoundException", times=5)
    world.wire.refuse("DescribeKey", "NotFoundException", times=5)
    with pytest.raises(StoreError, match="may not see it yet"):
        world.store.disable(ref)


def test_a_stray_that_kms_does_not_see_any_more_is_looked_for_again(world: World) -> None:
    world.make()
    [stray] = world.store.strays("acme")
    unseen(world, "DisableKey", stray.created_at)
    with pytest.raises(StoreError, match="may not see it yet"):
        world.store.discard(stray)
    assert world.store.strays("acme") == [stray]


# Strays


def test_keys_of_another_installation_in_the_account_are_nobodys_strays(world: World) -> None:
    theirs = world.worker(prefix=f"{world.prefix}-b").create(intend("acme", ES256))
    half_tagged = world.wire.client().create_key(
        KeyUsage="SIGN_VERIFY",
        KeySpec="ECC_NIST_P256",
        Tags=[
            {"TagKey": "rotator:prefix", "TagValue": world.prefix},
            {"TagKey": "rotator:keyset", "TagValue": "acme"},
        ],
    )
    ours = world.make()
    assert [stray.handle for stray in world.store.strays("acme")] == [ours.handle]
    assert world.state(theirs.handle) == world.state(half_tagged["KeyMetadata"]["Arn"]) == "Enabled"


def test_strays_are_looked_for_on_every_page_and_deleted_ones_passed_over(world: World) -> None:
    refs = [world.make(), world.make()]
    [template, _] = world.wire.tagging().get_resources(ResourceTypeFilters=["kms:key"])["ResourceTagMappingList"][-2:]
    gone = {**template, "ResourceARN": refs[0].handle.replace(key_id(refs[0]), str(uuid4()))}
    pages = [{**template, "ResourceARN": refs[0].handle}, gone, {**template, "ResourceARN": refs[1].handle}]
    for number, page in enumerate(pages):
        more = f"page-{number}" if number < 2 else ""
        world.wire.answer("GetResources", {"ResourceTagMappingList": [page], "PaginationToken": more})
    assert [stray.handle for stray in world.store.strays("acme")] == [ref.handle for ref in refs]


def test_strays_are_not_said_to_be_none_when_they_may_not_be_looked_for(world: World) -> None:
    world.wire.refuse("GetResources", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="tag:GetResources on \\*"):
        world.store.strays("acme")
    world.make()
    world.wire.refuse("DescribeKey", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="kms:DescribeKey on arn:"):
        world.store.strays("acme")


# Check, holds, and what they cost


@pytest.mark.parametrize(
    ("operation", "action"),
    [("DescribeKey", "kms:DescribeKey"), ("ListAliases", "kms:ListAliases"), ("GetResources", "tag:GetResources")],
)
def test_check_names_the_permission_that_is_missing(world: World, operation: str, action: str) -> None:
    world.wire.refuse(operation, "AccessDeniedException")
    with pytest.raises(AccessDenied, match=action):
        world.store.check("acme", [ES256])


def test_a_key_set_is_held_by_its_pointer_or_by_any_alias_on_any_page(world: World) -> None:
    listed = {"AliasName": f"alias/{world.prefix}/acme/RS256/{uuid4()}"}
    other = {"AliasName": f"alias/{world.prefix}/acme-b/RS256/{uuid4()}"}
    world.wire.answer("ListAliases", {"Aliases": [other], "Truncated": True, "NextMarker": "page-1"})
    world.wire.answer("ListAliases", {"Aliases": [listed], "Truncated": False})
    assert world.store.holds("acme", [ES256]) == listed["AliasName"]
    world.write_pointer(b"torn")
    assert str(world.store.holds("acme", [ES256])).endswith("/acme/ES256.pointer.json")


def test_each_operation_costs_the_calls_it_is_said_to_cost(world: World) -> None:
    intent = intend("acme", ES256)
    ref = world.make(intent)
    assert world.wire.counted() == {"DescribeKey": 1, "CreateKey": 1, "CreateAlias": 1, "GetPublicKey": 1}
    world.store.create(again(intent))
    assert world.wire.counted() == {"DescribeKey": 1, "GetPublicKey": 1}
    world.store.sign(ref, MESSAGE)
    assert world.wire.counted() == {"Sign": 1}
    pointer = world.store.move_pointer(world.store.read_pointer("acme", ES256), ref)
    assert world.wire.counted() == {"DescribeKey": 1, "CreateAlias": 1}
    pointer = world.store.fence("acme", ES256, pointer)
    assert world.wire.counted() == {"DescribeKey": 1}
    other = world.make()
    world.wire.sent.clear()
    world.store.move_pointer(pointer, other)
    assert world.wire.counted() == {"DescribeKey": 1, "UpdateAlias": 1}
    world.store.disable(ref)
    assert world.wire.counted() == {"DisableKey": 1, "DescribeKey": 1}
    world.store.destroy(ref)
    assert world.wire.counted() == {"ScheduleKeyDeletion": 1, "DeleteAlias": 1}
    world.store.strays("acme")
    assert world.wire.counted() == {"GetResources": 1, "DescribeKey": 2}
    world.store.check("acme", [ES256])
    assert world.wire.counted() == {"DescribeKey": 1, "ListAliases": 1, "GetResources": 1}


def test_reading_the_pointer_asks_nothing_of_kms_and_imports_no_boto3(world: World) -> None:
    world.make_current()
    world.wire.counted()
    assert world.store.read_pointer("acme", ES256).id
    assert not world.wire.counted()

    program = f"""
import sys
from pathlib import Path
from rotator.documents.filesystem import FilesystemDocuments
from rotator.keys.algorithms import ALGORITHMS
from rotator.stores.kms import KmsKeys
def never(): raise AssertionError("a client was built")
store = KmsKeys(never, never, FilesystemDocuments(Path(sys.argv[1])), {world.prefix!r}, client_once=never)
assert store.read_pointer("acme", ALGORITHMS["ES256"]).id
assert store.traits.leaves_strays
assert not {{"boto3", "botocore", "cryptography"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, world.root], check=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"prefix": ""}, "prefix '' must be 1 to 128"),
        ({"prefix": "/rotator"}, "single slashes within"),
        ({"prefix": "a//b"}, "single slashes within"),
        ({"prefix": "dots.and:colons"}, "A-Z a-z 0-9 _ -"),
        ({"prefix": "p" * 129}, "1 to 128"),
        ({"prefix": "aws/ours"}, "AWS keeps alias/aws/ to itself"),
        ({"deletion_window_days": 6}, "deletion window of 6 days: KMS allows 7 to 30"),
        ({"deletion_window_days": 31}, "deletion window of 31 days"),
        ({"tags": {"rotator:intent": "x", "aws:y": "z"}}, "tags aws:y, rotator:intent"),
        ({"prefix": "", "deletion_window_days": 0}, "prefix.*deletion window"),
    ],
)
def test_what_kms_would_not_take_is_refused_at_once(world: World, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        world.worker(**options)


def test_the_longest_names_still_fit_an_alias(world: World) -> None:
    longest = world.worker(prefix="p" * 128)
    keyset = "k" * 63
    key = longest.create(intend(keyset, EDDSA))
    assert world.state(key.handle) == "Enabled"
    alias = next(body["AliasName"] for operation, body in world.wire.sent if operation == "CreateAlias")
    assert len(alias) <= 256
