from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import ParamValidationError
from cryptography.hazmat.primitives import serialization
from joserfc import jws
from joserfc.jwk import import_key

from rotator import aws
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.jwks import public_jwk
from rotator.settings import _LABELS, _OTHER_LABELS
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests import emulators
from tests.adapters.wire import Wire
from tests.contracts.document_store import race
from tests.contracts.key_store import MESSAGE, KeyStoreContract, again, intend, ref_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rotator.ports import KeyRef, KeyStore, Pointer

ES256, EDDSA, RS256 = ALGORITHMS["ES256"], ALGORITHMS["EdDSA"], ALGORITHMS["RS256"]
PREFIX = "rotator/prod"


@pytest.fixture(scope="module")
def strict_moto_url() -> Iterator[str]:
    port = emulators.free_port()
    command = [sys.executable, str(Path(__file__).with_name("strict_moto.py")), "-H", "127.0.0.1", "-p", str(port)]
    with emulators.serving(command, {}, f"http://127.0.0.1:{port}", "/moto-api/") as url:
        yield url


@pytest.fixture
def wire(strict_moto_url: str) -> Iterator[Wire]:
    with Wire("secretsmanager", strict_moto_url).connected() as wire:
        yield wire


@pytest.fixture
def once(strict_moto_url: str) -> Iterator[Wire]:
    """A client that does not repeat what failed."""
    with Wire("secretsmanager", strict_moto_url, attempts=1).connected() as wire:
        yield wire


@pytest.fixture
def store(wire: Wire) -> SecretsManagerKeys:
    return SecretsManagerKeys(wire, PREFIX)


@pytest.fixture
def keyset() -> str:
    return f"acme-{uuid4().hex[:16]}"


class TestSecretsManagerKeys(KeyStoreContract):
    algorithms = (*KeyStoreContract.algorithms, "Ed448", "ML-DSA-65")
    #: A version is as readable after ``disable`` as before.
    disables = False
    #: A token is the id of the version under AWSCURRENT, which people may put back under it.
    tokens_are_new = False

    @pytest.fixture
    def store(self, wire: Wire) -> KeyStore:
        return SecretsManagerKeys(wire, PREFIX, pem=True)

    @pytest.fixture
    def second(self, wire: Wire) -> KeyStore:
        return SecretsManagerKeys(wire, PREFIX, pem=True)

    def private_texts(self, store: KeyStore, ref: KeyRef) -> Sequence[str]:
        assert isinstance(store, SecretsManagerKeys)
        name = f"{PREFIX}/{ref.keyset}/{ref.algorithm.alg}"
        value = json.loads(store._client().get_secret_value(SecretId=name, VersionId=ref.id)["SecretString"])
        texts: list[str] = [value[member] for member in ("d", "p", "q", "priv") if member in value]
        texts += value["pem"].splitlines()[1:-1]
        return texts


class Secret:
    """One secret as somebody with the AWS console sees and changes it."""

    def __init__(self, url: str, keyset: str, alg: str = "ES256") -> None:
        self.client = Wire("secretsmanager", url).client
        self.name = f"{PREFIX}/{keyset}/{alg}"

    def labels(self) -> dict[str, str]:
        stages: dict[str, list[str]] = self.client.describe_secret(SecretId=self.name).get("VersionIdsToStages", {})
        return {label: version for version, labels in stages.items() for label in labels}

    def value(self, **which: str) -> Any:
        return json.loads(self.client.get_secret_value(SecretId=self.name, **which)["SecretString"])

    def label(self, label: str, version: str) -> None:
        holder = self.labels().get(label)
        remove = {"RemoveFromVersionId": holder} if holder else {}
        self.client.update_secret_version_stage(
            SecretId=self.name, VersionStage=label, MoveToVersionId=version, **remove
        )


@pytest.fixture
def secret(strict_moto_url: str, keyset: str) -> Secret:
    return Secret(strict_moto_url, keyset)


def make(store: KeyStore, keyset: str) -> KeyRef:
    intent = intend(keyset, ES256)
    return ref_to(intent, store.create(intent))


def make_current(store: KeyStore, keyset: str) -> tuple[KeyRef, Pointer]:
    before = store.read_pointer(keyset, ES256)
    ref = make(store, keyset)
    return ref, store.move_pointer(before, ref)


def signs(store: KeyStore, ref: KeyRef, spki: bytes) -> bool:
    public = public_jwk(spki, ref.algorithm)
    return material.verify(public, ref.algorithm, MESSAGE, store.sign(ref, MESSAGE))


# What issuers find


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "Ed448", "RS256", "PS384", "ES512"])
def test_the_value_is_a_private_jwk_that_a_jose_library_signs_with(
    store: SecretsManagerKeys, strict_moto_url: str, keyset: str, alg: str
) -> None:
    intent = intend(keyset, ALGORITHMS[alg])
    key = store.create(intent)
    value = Secret(strict_moto_url, keyset, alg).value(VersionId=intent.id)
    public = public_jwk(key.spki, intent.algorithm)
    assert {name: value[name] for name in public} == public
    assert (value["use"], value["alg"], value["kid"]) == ("sig", alg, jwks.thumbprint(public))
    token = jws.serialize_compact({"alg": alg, "kid": value["kid"]}, b"{}", import_key(value), algorithms=[alg])
    assert jws.deserialize_compact(token, import_key(public), algorithms=[alg]).payload == b"{}"


def test_with_pem_the_key_stands_beside_it_as_pkcs8_and_jose_libraries_do_not_mind(
    wire: Wire, secret: Secret, keyset: str
) -> None:
    intent = intend(keyset, ES256)
    key = SecretsManagerKeys(wire, PREFIX, pem=True).create(intent)
    value = secret.value(VersionId=intent.id)
    private = serialization.load_pem_private_key(value["pem"].encode(), None)
    assert material.spki(private) == key.spki
    assert import_key(value).thumbprint() == value["kid"]
    assert "pem" not in secret.value(VersionStage="AWSCURRENT")


def test_a_key_is_known_by_the_kid_that_its_value_gives_to_issuers_and_signs_for_no_other(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    intent = intend(keyset, ES256)
    made = store.create(intent)
    changed = replace(again(intent), kid_format="spki-sha256")
    key = SecretsManagerKeys(wire, PREFIX).create(changed)
    assert key == made
    assert key.kid == secret.value(VersionId=intent.id)["kid"] == ref_to(intent, key).kid
    assert signs(store, ref_to(intent, key), key.spki)
    # As a ledger would have it that went by the policy of the day.
    with pytest.raises(Refused, match="issuers take the kid of its value"):
        store.sign(ref_to(changed, key), MESSAGE)


@pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_the_value_of_an_ml_dsa_key_is_the_private_jwk_of_rfc_9964(
    store: SecretsManagerKeys, strict_moto_url: str, keyset: str, alg: str
) -> None:
    intent = intend(keyset, ALGORITHMS[alg])
    key = store.create(intent)
    value = Secret(strict_moto_url, keyset, alg).value(VersionId=intent.id)
    assert value == public_jwk(key.spki, intent.algorithm) | {"priv": value["priv"]}
    assert (value["kty"], value["alg"], len(material.unb64u(value["priv"]))) == ("AKP", alg, 32)
    assert signs(store, ref_to(intent, key), key.spki)


def test_every_value_fits_into_a_secret() -> None:
    for row in ALGORITHMS.values():
        bits = 4096 if row.alg == "RS256" else 2048
        private = material.generate(row, bits)
        value = material.private_jwk(private, public_jwk(material.spki(private), row))
        value["pem"] = material.private_pem(private).decode()
        assert len(json.dumps(value)) < 65_536 / 5, "AWS Secrets Manager takes 65,536 bytes"


def test_until_the_first_promotion_issuers_find_a_value_that_is_clearly_no_key(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    ref = make(store, keyset)
    assert secret.value() == {"rotator": "placeholder", "keyset": keyset, "alg": "ES256"}
    store.move_pointer(store.read_pointer(keyset, ES256), ref)
    assert secret.value()["kid"] == ref.kid


def test_the_secret_is_tagged_described_and_encrypted_as_configured(wire: Wire, secret: Secret, keyset: str) -> None:
    intent = intend(keyset, ES256)
    SecretsManagerKeys(wire, f"/{PREFIX}/", kms_key="alias/acme", tags={"team": "identity"}).create(intent)
    found = secret.client.describe_secret(SecretId=secret.name)
    tags = {"team": "identity", "rotator:keyset": keyset, "rotator:ledger": intent.ledger_id}
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == tags
    assert found["KmsKeyId"] == "alias/acme"
    assert keyset in found["Description"]


def test_pending_current_and_previous_stand_where_people_expect_them(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    first, pointer = make_current(store, keyset)
    second = make(store, keyset)
    labels = secret.labels()
    assert (labels["AWSCURRENT"], labels["AWSPENDING"]) == (first.id, second.id)
    store.move_pointer(pointer, second)
    third = make(store, keyset)
    labels = secret.labels()
    assert (labels["AWSPREVIOUS"], labels["AWSCURRENT"], labels["AWSPENDING"]) == (first.id, second.id, third.id)
    store.disable(first)
    store.destroy(first)
    # The placeholder that went first is free to be pruned, as is the destroyed key.
    assert secret.labels() == {
        "AWSCURRENT": second.id,
        "AWSPENDING": third.id,
        f"rotator-{second.id}": second.id,
        f"rotator-{third.id}": third.id,
    }


# What it costs


def test_a_tick_with_nothing_to_do_is_one_call_and_reads_no_private_key(
    wire: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    def tick(expected: str | None) -> None:
        wire.counted()
        # A process that has seen nothing before, as in a CronJob.
        assert SecretsManagerKeys(wire, PREFIX).read_pointer(keyset, ES256).id == expected
        assert wire.counted() == {"DescribeSecret": 1}

    tick(None)
    ref = make(store, keyset)
    tick(None)
    pointer = store.move_pointer(store.read_pointer(keyset, ES256), ref)
    tick(ref.id)
    pointer = store.fence(keyset, ES256, pointer)
    tick(ref.id)
    pointer = store.fence(keyset, ES256, pointer)
    tick(ref.id)
    store.clear_pointer(keyset, ES256, pointer)
    tick(None)


def test_a_rotation_costs_four_writes_and_a_proof(wire: Wire, store: SecretsManagerKeys, keyset: str) -> None:
    old, _ = make_current(store, keyset)
    pointer = store.read_pointer(keyset, ES256)
    wire.counted()
    new = make(store, keyset)
    assert wire.counted() == {"PutSecretValue": 1, "UpdateSecretVersionStage": 1}
    store.sign(new, MESSAGE)
    assert wire.counted() == {"GetSecretValue": 1}
    store.move_pointer(pointer, new)
    assert wire.counted() == {"UpdateSecretVersionStage": 1}
    store.disable(old)
    assert wire.counted() == {"UpdateSecretVersionStage": 1}
    store.destroy(old)
    assert wire.counted() == {"UpdateSecretVersionStage": 1}


def test_what_the_rarer_operations_cost(wire: Wire, store: SecretsManagerKeys, keyset: str) -> None:
    store.check(keyset, [ES256, EDDSA])
    assert wire.counted() == {"DescribeSecret": 2}
    store.read_pointer(keyset, ES256)
    wire.counted()
    ref = make(store, keyset)
    assert wire.counted() == {"CreateSecret": 1, "PutSecretValue": 1, "UpdateSecretVersionStage": 1}
    unseen = SecretsManagerKeys(wire, PREFIX)
    intent = intend(keyset, ES256)
    unseen.create(intent)
    assert wire.counted() == {"DescribeSecret": 1, "PutSecretValue": 1, "UpdateSecretVersionStage": 1}
    unseen.create(again(intent))
    assert wire.counted() == {"GetSecretValue": 1}
    pointer = store.move_pointer(store.read_pointer(keyset, ES256), ref)
    wire.counted()
    pointer = store.fence(keyset, ES256, pointer)
    assert wire.counted() == {"GetSecretValue": 1, "PutSecretValue": 1, "UpdateSecretVersionStage": 3}
    with pytest.raises(Conflict):
        store.fence(keyset, ES256, replace(pointer, token=ref.id))
    assert wire.counted() == {"GetSecretValue": 1}
    store.clear_pointer(keyset, ES256, pointer)
    assert wire.counted() == {"PutSecretValue": 1, "UpdateSecretVersionStage": 2}


def test_an_answer_carries_the_clock_of_the_service(store: SecretsManagerKeys, keyset: str) -> None:
    missing = store.read_pointer(keyset, ES256)
    _, moved = make_current(store, keyset)
    for pointer in (missing, moved, store.read_pointer(keyset, ES256)):
        assert pointer.date is not None
        assert abs(pointer.date - datetime.now(UTC)) < timedelta(seconds=30)


# Secrets made in advance, or changed by hand


def test_a_secret_made_without_a_value_gets_its_placeholder_before_any_key(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    # As Terraform's aws_secretsmanager_secret does: whatever is put first takes AWSCURRENT.
    secret.client.create_secret(Name=secret.name)
    assert store.holds(keyset, [ES256]) is None
    before = store.read_pointer(keyset, ES256)
    ref = make(store, keyset)
    assert secret.value()["rotator"] == "placeholder"
    assert store.read_pointer(keyset, ES256) == replace(before, date=store.read_pointer(keyset, ES256).date)
    assert store.move_pointer(before, ref).id == ref.id


def test_a_placeholder_made_in_advance_is_read_once_and_then_known(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    secret.client.create_secret(Name=secret.name, SecretString='{"rotator": "placeholder"}')
    assert store.read_pointer(keyset, ES256).id is None
    assert store.holds(keyset, [ES256]) is None
    assert wire.counted()["GetSecretValue"] == 1
    ref, _ = make_current(store, keyset)
    assert secret.value()["kid"] == ref.kid


@pytest.mark.parametrize("value", ["CHANGE ME", "{}", '{"kty": "EC", "d": "c2VjcmV0"}', "[" * 9999, "null"])
def test_a_value_that_somebody_put_by_hand_is_refused_and_not_quoted(
    store: SecretsManagerKeys, secret: Secret, keyset: str, value: str
) -> None:
    secret.client.create_secret(Name=secret.name, SecretString=value)
    with pytest.raises(Refused, match="by hand") as raised:
        store.read_pointer(keyset, ES256)
    assert value not in "".join(traceback.format_exception(raised.value)) or value == "{}"
    assert store.holds(keyset, [ES256]) == f"secret {secret.name}"


def test_a_value_put_over_the_current_key_is_refused_with_the_command_that_undoes_it(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    ref, _ = make_current(store, keyset)
    by_hand = secret.client.put_secret_value(SecretId=secret.name, SecretString="hunter2")["VersionId"]
    with pytest.raises(Refused) as raised:
        store.read_pointer(keyset, ES256)
    assert f"--remove-from-version-id {by_hand} --move-to-version-id {ref.id}" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    secret.label("AWSCURRENT", ref.id)
    assert store.read_pointer(keyset, ES256).id == ref.id


def test_a_pointer_put_back_by_hand_names_the_key_it_is_on(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    old, pointer = make_current(store, keyset)
    new = make(store, keyset)
    store.move_pointer(pointer, new)
    secret.label("AWSCURRENT", old.id)
    found = store.read_pointer(keyset, ES256)
    assert found.id == old.id
    assert store.move_pointer(found, new).id == new.id


def test_a_secret_scheduled_for_deletion_is_configuration_and_names_the_remedy(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    ref, pointer = make_current(store, keyset)
    secret.client.delete_secret(SecretId=secret.name)
    calls: list[Callable[[], object]] = [
        lambda: store.create(intend(keyset, ES256)),
        lambda: store.clear_pointer(keyset, ES256, pointer),
        lambda: store.check(keyset, [ES256]),
        lambda: store.holds(keyset, [ES256]),
        lambda: store.read_pointer(keyset, ES256),
        lambda: store.create(intend(keyset, ES256)),
        lambda: store.move_pointer(replace(pointer, id=None), ref),
        lambda: store.destroy(ref),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="restore-secret"):
            call()
    refuse(wire, "CreateSecret", "InvalidRequestException", "a secret with this name is already scheduled for deletion")
    with pytest.raises(ConfigurationError, match="restore-secret"):
        store.create(intend(f"{keyset}-b", ES256))
    secret.client.restore_secret(SecretId=secret.name)
    assert store.read_pointer(keyset, ES256).id == ref.id


def test_everything_about_a_secret_that_is_gone_is_harmless_or_says_so(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    ref, pointer = make_current(store, keyset)
    secret.client.delete_secret(SecretId=secret.name, ForceDeleteWithoutRecovery=True)
    store.disable(ref)
    store.destroy(ref)
    assert store.read_pointer(keyset, ES256).id is None
    with pytest.raises(StoreError, match="gone"):
        store.sign(ref, MESSAGE)
    with pytest.raises(StoreError, match="gone"):
        store.move_pointer(replace(pointer, id=None), ref)
    with pytest.raises(Conflict):
        store.fence(keyset, ES256, pointer)


def test_the_pointer_is_never_moved_to_a_key_that_is_not_there(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    _, pointer = make_current(store, keyset)
    doomed = make(store, keyset)
    store.destroy(doomed)
    with pytest.raises(StoreError, match="gone"):
        store.move_pointer(pointer, doomed)
    assert secret.labels()["AWSCURRENT"] == pointer.token


# Races


def test_workers_that_make_the_first_key_at_once_make_one_secret_and_one_key(
    wire: Wire, secret: Secret, keyset: str
) -> None:
    intent = intend(keyset, ES256)
    raced = race(4, lambda _: SecretsManagerKeys(wire, PREFIX).create(again(intent)))
    assert raced == [raced[0]] * 4
    labels = secret.labels()
    assert labels["AWSPENDING"] == labels[f"rotator-{intent.id}"] == intent.id
    assert secret.value()["rotator"] == "placeholder"


def test_the_loser_of_a_race_adopts_the_key_of_the_winner(
    wire: Wire, once: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    intent = intend(keyset, ES256)
    store.create(intend(keyset, ES256))
    won = []
    wire.before("PutSecretValue", lambda: won.append(SecretsManagerKeys(once, PREFIX).create(again(intent))))
    assert [store.create(intent)] == won


def test_a_worker_that_comes_late_adopts_the_key_and_leaves_the_pending_label_to_the_next(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    intent = intend(keyset, ES256)
    key = store.create(intent)
    store.move_pointer(store.read_pointer(keyset, ES256), ref_to(intent, key))
    following = make(store, keyset)
    assert SecretsManagerKeys(wire, PREFIX).create(again(intent)) == key
    assert secret.labels()["AWSPENDING"] == following.id


def test_losing_the_pending_label_is_no_error(
    wire: Wire, once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    store.create(intend(keyset, ES256))
    other = SecretsManagerKeys(once, PREFIX)
    for _ in range(2):
        wire.before("UpdateSecretVersionStage", lambda: make(other, keyset))
    intent = intend(keyset, ES256)
    assert store.create(intent).handle == intent.id
    assert secret.labels()["AWSPENDING"] != intent.id


def test_a_promotion_that_stalled_before_a_fence_can_never_reach_the_pointer(
    wire: Wire, once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    current, pointer = make_current(store, keyset)
    revoked = make(store, keyset)
    other = SecretsManagerKeys(once, PREFIX)
    wire.before("UpdateSecretVersionStage", lambda: other.fence(keyset, ES256, other.read_pointer(keyset, ES256)))
    with pytest.raises(Conflict):
        store.move_pointer(pointer, revoked)
    assert store.read_pointer(keyset, ES256).id == current.id
    # Somebody plays with the labels; what is put right is the copy, so the stalled token stays dead.
    secret.label("AWSCURRENT", revoked.id)
    repaired = store.move_pointer(store.read_pointer(keyset, ES256), current)
    assert repaired.token not in {pointer.token, current.id}
    with pytest.raises(Conflict):
        store.move_pointer(pointer, revoked)


@pytest.mark.parametrize("made", [False, True])
def test_a_pointer_that_names_no_key_can_be_fenced_and_cleared_too(
    store: SecretsManagerKeys, keyset: str, made: bool
) -> None:
    ref = make(store, keyset) if made else None
    pointer = store.read_pointer(keyset, ES256)
    fenced = store.fence(keyset, ES256, pointer)
    ref = ref or make(store, keyset)
    with pytest.raises(Conflict):
        store.move_pointer(pointer, ref)
    cleared = store.clear_pointer(keyset, ES256, fenced)
    for stale in (pointer, fenced):
        with pytest.raises(Conflict):
            store.fence(keyset, ES256, stale)
    found = store.read_pointer(keyset, ES256)
    assert (found.id, found.token) == (None, cleared.token)
    assert store.move_pointer(found, ref).id == ref.id


def test_of_two_fences_one_wins_and_the_pointer_stays_on_its_key(
    wire: Wire, once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    current, pointer = make_current(store, keyset)
    other = SecretsManagerKeys(once, PREFIX)
    wire.before("UpdateSecretVersionStage", lambda: other.fence(keyset, ES256, pointer))
    with pytest.raises(Conflict):
        store.fence(keyset, ES256, pointer)
    found = store.read_pointer(keyset, ES256)
    assert found.id == current.id
    assert store.fence(keyset, ES256, found).id == current.id
    store.destroy(current)
    assert set(secret.labels()) == {"AWSCURRENT"}


@pytest.mark.parametrize("made", [False, True])
def test_after_a_fence_no_label_leads_back_to_the_token_that_it_took_out_of_use(
    store: SecretsManagerKeys, secret: Secret, keyset: str, made: bool
) -> None:
    make(store, keyset)
    pointer = make_current(store, keyset)[1] if made else store.read_pointer(keyset, ES256)
    for _ in range(3):
        fenced = store.fence(keyset, ES256, pointer)
        # People and tools roll back to AWSPREVIOUS; a promotion that stalled before the fence would go through.
        assert "AWSPREVIOUS" not in secret.labels()
        assert pointer.token not in secret.labels().values()
        pointer = fenced
    assert store.read_pointer(keyset, ES256).token == pointer.token


def test_a_copy_that_a_fence_took_out_of_use_and_somebody_puts_back_is_not_taken_for_the_pointer(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    _, pointer = make_current(store, keyset)
    once_fenced = store.fence(keyset, ES256, pointer)
    twice = store.fence(keyset, ES256, once_fenced)
    secret.label("AWSCURRENT", once_fenced.token)
    with pytest.raises(Refused, match=f"--move-to-version-id {twice.token}"):
        store.read_pointer(keyset, ES256)


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException"])
def test_what_cannot_take_awscurrent_is_put_once_however_often_it_is_tried(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str, cleared: bool, code: str
) -> None:
    current, pointer = make_current(store, keyset)
    stalled = make(store, keyset)

    def tick(worker: SecretsManagerKeys) -> Pointer:
        found = worker.read_pointer(keyset, ES256)
        return (worker.clear_pointer if cleared else worker.fence)(keyset, ES256, found)

    before = len(secret.labels())
    once.counted()
    for _ in range(25):
        refuse(once, "UpdateSecretVersionStage", code)
        with pytest.raises(RotatorError):
            tick(SecretsManagerKeys(once, PREFIX))
    assert once.counted()["PutSecretValue"] == 1
    assert len(secret.labels()) == before + 2, "of it, and that it is unused"
    assert store.read_pointer(keyset, ES256).id == current.id

    taken = tick(SecretsManagerKeys(once, PREFIX))
    assert once.counted()["PutSecretValue"] == 0
    assert store.read_pointer(keyset, ES256).token == taken.token
    with pytest.raises(Conflict):
        store.move_pointer(pointer, stalled)
    # The next one is not taken for unfinished.
    assert tick(SecretsManagerKeys(once, PREFIX)).token != taken.token
    assert once.counted()["PutSecretValue"] == 1


@pytest.mark.parametrize("cleared", [False, True])
def test_a_version_that_had_awscurrent_before_never_takes_it_as_unused(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str, cleared: bool
) -> None:
    current, pointer = make_current(store, keyset)
    once.stage("UpdateSecretVersionStage", lambda _: None)
    once.crash("UpdateSecretVersionStage")
    crashing = SecretsManagerKeys(once, PREFIX)
    with pytest.raises(KeyboardInterrupt):
        (crashing.clear_pointer if cleared else crashing.fence)(keyset, ES256, pointer)
    used = secret.labels()["AWSCURRENT"]
    assert secret.labels()["rotator-unused"] == used
    secret.label("AWSCURRENT", current.id)
    found = store.read_pointer(keyset, ES256)
    taken = (store.clear_pointer if cleared else store.fence)(keyset, ES256, found)
    assert taken.token not in {used, pointer.token}


def test_a_token_of_a_clear_that_was_broken_off_never_comes_back(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    _, pointer = make_current(store, keyset)
    once.stage("UpdateSecretVersionStage", lambda _: None)
    once.crash("UpdateSecretVersionStage")
    with pytest.raises(KeyboardInterrupt):
        SecretsManagerKeys(once, PREFIX).clear_pointer(keyset, ES256, pointer)
    assert secret.labels()["rotator-unused"] == secret.labels()["AWSCURRENT"]
    stalled, heir = SecretsManagerKeys(once, PREFIX), make(store, keyset)
    old = stalled.read_pointer(keyset, ES256)
    for key in (heir, make(store, keyset)):
        store.move_pointer(store.read_pointer(keyset, ES256), key)
    cleared = store.clear_pointer(keyset, ES256, store.read_pointer(keyset, ES256))
    assert cleared.token != old.token
    with pytest.raises(Conflict):
        stalled.move_pointer(old, heir)


@pytest.mark.parametrize("passing", [1, 2, 3])
@pytest.mark.parametrize("broken", ["crash", "lose"])
def test_a_fence_broken_off_after_it_stands_is_tidied_up_by_the_next(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str, broken: str, passing: int
) -> None:
    current, pointer = make_current(store, keyset)
    make(store, keyset)
    pointer = store.fence(keyset, ES256, pointer)
    once.stage("UpdateSecretVersionStage", lambda _: None, times=passing)
    getattr(once, broken)("UpdateSecretVersionStage")
    breaking = SecretsManagerKeys(once, PREFIX)
    # Of an old copy whose label cannot be taken the next fence takes it.
    with suppress(KeyboardInterrupt, StoreError):
        breaking.fence(keyset, ES256, breaking.read_pointer(keyset, ES256))
    restarted = SecretsManagerKeys(once, PREFIX)
    found = restarted.read_pointer(keyset, ES256)
    assert (found.id, found.token == pointer.token) == (current.id, False)
    fenced = restarted.fence(keyset, ES256, found)
    labels = secret.labels()
    there = {label for label, version in labels.items() if version == fenced.token}
    assert there == {"AWSCURRENT", f"rotator-{current.id}", *(each for each in labels if "fence" in each)}
    assert len(there) == 3
    # The next key has its own, and AWSPENDING.
    assert len(labels) == 5


def test_fences_do_not_pile_up_labels(store: SecretsManagerKeys, secret: Secret, keyset: str) -> None:
    current, pointer = make_current(store, keyset)
    for _ in range(25):
        pointer = store.fence(keyset, ES256, pointer)
    # AWSCURRENT, the key, and the last copy of it.
    assert len(secret.labels()) == 3
    assert store.read_pointer(keyset, ES256).id == current.id


def test_after_a_fence_the_end_of_a_key_takes_its_copies_along(
    store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    current, pointer = make_current(store, keyset)
    for _ in range(3):
        pointer = store.fence(keyset, ES256, pointer)
    successor = make(store, keyset)
    store.move_pointer(pointer, successor)
    store.disable(current)
    assert set(secret.labels()) == {"AWSCURRENT", "AWSPENDING", f"rotator-{current.id}", f"rotator-{successor.id}"}
    store.destroy(current)
    assert set(secret.labels().values()) == {successor.id}


def test_a_revoked_key_that_is_stopped_in_the_middle_of_a_fence_is_still_known_under_awscurrent(
    once: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    current, pointer = make_current(store, keyset)
    pointer = store.fence(keyset, ES256, pointer)
    once.crash("UpdateSecretVersionStage")
    with pytest.raises(KeyboardInterrupt):
        SecretsManagerKeys(once, PREFIX).fence(keyset, ES256, pointer)
    restarted = SecretsManagerKeys(once, PREFIX)
    restarted.disable(current)
    found = restarted.read_pointer(keyset, ES256)
    assert (found.id, found.token) == (current.id, pointer.token)
    assert restarted.clear_pointer(keyset, ES256, found).id is None


def test_the_end_of_a_key_is_found_by_a_worker_that_saw_nothing_or_something_else(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    stale, blank = SecretsManagerKeys(wire, PREFIX), SecretsManagerKeys(wire, PREFIX)
    blank.read_pointer(keyset, ES256)
    old, pointer = make_current(store, keyset)
    stale.read_pointer(keyset, ES256)
    new = make(store, keyset)
    store.move_pointer(pointer, new)
    stale.disable(old)
    assert "AWSPREVIOUS" not in secret.labels()
    blank.destroy(old)
    assert f"rotator-{old.id}" not in secret.labels()
    SecretsManagerKeys(wire, PREFIX).destroy(old)


# Crashes and lost answers


@pytest.mark.parametrize("fences_before", [0, 1, 2])
@pytest.mark.parametrize("operation", ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"])
@pytest.mark.parametrize("broken", ["crash", "lose"])
def test_a_fence_broken_off_anywhere_leaves_the_pointer_on_its_key_and_is_mended_by_the_next(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str, broken: str, operation: str, fences_before: int
) -> None:
    intent = intend(keyset, ES256)
    key = store.create(intent)
    current = ref_to(intent, key)
    pointer = store.move_pointer(store.read_pointer(keyset, ES256), current)
    stalled = make(store, keyset)
    for _ in range(fences_before):
        pointer = store.fence(keyset, ES256, pointer)
    getattr(once, broken)(operation)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        SecretsManagerKeys(once, PREFIX).fence(keyset, ES256, pointer)

    restarted = SecretsManagerKeys(once, PREFIX)
    found = restarted.read_pointer(keyset, ES256)
    assert found.id == current.id
    assert signs(restarted, current, key.spki)
    fenced = restarted.fence(keyset, ES256, found)
    assert fenced.id == current.id
    for stale in (pointer, found):
        with pytest.raises(Conflict):
            restarted.move_pointer(stale, stalled)
    assert restarted.read_pointer(keyset, ES256).token == fenced.token
    assert signs(restarted, current, key.spki)
    restarted.destroy(current)
    assert set(secret.labels()) == {"AWSCURRENT", "AWSPENDING", f"rotator-{stalled.id}"}


@pytest.mark.parametrize("operation", ["CreateSecret", "PutSecretValue", "UpdateSecretVersionStage"])
@pytest.mark.parametrize("broken", ["crash", "lose"])
def test_a_create_broken_off_anywhere_shows_issuers_nothing_and_is_finished_by_the_next(
    once: Wire, secret: Secret, keyset: str, broken: str, operation: str
) -> None:
    intent = intend(keyset, ES256)
    getattr(once, broken)(operation)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        SecretsManagerKeys(once, PREFIX).create(intent)
    restarted = SecretsManagerKeys(once, PREFIX)
    assert restarted.read_pointer(keyset, ES256).id is None
    key = restarted.create(again(intent))
    assert signs(restarted, ref_to(intent, key), key.spki)
    assert secret.labels()["AWSPENDING"] == intent.id
    assert restarted.read_pointer(keyset, ES256).id is None


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
@pytest.mark.parametrize("broken", ["crash", "lose"])
def test_a_clear_broken_off_anywhere_is_all_or_nothing_and_is_finished_by_the_next(
    once: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str, broken: str, operation: str
) -> None:
    current, pointer = make_current(store, keyset)
    getattr(once, broken)(operation)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        SecretsManagerKeys(once, PREFIX).clear_pointer(keyset, ES256, pointer)
    restarted = SecretsManagerKeys(once, PREFIX)
    found = restarted.read_pointer(keyset, ES256)
    applied = (broken, operation) == ("lose", "UpdateSecretVersionStage")
    assert found.id == (None if applied else current.id)
    assert restarted.clear_pointer(keyset, ES256, found).id is None
    assert secret.value()["rotator"] == "placeholder"


@pytest.mark.parametrize("broken", ["crash", "lose"])
def test_a_move_broken_off_is_all_or_nothing(once: Wire, store: SecretsManagerKeys, keyset: str, broken: str) -> None:
    old, pointer = make_current(store, keyset)
    new = make(store, keyset)
    getattr(once, broken)("UpdateSecretVersionStage")
    with pytest.raises((KeyboardInterrupt, StoreError)):
        SecretsManagerKeys(once, PREFIX).move_pointer(pointer, new)
    found = store.read_pointer(keyset, ES256)
    assert found.id == (new if broken == "lose" else old).id
    assert store.move_pointer(found, new).id == new.id


@pytest.mark.parametrize("broken", ["crash", "lose"])
@pytest.mark.parametrize("passing", [0, 1, 2])
@pytest.mark.parametrize("fence_finished", [True, False])
def test_an_end_broken_off_anywhere_is_finished_by_the_next(
    once: Wire,
    store: SecretsManagerKeys,
    secret: Secret,
    keyset: str,
    broken: str,
    passing: int,
    fence_finished: bool,
) -> None:
    old, pointer = make_current(store, keyset)
    if not fence_finished:
        once.crash("UpdateSecretVersionStage")
        with pytest.raises(KeyboardInterrupt):
            SecretsManagerKeys(once, PREFIX).fence(keyset, ES256, pointer)
    else:
        pointer = store.fence(keyset, ES256, pointer)
    new = make(store, keyset)
    store.move_pointer(pointer, new)
    # AWSPREVIOUS, the label of the copy, and last the label that the key is known by.
    once.stage("UpdateSecretVersionStage", lambda _: None, times=passing)
    getattr(once, broken)("UpdateSecretVersionStage")
    with pytest.raises((KeyboardInterrupt, StoreError)):
        SecretsManagerKeys(once, PREFIX).destroy(old)
    SecretsManagerKeys(once, PREFIX).destroy(old)
    assert set(secret.labels().values()) == {new.id}


def test_boto3_repeating_what_was_applied_is_taken_for_what_it_is(
    wire: Wire, store: SecretsManagerKeys, secret: Secret, keyset: str
) -> None:
    for operation in ("CreateSecret", "PutSecretValue", "UpdateSecretVersionStage"):
        wire.lose(operation)
    before = store.read_pointer(keyset, ES256)
    ref = make(store, keyset)
    wire.lose("UpdateSecretVersionStage")
    moved = store.move_pointer(before, ref)
    assert (moved.id, moved.token) == (ref.id, ref.id)
    wire.lose("PutSecretValue")
    wire.lose("UpdateSecretVersionStage")
    fenced = store.fence(keyset, ES256, moved)
    assert store.read_pointer(keyset, ES256).token == fenced.token
    wire.lose("UpdateSecretVersionStage")
    cleared = store.clear_pointer(keyset, ES256, fenced)
    assert store.read_pointer(keyset, ES256).token == cleared.token
    wire.lose("UpdateSecretVersionStage")
    store.destroy(ref)
    assert not [label for label in secret.labels() if ref.id in label]


def test_a_service_that_moves_no_label_without_a_reason_is_not_taken_for_a_conflict(
    wire: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    _, pointer = make_current(store, keyset)
    ref = make(store, keyset)
    refuse(wire, "UpdateSecretVersionStage", "InvalidParameterException")
    with pytest.raises(StoreError, match="refuses to move") as raised:
        store.move_pointer(pointer, ref)
    assert not isinstance(raised.value, Conflict)
    refuse(wire, "UpdateSecretVersionStage", "InvalidParameterException", times=2)
    with pytest.raises(StoreError, match="refuses to take") as raised:
        store.destroy(ref)
    assert not isinstance(raised.value, Conflict)


def test_labels_that_somebody_else_takes_at_the_same_time_are_a_lost_race(
    strict_moto_url: str, wire: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    ref = make(store, keyset)
    # A client of its own, which meets none of the faults.
    twin = SecretsManagerKeys(Wire("secretsmanager", strict_moto_url, attempts=2), PREFIX)
    # What it has seen before misleads it once, and its second look is too old when it acts.
    refuse(wire, "UpdateSecretVersionStage", "InvalidParameterException")
    wire.before("UpdateSecretVersionStage", lambda: twin.destroy(ref))
    with pytest.raises(Conflict, match="somebody else"):
        store.destroy(ref)


# Denied, busy, full


def refuse(wire: Wire, operation: str, code: str, message: str = "staged", times: int = 1) -> None:
    wire.answer(operation, 400, json.dumps({"__type": code, "message": message}).encode(), times)


@pytest.fixture
def calls(store: SecretsManagerKeys, keyset: str) -> dict[str, Callable[[], object]]:
    """A call for each API operation, the first thing it sends."""
    ref, pointer = make_current(store, keyset)
    new = make(store, keyset)
    return {
        "DescribeSecret": lambda: store.read_pointer(keyset, ES256),
        "GetSecretValue": lambda: store.sign(ref, MESSAGE),
        "PutSecretValue": lambda: store.create(intend(keyset, ES256)),
        "UpdateSecretVersionStage": lambda: store.move_pointer(pointer, new),
        "CreateSecret": lambda: store.create(intend(f"{keyset}-b", ES256)),
    }


OPERATIONS = ("DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "CreateSecret")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_denial_names_the_permission_and_the_secret_and_is_never_missing(
    wire: Wire, calls: dict[str, Callable[[], object]], keyset: str, operation: str
) -> None:
    refuse(wire, operation, "AccessDeniedException")
    with pytest.raises(AccessDenied, match=f"secretsmanager:{operation} on secret {PREFIX}/{keyset}"):
        calls[operation]()


def test_a_denial_says_what_else_it_may_be(wire: Wire, calls: dict[str, Callable[[], object]]) -> None:
    refuse(wire, "CreateSecret", "AccessDeniedException")
    with pytest.raises(AccessDenied, match="secretsmanager:TagResource"):
        calls["CreateSecret"]()
    refuse(wire, "GetSecretValue", "AccessDeniedException", "Access to KMS is not allowed")
    with pytest.raises(AccessDenied, match="KMS key behind it"):
        calls["GetSecretValue"]()


def test_check_and_holds_do_not_take_a_denial_for_an_empty_store(
    wire: Wire, store: SecretsManagerKeys, keyset: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.check(keyset, [ES256]),
        lambda: store.holds(keyset, [ES256]),
    ]
    for call in calls:
        refuse(wire, "DescribeSecret", "AccessDeniedException")
        with pytest.raises(AccessDenied):
            call()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("ThrottlingException", StoreError),
        ("InternalServiceError", StoreError),
        ("ExpiredTokenException", ConfigurationError),
        ("DecryptionFailure", StoreError),
    ],
)
def test_what_may_pass_is_told_from_what_may_not(
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    calls: dict[str, Callable[[], object]],
    operation: str,
    code: str,
    ours: type[RotatorError],
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    refuse(wire, operation, code, times=1 if "Expired" in code else 3)
    with pytest.raises(ours, match=operation) as raised:
        calls[operation]()
    assert type(raised.value) is ours
    wire._faults.clear()


def test_a_secret_that_is_full_of_labels_is_reported(store: SecretsManagerKeys, secret: Secret, keyset: str) -> None:
    _, pointer = make_current(store, keyset)
    for number in range(20 - len(secret.labels())):
        secret.label(f"somebody-elses-{number}", pointer.token)
    with pytest.raises(StoreError, match="LimitExceededException"):
        make(store, keyset)


def test_a_secret_has_room_for_the_most_keys_that_a_policy_may_need_and_for_every_other_label(
    once: Wire, secret: Secret, keyset: str
) -> None:
    store = SecretsManagerKeys(once, PREFIX)
    store.clear_pointer(keyset, ES256, store.read_pointer(keyset, ES256))
    before, pointer = make_current(store, keyset)
    pointer = store.move_pointer(store.fence(keyset, ES256, pointer), make(store, keyset))
    pointer = store.fence(keyset, ES256, pointer)
    for _ in range(_LABELS - _OTHER_LABELS + 1 - 2):
        make(store, keyset)
    once.stage("UpdateSecretVersionStage", lambda _: None)
    once.crash("UpdateSecretVersionStage")
    with pytest.raises(KeyboardInterrupt):
        store.fence(keyset, ES256, pointer)
    assert len(secret.labels()) == _LABELS
    store = SecretsManagerKeys(once, PREFIX)
    store.fence(keyset, ES256, store.read_pointer(keyset, ES256))
    store.disable(before)
    store.destroy(before)
    make(store, keyset)


@pytest.mark.parametrize("prefix", ["", "/", "a//b", "a b", "a/../b?", "x" * 257])
def test_a_prefix_that_cannot_begin_a_secret_name_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        SecretsManagerKeys(lambda: pytest.fail("no client is needed for this"), prefix)


def test_tags_of_ours_and_of_aws_cannot_be_configured() -> None:
    with pytest.raises(ConfigurationError, match="aws:x, rotator:keyset"):
        SecretsManagerKeys(lambda: pytest.fail("no client"), "p", tags={"rotator:keyset": "a", "aws:x": "b", "c": "d"})


# Secrets


def everything_said(error: BaseException) -> str:
    """All that any log or report could make of ``error`` and of whatever stands behind it."""
    said, seen, left = "", set(), [error]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            said += "".join([*traceback.format_exception(each), repr(vars(each)), repr(each.args)])
            left += [cause for cause in (each.__cause__, each.__context__) if cause]
    return said


@pytest.mark.parametrize("call", ["create", "fence"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_failed_put_says_nothing_of_the_value(
    wire: Wire, store: SecretsManagerKeys, keyset: str, call: str, lost: bool
) -> None:
    _, pointer = make_current(store, keyset)
    values = []

    def quoting(params: dict[str, Any], **_: Any) -> None:
        values.append(params["SecretString"])
        raise ParamValidationError(report=f"Invalid type for SecretString, value: {params['SecretString']}")

    def echoing(request: Any) -> Any:
        values.append(json.loads(request.body)["SecretString"])
        refuse(wire, "PutSecretValue", "InvalidParameterException", values[-1])
        return wire._faults.pop()[1](request)

    if lost:
        wire.stage("PutSecretValue", echoing)
    else:
        wire.client.meta.events.register("provide-client-params.secretsmanager.PutSecretValue", quoting)
    try:
        with pytest.raises(RotatorError) as raised:
            store.create(intend(keyset, ES256)) if call == "create" else store.fence(keyset, ES256, pointer)
    finally:
        wire.client.meta.events.unregister("provide-client-params.secretsmanager.PutSecretValue", quoting)
    [value] = values
    assert len(json.loads(value)["d"]) == 43
    assert json.loads(value)["d"] not in everything_said(raised.value)


def test_a_value_that_cannot_be_read_is_not_quoted(store: SecretsManagerKeys, secret: Secret, keyset: str) -> None:
    ref = make(store, keyset)
    for value in ('{"d": "c2VjcmV0", "kty"', '{"d": "c2VjcmV0", "kty": "EC", "crv": "P-0"}', '["c2VjcmV0"]'):
        version = secret.client.put_secret_value(
            SecretId=secret.name, SecretString=value, VersionStages=[f"rotator-{ref.id}"]
        )
        assert version["VersionId"] != ref.id
        with pytest.raises(ConfigurationError) as raised:
            store.sign(ref, MESSAGE)
        assert "c2VjcmV0" not in everything_said(raised.value)


def test_no_log_holds_a_private_half_even_at_debug(
    strict_moto_url: str, secret: Secret, keyset: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    aws.client.cache_clear()
    aws._session.cache_clear()
    store = SecretsManagerKeys(lambda: aws.client("secretsmanager", "eu-west-1", strict_moto_url), PREFIX)
    ref, pointer = make_current(store, keyset)
    store.sign(ref, MESSAGE)
    store.fence(keyset, ES256, pointer)
    private = secret.value(VersionId=ref.id)["d"]
    assert caplog.records
    assert private not in caplog.text
    assert private not in repr(store)


# Threads


def test_many_key_sets_share_one_store_without_disturbing_one_another(store: SecretsManagerKeys, keyset: str) -> None:
    failures: list[BaseException] = []

    def live(number: int) -> None:
        try:
            ref, pointer = make_current(store, f"{keyset}-{number}")
            fenced = store.fence(ref.keyset, ES256, pointer)
            successor = make(store, ref.keyset)
            store.move_pointer(fenced, successor)
            store.disable(ref)
            store.destroy(ref)
            assert store.read_pointer(ref.keyset, ES256).id == successor.id
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            failures.append(exc)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
