"""What recovery asks of each store: versions of a document, and every key that is held."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from rotator.documents.filesystem import FilesystemDocuments
from rotator.documents.s3 import S3Documents
from rotator.errors import AccessDenied, ConfigurationError, Refused, StoreError
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Versioned
from rotator.stores.local import LocalKeys
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests.accounts import moto
from tests.adapters import test_kms
from tests.adapters.wire import Wire
from tests.contracts.document_store import PLAIN
from tests.contracts.key_store import intend, ref_to
from tests.contracts.recovery import SearchableContract, VersionedContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rotator.stores.kms import KmsKeys

ES256 = ALGORITHMS["ES256"]
EU = {"LocationConstraint": "eu-west-1"}

# -- versions of a document ------------------------------------------------------------------------------------------


def versioned(wire: Wire) -> str:
    bucket = f"versioned-{uuid4()}"
    wire.client.create_bucket(Bucket=bucket, CreateBucketConfiguration=EU)
    wire.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def s3(moto_url: str) -> Iterator[Wire]:
    with Wire("s3", moto_url).connected() as wire:
        yield wire


class TestVersionsOnMoto(VersionedContract):
    @pytest.fixture
    def store(self, s3: Wire) -> S3Documents:
        return S3Documents(s3, versioned(s3), "private/ledgers")


class TestVersionsOnMinistack(VersionedContract):
    @pytest.fixture
    def store(self, ministack_url: str) -> Iterator[S3Documents]:
        with Wire("s3", ministack_url).connected() as wire:
            yield S3Documents(wire, versioned(wire))


def test_versions_outlive_a_delete_and_the_mark_of_a_delete_is_none(s3: Wire) -> None:
    bucket = versioned(s3)
    store = S3Documents(s3, bucket)
    store.create("acme/ledger.json", b"1", PLAIN)
    s3.client.delete_object(Bucket=bucket, Key="acme/ledger.json")
    assert store.read("acme/ledger.json").document is None
    (past,) = store.versions("acme/ledger.json")
    assert store.read_version("acme/ledger.json", past.id) == b"1"
    marks = s3.client.list_object_versions(Bucket=bucket)["DeleteMarkers"]
    with pytest.raises(Refused, match="list-object-versions"):
        store.read_version("acme/ledger.json", marks[0]["VersionId"])


def test_without_versioning_there_is_what_stands_there(s3: Wire) -> None:
    bucket = f"plain-{uuid4()}"
    s3.client.create_bucket(Bucket=bucket, CreateBucketConfiguration=EU)
    store = S3Documents(s3, bucket)
    version = store.create("acme/ledger.json", b"1", PLAIN)
    store.replace("acme/ledger.json", b"2", PLAIN, version)
    assert [store.read_version("acme/ledger.json", each.id) for each in store.versions("acme/ledger.json")] == [b"2"]


def test_many_versions_are_listed_page_by_page(s3: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = versioned(s3)
    for number in range(5):
        s3.client.put_object(Bucket=bucket, Key="acme/ledger.json", Body=b"%d" % number)
    store = S3Documents(s3, bucket)
    honest = s3.client.get_paginator

    class Small:
        def paginate(self, **which: Any) -> Any:
            return honest("list_object_versions").paginate(**which, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(s3.client, "get_paginator", lambda _: Small())
    past = list(store.versions("acme/ledger.json"))
    assert [store.read_version("acme/ledger.json", each.id) for each in past] == [b"4", b"3", b"2", b"1", b"0"]


def test_errors_of_s3_are_told_with_the_action_that_is_missing(s3: Wire) -> None:
    store = S3Documents(s3, f"none-{uuid4()}")
    with pytest.raises(ConfigurationError, match="the bucket does not exist"):
        next(iter(store.versions("acme/ledger.json")))
    with pytest.raises(ConfigurationError, match="the bucket does not exist"):
        store.read_version("acme/ledger.json", "1")


def test_files_keep_no_versions(tmp_path: Path) -> None:
    assert not isinstance(FilesystemDocuments(tmp_path), Versioned)


# -- files -----------------------------------------------------------------------------------------------------------


class TestLocalKeysAreFound(SearchableContract):
    algorithms = (*SearchableContract.algorithms, "ML-DSA-65")

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalKeys:
        return LocalKeys(tmp_path / "keys", b"correct horse")


def test_of_a_directory_only_keys_are_told(tmp_path: Path) -> None:
    store = LocalKeys(tmp_path)
    stored = store.create(intend("acme", ES256))
    directory = tmp_path / "acme/ES256"
    for odd in ("notes.txt", "-odd-.pem", ".pem", ".hidden.pem.tmp"):
        (directory / odd).touch(0o600)
    (tmp_path / "acme/HS256").mkdir()
    (tmp_path / "acme/HS256/x.pem").touch()
    assert [held.handle for held in store.held("acme")] == [stored.handle]
    assert store.held("globex") == ()


def test_a_key_file_that_cannot_be_read_is_no_missing_key(tmp_path: Path) -> None:
    store = LocalKeys(tmp_path)
    stored = store.create(intend("acme", ES256))
    (held,) = store.held("acme")
    file = tmp_path / "acme/ES256" / stored.handle
    file.write_text("torn")
    with pytest.raises(ConfigurationError, match=stored.handle):
        store.public_half("acme", held)
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode"):
        store.public_half("acme", held)
    file.unlink()
    assert store.public_half("acme", held)[0] is None
    (tmp_path / "acme/ES256").chmod(0o755)
    with pytest.raises(ConfigurationError, match="mode"):
        store.held("acme")


# -- Secrets Manager -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_moto_url() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def secrets(strict_moto_url: str) -> Iterator[Wire]:
    with Wire("secretsmanager", strict_moto_url).connected() as wire:
        yield wire


class TestSecretsManagerKeysAreFound(SearchableContract):
    algorithms = (*SearchableContract.algorithms, "ML-DSA-65")

    @pytest.fixture
    def store(self, secrets: Wire) -> SecretsManagerKeys:
        return SecretsManagerKeys(secrets, "rotator")


def test_a_secret_proves_that_its_pointer_never_moved(secrets: Wire) -> None:
    keyset = f"acme-{uuid4().hex[:16]}"
    store = SecretsManagerKeys(secrets, "rotator")
    order = intend(keyset, ES256)
    ref = ref_to(order, store.create(order))
    assert [held.unsigned for held in store.held(keyset)] == [True]
    pointer = store.move_pointer(store.read_pointer(keyset, ES256), ref)
    assert [held.unsigned for held in store.held(keyset)] == [False]
    # Back by hand: AWSPREVIOUS tells that it was somewhere else.
    name, placeholder = f"rotator/{keyset}/ES256", SecretsManagerKeys(secrets, "rotator")
    stages = secrets.client.describe_secret(SecretId=name)["VersionIdsToStages"]
    first = next(version for version, labels in stages.items() if "AWSPREVIOUS" in labels)
    secrets.client.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", RemoveFromVersionId=pointer.token, MoveToVersionId=first
    )
    assert placeholder.read_pointer(keyset, ES256).id is None
    assert [held.unsigned for held in store.held(keyset)] == [False]


def test_a_fenced_key_is_found_once(secrets: Wire) -> None:
    keyset = f"acme-{uuid4().hex[:16]}"
    store = SecretsManagerKeys(secrets, "rotator")
    order = intend(keyset, ES256)
    stored = store.create(order)
    store.fence(keyset, ES256, store.move_pointer(store.read_pointer(keyset, ES256), ref_to(order, stored)))
    (held,) = SecretsManagerKeys(secrets, "rotator").held(keyset)
    assert held.id == order.id
    spki, made_at = store.public_half(keyset, held)
    assert spki == stored.spki
    assert made_at
    assert made_at.tzinfo is UTC


def test_a_value_that_holds_no_key_is_named_and_not_shown(secrets: Wire) -> None:
    keyset = f"acme-{uuid4().hex[:16]}"
    store = SecretsManagerKeys(secrets, "rotator")
    store.create(intend(keyset, ES256))
    id_, name = str(uuid4()), f"rotator/{keyset}/ES256"
    secrets.client.put_secret_value(
        SecretId=name,
        ClientRequestToken=id_,
        SecretString=json.dumps({"kty": "EC", "d": "very-secret"}),
        VersionStages=[f"rotator-{id_}"],
    )
    odd = next(held for held in store.held(keyset) if held.id == id_)
    with pytest.raises(ConfigurationError, match=f"rotator-{id_}") as caught:
        store.public_half(keyset, odd)
    assert "very-secret" not in str(caught.value)


def test_a_secret_that_is_being_deleted_holds_nothing(secrets: Wire) -> None:
    keyset = f"acme-{uuid4().hex[:16]}"
    store = SecretsManagerKeys(secrets, "rotator")
    store.create(intend(keyset, ES256))
    secrets.client.delete_secret(SecretId=f"rotator/{keyset}/ES256")
    assert store.held(keyset) == []


# -- KMS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kms(ministack_url: str, tmp_path: Path) -> Iterator[test_kms.World]:
    made = test_kms.World(ministack_url, tmp_path / "ledgers")
    with made.wire.connected():
        yield made


class TestKmsKeysAreFound(SearchableContract):
    tells_of_disabled = False

    @pytest.fixture
    def store(self, kms: test_kms.World) -> KmsKeys:
        return kms.store


def test_a_key_without_its_tags_is_found_by_its_alias_and_one_without_its_alias_by_its_tags(
    kms: test_kms.World,
) -> None:
    named, tagged = intend("acme", ES256), intend("acme", ES256)
    without_tags, without_alias = kms.store.create(named), kms.store.create(tagged)
    client = kms.wire.client()
    client.untag_resource(KeyId=without_tags.handle, TagKeys=["rotator:keyset"])
    client.delete_alias(AliasName=f"alias/{kms.prefix}/acme/ES256/{tagged.id}")
    held = {each.handle: (each.id, each.alg, each.ledger_id) for each in kms.store.held("acme")}
    assert held == {
        without_tags.handle: (named.id, "ES256", None),
        without_alias.handle: (tagged.id, None, tagged.ledger_id),
    }


def test_a_key_that_lost_its_race_does_not_pass_for_the_winner(kms: test_kms.World) -> None:
    order = intend("acme", ES256)
    stored = kms.store.create(order)
    client = kms.wire.client()
    tags = client.list_resource_tags(KeyId=stored.handle)["Tags"]
    loser = client.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256", Tags=tags)["KeyMetadata"]["Arn"]
    held = {each.handle: each.id for each in kms.store.held("acme")}
    assert held == {stored.handle: order.id, loser: ""}


def test_the_current_alias_and_those_of_others_name_no_key(kms: test_kms.World) -> None:
    order = intend("acme", ES256)
    stored = kms.store.create(order)
    kms.store.move_pointer(kms.store.read_pointer("acme", ES256), ref_to(order, stored))
    client = kms.wire.client()
    for name in ("acme/HS256/x", "acme/ES256", "acme-2/ES256/y", "acme/ES256/a/b"):
        client.create_alias(AliasName=f"alias/{kms.prefix}/{name}", TargetKeyId=stored.handle)
    (held,) = kms.store.held("acme")
    assert (held.id, held.alg) == (order.id, "ES256")
    assert held.created_at
    assert abs(held.created_at - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize("code", ["DisabledException", "KMSInvalidStateException", "NotFoundException"])
def test_the_public_half_of_a_key_that_kms_will_not_tell_of_is_unknown(
    kms: test_kms.World, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    kms.store.create(intend("acme", ES256))
    (held,) = kms.store.held("acme")
    monkeypatch.setattr(kms.store, "_public_key", lambda _: _raise(code))
    assert kms.store.public_half("acme", held)[0] is None
    monkeypatch.setattr(kms.store, "_public_key", lambda _: _raise("ThrottlingException"))
    with pytest.raises(StoreError, match="throttling"):
        kms.store.public_half("acme", held)


def _raise(code: str) -> bytes:
    from botocore.exceptions import ClientError

    from rotator.aws import translated

    with translated("kms:GetPublicKey", "key"):
        raise ClientError({"Error": {"Code": code, "Message": "staged"}}, "GetPublicKey")


def test_denied_is_not_missing(kms: test_kms.World, monkeypatch: pytest.MonkeyPatch) -> None:
    kms.store.create(intend("acme", ES256))
    (held,) = kms.store.held("acme")
    monkeypatch.setattr(kms.store, "_public_key", lambda _: _raise("AccessDeniedException"))
    with pytest.raises(AccessDenied):
        kms.store.public_half("acme", held)
