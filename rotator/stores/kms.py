"""Private keys that never leave AWS KMS; issuers follow ``pointer.json`` and call ``kms:Sign``.

KMS offers neither an idempotent CreateKey nor a compare-and-swap of an alias, so neither is relied upon: a key is
named by an alias that only one worker can create, and the pointer is a document beside the ledger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from rotator.aws import code_of, date_of, translated
from rotator.errors import (
    AccessDenied,
    ConfigurationError,
    Conflict,
    KeyStopped,
    Refused,
    RotatorError,
    StoreError,
)
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.material import ecdsa_der_to_jose
from rotator.ports import Headers, Held, KeyRef, Pointer, StoredKey, Stray, Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from mypy_boto3_kms import KMSClient
    from mypy_boto3_kms.literals import KeySpecType, SigningAlgorithmSpecType
    from mypy_boto3_kms.type_defs import KeyMetadataTypeDef
    from mypy_boto3_resourcegroupstaggingapi import ResourceGroupsTaggingAPIClient

    from rotator.keys.algorithms import Algorithm
    from rotator.ports import DocumentStore, Intent, Takeover

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: Token of a pointer document that does not exist: the next write must create it.
_ABSENT = "absent"

#: Tag of a key that was made elsewhere.
_ADOPTED = "rotator:adopted"

_HEADERS = Headers("application/json", "no-store")
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")

#: "alias/", key set, algorithm, intent id and slashes take at most 115 of an alias's 256 characters.
_PREFIX_LENGTH = 128
_KEY_ARN = re.compile(r"arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")

#: The largest message KMS hashes itself (Sign, MessageType RAW).
_RAW_BYTES = 4096

#: Seconds to wait for a key or alias made a moment ago: KMS reads are eventually consistent.
_PAUSES = (0.2, 0.4, 0.8, 1.6)
_NOT_YET = frozenset({"NotFoundException", "KMSInvalidStateException"})

#: States of a key that is not being deleted.
_ALIVE = frozenset({"Enabled", "Disabled"})

#: States of a key that is going to be deleted: it signs no more.
_ENDING = frozenset({"PendingDeletion", "PendingReplicaDeletion"})

#: KMS deletes no key sooner (ScheduleKeyDeletion, PendingWindowInDays): a younger one that it does not see is there.
_SOONEST_DELETION = timedelta(days=7)

#: How often the alias is put after a pointer that keeps moving away from it.
_CHASES = 3

_REASONS = {
    "DisabledException": "it is disabled in KMS",
    "KMSInvalidStateException": "it is scheduled for deletion in KMS",
    "NotFoundException": "KMS knows no such key in this account and region",
    "Disabled": "it is disabled in KMS",
    "PendingDeletion": "it is scheduled for deletion in KMS",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """What a pointer document names; all ``None``: no key."""

    id: str | None = None
    kid: str | None = None
    key_arn: str | None = None


class KmsKeys:
    """A key store in AWS KMS: keys are made once per recorded attempt, and every one is findable by tag.

    A key is named by the alias ``alias/{prefix}/{keyset}/{alg}/{intent id}``. The pointer is the document
    ``{keyset}/{alg}.pointer.json`` in ``pointers``; ``alias/{prefix}/{keyset}/{alg}/current`` follows it as a courtesy.

    ``client_once`` builds a KMS client that sends each request once: a repeated CreateKey is a second key.

    IAM, where ALIAS is ``arn:aws:kms:REGION:ACCOUNT:alias/{prefix}/*`` and KEY is ``arn:aws:kms:REGION:ACCOUNT:key/*``
    under the condition ``aws:ResourceTag/rotator:prefix = {prefix}``:

    * ``kms:CreateKey``, ``kms:TagResource`` on ``*`` (conditions: ``aws:RequestTag/rotator:prefix``; for CreateKey
      also ``kms:KeyUsage = SIGN_VERIFY``)
    * ``kms:CreateAlias`` on ALIAS and on ``key/*``, ``kms:DescribeKey``, ``kms:GetPublicKey`` on ``key/*``, all
      *without* the tag condition: KMS may take five minutes to authorize by the tags of a new key, and each refusal
      would leave a stray
    * ``kms:UpdateAlias``, ``kms:DeleteAlias`` on ALIAS and KEY
    * ``kms:Sign``, ``kms:DisableKey``, ``kms:ScheduleKeyDeletion`` on KEY
    * ``kms:ListAliases``, ``tag:GetResources`` on ``*`` (AWS knows no narrower resource)
    * read and write of ``{keyset}/{alg}.pointer.json`` in the document store

    To adopt a key, the person who does it also needs ``kms:ListResourceTags`` and ``kms:Sign`` on that very key.

    An issuer needs ``kms:Sign`` on KEY and to read ``{keyset}/{alg}.pointer.json``; nothing else.
    """

    def __init__(  # noqa: PLR0913 - what the composition root wires, by name
        self,
        client: Callable[[], KMSClient],
        tagging: Callable[[], ResourceGroupsTaggingAPIClient],
        pointers: DocumentStore,
        prefix: str,
        *,
        client_once: Callable[[], KMSClient],
        deletion_window_days: int = 30,
        tags: Mapping[str, str] | None = None,
        current_alias: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._client_once = client_once
        self._tagging = tagging
        self._pointers = pointers
        self._prefix = prefix
        self._window = deletion_window_days
        self._tags = dict(tags or {})
        self._current_alias = current_alias
        self._sleep = sleep
        if faults := self._faults():
            raise ConfigurationError("KMS key store: " + " ".join(faults))

    def _faults(self) -> Sequence[str]:
        faults = []
        if not _PREFIX.fullmatch(self._prefix) or len(self._prefix) > _PREFIX_LENGTH:
            faults.append(
                f"prefix {self._prefix!r} must be 1 to {_PREFIX_LENGTH} of A-Z a-z 0-9 _ - with single slashes within."
            )
        if self._prefix.split("/")[0] == "aws":
            faults.append(f"prefix {self._prefix!r}: AWS keeps alias/aws/ to itself.")
        if not 7 <= self._window <= 30:  # noqa: PLR2004 - ScheduleKeyDeletion, PendingWindowInDays
            faults.append(f"deletion window of {self._window} days: KMS allows 7 to 30.")
        reserved = sorted(tag for tag in self._tags if tag.lower().startswith(("rotator:", "aws:")))
        if reserved:
            faults.append(f"tags {', '.join(reserved)}: names that begin with rotator: or aws: are taken.")
        return faults

    @property
    def traits(self) -> Traits:
        """CreateKey cannot be repeated safely: attempts are recorded and spaced, and strays looked for."""
        return Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True)

    def check(self, keyset: str, algorithms: Sequence[Algorithm]) -> None:
        """Read the pointers, and try what can be tried of KMS without changing it.

        KMS answers NotFound for an alias that does not exist, permitted or not: a missing ``kms:DescribeKey`` shows
        only once there is a key.
        """
        for algorithm in algorithms:
            self._read(keyset, algorithm)
            self._describe(self._alias(keyset, algorithm, "current"))
        with translated("kms:ListAliases", "*"):
            self._client().list_aliases(Limit=1)
        with translated("tag:GetResources", "*"):
            self._tagging().get_resources(
                TagFilters=self._filters(keyset), ResourceTypeFilters=["kms:key"], ResourcesPerPage=1
            )

    def holds(self, keyset: str, algorithms: Sequence[Algorithm]) -> str | None:
        """The URI of a pointer, or an alias of ``keyset``; ``None``: neither exists."""
        for algorithm in algorithms:
            path = _path(keyset, algorithm)
            if self._pointers.read(path).document is not None:
                return self._pointers.locate(path)
        ours = f"alias/{self._prefix}/{keyset}/"
        with translated("kms:ListAliases", "*"):
            pages = self._client().get_paginator("list_aliases").paginate(PaginationConfig={"PageSize": 100})
            return next(
                (
                    alias["AliasName"]
                    for page in pages
                    for alias in page["Aliases"]
                    if alias["AliasName"].startswith(ours)
                ),
                None,
            )

    def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
        """The pointer document's target and version; KMS is not asked."""
        return self._read(keyset, algorithm)[0]

    def create(self, intent: Intent) -> StoredKey:
        """The key behind the intent's alias, made with at most one CreateKey request where there is none.

        Raises:
            Refused: the alias names a key of another kind.
        """
        alias = self._alias(intent.keyset, intent.algorithm, intent.id)
        key = self._describe(alias)
        if key is None:
            made = self._create_key(intent)
            try:
                self._patiently(lambda: self._create_alias(alias, made))
            except Conflict:
                # Lost the race, or boto3 sent CreateAlias again after its answer was lost: then the alias is ours.
                key = self._patiently(lambda: self._describe_existing(alias))
                if key["Arn"] != made:
                    self._abandon(made)
        arn = made if key is None else _adopted(key, intent, alias)
        return StoredKey(arn, self._patiently(lambda: self._public_key(arn)))

    def known(self, name: str, keyset: str) -> StoredKey:
        """The key of this ARN, id or alias; its public half comes from KMS itself."""
        key = self._describe(name)
        if key is None:
            raise ConfigurationError(f"KMS knows no key {name!r:.300} in this account and region.")
        arn = key["Arn"]
        if fault := _unfit(key) or self._owner(arn, keyset):
            raise Refused(f"KMS key {arn} cannot be adopted: {fault}. Nothing was changed.")
        return StoredKey(arn, self._public_key(arn))

    def adopt(self, takeover: Takeover) -> StoredKey:
        """Tag the key as ours and name it by the alias of its intent; an attempt is not among the tags: it is no stray.

        From then on it is stopped and deleted like one that was made here, after its retention.
        """
        arn = takeover.handle
        if takeover.private is not None:
            raise ConfigurationError(
                f"KMS cannot keep {takeover.kid}: no private half is brought into KMS. Name a KMS key that holds it, or"
                " choose another stores.keys."
            )
        tags = {
            "rotator:prefix": self._prefix,
            "rotator:keyset": takeover.keyset,
            "rotator:ledger": takeover.ledger_id,
            "rotator:intent": takeover.id,
            _ADOPTED: "true",
        }
        with translated("kms:TagResource", arn):
            self._client().tag_resource(
                KeyId=arn, Tags=[{"TagKey": key, "TagValue": value} for key, value in tags.items()]
            )
        alias = self._alias(takeover.keyset, takeover.algorithm, takeover.id)
        try:
            self._create_alias(alias, arn)
        except Conflict:
            named = self._patiently(lambda: self._describe_existing(alias))["Arn"]
            if named != arn:
                raise Refused(
                    f"{alias} names {named} already, not {arn}. Delete that alias, and adopt again."
                ) from None
        return StoredKey(arn, self._public_key(arn))

    def locate_pointer(self, keyset: str, algorithm: Algorithm) -> str:
        """The URI of the pointer document."""
        return self._pointers.locate(_path(keyset, algorithm))

    def _owner(self, arn: str, keyset: str) -> str | None:
        """Why ``keyset`` may not have this key; ``None``: nobody has it, or ``keyset`` itself took it over before."""
        with translated("kms:ListResourceTags", arn):
            pages = self._client().get_paginator("list_resource_tags").paginate(KeyId=arn)
            tags = {tag["TagKey"]: tag["TagValue"] for page in pages for tag in page["Tags"]}
        owner = tags.get("rotator:prefix"), tags.get("rotator:keyset")
        if owner == (None, None) or (owner == (self._prefix, keyset) and _ADOPTED in tags):
            return None
        return f"it is tagged as a key of key set {owner[1]} ({owner[0]}), which stops and deletes it in its own time"

    def sign(self, ref: KeyRef, message: bytes) -> bytes:
        """The JWS signature that KMS makes with the very key ARN the pointer hands to issuers."""
        return signed(self._client(), ref, message)

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        """Compare-and-swap of the pointer document; the current alias follows it."""
        return self._write(ref.keyset, ref.algorithm, pointer.token, _Target(ref.id, ref.kid, ref.handle))

    def clear_pointer(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """Compare-and-swap to a pointer document that names no key; the current alias is deleted."""
        return self._write(keyset, algorithm, pointer.token, _Target())

    def fence(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """Write the same target under a new nonce: what was begun with the old version must fail."""
        # Where this reads something newer than ``pointer``, the write conflicts.
        return self._write(keyset, algorithm, pointer.token, self._read(keyset, algorithm)[1])

    def disable(self, ref: KeyRef) -> None:
        """Stop the key from signing; a key that is deleted or going to be cannot sign either."""
        try:
            self._end(ref.handle, ref.created_at, self._disable)
        finally:
            # Until here a stale alias named a key whose tokens still verify; from here on it would be an outage.
            self._lead_alias(ref.keyset, ref.algorithm)

    def destroy(self, ref: KeyRef) -> None:
        """Schedule the key's deletion after the window, and free the alias of its intent."""
        self._end(ref.handle, ref.created_at, self._schedule_deletion)
        self._delete_alias(self._alias(ref.keyset, ref.algorithm, ref.id))

    def strays(self, keyset: str) -> Sequence[Stray]:
        """Every enabled or disabled key with all tags of this prefix and key set, as far as the tag index knows yet."""
        strays = []
        for arn, tags in self._tagged(keyset).items():
            if not {"rotator:ledger", "rotator:intent", "rotator:attempt"} <= tags.keys():
                continue
            # The tag index may still list a key that is long deleted.
            key = self._describe(arn)
            if key is not None and key.get("KeyState") in _ALIVE:
                created_at = key["CreationDate"].astimezone(UTC)
                strays.append(
                    Stray(arn, tags["rotator:ledger"], tags["rotator:intent"], tags["rotator:attempt"], created_at)
                )
        return strays

    def held(self, keyset: str) -> Sequence[Held]:
        """See :meth:`rotator.ports.Searchable.held`. Every key with an alias of this key set, or with its tags."""
        found: dict[str, Held] = {}
        tagged = self._tagged(keyset)
        named = {alias: alias.split("/")[-2:] for alias in self._intent_aliases(keyset)}
        # Those with an alias first: a key that lost the race for its alias has the same intent among its tags.
        for name in (*named, *tagged):
            key = self._describe(name)
            if key is None or key.get("KeyState") not in _ALIVE or key["Arn"] in found:
                continue
            arn, tags = key["Arn"], tagged.get(key["Arn"], {})
            alg, id_ = named.get(name, (None, tags.get("rotator:intent", "")))
            lost = any(each.id == id_ for each in found.values())
            made_at = key["CreationDate"].astimezone(UTC)
            found[arn] = Held(arn, "" if lost else id_, alg, tags.get("rotator:ledger"), made_at)
        return tuple(found.values())

    def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
        """See :meth:`rotator.ports.Searchable.public_half`. KMS does not tell it of a key that is disabled."""
        del keyset  # An ARN says it all.
        try:
            return self._public_key(held.handle), held.created_at
        except StoreError as exc:
            if _code(exc) not in _REASONS:
                raise
            return None, held.created_at

    def kid_in_tokens(self, keyset: str, algorithm: Algorithm) -> str | None:
        """See :meth:`rotator.ports.Searchable.kid_in_tokens`. KMS is not asked."""
        return self._read(keyset, algorithm)[1].kid

    def _intent_aliases(self, keyset: str) -> list[str]:
        """Every alias of ``keyset`` that names a key after its intent."""
        ours = re.compile(rf"alias/{re.escape(f'{self._prefix}/{keyset}')}/({'|'.join(ALGORITHMS)})/(?!current$)[^/]+")
        with translated("kms:ListAliases", "*"):
            pages = self._client().get_paginator("list_aliases").paginate(PaginationConfig={"PageSize": 100})
            names = [alias["AliasName"] for page in pages for alias in page["Aliases"]]
        return [name for name in names if ours.fullmatch(name)]

    def _tagged(self, keyset: str) -> Mapping[str, Mapping[str, str]]:
        """The tags of each key with those of this prefix and key set, as far as the tag index knows yet."""
        with translated("tag:GetResources", "*"):
            pages = (
                self._tagging()
                .get_paginator("get_resources")
                .paginate(
                    TagFilters=self._filters(keyset),
                    ResourceTypeFilters=["kms:key"],
                    PaginationConfig={"PageSize": 100},
                )
            )
            return {
                found["ResourceARN"]: {tag["Key"]: tag["Value"] for tag in found["Tags"]}
                for page in pages
                for found in page["ResourceTagMappingList"]
            }

    def discard(self, stray: Stray) -> None:
        """Disable the key, so that it is stopped even where deletion is denied, and schedule its deletion."""
        for effect in (self._disable, self._schedule_deletion):
            self._end(stray.handle, stray.created_at, effect)

    # The pointer

    def _read(self, keyset: str, algorithm: Algorithm) -> tuple[Pointer, _Target]:
        path = _path(keyset, algorithm)
        reading = self._pointers.read(path)
        if reading.document is None:
            return Pointer(None, _ABSENT, reading.date), _Target()
        target = _parse(reading.document.body, keyset, algorithm, self._pointers.locate(path))
        return Pointer(target.id, reading.document.version, reading.date), target

    def _write(self, keyset: str, algorithm: Algorithm, token: str, target: _Target) -> Pointer:
        path = _path(keyset, algorithm)
        # The nonce makes no two writes equal: an ETag never comes back, and a write whose answer was lost is known.
        fields = {"keyset": keyset, "alg": algorithm.alg, **asdict(target), "nonce": str(uuid.uuid4())}
        body = (json.dumps(fields, indent=1) + "\n").encode("ascii")
        try:
            if token == _ABSENT:
                version = self._pointers.create(path, body, _HEADERS)
            else:
                version = self._pointers.replace(path, body, _HEADERS, token)
        except AccessDenied:
            raise
        except StoreError:
            document = self._pointers.read(path).document
            if document is None or document.body != body:
                raise
            version = document.version
        self._lead_alias(keyset, algorithm)
        return Pointer(target.id, version)

    def _lead_alias(self, keyset: str, algorithm: Algorithm) -> None:
        """Make the current alias name what the pointer names; a courtesy that never fails the step it follows."""
        if not self._current_alias:
            return
        alias = self._alias(keyset, algorithm, "current")
        try:
            key = self._describe(alias)
            named = key and key["Arn"]
            # UpdateAlias is no compare-and-swap: look again whether the pointer moved on meanwhile.
            for _ in range(_CHASES):
                target = self._read(keyset, algorithm)[1].key_arn
                if target == named:
                    return
                if target is None:
                    self._delete_alias(alias)
                elif named is None:
                    self._create_alias(alias, target)
                else:
                    with translated("kms:UpdateAlias", f"{alias} and {target}"):
                        self._client().update_alias(AliasName=alias, TargetKeyId=target)
                named = target
        except RotatorError as exc:
            _log.warning("%s does not follow the pointer; the next move, fence or disable tries again: %s", alias, exc)

    # KMS, call by call

    def _alias(self, keyset: str, algorithm: Algorithm, name: str) -> str:
        return f"alias/{self._prefix}/{keyset}/{algorithm.alg}/{name}"

    def _filters(self, keyset: str) -> Sequence[Any]:
        # The prefix, so that two installations in one account never touch each other's keys.
        return [
            {"Key": "rotator:prefix", "Values": [self._prefix]},
            {"Key": "rotator:keyset", "Values": [keyset]},
        ]

    def _create_key(self, intent: Intent) -> str:
        tags = self._tags | {
            "rotator:prefix": self._prefix,
            "rotator:keyset": intent.keyset,
            "rotator:ledger": intent.ledger_id,
            "rotator:intent": intent.id,
            "rotator:attempt": intent.attempt,
        }
        # Tags in CreateKey need kms:TagResource, and a refusal does not say which of the two is missing.
        with translated("kms:CreateKey with kms:TagResource", "*"):
            made = self._client_once().create_key(
                Description=f"JWT signing key of {intent.keyset}, {intent.algorithm.alg} (rotator)",
                KeyUsage="SIGN_VERIFY",
                KeySpec=cast("KeySpecType", intent.algorithm.key_spec(intent.rsa_bits)),
                Tags=[{"TagKey": key, "TagValue": value} for key, value in tags.items()],
            )
        return made["KeyMetadata"]["Arn"]

    def _describe(self, key_or_alias: str) -> KeyMetadataTypeDef | None:
        try:
            return self._describe_existing(key_or_alias)
        except StoreError as exc:
            if _code(exc) == "NotFoundException":
                return None
            raise

    def _describe_existing(self, key_or_alias: str) -> KeyMetadataTypeDef:
        with translated("kms:DescribeKey", key_or_alias):
            return self._client().describe_key(KeyId=key_or_alias)["KeyMetadata"]

    def _public_key(self, arn: str) -> bytes:
        with translated("kms:GetPublicKey", arn):
            return self._client().get_public_key(KeyId=arn)["PublicKey"]

    def _create_alias(self, alias: str, arn: str) -> None:
        with translated("kms:CreateAlias", f"{alias} and {arn}", frozenset({"AlreadyExistsException"})):
            self._client().create_alias(AliasName=alias, TargetKeyId=arn)

    def _delete_alias(self, alias: str) -> None:
        with _fine({"NotFoundException"}), translated("kms:DeleteAlias", alias):
            self._client().delete_alias(AliasName=alias)

    def _disable(self, arn: str) -> None:
        with translated("kms:DisableKey", arn):
            self._client().disable_key(KeyId=arn)

    def _schedule_deletion(self, arn: str) -> None:
        with translated("kms:ScheduleKeyDeletion", arn):
            self._client().schedule_key_deletion(KeyId=arn, PendingWindowInDays=self._window)

    def _abandon(self, arn: str) -> None:
        """Schedule the deletion of a key that lost its race; where that fails it is a stray, and found by its tags."""
        try:
            self._patiently(lambda: self._disable(arn))
            self._patiently(lambda: self._schedule_deletion(arn))
        except RotatorError as exc:
            _log.warning("%s lost a race and is not scheduled for deletion yet: %s", arn, exc)

    def _end(self, arn: str, created_at: datetime | None, effect: Callable[[str], None]) -> None:
        """Have ``effect`` on a key, which stops or deletes it; fine where it is deleted already, or going to be.

        Raises:
            StoreError: KMS does not see the key, and it is too young to be deleted.
        """

        def ended() -> None:
            try:
                effect(arn)
            except StoreError as exc:
                if _code(exc) not in _NOT_YET:
                    raise
                key = self._describe(arn)
                if key is None or key.get("KeyState") not in _ENDING:
                    raise

        try:
            self._patiently(ended)
        except StoreError as exc:
            if _code(exc) != "NotFoundException":
                raise
            if created_at is not None and _age(created_at, exc) < _SOONEST_DELETION:
                raise StoreError(
                    f"{arn} was made at {created_at:%Y-%m-%d %H:%M:%S}Z, and KMS knows no such key in this account and"
                    " region: it may not see it yet. The next tick tries again; look whether account and region are"
                    " right."
                ) from exc

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """What ``call`` returns, tried again for some 3 s while KMS does not see what was made a moment ago."""
        for pause in _PAUSES:
            try:
                return call()
            except StoreError as exc:
                if _code(exc) not in _NOT_YET:
                    raise
            self._sleep(pause)
        return call()


def pointer_uri(pointers: DocumentStore, keyset: str, algorithm: Algorithm) -> str:
    """Where the pointer is, for people."""
    return pointers.locate(_path(keyset, algorithm))


def named(pointers: DocumentStore, keyset: str, algorithm: Algorithm) -> KeyRef | None:
    """The key that issuers are led to, as :func:`signed` takes it; ``None``: none is named.

    Raises:
        Refused: the pointer document is torn, malformed, or the pointer of something else.
    """
    path = _path(keyset, algorithm)
    document = pointers.read(path).document
    target = _parse(document.body, keyset, algorithm, pointers.locate(path)) if document else _Target()
    if target.id is None or target.kid is None or target.key_arn is None:
        return None
    return KeyRef(keyset, algorithm, target.id, target.kid, target.key_arn)


def signed(client: KMSClient, ref: KeyRef, message: bytes) -> bytes:
    """The JWS signature of ``message``: one kms:Sign, RAW up to 4,096 bytes, DIGEST beyond.

    Raises:
        KeyStopped: the key is disabled, scheduled for deletion, or gone.
        ConfigurationError: the message is too long for an algorithm that brings its own hash.
    """
    algorithm = ref.algorithm
    digest = None
    if len(message) > _RAW_BYTES:
        if algorithm.hash is None:
            raise ConfigurationError(
                f"KMS signs at most {_RAW_BYTES} bytes with {algorithm.alg}; this message has {len(message)}."
            )
        digest = hashlib.new(algorithm.hash, message).digest()
    try:
        with translated("kms:Sign", ref.handle):
            signature = client.sign(
                KeyId=ref.handle,
                Message=digest or message,
                MessageType="DIGEST" if digest else "RAW",
                SigningAlgorithm=cast("SigningAlgorithmSpecType", algorithm.kms_signing_algorithm),
            )["Signature"]
    except StoreError as exc:
        if reason := _REASONS.get(_code(exc)):
            raise KeyStopped(f"Key {ref.kid} of {ref.keyset} ({ref.handle}) cannot sign: {reason}.") from exc
        raise
    return ecdsa_der_to_jose(signature, algorithm) if algorithm.scheme == "ecdsa" else signature


def _path(keyset: str, algorithm: Algorithm) -> str:
    return f"{keyset}/{algorithm.alg}.pointer.json"


def _code(exc: RotatorError) -> str:
    return code_of(exc.__cause__) if exc.__cause__ else ""


def _age(created_at: datetime, exc: StoreError) -> timedelta:
    """How long ago ``created_at`` was by the clock of KMS, which refused with ``exc``; without one it was just now."""
    date = date_of(getattr(exc.__cause__, "response", {}))
    return date - created_at if date else timedelta(0)


@contextmanager
def _fine(codes: Collection[str]) -> Iterator[None]:
    """The end of the block, early where AWS answers with one of ``codes``: what was to be done is done already."""
    try:
        yield
    except StoreError as exc:
        if _code(exc) not in codes:
            raise


def _unfit(key: KeyMetadataTypeDef) -> str | None:
    """Why ``key`` cannot sign tokens for long."""
    if key.get("KeyManager") == "AWS":
        return "it is managed by AWS"
    if key.get("KeyUsage") != "SIGN_VERIFY":
        return f"its usage is {key.get('KeyUsage')}, not SIGN_VERIFY"
    if key.get("ExpirationModel") == "KEY_MATERIAL_EXPIRES":
        return f"its imported key material expires at {key.get('ValidTo')}"
    if key.get("KeyState") != "Enabled":
        return _REASONS.get(key.get("KeyState", ""), f"its state is {key.get('KeyState')}")
    return None


def _adopted(key: KeyMetadataTypeDef, intent: Intent, alias: str) -> str:
    """The ARN of the key behind ``alias``, if it can be the one that ``intent`` orders."""
    arn = key["Arn"]
    if intent.algorithm.kms_signing_algorithm not in key.get("SigningAlgorithms", ()):
        raise Refused(
            f"{alias} names {arn}, a {key.get('KeySpec')} key that cannot sign {intent.algorithm.alg}: rotator did not"
            " make it. Delete that alias; the next tick makes the key."
        )
    if reason := _REASONS.get(key.get("KeyState", "")):
        raise StoreError(
            f"{alias} names {arn}, but {reason}. Cancel the deletion and enable the key, or delete"
            " that alias: the next tick makes another key."
        )
    return arn


def _parse(body: bytes, keyset: str, algorithm: Algorithm, where: str) -> _Target:
    """The target in a pointer document.

    Raises:
        Refused: torn, malformed, or the pointer of something else.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    fault = None
    if not isinstance(fields, dict):
        fault = "it is no JSON object"
    elif (fields.get("keyset"), fields.get("alg")) != (keyset, algorithm.alg):
        fault = f"it says that it belongs to {fields.get('keyset')!r}, {fields.get('alg')!r}"
    else:
        target = _Target(*(fields.get(name) for name in ("id", "kid", "key_arn")))
        values = (target.id, target.kid, target.key_arn)
        if values == (None, None, None):
            return target
        if all(isinstance(value, str) for value in values) and _KEY_ARN.fullmatch(str(target.key_arn)):
            return target
        fault = "id, kid and key_arn do not name a KMS key"
    raise Refused(
        f"{where} is not the pointer of {keyset}, {algorithm.alg}: {fault}. rotator did not write it;"
        " restore the document's previous version."
    )
