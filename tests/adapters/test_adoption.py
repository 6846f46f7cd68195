"""Keys that somebody else made, taken over by each key store."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from rotator.documents.filesystem import FilesystemDocuments
from rotator.errors import AccessDenied, ConfigurationError, Refused, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Takeover
from rotator.stores.local import LocalKeys
from rotator.stores.secretsmanager import SecretsManagerKeys, value_of
from tests.accounts import moto
from tests.adapters import test_kms
from tests.adapters.wire import Wire
from tests.contracts.adoption import KID, AdoptionContract, order, ref
from tests.contracts.key_store import MESSAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rotator.keys.algorithms import Algorithm
    from rotator.stores.kms import KmsKeys

ES256, RS256 = ALGORITHMS["ES256"], ALGORITHMS["RS256"]


# -- files -----------------------------------------------------------------------------------------------------------


class TestLocalKeysAdopt(AdoptionContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalKeys:
        return LocalKeys(tmp_path / "keys", b"correct horse")

    @pytest.fixture
    def second(self, tmp_path: Path) -> LocalKeys:
        return LocalKeys(tmp_path / "keys", b"correct horse")


def test_an_issuer_finds_the_kid_it_knows_in_the_pointer_file(tmp_path: Path) -> None:
    store = LocalKeys(tmp_path)
    taken = order("acme", ES256)
    store.move_pointer(store.read_pointer("acme", ES256), ref(taken, store.adopt(taken)))
    named = json.loads((tmp_path / "acme/ES256/pointer.json").read_text())
    assert (named["kid"], named["alg"]) == (KID, "ES256")
    private = material.load_private_pem((tmp_path / "acme/ES256" / named["key"]).read_bytes())
    assert taken.private
    assert material.spki(private) == material.spki(taken.private)


def test_a_file_that_holds_another_key_than_the_one_adopted_signs_nothing(tmp_path: Path) -> None:
    store = LocalKeys(tmp_path)
    taken, other = order("acme", ES256), order("acme", ES256)
    key, swapped = store.adopt(taken), store.adopt(other)
    (tmp_path / "acme/ES256" / swapped.handle).replace(tmp_path / "acme/ES256" / key.handle)
    with pytest.raises(Refused, match="holds another key than Signing key"):
        store.sign(ref(taken, key), MESSAGE)


# -- Secrets Manager -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets_url() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def secrets(secrets_url: str) -> Iterator[Wire]:
    with Wire("secretsmanager", secrets_url).connected() as wire:
        yield wire


class TestSecretsManagerKeysAdopt(AdoptionContract):
    disables = False

    @pytest.fixture
    def store(self, secrets: Wire) -> SecretsManagerKeys:
        return SecretsManagerKeys(secrets, "test/adopt")

    @pytest.fixture
    def second(self, secrets: Wire) -> SecretsManagerKeys:
        return SecretsManagerKeys(secrets, "test/adopt", pem=True)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_an_issuer_gets_a_private_jwk_with_the_kid_it_knows(secrets: Wire, alg: str) -> None:
    store, row, keyset = SecretsManagerKeys(secrets, "test/adopt"), ALGORITHMS[alg], f"acme-{uuid4().hex[:12]}"
    taken = order(keyset, row)
    store.move_pointer(store.read_pointer(keyset, row), ref(taken, store.adopt(taken)))
    value = json.loads(secrets.client.get_secret_value(SecretId=f"test/adopt/{keyset}/{alg}")["SecretString"])
    assert (value["kid"], value["alg"], value["use"]) == (KID, alg, "sig")
    assert taken.private
    assert material.spki(material.load_private_jwk(value)) == material.spki(taken.private)


@pytest.mark.parametrize("binary", [True, False])
def test_the_value_of_anybodys_secret_is_read_as_bytes(secrets: Wire, binary: bool) -> None:
    value: dict[str, Any] = {"SecretBinary": b"\x00\xffkey"} if binary else {"SecretString": "clé"}
    made = secrets.client.create_secret(Name=f"other/{uuid4().hex}", **value)
    expected = b"\x00\xffkey" if binary else "clé".encode()
    assert value_of(secrets, made["ARN"]) == value_of(secrets, made["Name"]) == expected


def test_a_secret_that_is_missing_or_empty_is_told(secrets: Wire) -> None:
    name = f"other/{uuid4().hex}"
    with pytest.raises(ConfigurationError, match=f"Secret {name} does not exist"):
        value_of(secrets, name)
    secrets.client.create_secret(Name=name)
    with pytest.raises(ConfigurationError, match="has no value"):
        value_of(secrets, name)


# -- KMS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(ministack_url: str, tmp_path: Path) -> Iterator[test_kms.World]:
    made = test_kms.World(ministack_url, tmp_path / "ledgers")
    with made.wire.connected():
        yield made


def key_in_kms(world: test_kms.World, algorithm: Algorithm, **options: Any) -> str:
    """The ARN of a key that its owner made."""
    given = {"KeySpec": algorithm.key_spec(2048), "KeyUsage": "SIGN_VERIFY"} | options
    arn: str = world.wire.client().create_key(**given)["KeyMetadata"]["Arn"]
    return arn


def take(world: test_kms.World, keyset: str, algorithm: Algorithm, arn: str | None = None) -> Takeover:
    arn = arn or key_in_kms(world, algorithm)
    spki = world.wire.client().get_public_key(KeyId=arn)["PublicKey"]
    return Takeover(keyset, str(uuid4()), jwks.adopted_id(spki, algorithm), algorithm, KID, handle=arn)


def tags(world: test_kms.World, arn: str) -> dict[str, str]:
    found = world.wire.client().list_resource_tags(KeyId=arn)["Tags"]
    return {tag["TagKey"]: tag["TagValue"] for tag in found}


class TestKmsKeysAdopt(AdoptionContract):
    @pytest.fixture
    def store(self, world: test_kms.World) -> KmsKeys:
        self.world = world
        return world.store

    @pytest.fixture
    def second(self, world: test_kms.World) -> KmsKeys:
        return world.worker()

    def order(self, keyset: str, algorithm: Algorithm) -> Takeover:
        return take(self.world, keyset, algorithm)

    def unfit(self, keyset: str, algorithm: Algorithm) -> Takeover:
        return order(keyset, algorithm)

    def test_an_order_does_not_show_its_private_half(self, keyset: str, first: Algorithm) -> None:
        """There is none in it."""


def test_an_adopted_key_is_tagged_and_named_and_its_owners_tags_stay(world: test_kms.World) -> None:
    arn = key_in_kms(world, ES256, Tags=[{"TagKey": "team", "TagValue": "identity"}])
    taken = take(world, "acme", ES256, arn)
    assert world.worker(tags={"team": "another"}).adopt(taken).handle == arn
    assert tags(world, arn) == {
        "team": "identity",
        "rotator:prefix": world.prefix,
        "rotator:keyset": "acme",
        "rotator:ledger": taken.ledger_id,
        "rotator:intent": taken.id,
        "rotator:adopted": "true",
    }
    assert world.aliases()[f"acme/ES256/{taken.id}"] == arn.rsplit("/", 1)[1]


def test_an_issuer_finds_the_owners_key_behind_the_pointer_and_the_current_alias(world: test_kms.World) -> None:
    taken = take(world, "acme", ES256)
    key = world.store.adopt(taken)
    world.store.move_pointer(world.store.read_pointer("acme", ES256), ref(taken, key))
    pointer = world.pointer()
    assert (pointer["kid"], pointer["key_arn"]) == (KID, taken.handle)
    assert world.current_alias() == taken.handle.rsplit("/", 1)[1]


def test_a_key_is_known_by_its_arn_its_id_and_its_alias(world: test_kms.World) -> None:
    arn, alias = key_in_kms(world, ES256), f"alias/owner-{uuid4().hex}"
    world.wire.client().create_alias(AliasName=alias, TargetKeyId=arn)
    spki = world.wire.client().get_public_key(KeyId=arn)["PublicKey"]
    for name in (arn, arn.rsplit("/", 1)[1], alias):
        known = world.store.known(name, "acme")
        assert (known.handle, known.spki) == (arn, spki)
    assert set(world.wire.counted()) <= {
        "CreateKey", "CreateAlias", "DescribeKey", "GetPublicKey", "ListResourceTags",
    }  # fmt: skip


def test_a_key_that_cannot_sign_for_long_is_refused_with_the_reason(world: test_kms.World) -> None:
    kms = world.wire.client()
    disabled, doomed = key_in_kms(world, ES256), key_in_kms(world, ES256)
    kms.disable_key(KeyId=disabled)
    kms.schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    encrypts = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    for arn, reason in (
        (disabled, "it is disabled in KMS"),
        (doomed, "it is scheduled for deletion in KMS"),
        (encrypts, "its usage is ENCRYPT_DECRYPT, not SIGN_VERIFY"),
    ):
        with pytest.raises(Refused, match=f"KMS key {arn} cannot be adopted: {reason}") as refused:
            world.store.known(arn, "acme")
        assert "Nothing was changed" in str(refused.value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"KeyManager": "AWS"}, "managed by AWS"),
        (
            {"Origin": "EXTERNAL", "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": 1.9e9},
            "material expires at 2030",
        ),
        ({"KeyState": "PendingImport"}, "its state is PendingImport"),
    ],
)
def test_what_an_emulator_does_not_have_is_refused_all_the_same(
    world: test_kms.World, said: dict[str, Any], reason: str
) -> None:
    arn = key_in_kms(world, ES256)
    about = {"KeyId": arn, "Arn": arn, "KeyUsage": "SIGN_VERIFY", "KeyState": "Enabled", "KeyManager": "CUSTOMER"}
    world.wire.answer("DescribeKey", {"KeyMetadata": about | said})
    with pytest.raises(Refused, match=reason):
        world.store.known(arn, "acme")


def test_imported_material_without_an_end_may_be_adopted(world: test_kms.World) -> None:
    arn = key_in_kms(world, ES256)
    about = {"KeyId": arn, "Arn": arn, "KeyUsage": "SIGN_VERIFY", "KeyState": "Enabled", "Origin": "EXTERNAL"}
    world.wire.answer("DescribeKey", {"KeyMetadata": about | {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}})
    assert world.store.known(arn, "acme").handle == arn


def test_a_key_of_another_key_set_or_of_rotators_own_making_is_refused(world: test_kms.World) -> None:
    taken = take(world, "acme", ES256)
    world.store.adopt(taken)
    assert world.store.known(taken.handle, "acme").handle == taken.handle, "to adopt again is fine"
    with pytest.raises(Refused, match=f"a key of key set acme \\({world.prefix}\\)"):
        world.store.known(taken.handle, "globex")
    with pytest.raises(Refused, match="a key of key set acme"):
        world.worker(prefix="another").known(taken.handle, "acme")
    own = world.make()
    with pytest.raises(Refused, match="which stops and deletes it in its own time"):
        world.store.known(own.handle, "acme")


def test_an_alias_that_names_another_key_is_refused(world: test_kms.World) -> None:
    taken = take(world, "acme", ES256)
    alias = f"alias/{world.prefix}/acme/ES256/{taken.id}"
    world.wire.client().create_alias(AliasName=alias, TargetKeyId=key_in_kms(world, ES256))
    with pytest.raises(Refused, match=f"{alias} names .* already, not {taken.handle}. Delete that alias"):
        world.store.adopt(taken)


@pytest.mark.parametrize("operation", ["TagResource", "CreateAlias", "GetPublicKey"])
def test_whatever_fails_on_the_way_to_adopt_again_ends_the_same(world: test_kms.World, operation: str) -> None:
    taken = take(world, "acme", ES256)
    world.wire.refuse(operation, "KMSInternalException")
    with pytest.raises(StoreError):
        world.store.adopt(taken)
    assert list(world.store.strays("acme")) == []
    again = replace(taken, ledger_id=str(uuid4()))
    assert world.store.adopt(again).handle == taken.handle
    assert tags(world, taken.handle)["rotator:ledger"] == again.ledger_id
    assert f"acme/ES256/{taken.id}" in world.aliases()


def test_an_answer_that_is_lost_after_the_alias_was_made_does_no_harm(world: test_kms.World) -> None:
    taken = take(world, "acme", ES256)
    world.wire.lose("CreateAlias")
    assert world.store.adopt(taken).handle == taken.handle


@pytest.mark.parametrize("operation", ["ListResourceTags", "DescribeKey", "GetPublicKey"])
def test_a_missing_permission_is_named_with_the_key(world: test_kms.World, operation: str) -> None:
    arn = key_in_kms(world, ES256)
    world.wire.refuse(operation, "AccessDeniedException")
    with pytest.raises(AccessDenied, match=f"kms:{operation} on {arn}"):
        world.store.known(arn, "acme")


def test_the_pointer_of_kms_is_told_as_the_document_it_is(tmp_path: Path, world: test_kms.World) -> None:
    papers = FilesystemDocuments(tmp_path / "ledgers")
    assert world.store.locate_pointer("acme", RS256) == papers.locate("acme/RS256.pointer.json")
