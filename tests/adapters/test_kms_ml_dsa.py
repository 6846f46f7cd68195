"""ML-DSA keys in KMS keep every promise of a key store, as far as AWS's model of the calls can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rotator.errors import ConfigurationError, Refused
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from tests.adapters.kms_ml_dsa import MlDsaKms
from tests.adapters.test_kms import World
from tests.contracts.key_store import KeyStoreContract, again, intend, ref_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rotator.stores.kms import KmsKeys

EVERY = pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])


@pytest.fixture
def kms() -> MlDsaKms:
    return MlDsaKms()


@pytest.fixture
def world(kms: MlDsaKms, ministack_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(ministack_url, tmp_path / "ledgers")
    with made.wire.connected(), kms.before(made.wire.client(), made.wire.client_once()):
        yield made


class TestMlDsaInKmsKeepsThePromisesOfAKeyStore(KeyStoreContract):
    algorithms = ("ML-DSA-65",)

    @pytest.fixture
    def store(self, world: World) -> KmsKeys:
        return world.store

    @pytest.fixture
    def second(self, world: World) -> KmsKeys:
        return world.worker()


@EVERY
def test_kms_is_asked_for_the_very_spec_and_signs_the_message_itself(world: World, kms: MlDsaKms, alg: str) -> None:
    row = ALGORITHMS[alg]
    intent = intend("acme", row)
    key = world.store.create(intent)
    public = jwks.public_jwk(key.spki, row)
    message = b"x" * 4096
    assert material.verify(public, row, message, world.store.sign(ref_to(intent, key), message))
    asked = next(body for operation, body in world.wire.sent if operation == "CreateKey")
    assert (asked["KeySpec"], asked["KeyUsage"]) == (alg.replace("-", "_"), "SIGN_VERIFY")
    assert len(kms.signed) == 1
    assert world.store.create(again(intent)) == key


def test_a_message_that_kms_does_not_take_is_refused_before_it_is_asked(world: World, kms: MlDsaKms) -> None:
    ref = world.make(intend("acme", ALGORITHMS["ML-DSA-44"]))
    with pytest.raises(ConfigurationError, match="at most 4096 bytes with ML-DSA-44; this message has 4097"):
        world.store.sign(ref, b"x" * 4097)
    assert not kms.signed


def test_an_alias_on_a_key_of_another_kind_is_refused(world: World) -> None:
    intent = intend("acme", ALGORITHMS["ML-DSA-87"])
    other = world.make(intend("acme", ALGORITHMS["ES256"]))
    alias = f"alias/{world.prefix}/acme/ML-DSA-87/{intent.id}"
    world.wire.client().create_alias(AliasName=alias, TargetKeyId=other.handle)
    with pytest.raises(Refused, match="ECC_NIST_P256 key that cannot sign ML-DSA-87"):
        world.store.create(intent)


def test_ed448_is_refused_before_a_key_of_another_kind_is_made(world: World) -> None:
    with pytest.raises(ConfigurationError, match="AWS KMS has no Ed448 keys"):
        world.store.create(intend("acme", ALGORITHMS["Ed448"]))
    assert "CreateKey" not in world.wire.counted()
