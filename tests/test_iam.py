"""A whole life of keys under exactly the policies in ``deploy/iam``: all they lack is refused, and nothing is spare."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import jwt
import pytest
from botocore.exceptions import ClientError

from rotator.app import elapsed
from rotator.documents.cloudfront import CloudFront
from rotator.documents.s3 import S3Documents
from rotator.engine import Engine
from rotator.engine.adoption import Adoption
from rotator.engine.recovery import Recovery, Wanted
from rotator.errors import AccessDenied
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.discovery import Discovery
from rotator.keys.jwks import public_jwk
from rotator.keys.keyring import from_json
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Headers
from rotator.settings import Configuration
from rotator.signer import Signer
from rotator.signer.sources import KmsSource, SecretsManagerSource
from rotator.stores.kms import KmsKeys
from rotator.stores.secretsmanager import SecretsManagerKeys, value_of
from tests import iam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rotator.engine import Outcome
    from rotator.keys.keyring import Keyring
    from rotator.ports import KeyStore
    from rotator.signer.sources import Source

    Statements = Sequence[Mapping[str, Any]]

PREFIX, LEDGER, PUBLIC, ENCRYPTION_KEY = "acme/jwt", "acme-rotator-ledger", "acme-jwks", "0000-encryption"
PLACEHOLDERS = {
    "REGION": iam.REGION,
    "ACCOUNT": iam.ACCOUNT,
    "PREFIX": PREFIX,
    "LEDGER_BUCKET": LEDGER,
    "LEDGER_PATH": "prod/",
    "PUBLIC_BUCKET": PUBLIC,
    "PUBLIC_PATH": "",
    "ENCRYPTION_KEY": ENCRYPTION_KEY,
    "DISTRIBUTION": "E1ABC2DEF3GHIJ",
    "ADOPTED_KEY": "0000-adopted",
    "ADOPTED_SECRET": "prod/signing-key",
}
WITH_SECRETS = iam.policy("daemon-secretsmanager", "daemon-encryption", **PLACEHOLDERS)
WITH_KMS = iam.policy("daemon-kms", **PLACEHOLDERS)
RECOVER = iam.policy("recover", **PLACEHOLDERS)
VIEWS = iam.policy("daemon-views", **PLACEHOLDERS)

POLICY = Policy(algorithms=("ES256", "EdDSA"), lifetime=timedelta(days=2))


class Nowhere:
    """No public URL is configured: the origin's read-back counts."""

    def fetch(self, url: str) -> NoReturn:
        raise AssertionError(url)


@dataclass
class Life:
    """One key set with two algorithms, whose daemon has ``role`` and ``credentials``."""

    account: iam.Account
    role: iam.Role | None
    store: str
    credentials: tuple[str, str] | None = None
    name: str = field(default_factory=lambda: f"acme-{uuid4().hex[:12]}")
    policy: Policy = POLICY
    more: bool = False
    """Also a view and a discovery document."""

    def __post_init__(self) -> None:
        self._s3 = self._client("s3")
        encryption = ENCRYPTION_KEY if self.store == "secretsmanager" else None
        self.ledger = S3Documents(lambda: self._s3, LEDGER, "prod", sse_kms_key=encryption)
        self.public = S3Documents(lambda: self._s3, PUBLIC)
        self.keys = self._keys()

    def _client(self, service: str, attempts: int = 3) -> Any:
        return self.account.client(service, self.role, self.credentials, attempts)

    def _keys(self) -> KeyStore:
        if self.store == "secretsmanager":
            secrets = self._client("secretsmanager")
            return SecretsManagerKeys(lambda: secrets, PREFIX, kms_key=ENCRYPTION_KEY, tags={"team": "identity"})
        kms, once, tagging = self._client("kms"), self._client("kms", 1), self._client("resourcegroupstaggingapi")
        return KmsKeys(
            lambda: kms, lambda: tagging, self.ledger, PREFIX, client_once=lambda: once, sleep=lambda _: None
        )

    def engine(self) -> Engine:
        at = f"{self.name}/.well-known"
        documents = [PublicDocument("jwks", f"{at}/jwks.json")]
        oidc = None
        if self.more:
            documents.append(PublicDocument("es256", f"{at}/jwks-es256.json", algorithms=frozenset({"ES256"})))
            said = Discovery("https://id.acme.example", "https://id.acme.example/jwks.json")
            oidc = PublicDocument("discovery", f"{at}/openid-configuration", discovery=said)
        return Engine(
            KeySet(self.name, self.policy, tuple(documents), discovery=oidc),
            ledger=self.ledger,
            public=self.public,
            keys=self.keys,
            clock=self.account.clock,
            web=Nowhere(),
            elapsed=elapsed,
        )

    def recovery(self) -> Recovery:
        engine = self.engine()
        return Recovery(
            engine.keyset,
            ledger=self.ledger,
            public=self.public,
            keys=self.keys,
            clock=self.account.clock,
            web=Nowhere(),
            elapsed=elapsed,
            nonce=lambda: str(uuid4()),
        )

    def tick(self) -> Outcome:
        return self.engine().tick()

    def until(self, step: str, alg: str | None = None) -> None:
        """Tick whenever something is due, until ``step`` was done."""
        for _ in range(60):
            outcome = self.tick()
            if any(done.step == step and alg in (None, done.alg) for done in outcome.steps):
                return
            self.account.now = outcome.plan.due or self.account.now + timedelta(days=1)
        raise AssertionError(f"no {step} within 60 ticks")

    def ring(self) -> Keyring:
        document = self.ledger.read(f"{self.name}/ledger.json").document
        assert document
        return from_json(document.body, self.name)

    def jwk(self, kid: str) -> dict[str, Any]:
        document = self.public.read(f"{self.name}/.well-known/jwks.json").document
        assert document
        return next(key for key in json.loads(document.body)["keys"] if key["kid"] == kid)

    def begin(self) -> None:
        """From nothing to a key that signs and one that stands by, for each algorithm."""
        assert self.engine().init()
        assert not self.engine().init()
        if self.store == "kms" and self.role:
            # The keys are made and named; only the proof of the first has to wait until AWS knows their tags.
            try:
                self.tick()
                raise AssertionError("signed with a key that AWS does not know as ours yet")
            except AccessDenied as exc:
                if not str(exc).startswith("kms:Sign on arn:"):
                    raise
            self.account.now += iam.TAG_LAG
        self.until("activate")
        assert {alg for alg in POLICY.algorithms if self.ring().current(alg)} == set(POLICY.algorithms)

    def go_on(self) -> None:
        """Rotation, a revoke, and the end of an algorithm."""
        first = self.ring().current("ES256")
        assert first
        for step in ("activate", "disable", "withdraw", "destroy"):
            self.until(step, "ES256")
        revoked = self.ring().current("ES256")
        assert revoked
        assert revoked.id != first.id
        assert revoked.kid
        self.engine().revoke(revoked.kid, "leaked")
        self.tick()
        current = self.ring().current("ES256")
        assert current
        assert current.id != revoked.id
        self.policy = replace(POLICY, algorithms=("ES256",))
        self.engine().retire("EdDSA")
        for step in ("end-succession", "destroy"):
            self.until(step, "EdDSA")

    def run(self) -> None:
        self.begin()
        self.go_on()


@pytest.fixture
def clock() -> datetime:
    # moto and ministack put their own time into what they make.
    return datetime.now(UTC).replace(microsecond=0)


def make_buckets(s3: Any) -> None:
    for bucket in (LEDGER, PUBLIC):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": iam.REGION})


def refused(call: Callable[..., Any], **params: Any) -> bool:
    try:
        call(**params)
    except ClientError as exc:
        return "AccessDenied" in exc.response["Error"]["Code"]
    return False


def pairs(statements: Statements, *exceptions: str) -> list[Any]:
    """Every (action, pattern of resources) that is granted, but those of the actions in ``exceptions``."""
    granted = sorted(each for each in iam.grants(statements) if each[0] not in exceptions)
    return [pytest.param(*each, id=" on ".join((each[0], each[1].rpartition(":")[2]))) for each in granted]


# -- the files ---------------------------------------------------------------------------------------------------------


FILES = sorted(path.stem for path in iam.POLICIES.glob("*.json"))
README = (iam.POLICIES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_a_policy_names_its_actions_and_says_what_each_statement_is_for(name: str) -> None:
    document = json.loads((iam.POLICIES / f"{name}.json").read_text(encoding="utf-8"))
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        assert re.fullmatch("[A-Za-z]+", statement["Sid"])
        assert not [action for action in iam.many(statement["Action"]) if "*" in action]
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(sids) == len(set(sids))
    # A managed policy has room for this much, white space not counted.
    assert len(json.dumps(document, separators=(",", ":"))) <= 6144


def test_only_what_aws_cannot_narrow_is_granted_on_everything() -> None:
    statements = [each for name in FILES for each in iam.policy(name, **PLACEHOLDERS, KEYSET="acme")]
    assert {action for action, pattern in iam.grants(statements) if pattern == "*"} == {
        "kms:CreateKey",
        "kms:ListAliases",
        "kms:TagResource",
        "tag:GetResources",
    }


def test_the_readme_explains_every_file_and_every_placeholder() -> None:
    assert set(re.findall(r"`([\w-]+)\.json`", README)) >= set(FILES)
    texts = [(iam.POLICIES / f"{name}.json").read_text(encoding="utf-8") for name in FILES]
    assert set(re.findall(r"`\$\{(\w+)\}`", README)) == set(re.findall(r"\$\{(\w+)\}", "".join(texts)))


@pytest.mark.parametrize("name", ["kms", "kubernetes", "secretsmanager"])
def test_the_policies_reach_the_documents_of_the_example(name: str) -> None:
    configuration = Configuration.load(iam.ROOT / "config" / f"{name}.toml")
    at = {"LEDGER": configuration.ledger, "PUBLIC": configuration.public}
    places = {f"{name}_BUCKET": each.bucket for name, each in at.items()} | {
        f"{name}_PATH": f"{each.path}/" if each.path else "" for name, each in at.items()
    }
    placeholders = PLACEHOLDERS | places | {"PREFIX": configuration.keys.path}
    role = iam.Role(iam.policy(f"daemon-{configuration.keys.scheme}", "daemon-views", **placeholders))
    for keyset in configuration.keysets:
        for document in keyset.written:
            where = f"arn:aws:s3:::{places['PUBLIC_BUCKET']}/{placeholders['PUBLIC_PATH']}{document.path}"
            assert role.allows(iam.Demand("s3:PutObject", where))


# -- Secrets Manager, on a moto that enforces IAM, too -----------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, Any]]:
    """A moto that enforces IAM, with the buckets, and an IAM client of its administrator."""
    with iam.enforcing_moto() as (url, administrator):
        owner = iam.user(administrator, "owner", [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}])
        make_buckets(iam.Account(url, datetime.now(UTC)).client("s3", credentials=owner))
        yield url, administrator


@pytest.fixture
def daemon(moto: tuple[str, Any], clock: datetime) -> Callable[[Statements, Statements], Life]:
    """Makes a daemon that the client judges by the first statements, and moto by the second."""
    url, administrator = moto

    def make(here: Statements, there: Statements) -> Life:
        credentials = iam.user(administrator, f"daemon-{uuid4().hex}", there)
        return Life(iam.Account(url, clock), iam.Role(here), "secretsmanager", credentials)

    return make


EVERYTHING = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]


def test_a_whole_life_with_secrets_manager_needs_every_permission_and_no_other(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(WITH_SECRETS, WITH_SECRETS)
    life.run()
    assert life.role
    assert set(life.role.used) == iam.grants(WITH_SECRETS)


def test_views_and_the_discovery_document_need_their_own_permissions_and_no_other(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = replace(daemon([*WITH_SECRETS, *VIEWS], EVERYTHING), more=True)
    life.run()
    assert life.role
    assert set(life.role.used) >= iam.grants(VIEWS)
    without = replace(daemon(WITH_SECRETS, EVERYTHING), more=True)
    with pytest.raises(AccessDenied, match=r"jwks-es256\.json"):
        without.begin()


@pytest.mark.slow
@pytest.mark.parametrize(("action", "pattern"), pairs(WITH_SECRETS, "s3:DeleteObject"))
def test_a_permission_that_the_daemon_lacks_is_named_with_its_resource(
    daemon: Callable[[Statements, Statements], Life], action: str, pattern: str
) -> None:
    life = daemon(iam.without(WITH_SECRETS, action, pattern), EVERYTHING)
    with pytest.raises(AccessDenied) as caught:
        life.begin()
    message = str(caught.value)
    if action.startswith("kms:"):
        assert "The KMS key behind it refuses" in message
    else:
        assert action in message
    assert life.name in message


#: What moto knows: the action of a request and its resource, but no second action, and 404 for what is missing.
JUDGED_BY_MOTO = (
    "s3:ListBucket",
    "s3:DeleteObject",
    "secretsmanager:TagResource",
    "kms:Decrypt",
    "kms:GenerateDataKey",
)


@pytest.mark.slow
@pytest.mark.parametrize(("action", "pattern"), pairs(WITH_SECRETS, *JUDGED_BY_MOTO))
def test_moto_refuses_the_same(daemon: Callable[[Statements, Statements], Life], action: str, pattern: str) -> None:
    life = daemon(WITH_SECRETS, iam.without(WITH_SECRETS, action, pattern))
    with pytest.raises(AccessDenied, match=f"{action} on .*{life.name}"):
        life.begin()


def test_without_the_permission_to_delete_the_probe_leaves_an_object_behind(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(iam.without(WITH_SECRETS, "s3:DeleteObject"), EVERYTHING)
    life.begin()
    left = life.account.client("s3", credentials=life.credentials).list_objects_v2(Bucket=PUBLIC, Prefix=life.name)
    assert [re.sub("probe-.*", "probe", each["Key"]) for each in left["Contents"]] == [
        f"{life.name}/.well-known/jwks.json",
        f"{life.name}/.well-known/jwks.json.probe",
    ]


def assert_it_signs(life: Life, source: Source) -> None:
    """The Python signer gets along with what the issuer's role may do."""
    with Signer(source, signer_lag=timedelta(hours=2), background=False) as signer:
        token = signer.sign({"sub": "you"})
        key = jwt.PyJWK(life.jwk(signer.status().kid or ""))
    assert jwt.decode(token, key, algorithms=["ES256"]) == {"sub": "you"}


def test_an_issuer_reads_the_current_secret_of_its_key_set_and_nothing_else(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(WITH_SECRETS, EVERYTHING)
    life.begin()
    current = life.ring().current("ES256")
    assert current
    assert current.kid
    statements = iam.policy("issuer-secretsmanager", "issuer-encryption", **PLACEHOLDERS, KEYSET=life.name)
    role = iam.Role(statements)
    secrets = life.account.client("secretsmanager", role, life.credentials)
    s3 = life.account.client("s3", role, life.credentials)
    name = f"{PREFIX}/{life.name}/ES256"

    answers = [
        secrets.get_secret_value(SecretId=name),
        secrets.get_secret_value(SecretId=name, VersionStage="AWSCURRENT"),
    ]
    for answer in answers:
        private = jwt.PyJWK(json.loads(answer["SecretString"]))
        token = jwt.encode({"sub": "you"}, private, headers={"kid": current.kid})
        assert jwt.decode(token, jwt.PyJWK(life.jwk(current.kid)), algorithms=["ES256"]) == {"sub": "you"}
    assert set(role.used) == iam.grants(statements)
    assert_it_signs(life, SecretsManagerSource(lambda: secrets, PREFIX, life.name, ALGORITHMS["ES256"]))

    version = answers[0]["VersionId"]
    assert refused(secrets.get_secret_value, SecretId=name, VersionStage="AWSPENDING")
    assert refused(secrets.get_secret_value, SecretId=name, VersionId=version)
    assert refused(secrets.get_secret_value, SecretId=f"{PREFIX}/another/ES256")
    assert refused(secrets.get_secret_value, SecretId=f"{PREFIX}/{life.name}-2/ES256")
    assert refused(secrets.put_secret_value, SecretId=name, SecretString="{}")
    assert refused(secrets.describe_secret, SecretId=name)
    assert refused(
        secrets.update_secret_version_stage, SecretId=name, VersionStage="AWSPENDING", RemoveFromVersionId=version
    )
    assert refused(s3.get_object, Bucket=LEDGER, Key=f"prod/{life.name}/ledger.json")


def test_an_issuer_without_its_conditions_would_read_the_next_key(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(WITH_SECRETS, EVERYTHING)
    life.begin()
    statements = iam.policy("issuer-secretsmanager", "issuer-encryption", **PLACEHOLDERS, KEYSET=life.name)
    bare = [{**each, "Condition": {}} for each in statements]
    secrets = life.account.client("secretsmanager", iam.Role(bare), life.credentials)
    assert not refused(secrets.get_secret_value, SecretId=f"{PREFIX}/{life.name}/ES256", VersionStage="AWSPENDING")


def test_a_person_recovers_a_ledger_from_its_versions_with_two_permissions_more(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon([*WITH_SECRETS, *RECOVER], EVERYTHING)
    life.begin()
    before = life.ring()
    owner = life.account.client("s3", credentials=life.credentials)
    owner.put_bucket_versioning(Bucket=LEDGER, VersioningConfiguration={"Status": "Enabled"})
    life.account.now += timedelta(days=3)
    life.tick()
    furthest = life.ring().revision
    owner.delete_object(Bucket=LEDGER, Key=f"prod/{life.name}/ledger.json")

    recovery = life.recovery()
    proposal = recovery.propose()
    assert proposal
    assert proposal.source.endswith(f"revision {furthest}")
    assert recovery.write(proposal).ledger_id == before.ledger_id
    assert life.role
    assert set(life.role.used) >= iam.grants(RECOVER)
    life.tick()


def test_without_them_the_ledger_is_rebuilt_by_the_permissions_of_the_daemon(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(WITH_SECRETS, EVERYTHING)
    life.begin()
    before = {key.kid: key.stage for key in life.ring().keys}
    owner = life.account.client("s3", credentials=life.credentials)
    owner.delete_object(Bucket=LEDGER, Key=f"prod/{life.name}/ledger.json")
    with pytest.raises(AccessDenied, match=r"s3:ListBucketVersions on .* --rebuild"):
        life.recovery().propose()
    wanted = Wanted(rebuild=True)
    proposal = life.recovery().propose(wanted)
    assert proposal
    after = {key.kid: key.stage for key in life.recovery().write(proposal, wanted).keys}
    assert after.keys() == before.keys()
    assert [kid for kid in after if after[kid] == "current"] == [kid for kid in before if before[kid] == "current"]
    life.tick()


# -- KMS, on a ministack that keeps key states right and judges nothing ------------------------------------------------


@pytest.fixture(scope="module")
def ministack(ministack_url: str) -> str:
    make_buckets(iam.Account(ministack_url, datetime.now(UTC)).client("s3"))
    return ministack_url


def test_a_whole_life_with_kms_needs_every_permission_and_no_other(ministack: str, clock: datetime) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(WITH_KMS), "kms")
    life.run()
    assert life.role
    assert set(life.role.used) == iam.grants(WITH_KMS)


@pytest.mark.slow
@pytest.mark.parametrize(("action", "pattern"), pairs(WITH_KMS, "s3:DeleteObject", "kms:UpdateAlias"))
def test_a_kms_permission_that_the_daemon_lacks_is_named_with_its_resource(
    ministack: str, clock: datetime, action: str, pattern: str
) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(iam.without(WITH_KMS, action, pattern)), "kms")
    with pytest.raises(AccessDenied) as caught:
        life.run()
    message = str(caught.value)
    assert action in message
    assert any(where in message for where in (f"on {pattern}", life.name, f"{iam.ACCOUNT}:key/"))


def test_a_ledger_is_rebuilt_from_kms_by_the_permissions_of_the_daemon(ministack: str, clock: datetime) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(WITH_KMS), "kms")
    life.begin()
    before = life.ring()
    assert life.engine().upkeep().discard() == []
    life.account.client("s3").delete_object(Bucket=LEDGER, Key=f"prod/{life.name}/ledger.json")
    wanted = Wanted(rebuild=True)
    proposal = life.recovery().propose(wanted)
    assert proposal
    after = life.recovery().write(proposal, wanted)
    assert after.ledger_id == before.ledger_id
    assert {key.id: key.handle for key in after.keys} == {key.id: key.handle for key in before.keys}
    for alg in POLICY.algorithms:
        signing, signed = after.current(alg), before.current(alg)
        assert signing
        assert signed
        assert signing.kid == signed.kid
    life.tick()


def test_without_the_permission_to_move_aliases_the_current_alias_stays_behind(
    ministack: str, clock: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(iam.without(WITH_KMS, "kms:UpdateAlias")), "kms")
    life.run()
    assert f"{PREFIX}/{life.name}/ES256/current does not follow the pointer" in caplog.text
    assert "kms:UpdateAlias" in caplog.text


def test_a_key_that_aws_does_not_know_as_ours_yet_is_named_all_the_same(ministack: str, clock: datetime) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(WITH_KMS), "kms")
    life.begin()
    # Two algorithms, each with a key that signs and one that stands by; none was made in vain.
    assert life.account.calls["kms:CreateKey"] == 4
    assert life.account.calls["kms:DisableKey"] == 0


def test_the_daemon_cannot_make_or_use_keys_that_are_not_its_own(ministack: str, clock: datetime) -> None:
    account = iam.Account(ministack, clock)
    ours = account.client("kms", iam.Role(WITH_KMS))
    foreign = account.client("kms").create_key(
        KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Tags=[{"TagKey": "rotator:prefix", "TagValue": "acme/other"}]
    )["KeyMetadata"]["Arn"]
    account.now += iam.TAG_LAG
    signing = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    assert refused(ours.sign, KeyId=foreign, **signing)
    assert refused(ours.disable_key, KeyId=foreign)
    assert refused(ours.schedule_key_deletion, KeyId=foreign)
    assert refused(ours.create_alias, AliasName="alias/another/name", TargetKeyId=foreign)
    mine = [{"TagKey": "rotator:prefix", "TagValue": PREFIX}]
    assert refused(ours.create_key, KeySpec="SYMMETRIC_DEFAULT", KeyUsage="ENCRYPT_DECRYPT", Tags=mine)
    assert refused(ours.create_key, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Tags=[])
    assert not refused(ours.create_key, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Tags=mine)


def test_an_issuer_signs_with_the_keys_of_its_key_set_and_nothing_else(ministack: str, clock: datetime) -> None:
    life = Life(iam.Account(ministack, clock), iam.Role(WITH_KMS), "kms")
    life.begin()
    another = Life(life.account, None, "kms")
    another.begin()
    life.account.now += iam.TAG_LAG
    statements = iam.policy("issuer-kms", **PLACEHOLDERS, KEYSET=life.name)
    role = iam.Role(statements)
    kms, s3 = life.account.client("kms", role), life.account.client("s3", role)
    signing = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}

    pointer = json.loads(s3.get_object(Bucket=LEDGER, Key=f"prod/{life.name}/ES256.pointer.json")["Body"].read())
    assert kms.sign(KeyId=pointer["key_arn"], **signing)["Signature"]
    assert set(role.used) == iam.grants(statements)
    pointers = S3Documents(lambda: s3, LEDGER, "prod")
    assert_it_signs(life, KmsSource(lambda: kms, pointers, life.name, ALGORITHMS["ES256"]))

    foreign = another.ring().current("ES256")
    assert foreign
    assert foreign.handle
    assert refused(kms.sign, KeyId=foreign.handle, **signing)
    assert refused(kms.disable_key, KeyId=pointer["key_arn"])
    assert refused(kms.get_public_key, KeyId=pointer["key_arn"])
    assert refused(s3.get_object, Bucket=LEDGER, Key=f"prod/{another.name}/ES256.pointer.json")
    assert refused(s3.get_object, Bucket=LEDGER, Key=f"prod/{life.name}/ledger.json")
    assert refused(s3.put_object, Bucket=LEDGER, Key=f"prod/{life.name}/ES256.pointer.json", Body=b"{}")


# -- adopting --------------------------------------------------------------------------------------------------------


def adopting(life: Life, role: iam.Role) -> Adoption:
    """Somebody with ``role`` adopts the key set of ``life``, whose document stands."""
    person = replace(life, role=role)
    return Adoption(
        person.engine().keyset,
        ledger=person.ledger,
        public=person.public,
        keys=person.keys,  # type: ignore[arg-type]
        clock=life.account.clock,
        web=Nowhere(),
        elapsed=elapsed,
        nonce=lambda: str(uuid4()),
    )


def test_a_key_in_kms_is_adopted_with_two_permissions_more_and_then_lives_with_none_of_them(
    ministack: str, clock: datetime
) -> None:
    account = iam.Account(ministack, clock)
    life = Life(account, iam.Role(WITH_KMS), "kms", policy=replace(POLICY, algorithms=("ES256",)))
    owner = account.client("kms")
    arn = owner.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Tags=[])["KeyMetadata"]["Arn"]
    jwk = public_jwk(owner.get_public_key(KeyId=arn)["PublicKey"], ALGORITHMS["ES256"]) | {"kid": "2026"}
    body = json.dumps({"keys": [jwk]}).encode()
    headers = Headers("application/json", life.policy.cache_control)
    life.public.create(f"{life.name}/.well-known/jwks.json", body, headers)

    more = iam.policy("adopt-kms", **{**PLACEHOLDERS, "ADOPTED_KEY": arn.rpartition("/")[2]})
    for action, _ in iam.grants(more):
        lacking = adopting(life, iam.Role([*WITH_KMS, *iam.without(more, action)]))
        with pytest.raises(AccessDenied, match=f"{action} on {arn}"):
            lacking.propose([lacking.known(arn)], ())
    role = iam.Role([*WITH_KMS, *more])
    person = adopting(life, role)
    person.adopt(person.propose([person.known(arn)], ()))
    assert iam.grants(more) <= set(role.used)

    account.now += iam.TAG_LAG
    for step in ("activate", "disable", "withdraw", "destroy"):
        life.until(step, "ES256")
    assert owner.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def test_a_secret_is_copied_with_one_permission_more(
    daemon: Callable[[Statements, Statements], Life],
) -> None:
    life = daemon(WITH_SECRETS, EVERYTHING)
    more = iam.policy("adopt-secretsmanager", **PLACEHOLDERS)
    name = PLACEHOLDERS["ADOPTED_SECRET"]
    life.account.client("secretsmanager", None, life.credentials).create_secret(Name=name, SecretString="{}")
    lacking = life.account.client("secretsmanager", iam.Role(WITH_SECRETS), life.credentials)
    with pytest.raises(AccessDenied, match=f"secretsmanager:GetSecretValue on secret {name}"):
        value_of(lambda: lacking, name)
    role = iam.Role([*WITH_SECRETS, *more])
    person = life.account.client("secretsmanager", role, life.credentials)
    assert value_of(lambda: person, name) == b"{}"
    assert set(role.used) == iam.grants(more)


# -- CloudFront --------------------------------------------------------------------------------------------------------


def test_the_daemon_drops_the_copies_of_its_distribution_alone(ministack: str, clock: datetime) -> None:
    account = iam.Account(ministack, clock)
    behaviour = {"TargetOriginId": "o", "ViewerProtocolPolicy": "https-only", "MinTTL": 0}
    origin = {"Id": "o", "DomainName": "b.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
    made = account.client("cloudfront").create_distribution(
        DistributionConfig={
            "CallerReference": uuid4().hex,
            "Comment": "",
            "Enabled": True,
            "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": behaviour,
        }
    )["Distribution"]["Id"]
    statements = iam.policy("daemon-cloudfront", **{**PLACEHOLDERS, "DISTRIBUTION": made})
    role = iam.Role(statements)
    client = account.client("cloudfront", role)
    CloudFront(lambda: client, made).invalidate(["acme/jwks.json"], "acme-1")
    assert set(role.used) == iam.grants(statements)
    with pytest.raises(AccessDenied, match="cloudfront:CreateInvalidation on distribution E1ANOTHER"):
        CloudFront(lambda: client, "E1ANOTHER").invalidate(["acme/jwks.json"], "acme-2")
