"""``rotator adopt`` on Secrets Manager and on KMS: keys that live in AWS already, until two rotations later."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jwt
import pytest
from botocore.exceptions import EndpointConnectionError
from typer.testing import CliRunner

from rotator import aws
from rotator.cli import app as commands
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from tests.accounts import Account, moto
from tests.test_end_to_end import PATH, TOKEN_LIFETIME, configured, fetch, led_to, signed_by_kms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typer.testing import Result

ES256 = ALGORITHMS["ES256"]

#: As the owner's own deployment serves it.
CACHE_CONTROL = "public, max-age=1, stale-while-revalidate=1, stale-if-error=1"


@pytest.fixture(scope="module")
def secrets_url() -> Iterator[str]:
    with moto() as url:
        yield url


@dataclass
class Owner:
    """Somebody whose ES256 key lives in AWS already, with a document on S3 and issuers that sign."""

    account: Account
    file: Path
    standing: list[dict[str, Any]] = field(default_factory=list)
    sign: dict[str, Callable[[dict[str, Any]], str]] = field(default_factory=dict)

    def publish(self, kid: str, spki: bytes) -> None:
        self.standing.append(jwks.public_jwk(spki, ES256) | {"kid": kid, "x-note": "ours since 2019"})
        self.account.s3.put_object(
            Bucket=self.account.public,
            Key=PATH,
            Body=self.document(),
            CacheControl=CACHE_CONTROL,
            ContentType="application/jwk-set+json",
        )

    def document(self) -> bytes:
        return json.dumps({"keys": self.standing}).encode()

    def has_secret(self, kid: str) -> str:
        """A secret whose value is PEM, read by the owner's issuers as it is."""
        private = material.generate(ES256, 2048)
        self.publish(kid, material.spki(private))
        self.sign[kid] = lambda claims: jwt.encode(claims, private, "ES256", {"kid": kid})  # type: ignore[arg-type]
        name = f"prod/{self.account.name}/{kid}"
        value = material.private_pem(private).decode()
        made: str = self.account.secrets.create_secret(Name=name, SecretString=value)["ARN"]
        return made

    def has_kms_key(self, kid: str) -> str:
        """A KMS key that the owner's issuers sign with by its alias."""
        kms, alias = self.account.kms, f"alias/{self.account.name}-{kid}"
        arn = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
        kms.create_alias(AliasName=alias, TargetKeyId=arn)
        self.publish(kid, kms.get_public_key(KeyId=arn)["PublicKey"])
        self.sign[kid] = lambda claims: signed_by_kms(self.account, "ES256", alias, claims, {"kid": kid})
        return alias

    def has(self, kid: str) -> list[str]:
        """A key, and what names it on the command line."""
        if self.account.scheme == "kms":
            return ["--kms-key", self.has_kms_key(kid)]
        return ["--secret", self.has_secret(kid)]

    def does(self, *words: str) -> Result:
        return CliRunner().invoke(commands, ["--config", str(self.file), *words])

    def does_well(self, *words: str) -> str:
        done = self.does(*words)
        assert done.exit_code == 0, done.output
        return done.output

    def shown(self) -> dict[str, dict[str, Any]]:
        return {key["kid"]: key for key in fetch(f"{self.account.origin}/{PATH}")["keys"]}

    def accepts(self, token: str) -> bool:
        """What a verifier says that fetches the document now."""
        key = self.shown().get(jwt.get_unverified_header(token)["kid"])
        return key is not None and bool(jwt.decode(token, jwt.PyJWK(key), algorithms=["ES256"], leeway=1))


@pytest.fixture(params=["secretsmanager", "kms"])
def owner(request: pytest.FixtureRequest, tmp_path: Path) -> Owner:
    url: str = request.getfixturevalue("ministack_url" if request.param == "kms" else "secrets_url")
    account = Account(url, request.param, f"adopt-{uuid4().hex[:10]}")
    return Owner(account, configured(account, tmp_path / "rotator.toml"))


def test_what_lives_in_aws_is_adopted_in_its_place_and_again_is_nothing(owner: Owner) -> None:
    words = ("adopt", "acme", *owner.has("2025"), *owner.has("2026"), "--current", "2026", "--yes")
    before = owner.account.s3.get_object(Bucket=owner.account.public, Key=PATH)["Body"].read()
    said = owner.does_well(*words)
    assert "acme: adopted." in said
    assert owner.account.s3.get_object(Bucket=owner.account.public, Key=PATH)["Body"].read() == before
    where = f"secret {owner.account.name}/acme/ES256" if owner.account.scheme == "secretsmanager" else "pointer.json"
    assert where in said
    assert "it was adopted before" in owner.does_well(*words)
    signer = led_to(owner.account, "ES256")
    assert signer.kid == "2026"
    assert owner.accepts(signer.sign({"sub": "you", "exp": int(time.time()) + 60}, {"kid": signer.kid}))
    owner.does_well("tick")
    shown = owner.shown()
    assert [shown[key["kid"]] for key in owner.standing] == owner.standing, "member for member"
    assert len(shown) == len(owner.standing) + 1


@pytest.mark.parametrize("owner", ["secretsmanager"], indirect=True)
def test_a_secret_that_issuers_read_under_our_own_name_is_left_to_them(owner: Owner) -> None:
    words = owner.has("2026")
    value = owner.account.secrets.get_secret_value(SecretId=words[1])["SecretString"]
    name = f"{owner.account.name}/acme/ES256"
    owner.account.secrets.create_secret(Name=name, SecretString=value)
    done = owner.does("adopt", "acme", "--secret", name, "--yes")
    assert done.exit_code == 3
    assert f"AWSCURRENT of secret {name} is taken" in done.output
    assert "Choose another stores.keys" in done.output
    assert "PRIVATE" not in done.output
    assert owner.account.secrets.get_secret_value(SecretId=name)["SecretString"] == value


def test_what_aws_does_not_have_is_told(owner: Owner) -> None:
    owner.has("2026")
    option, said = ("--secret", "Secret nothing does not exist")
    if owner.account.scheme == "kms":
        option, said = ("--kms-key", "KMS knows no key 'alias/nothing'")
    done = owner.does("adopt", "acme", option, "alias/nothing" if "kms" in option else "nothing", "--yes")
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.slow
def test_an_adopted_key_set_in_aws_rotates_twice_and_no_token_is_rejected(owner: Owner) -> None:
    previous, current = owner.has("2025"), owner.has("2026")
    alive: dict[str, float] = {}
    kids: list[str] = []
    signed = rejected = 0

    def sign(make: Callable[[dict[str, Any]], str]) -> None:
        exp = int(time.time()) + TOKEN_LIFETIME
        alive[make({"sub": str(signed), "exp": exp})] = exp

    sign(owner.sign["2025"])
    sign(owner.sign["2026"])
    owner.does_well("adopt", "acme", *previous, *current, "--current", "2026", "--yes")
    began = time.monotonic()
    while len(kids) < 3 or "2026" in owner.shown():
        assert time.monotonic() - began < 120, kids
        owner.does_well("tick")
        if len(kids) < 2:
            # Not every issuer was led to the pointer yet: that is what the first lifetime is for.
            sign(owner.sign["2026"])
        signer = led_to(owner.account, "ES256")
        kids += [signer.kid] if signer.kid not in kids else []
        sign(lambda claims, signer=signer: signer.sign(claims, {"kid": signer.kid}))  # type: ignore[misc]
        signed += 1
        rejected += sum(not owner.accepts(token) for token in alive)
        alive = {token: exp for token, exp in alive.items() if exp > time.time() + 0.5}
        shown = owner.shown()
        assert all(shown[key["kid"]] == key for key in owner.standing if key["kid"] in shown), "member for member"
        time.sleep(0.3)
    assert (kids[0], rejected) == ("2026", 0)
    assert signed > 30
    assert not {"2025", "2026"} & owner.shown().keys()
    assert owner.does_well("status", "--json").count('"error": null') == 1


# -- every call fails ------------------------------------------------------------------------------------------------


class Calls:
    """Every call that goes to AWS, by number; one of them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.at, self.how = -1, ""
        self._hooked: set[int] = set()
        real = aws.client

        def client(*given: Any, **options: Any) -> Any:
            made = real(*given, **options)
            if id(made) not in self._hooked:
                self._hooked.add(id(made))
                made.meta.events.register("before-call", self._before)
                made.meta.events.register("after-call", self._after)
                self._undo.append(made)
            return made

        self._undo: list[Any] = []
        monkeypatch.setattr(aws, "client", client)

    def fail(self, at: int, how: str) -> None:
        self.names, self.at, self.how = [], at, how

    def _before(self, model: Any, **_: Any) -> None:
        self.names.append(model.name)

    def _after(self, parsed: dict[str, Any], **_: Any) -> None:
        if len(self.names) - 1 != self.at:
            return
        if "Body" in parsed:
            # Nobody else will.
            parsed["Body"].close()
        if self.how == "killed after":
            raise KeyboardInterrupt
        raise EndpointConnectionError(endpoint_url="https://aws.example")

    def end(self) -> None:
        for made in self._undo:
            made.meta.events.unregister("before-call", self._before)
            made.meta.events.unregister("after-call", self._after)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    counted = Calls(monkeypatch)
    yield counted
    counted.end()


def end(owner: Owner) -> dict[str, Any]:
    """All that an adoption leaves behind, but for times and what is drawn at random."""
    account = owner.account
    listed = account.s3.list_objects_v2(Bucket=account.ledger).get("Contents", ())
    ledger = json.loads(account.s3.get_object(Bucket=account.ledger, Key="acme/ledger.json")["Body"].read())
    signer = led_to(account, "ES256")
    token = signer.sign({"sub": "you", "exp": int(time.time()) + 60}, {"kid": signer.kid})
    return {
        # Whoever dies between probe and clean-up leaves a probe, which nobody reads.
        "objects": sorted(each["Key"] for each in listed if ".probe-" not in each["Key"]),
        "ledger": [(key["kid"], "activated_at" in key, "superseded_at" in key) for key in ledger["keys"]],
        "revision": ledger.get("revision", 0),
        "signs": signer.kid,
        "accepted": owner.accepts(token),
        "document": account.s3.get_object(Bucket=account.public, Key=PATH)["Body"].read() == owner.document(),
        "private": account.private_keys_ever_made(),
    }


@pytest.mark.slow
def test_whatever_call_fails_to_adopt_again_ends_the_same(owner: Owner, calls: Calls, tmp_path: Path) -> None:
    words = ("adopt", "acme", *owner.has("2025"), *owner.has("2026"), "--current", "2026", "--yes")
    owner.does_well(*words)
    total, calm = len(calls.names), end(owner)
    assert (calm["signs"], calm["accepted"], calm["document"], calm["private"]) == ("2026", True, True, 2)
    assert total > 20
    for at in range(total):
        # Killed before a call is killed after the one before it; both for each effect: tests/test_adoption.py.
        how = ("killed after", "answer lost")[(at + (owner.account.scheme == "kms")) % 2]
        account = owner.account.another(f"adopt-{uuid4().hex[:10]}")
        other = Owner(account, configured(account, tmp_path / "again.toml"))
        again = ("adopt", "acme", *other.has("2025"), *other.has("2026"), "--current", "2026", "--yes")
        calls.fail(at, how)
        done = other.does(*again)
        name = f"call {at}, {calls.names[min(at, len(calls.names) - 1)]}, {how}"
        assert done.exit_code in {0, 1, 130}, f"{name}: {done.output}"
        calls.fail(-1, "")
        other.does_well(*again)
        assert end(other) == calm, name
