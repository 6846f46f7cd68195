"""A signer at each home of keys: what rotator's stores write there, it follows."""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import jwt
import pytest

from rotator import aws
from rotator.documents.filesystem import FilesystemDocuments
from rotator.errors import AccessDenied, ConfigurationError, KeyStopped, NoCurrentKey, Refused, Stale, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.signer import Signer
from rotator.stores.kms import KmsKeys
from rotator.stores.local import LocalKeys
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests.adapters.wire import answered
from tests.contracts.key_store import intend, ref_to
from tests.test_signer import fork

if TYPE_CHECKING:
    from rotator.ports import KeyRef, KeyStore

README = Path(__file__).parents[2] / "README.md"
#: What only the daemon and the command line need.
DAEMON = "apscheduler httpx prometheus_client pydantic pydantic_settings rich structlog typer"
LAG = timedelta(hours=2)
CLAIMS = {"iss": "https://id.acme.example", "sub": "u1"}


class Issuer:
    """A key store, the keys that were ever made in it, and how a signer is opened there."""

    def __init__(self, store: KeyStore, uri: str, **options: Any) -> None:
        self.store, self.uri, self.options = store, uri, options
        self.public: dict[str, dict[str, Any]] = {}

    def open(self, alg: str = "ES256", **options: Any) -> Signer:
        return Signer.open(
            f"{self.uri}#acme/{alg}", **{"signer_lag": LAG, "background": False, **self.options, **options}
        )

    def rotate(self, alg: str = "ES256") -> KeyRef:
        algorithm = ALGORITHMS[alg]
        intent = intend("acme", algorithm)
        made = self.store.create(intent)
        ref = ref_to(intent, made)
        self.public[ref.kid] = jwks.public_jwk(made.spki, algorithm)
        self.store.move_pointer(self.store.read_pointer("acme", algorithm), ref)
        return ref

    def signed_by(self, token: str) -> str:
        """The kid of the key that signed ``token``; fails where it does not verify."""
        message, _, signature = token.rpartition(".")
        header = json.loads(base64.urlsafe_b64decode(message.split(".")[0] + "=="))
        kid: str = header["kid"]
        assert material.verify(
            self.public[kid], ALGORITHMS[header["alg"]], message.encode(), material.unb64u(signature)
        )
        return kid


@pytest.fixture
def files(tmp_path: Path) -> Issuer:
    root = tmp_path / "keys"
    return Issuer(LocalKeys(root), root.as_uri())


@pytest.fixture
def secrets(moto_url: str) -> Issuer:
    prefix = f"signer/{uuid.uuid4().hex[:12]}"
    session = at(moto_url)
    return Issuer(
        SecretsManagerKeys(lambda: aws.client("secretsmanager", session=session), prefix),
        f"secretsmanager://{prefix}",
        session=session,
    )


@pytest.fixture
def kms(ministack_url: str, tmp_path: Path) -> Issuer:
    prefix = f"signer/{uuid.uuid4().hex[:12]}"
    session = at(ministack_url)
    ledgers = tmp_path / "ledgers"

    def client() -> Any:
        return aws.client("kms", session=session)

    store = KmsKeys(
        client,
        lambda: aws.client("resourcegroupstaggingapi", session=session),
        FilesystemDocuments(ledgers, private=True),
        prefix,
        client_once=client,
    )
    return Issuer(store, f"kms://{prefix}", ledger=ledgers.as_uri(), session=session)


@pytest.fixture(params=["files", "secrets", "kms"])
def issuer(request: pytest.FixtureRequest) -> Issuer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Issuer)
    return found


@functools.cache
def at(url: str) -> Any:
    """A session whose clients talk to an emulator, and count what they ask; one for all tests: clients are dear."""

    class Session(boto3.Session):
        asked: list[str] = []  # noqa: RUF012 - one for each session, as the class is

        def client(self, *names: Any, **options: Any) -> Any:
            made = super().client(*names, **{**options, "endpoint_url": url})
            made.meta.events.register("before-send", lambda event_name, **_: self.asked.append(event_name[12:]))
            return made

    return Session()


def asked(issuer: Issuer) -> list[str]:
    """The calls since this was last asked."""
    found: list[str] = issuer.options["session"].asked
    calls = list(found)
    found.clear()
    return calls


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "PS256"])
def test_it_signs_with_the_key_that_the_pointer_names(issuer: Issuer, alg: str) -> None:
    first = issuer.rotate(alg)
    with issuer.open(alg) as signer:
        assert issuer.signed_by(signer.sign(CLAIMS)) == first.kid
        second = issuer.rotate(alg)
        signer.refresh()
        assert issuer.signed_by(signer.sign(CLAIMS)) == second.kid
        assert signer.status().kid == second.kid


def test_before_the_first_promotion_there_is_no_key(issuer: Issuer) -> None:
    issuer.rotate()
    algorithm = ALGORITHMS["ES256"]
    with issuer.open() as signer:
        issuer.store.clear_pointer("acme", algorithm, issuer.store.read_pointer("acme", algorithm))
        with pytest.raises(NoCurrentKey, match="names no key"):
            signer.refresh()
        with pytest.raises(NoCurrentKey):
            signer.sign(CLAIMS)
    with pytest.raises(NoCurrentKey):
        issuer.open()


def test_after_a_fence_the_same_key_is_not_loaded_again(issuer: Issuer) -> None:
    ref = issuer.rotate()
    with issuer.open() as signer:
        key = signer._follower.known.key
        issuer.store.fence("acme", ref.algorithm, issuer.store.read_pointer("acme", ref.algorithm))
        signer.refresh()
        assert signer._follower.known.key is key


def test_a_live_signer_follows_rotations_by_itself(issuer: Issuer) -> None:
    """Threads sign all the while; each token verifies, and no key signs for longer than signer_lag after the next."""
    lag = 2.0
    issuer.rotate()
    taken_over: dict[str, float] = {}
    late: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                kid = issuer.signed_by(signer.sign(CLAIMS))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test is told
                late.append(repr(exc))
                return
            if began > taken_over.get(kid, began) + lag:
                late.append(kid)

    with issuer.open(
        signer_lag=timedelta(seconds=lag), refresh_every=timedelta(seconds=0.1), background=True
    ) as signer:
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for _ in range(4):
            before = signer.status().kid or ""
            ref = issuer.rotate()
            taken_over[before] = time.monotonic()
            deadline = time.monotonic() + lag
            while signer.status().kid != ref.kid:
                assert time.monotonic() < deadline, late
                time.sleep(0.01)
        stop.set()
        for worker in workers:
            worker.join()
    assert late == []


# -- Secrets Manager -------------------------------------------------------------------------------------------------


def test_a_read_of_secrets_manager_is_one_call_and_signing_is_none(secrets: Issuer) -> None:
    secrets.rotate()
    asked(secrets)
    with secrets.open() as signer:
        for _ in range(100):
            signer.sign(CLAIMS)
    assert asked(secrets) == ["secrets-manager.GetSecretValue"]


def test_a_secret_that_is_not_there_is_no_key_that_is_not_there(secrets: Issuer) -> None:
    with pytest.raises(StoreError, match=r"knows no secret signer/\w+/acme/ES256 with a current value"):
        secrets.open()


@pytest.mark.parametrize(
    "value",
    [
        "not JSON",
        "[]",
        '{"kty": "EC"}',
        '{"kid": 1, "alg": "ES256"}',
        '{"kid": "x", "alg": "RS256"}',
    ],
)
def test_a_value_that_rotator_did_not_write_is_refused_and_not_shown(secrets: Issuer, value: str) -> None:
    client = aws.client("secretsmanager", session=secrets.options["session"])
    client.create_secret(Name=f"{secrets.uri.partition('://')[2]}/acme/ES256", SecretString=value)
    with pytest.raises(Refused, match="rotator did not write it") as raised:
        secrets.open()
    assert value not in str(raised.value)


@pytest.mark.parametrize("member", ["d", "x"])
def test_a_damaged_key_is_refused_and_not_shown(secrets: Issuer, member: str) -> None:
    one, other = (
        material.private_jwk(private, jwks.public_jwk(material.spki(private), ALGORITHMS["ES256"]))
        for private in (material.generate(ALGORITHMS["ES256"], 0), material.generate(ALGORITHMS["ES256"], 0))
    )
    client = aws.client("secretsmanager", session=secrets.options["session"])
    client.create_secret(
        Name=f"{secrets.uri.partition('://')[2]}/acme/ES256", SecretString=json.dumps(one | {member: other[member]})
    )
    with pytest.raises(ConfigurationError, match="damaged") as raised:
        secrets.open()
    assert one["d"] not in str(raised.value)


def test_a_lost_permission_is_named(secrets: Issuer) -> None:
    secrets.rotate()
    with secrets.open() as signer:
        client = aws.client("secretsmanager", session=secrets.options["session"])

        def deny(request: Any, **_: Any) -> Any:
            body = b'{"__type": "AccessDeniedException", "message": "no"}'
            answer = answered(request, 400, body)
            answer.headers["Content-Length"] = str(len(body))
            return answer

        client.meta.events.register("before-send", deny)
        try:
            with pytest.raises(AccessDenied, match="grant secretsmanager:GetSecretValue"):
                signer.refresh()
        finally:
            client.meta.events.unregister("before-send", deny)
        assert secrets.signed_by(signer.sign(CLAIMS))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_worker_does_not_talk_over_its_parents_connection(secrets: Issuer) -> None:
    secrets.rotate()
    with secrets.open() as signer:
        session = secrets.options["session"]
        before = aws.client("secretsmanager", session=session)

        def work() -> bool:
            ref = secrets.rotate()
            signer.refresh()
            return aws.client("secretsmanager", session=session) is not before and signer.status().kid == ref.kid

        fork(work)
        assert aws.client("secretsmanager", session=session) is before
        signer.refresh()


# -- KMS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alg", "length"), [("ES256", 4096), ("ES256", 10_000), ("RS512", 10_000), ("EdDSA", 2_000)])
def test_kms_signs_what_is_short_and_what_is_long(kms: Issuer, alg: str, length: int) -> None:
    kms.rotate(alg)
    with kms.open(alg) as signer:
        assert kms.signed_by(signer.sign(b"x" * length))


def test_a_payload_that_kms_cannot_sign_is_an_error_that_says_why(kms: Issuer) -> None:
    kms.rotate("EdDSA")
    with kms.open("EdDSA") as signer, pytest.raises(ConfigurationError, match="at most 4096 bytes with EdDSA"):
        signer.sign(b"x" * 4096)


def test_a_token_from_kms_is_one_call(kms: Issuer) -> None:
    kms.rotate()
    asked(kms)
    with kms.open() as signer:
        for _ in range(10):
            signer.sign(CLAIMS)
    assert asked(kms) == ["kms.Sign"] * 10


def test_when_kms_says_disabled_the_next_key_signs_the_same_token(kms: Issuer) -> None:
    first = kms.rotate()
    with kms.open() as signer:
        signer.sign(CLAIMS)
        second = kms.rotate()
        kms.store.disable(first)
        asked(kms)
        assert kms.signed_by(signer.sign(CLAIMS)) == second.kid
        assert asked(kms) == ["kms.Sign", "kms.Sign"]
        kms.store.disable(second)
        with pytest.raises(KeyStopped, match="it is disabled in KMS"):
            signer.sign(CLAIMS)


def test_a_pointer_in_s3_is_read_with_one_call(kms: Issuer, ministack_url: str) -> None:
    session = at(ministack_url)
    s3 = session.client("s3")
    bucket = f"signer-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    ref = kms.rotate()
    pointer = {"keyset": "acme", "alg": "ES256", "id": ref.id, "kid": ref.kid, "key_arn": ref.handle}
    s3.put_object(Bucket=bucket, Key="ledgers/acme/ES256.pointer.json", Body=json.dumps(pointer))
    session.asked.clear()
    with kms.open(ledger=f"s3://{bucket}/ledgers", session=session) as signer:
        assert kms.signed_by(signer.sign(CLAIMS)) == ref.kid
        assert session.asked == ["s3.GetObject", "kms.Sign"]
        assert repr(signer) == f"<Signer of s3://{bucket}/ledgers/acme/ES256.pointer.json: {ref.kid}>"
        s3.put_object(Bucket=bucket, Key="ledgers/acme/ES256.pointer.json", Body=b"<html>")
        with pytest.raises(Refused, match="no JSON object"):
            signer.refresh()


# -- files -----------------------------------------------------------------------------------------------------------


def test_key_files_with_a_passphrase_are_opened_with_it(tmp_path: Path) -> None:
    root = tmp_path / "keys"
    issuer = Issuer(LocalKeys(root, b"open sesame"), root.as_uri())
    issuer.rotate()
    with issuer.open(passphrase=b"open sesame") as signer:
        assert issuer.signed_by(signer.sign(CLAIMS))
    with pytest.raises(ConfigurationError, match="passphrase"):
        issuer.open()


def test_a_key_file_is_read_once(files: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = LocalKeys.private_key

    def counted(keys: LocalKeys, ref: KeyRef) -> Any:
        loads.append(ref.kid)
        return load(keys, ref)

    monkeypatch.setattr(LocalKeys, "private_key", counted)
    ref = files.rotate()
    with files.open() as signer:
        for _ in range(5):
            signer.refresh()
    assert loads == [ref.kid]


def test_a_torn_pointer_stops_nobody_before_signer_lag(files: Issuer, tmp_path: Path) -> None:
    ref = files.rotate()
    with files.open(signer_lag=timedelta(seconds=1)) as signer:
        pointer = tmp_path / "keys" / "acme" / "ES256" / "pointer.json"
        pointer.write_text("{")
        assert files.signed_by(signer.sign(CLAIMS)) == ref.kid
        time.sleep(1.01)
        with pytest.raises(Stale, match=r"not read for 1s .* is torn"):
            signer.sign(CLAIMS)


# -- URIs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("", "must be a URI"),
        ("s3://bucket#acme/ES256", "unknown scheme 's3'"),
        ("secretsmanager://acme/jwt", "name the key set and the algorithm"),
        ("secretsmanager://acme/jwt#acme", "name the key set and the algorithm"),
        ("secretsmanager://acme/jwt#/ES256", "name the key set and the algorithm"),
        ("secretsmanager://acme/jwt#acme/", "Unknown algorithm ''"),
        ("secretsmanager://acme/jwt#acme/ES257", "Unknown algorithm 'ES257'"),
        ("secretsmanager://acme/jwt#Acme!/ES256", "Key set name 'Acme!'"),
        ("secretsmanager://acme/jwt#../ES256", "Key set name"),
        ("kms://acme/jwt#acme/ES256", "give the ledger's"),
        ("file://keys#acme/ES256", "three slashes"),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused(uri: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        Signer.open(uri, signer_lag=LAG)


def test_a_directory_that_does_not_exist_is_told_from_one_that_holds_no_key_yet(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(NoCurrentKey, match=f"There is no directory {nowhere}: mend the URI"):
        Signer.open(f"{nowhere.as_uri()}#acme/ES256", signer_lag=LAG)
    nowhere.mkdir(0o700)
    with pytest.raises(NoCurrentKey, match="names no key: none was promoted yet"):
        Signer.open(f"{nowhere.as_uri()}#acme/ES256", signer_lag=LAG)


def test_a_ledger_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown scheme 'kms'"):
        Signer.open("kms://acme/jwt#acme/ES256", ledger="kms://x", signer_lag=LAG)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
def test_a_token_of_pyjwts_own_making_is_the_same_token(files: Issuer) -> None:
    """For whoever comes from ``jwt.encode(claims, key, algorithm, headers)``."""
    ref = files.rotate("EdDSA")
    with files.open("EdDSA") as signer:
        token = signer.sign(CLAIMS)
    keys = files.store
    assert isinstance(keys, LocalKeys)
    private: Any = keys.private_key(ref)
    theirs = jwt.encode(CLAIMS, private, algorithm="EdDSA", headers={"kid": ref.kid})
    assert jwt.decode(token, jwt.PyJWK(files.public[ref.kid]), algorithms=["EdDSA"]) == CLAIMS
    assert token.split(".")[1] == theirs.split(".")[1]


def test_the_readme_signs_a_token(secrets: Issuer, moto_url: str) -> None:
    """As somebody would who copied it, in a process that has nothing of the daemon."""
    ref = secrets.rotate()
    example = README.read_text(encoding="utf-8").split("<!-- signer -->\n```python\n")[1].split("```")[0]
    assert example.count("secretsmanager://acme/jwt#acme/ES256") == 1
    script = f"import sys\nfor name in {DAEMON!r}.split():\n    sys.modules[name] = None\n"
    script += example.replace("secretsmanager://acme/jwt", secrets.uri) + "print(token)\n"
    environment = {**os.environ, "AWS_ENDPOINT_URL": moto_url, "AWS_REGION": "eu-west-1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert secrets.signed_by(done.stdout.strip()) == ref.kid


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
def test_files_need_neither_boto3_nor_the_daemon(files: Issuer, alg: str) -> None:
    ref = files.rotate(alg)
    script = f"""
import sys
for name in {DAEMON!r}.split() + ["boto3", "botocore"]:
    sys.modules[name] = None
from datetime import timedelta
from rotator.signer import Signer
print(Signer.open("{files.uri}#acme/{alg}", signer_lag=timedelta(hours=1)).sign({{"sub": "u1"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files.signed_by(done.stdout.strip()) == ref.kid
