"""Taking over a key set that stood before: which ledger follows, what is refused, and every effect failing."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from rotator.engine.adoption import Adoption
from rotator.errors import ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.keys import adoption, facts, jwks, material
from rotator.keys.adoption import Shown, published_keys, taken
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.blast_radius import blast_radius
from rotator.keys.discovery import Discovery
from rotator.keys.halves import Half, is_encrypted, read_halves
from rotator.keys.keyring import Stage, from_json, to_json
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Fetched, Headers, KeyRef, Pointer, StoredKey, Takeover
from rotator.simulate.world import Killed, Violation
from tests.world import POLICY, START, Ports, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm
    from rotator.keys.jwks import Jwk
    from rotator.keys.keyring import Key, Keyring

WHERE = "s3://acme-jwks/acme/jwks.json"
MANY = Policy(algorithms=("RS256", "ES256", "EdDSA"), max_keys=20)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@cache
def _made(alg: str, number: int) -> PrivateKeyTypes:
    assert number >= 0
    return material.generate(ALGORITHMS[alg], 2048)


def made(alg: str, number: int = 0) -> PrivateKeyTypes:
    """The same key for the same number, in every test."""
    return _made(alg, number)


def half(alg: str, number: int = 0, origin: str = "old.pem", kid: str | None = None) -> Half:
    private = made(alg, number)
    return Half(origin, material.spki(private), kid, private)


def published(alg: str, kid: str | None, number: int = 0, /, **members: Any) -> Jwk:
    """A public JWK as somebody else wrote it; ``None`` takes a member away."""
    jwk = jwks.public_jwk(material.spki(made(alg, number)), ALGORITHMS[alg]) | {"kid": kid} | members
    return {name: value for name, value in jwk.items() if value is not None}


def document(*keys: Any, **members: Any) -> bytes:
    return json.dumps({"keys": list(keys), **members}).encode()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        call()
    return str(refused.value)


# -- private halves --------------------------------------------------------------------------------------------------


def pem(private: Any, form: serialization.PrivateFormat, passphrase: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    written: bytes = private.private_bytes(serialization.Encoding.PEM, form, encryption)
    return written


@pytest.mark.parametrize("alg", ["RS256", "ES256", "ES512"])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_pem_of_any_form_is_read(alg: str, form: str, passphrase: bytes | None) -> None:
    private = made(alg)
    data = pem(private, getattr(serialization.PrivateFormat, form), passphrase)
    assert is_encrypted(data) == (passphrase is not None)
    (found,) = read_halves(data, "old.pem", passphrase)
    assert (found.origin, found.spki, found.kid) == ("old.pem", material.spki(private), None)


def test_all_private_keys_of_a_pem_file_are_read_and_all_else_is_passed_over() -> None:
    public = (
        made("ES256")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    keys = [made("ES256"), made("EdDSA"), made("ES256", 1)]
    data = (
        b"a comment\r\n" + public + parameters + b"".join(pem(key, serialization.PrivateFormat.PKCS8) for key in keys)
    )
    assert [found.spki for found in read_halves(data, "all.pem", b"not needed")] == [material.spki(key) for key in keys]


@pytest.mark.parametrize("alg", ["RS256", "PS512", "ES384", "EdDSA"])
def test_a_private_jwk_and_a_set_of_them_are_read_with_their_kids(alg: str) -> None:
    private = made(alg)
    jwk = material.private_jwk(private, published(alg, "one"))
    (found,) = read_halves(json.dumps(jwk).encode(), "one.jwk")
    assert (found.kid, found.spki, found.origin) == ("one", material.spki(private), "one.jwk")
    nameless = {name: value for name, value in jwk.items() if name != "kid"}
    both = read_halves(document(published(alg, "public", 1), jwk, nameless), "set.json")
    assert [(each.kid, each.origin) for each in both] == [("one", "set.json, key 2"), (None, "set.json, key 3")]


def test_an_rsa_jwk_with_the_private_exponent_alone_is_made_whole() -> None:
    jwk = material.private_jwk(made("RS256"), published("RS256", "one"))
    bare = {name: value for name, value in jwk.items() if name not in {"p", "q", "dp", "dq", "qi"}}
    (found,) = read_halves(json.dumps(bare).encode(), "bare.jwk")
    assert found.private
    signature = material.sign(found.private, ALGORITHMS["RS256"], b"m")
    assert material.verify(published("RS256", "one"), ALGORITHMS["RS256"], b"m", signature)


@pytest.mark.parametrize("newline", ["\n", "\\n"])
def test_pem_inside_a_json_object_is_read_as_consoles_write_it(newline: str) -> None:
    text = pem(made("ES256"), serialization.PrivateFormat.PKCS8).decode().replace("\n", newline)
    value = {"issuer": "acme", "rotated": 7, "private_key": text, "odd": "\ud800"}
    (found,) = read_halves(json.dumps(value).encode(), "secret prod/key")
    assert found.spki == material.spki(made("ES256"))


def test_a_jwk_goes_before_the_pem_beside_it() -> None:
    jwk = material.private_jwk(made("ES256"), published("ES256", "one"))
    both = jwk | {"pem": pem(made("ES256"), serialization.PrivateFormat.PKCS8).decode()}
    assert [each.kid for each in read_halves(json.dumps(both).encode(), "rotator's own")] == ["one"]


SECRET = "c2VjcmV0IHNlY3JldA"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither PEM nor JSON"),
        (b"<html>sign in</html>", "neither PEM nor JSON"),
        (b"[]", "neither PEM nor JSON"),
        (b'{"keys": 7}', "holds no private key"),
        (b"{}", "holds no private key"),
        (b'{"a": "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n-----END PRIVATE KEY-----"}', "or damaged"),
        (b'{"keys": [7, {"kty": "EC"}]}', "holds no private key"),
        (b"[" * 100_000, "neither PEM nor JSON"),
        (b"\xff\xfe\x00", "neither PEM nor JSON"),
        (b" " * 1_000_001, "larger than 1000000 bytes"),
        (f'{{"kty": "oct", "k": "{SECRET}"}}'.encode(), "unknown kind"),
        (f'{{"kty": "RSA", "d": "{SECRET}"}}'.encode(), "a member is missing or wrong"),
        (f'{{"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "{SECRET}"}}'.encode(), "a member is missing or wrong"),
        (f'{{"kty": "RSA", "d": "{SECRET}", "oth": []}}'.encode(), "a member is missing or wrong"),
        (f'{{"kty": "EC", "crv": "P-256", "d": "{SECRET}="}}'.encode(), "a member is missing or wrong"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "holds no private key"),
        (f"-----BEGIN PRIVATE KEY-----\n{SECRET}==\n-----END PRIVATE KEY-----\n".encode(), "or damaged"),
        (f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n".encode(), "holds no private key"),
        (
            f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{SECRET}==\n-----END ENCRYPTED PRIVATE KEY-----".encode(),
            "passphrase",
        ),
    ],
)
def test_what_is_no_private_key_is_told_and_never_quoted(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as told:
        read_halves(data, "odd")
    assert str(told.value).startswith("odd")
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is None


def test_a_wrong_passphrase_is_told_from_a_missing_one() -> None:
    data = pem(made("ES256"), serialization.PrivateFormat.PKCS8, b"correct horse")
    with pytest.raises(ConfigurationError, match="encrypted and needs a passphrase"):
        read_halves(data, "old.pem")
    with pytest.raises(ConfigurationError, match="wrong passphrase"):
        read_halves(data, "old.pem", b"battery staple")


def test_a_half_shows_nothing_of_itself() -> None:
    assert "rivate" not in repr(half("ES256"))


# -- the document ----------------------------------------------------------------------------------------------------


def test_every_key_of_the_document_is_taken_exactly_as_it_stands() -> None:
    keys = [published("ES256", "a", x5c=["MIIB"], note={"deep": [1, 2.5, None]}), published("RS256", None)]
    assert published_keys(document(*keys), WHERE, 10) == tuple(keys)
    assert adoption.lost_members(document(*keys, issued_by="us", zone=1)) == ("issued_by", "zone")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is no JWKS"),
        (b"<html>", "is no JWKS"),
        (b"[]", "is no JWKS"),
        (b'{"keys": {}}', "is no JWKS"),
        (b'{"keys": [{"kty": "EC", "x": NaN}]}', "is no JWKS"),
        (b'{"keys": [], "keys": [{"kty": "EC"}]}', "named twice"),
        (b'{"keys": [{"kid": "a", "kid": "b"}]}', "named twice"),
        (b'{"keys": ' + b"[" * 100_000, "is no JWKS"),
        (b" " * 1_000_001, "is larger than 1000000 bytes"),
        (document(), "holds no key"),
        (document("a"), "an entry that is no JWK"),
        (document("a", published("ES256", "leaked", d=SECRET)), "PUBLISHES PRIVATE KEYS: leaked"),
        (document(published("ES256", "a"), published("EdDSA", "a")), "two keys named a"),
        (document(published("ES256", None), published("ES256", None)), "the same key twice"),
        (document(*(published("ES256", str(n)) for n in range(11))), "holds 11 keys; max_keys is 10"),
        (document(published("ES256", "a"), rotator_revision=7), "was written by rotator .*'rotator recover'"),
        (document({"kty": "oct", "kid": "shared", "k": SECRET}), "PUBLISHES PRIVATE KEYS: shared"),
        (document({"kty": "AKP", "priv": SECRET}), r"PUBLISHES PRIVATE KEYS: \?"),
        (document(published("ES256", "leaked", d=SECRET), published("EdDSA", "b")), "PUBLISHES PRIVATE KEYS: leaked. "),
    ],
)
def test_a_document_that_cannot_be_kept_whole_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        published_keys(body, WHERE, 10)
    assert str(refused.value).startswith(WHERE)
    assert "Nothing was changed" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_two_keys_without_a_kid_are_kept_if_they_are_two() -> None:
    keys = (published("ES256", None), published("ES256", None, 1))
    assert published_keys(document(*keys), WHERE, 10) == keys


def test_copies_agree_when_they_hold_the_same_keys_in_any_order() -> None:
    a, b, c = published("ES256", "a"), published("EdDSA", "b"), published("EdDSA", "c", 1)
    assert adoption.disagreement([a, b], [b, dict(reversed(a.items()))]) is None
    assert adoption.disagreement([a, b], [a]) == "lacks b"
    assert adoption.disagreement([a], [a, b]) == "also shows b"
    assert adoption.disagreement([a, b], [a, c]) == "lacks b and shows c instead"
    assert adoption.disagreement([a], [a | {"x5t": "AA"}]) == "lacks a and shows a instead"


# -- which key becomes what ------------------------------------------------------------------------------------------


def test_the_only_private_half_of_an_algorithm_is_the_one_that_signs() -> None:
    keys = [published("ES256", "ec-7"), published("EdDSA", "ed-3"), published("ES256", "foreign", 1)]
    found = taken(keys, [half("EdDSA"), half("ES256")], (), MANY)
    assert {(each.kid, each.algorithm.alg, each.signs) for each in found} == {
        ("ec-7", "ES256", True),
        ("ed-3", "EdDSA", True),
    }
    assert all(each.jwk in keys for each in found)


def test_of_several_the_one_named_signs_and_the_others_have_signed() -> None:
    keys = [published("ES256", "2024"), published("ES256", "2025", 1), published("ES256", "2026", 2)]
    halves = [half("ES256", n) for n in range(3)]
    found = taken(keys, halves, ["2025"], MANY)
    assert [(each.kid, each.signs) for each in found] == [("2025", True), ("2024", False), ("2026", False)]
    assert "ES256 has 3 private halves (2024, 2025, 2026): --current must say" in refusal(
        lambda: taken(keys, halves, (), MANY)
    )
    assert "names more than one" in refusal(lambda: taken(keys, halves, ["2024", "2025"], MANY))


def test_it_does_not_matter_how_a_published_key_writes_its_numbers() -> None:
    jwk = published("RS256", "java")
    padded = jwk | {"n": material.b64u(b"\x00" + material.unb64u(jwk["n"])), "e": "AAEAAQ"}
    (found,) = taken([padded], [half("RS256")], (), MANY)
    assert found.jwk == padded
    assert found.id == jwks.adopted_id(material.spki(made("RS256")), ALGORITHMS["RS256"])


def test_a_half_finds_its_key_by_what_it_is_and_not_by_what_it_is_called() -> None:
    keys = [published("ES256", "a"), published("ES256", "b", 1)]
    (found,) = taken(keys, [half("ES256", 1, kid="a")], (), MANY)
    assert found.kid == "b"


def test_one_key_under_two_kids_must_be_named() -> None:
    keys = [published("ES256", "a"), published("ES256", "b")]
    assert [each.kid for each in taken(keys, [half("ES256", kid="b")], (), MANY)] == ["b"]
    for kid in (None, "c"):
        assert "the private half of several published keys" in refusal(
            lambda kid=kid: taken(keys, [half("ES256", kid=kid)], (), MANY)  # type: ignore[misc]
        )


def test_a_half_that_fits_no_published_key_is_refused() -> None:
    odd: list[PrivateKeyTypes] = [
        x25519.X25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
    ]
    halves = [half("ES256", 1, "next.pem"), *(Half("odd.pem", material.spki(each), None, each) for each in odd)]
    for each in halves:
        assert f"{each.origin} is the private half of no key in the public document" in refusal(
            lambda each=each: taken([published("ES256", "a")], [each], (), MANY)  # type: ignore[misc]
        )


def test_the_same_half_twice_is_refused() -> None:
    assert "a was given twice (copy.pem)" in refusal(
        lambda: taken([published("ES256", "a")], [half("ES256"), half("ES256", origin="copy.pem")], (), MANY)
    )


def test_a_current_key_that_is_not_among_them_is_refused() -> None:
    keys = [published("ES256", "a"), published("ES256", "b", 1)]
    assert "--current 'b' is not among the keys" in refusal(lambda: taken(keys, [half("ES256")], ["b"], MANY))


def test_a_signing_key_of_an_algorithm_that_is_not_configured_is_refused_and_a_previous_one_is_not() -> None:
    policy = replace(MANY, algorithms=("EdDSA",))
    keys = [published("ES256", "a")]
    assert "a signs with ES256, which the configuration does not name" in refusal(
        lambda: taken(keys, [half("ES256")], (), policy)
    )


@pytest.mark.parametrize(
    ("jwk", "reason"),
    [
        (published("ES256", None), "no kid that is 1 to 200 printable"),
        (published("ES256", ""), "no kid"),
        (published("ES256", "x" * 201), "no kid"),
        (published("ES256", "a\nb"), "no kid"),
        (published("ES256", None) | {"kid": 7}, "no kid"),
        (published("ES256", "a", use="enc"), "its use is not sig"),
        (published("ES256", "a", key_ops=["sign"]), "its key_ops do not hold verify"),
        (published("ES256", "a", key_ops="verify"), "its key_ops"),
        (published("ES256", "a", alg="ES384"), "its alg 'ES384' is none that rotator signs with such a key"),
        (published("ES256", "a", alg=["ES256"]), "is none that rotator signs"),
        (published("ES256", "a", alg="none"), "its alg 'none'"),
    ],
)
def test_a_key_that_cannot_be_one_of_ours_is_refused_with_the_reason(jwk: Jwk, reason: str) -> None:
    said = refusal(lambda: taken([jwk], [half("ES256")], (), MANY))
    assert reason in said
    assert "it stays published as a foreign key" in said


def test_a_short_rsa_key_is_refused() -> None:
    private = rsa.generate_private_key(65537, 1024)
    short = Half("short.pem", material.spki(private), None, private)
    jwk = jwks.public_jwk(short.spki, ALGORITHMS["RS256"])
    assert "has 1024 bits, and RFC 7518 section 3.3 wants 2048" in refusal(lambda: taken([jwk], [short], (), MANY))


def test_every_fault_is_told_at_once() -> None:
    keys = [published("ES256", "a", use="enc"), published("EdDSA", "b", alg="RS256")]
    said = refusal(lambda: taken(keys, [half("ES256"), half("EdDSA"), half("ES256", 5, "x.pem")], (), MANY))
    assert all(word in said for word in ("a (old.pem)", "b (old.pem)", "x.pem is the private half of no key"))


@pytest.mark.parametrize(
    ("alg", "configured", "expected"),
    [
        ("ES256", ("RS256",), "ES256"),
        ("EdDSA", ("RS256",), "EdDSA"),
        ("EdDSA", ("Ed25519",), "Ed25519"),
        ("RS256", ("ES256", "PS384"), "PS384"),
    ],
)
def test_a_key_that_names_no_alg_signs_with_the_one_that_is_configured(
    alg: str, configured: Sequence[str], expected: str
) -> None:
    found = adoption.algorithm_of(published(alg, "a", alg=None), replace(MANY, algorithms=tuple(configured)))
    assert not isinstance(found, str)
    assert found.alg == expected


@pytest.mark.parametrize(
    ("jwk", "configured", "reason"),
    [
        (published("RS256", "a", alg=None), ("ES256",), "could be RS256, RS384, RS512, PS256, PS384, PS512"),
        (published("RS256", "a", alg=None), ("RS256", "PS256"), "could be RS256, PS256: configure the one"),
        (published("EdDSA", "a", alg=None), ("EdDSA", "Ed25519"), "could be EdDSA, Ed25519"),
        ({"kty": "EC", "crv": "secp256k1"}, ("ES256",), "knows no such keys"),
        ({"kty": ["EC"], "crv": {}}, ("ES256",), "knows no such keys"),
    ],
)
def test_where_that_is_not_one_it_is_not_guessed(jwk: Jwk, configured: Sequence[str], reason: str) -> None:
    found = adoption.algorithm_of(jwk, replace(MANY, algorithms=tuple(configured)))
    assert isinstance(found, str)
    assert reason in found


# -- the ledger ------------------------------------------------------------------------------------------------------


JWKS = PublicDocument("jwks", "acme/jwks.json")


def first_ledger(keys: Sequence[Jwk], halves: Sequence[Half], shown: Sequence[Shown], signing: str = "") -> Keyring:
    keyset = KeySet("acme", MANY, (JWKS, PublicDocument("old", "acme/old.json", (), frozenset({"ES256"}))))
    found = taken(keys, halves, [signing] if signing else (), MANY)
    ring = adoption.adopted(keyset, "ledger-1", [(each, f"handle of {each.kid}") for each in found], shown, START)
    assert from_json(to_json(replace(ring, revision=1)), "acme") == replace(ring, revision=1)
    return ring


def test_the_first_ledger_says_what_is_and_promises_no_less_than_before() -> None:
    keys = [published("ES256", "now", x5t="AA"), published("ES256", "before", 1), published("EdDSA", "foreign")]
    shown = Shown(JWKS, frozenset({"now", "before", "foreign"}), ("max-age=86400", None))
    ring = first_ledger(keys, [half("ES256"), half("ES256", 1)], [shown], "now")
    now, before = ring.by_kid("now"), ring.by_kid("before")
    assert now
    assert before
    assert (now.stage, now.activated_at, now.superseded_at) == (Stage.CURRENT, START, None)
    assert (before.stage, before.activated_at, before.superseded_at) == (Stage.PREVIOUS, None, START)
    assert [key.jwk for key in (now, before)] == keys[:2]
    assert [key.handle for key in (now, before)] == ["handle of now", "handle of before"]
    for key in (now, before):
        assert key.adopted
        assert not key.founding
        assert (key.signer_lag, key.token_lifetime) == (MANY.signer_lag, MANY.token_lifetime)
        assert dict(key.published) == {"jwks": START}
    assert ring.by_kid("foreign") is None
    assert (ring.founded_at, ring.attempts, ring.history[0].step) == (START, (), adoption.STEP)
    served = {entry.cache_control for entry in ring.documents["jwks"].served}
    assert served == {MANY.cache_control, "max-age=86400", None}
    assert {entry.cache_control for entry in ring.documents["old"].served} == {MANY.cache_control}


def test_nobody_knows_since_when_an_adopted_key_signs() -> None:
    ring = first_ledger([published("ES256", "a")], [half("ES256")], [Shown(JWKS, frozenset({"a"}), ())])
    radius = blast_radius(ring, KeySet("acme", MANY, (JWKS,)), "a", START + HOUR)
    assert radius.signed_from is None
    assert "since an unknown time" in radius.sentences[0]
    assert radius.tokens_until == START + HOUR + MANY.signer_lag + MANY.token_lifetime + MANY.verifier_leeway


# -- the world -------------------------------------------------------------------------------------------------------


class AdoptingPorts(Ports):
    """All ports of one person, over the one world."""

    def known(self, name: str, keyset: str) -> StoredKey:
        assert keyset == "acme"
        return StoredKey(name, material.spki(self.world.private[name]))

    def adopt(self, takeover: Takeover) -> StoredKey:
        world = self.world

        def apply() -> StoredKey:
            private = takeover.private or world.private[takeover.handle]
            handle = world.handles.setdefault(takeover.id, takeover.handle or f"key-{next(world.counter)}")
            world.private[handle] = private
            return StoredKey(handle, material.spki(private))

        return self._do("keys.adopt", apply)  # type: ignore[no-any-return]

    def locate_pointer(self, keyset: str, algorithm: Algorithm) -> str:
        return f"memory:{keyset}/{algorithm.alg}"

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        for version in self.world.views():
            assert ref.kid in version.kids, "verifiers know it"
        self.world.kids[ref.id] = ref.kid
        return self._swap("move pointer", ref.algorithm.alg, pointer, ref.id)

    def _write(self, path: str, body: bytes, headers: Headers | None) -> str:
        # The checker asks the ledger, which comes last.
        assert headers
        return self.world._written(path, body, headers)

    def fetch(self, url: str) -> Fetched | None:
        assert isinstance(self.world, Standing)
        self._do("fetch", lambda: None)
        return self.world.edges.get(url)


@dataclass
class Standing(World):
    """A world in which somebody else's key set stands: two keys that signed, one that signs, one of a stranger."""

    headers: Headers = field(default_factory=lambda: Headers("application/json", "max-age=3600"))
    edges: dict[str, Fetched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keys = [
            published("EdDSA", "2025", 1, x5t="AA"),
            published("EdDSA", "2026"),
            published("ES256", "stranger"),
        ]
        self.body = document(*self.keys)
        self.halves = [half("EdDSA"), half("EdDSA", 1)]

    def stand(self) -> Standing:
        self._written("acme/jwks.json", self.body, self.headers)
        return self

    def adoption(self, worker: str = "person") -> Adoption:
        ports = AdoptingPorts(self, worker)
        return Adoption(
            self.keyset,
            ledger=ports,
            public=ports,
            keys=ports,
            clock=lambda: self.now + self.skew.get(worker, timedelta(0)),
            web=ports,
            elapsed=self.age,
            nonce=lambda: f"{self.seed:08x}-{next(self.counter):08x}",
        )

    def adopt(self, worker: str = "person", given: bytes | None = None) -> Keyring:
        """What the command does."""
        adopting = self.adoption(worker)
        ring = adopting.done(self.halves)
        if ring is None:
            ring = adopting.adopt(adopting.propose(self.halves, ["2026"], given))
        # From now on the world's checker watches over what the former keys signed, too.
        for key in ring.keys:
            if key.superseded_at:
                self.named_until.setdefault(key.id, self.now)
        return ring

    def end(self) -> object:
        """All that is, but for times and what was drawn at random."""
        ring = self.ring
        keys = [(key.id, key.kid, key.jwk, str(key.stage), key.handle in self.private) for key in ring.keys]
        pointers = {alg: pointer.id for alg, pointer in self.pointers.items()}
        return keys, pointers, self.documents["acme/jwks.json"][0], sorted(self.handles), ring.revision

    def public(self) -> list[Jwk]:
        parsed = jwks.parse(self.documents["acme/jwks.json"][0])
        assert parsed
        return list(parsed.keys)


def rotate_twice(world: Standing) -> None:
    """Two rotations under the checker; nobody who was public before leaves or changes before its time."""
    standing = {jwk["kid"]: jwk for jwk in world.keys}
    began = world.now
    while world.now - began < 2 * world.policy.lifetime + 5 * DAY:
        world.tick()
        shown = {jwk["kid"]: jwk for jwk in world.public()}
        assert shown["stranger"] == standing["stranger"]
        for kid, since in (("2025", began), ("2026", began + world.policy.lifetime)):
            if world.now < since + world.policy.retention - HOUR:
                assert shown[kid] == standing[kid]
        world.advance(HOUR * 6)
    assert not {"2025", "2026"} & shown.keys()
    assert {"2025", "2026"} <= world.ring.kids(), "and none of them ever comes back"


def test_an_adopted_key_set_rotates_and_no_verifier_notices() -> None:
    world = Standing().stand()
    world.adopt()
    assert world.documents["acme/jwks.json"][0] == world.body
    assert {key.kid: str(key.stage) for key in world.ring.keys} == {"2026": "current", "2025": "previous"}
    assert "published" not in " ".join(world.tick().steps[0].step for _ in range(1))
    rotate_twice(world)


def test_the_next_tick_adds_a_next_key_and_changes_no_other() -> None:
    world = Standing().stand()
    world.adopt()
    world.tick()
    (new,) = [jwk for jwk in world.public() if jwk not in world.keys]
    assert [jwk for jwk in world.public() if jwk in world.keys] == [world.keys[1], world.keys[0], world.keys[2]]
    key = world.ring.by_kid(new["kid"])
    assert key
    assert key.stage is Stage.NEXT


def test_the_first_rotation_waits_for_copies_that_were_handed_out_before() -> None:
    slow = "max-age=864000, stale-if-error=0"
    world = Standing(replace(POLICY, lifetime=3 * DAY), headers=Headers("application/json", slow)).stand()
    world.adopt()
    began = world.now
    while world.kid(Stage.CURRENT) == "2026":
        world.tick()
        world.advance(HOUR)
    assert 10 * DAY + POLICY.verifier_cache <= world.now - began < 12 * DAY


def test_without_any_private_half_every_key_stays_foreign_and_the_first_of_ours_waits_its_full_gate() -> None:
    world = Standing().stand()
    world.halves = []
    adopting = world.adoption()
    ring = adopting.adopt(adopting.propose([], ()))
    assert ring.keys == ()
    assert adopting.done([]) == ring
    began = world.now
    while not any(key.stage is Stage.CURRENT for key in world.ring.keys):
        assert [jwk for jwk in world.public() if jwk in world.keys] == world.keys
        world.tick()
        world.advance(HOUR)
    assert world.now - began > POLICY.prepublish
    assert all(jwk in world.public() for jwk in world.keys)


def test_a_key_that_stays_in_its_store_is_adopted_by_its_name() -> None:
    world = Standing().stand()
    world.private["arn:2026"] = made("EdDSA")
    adopting = world.adoption()
    world.halves = [adopting.known("arn:2026")]
    world.adopt()
    assert world.ring.by_kid("2026").handle == "arn:2026"  # type: ignore[union-attr]
    rotate_twice_of_one(world)


def rotate_twice_of_one(world: Standing) -> None:
    began = world.now
    while world.now - began < 2 * world.policy.lifetime:
        world.tick()
        world.advance(HOUR * 6)
    assert "2026" not in world.public_kids()
    assert {"2025", "stranger"} <= world.public_kids()


# -- where the document is found -------------------------------------------------------------------------------------


URL, OTHER = "https://id.acme.example/jwks.json", "https://eu.acme.example/jwks.json"


def test_a_document_that_is_given_is_written_as_it_is_where_none_stands() -> None:
    world = Standing(urls=(URL,))
    world.adopt(given=world.body)
    assert world.documents["acme/jwks.json"][::2] == (
        world.body,
        Headers("application/jwk-set+json", POLICY.cache_control),
    )
    assert "fetch" not in world.effects, "a CDN would remember that there was none"
    assert None in {entry.cache_control for entry in world.ring.documents["jwks"].served}


def test_a_document_that_is_served_from_elsewhere_is_taken_from_its_url() -> None:
    world = Standing(urls=(URL, OTHER))
    for url in (URL, OTHER):
        world.edges[url] = Fetched(world.body, "max-age=60")
    world.adopt()
    assert world.documents["acme/jwks.json"][0] == world.body
    assert {entry.cache_control for entry in world.ring.documents["jwks"].served} == {
        POLICY.cache_control,
        "max-age=60",
    }


def test_what_verifiers_get_must_be_what_is_adopted() -> None:
    world = Standing(urls=(URL, OTHER)).stand()
    world.edges = {URL: Fetched(world.body), OTHER: Fetched(document(*world.keys[:2]))}
    said = refusal(world.adopt)
    assert said.startswith(f"{OTHER} and memory:acme/jwks.json are not the same: the former lacks stranger.")
    del world.edges[OTHER]
    assert f"{OTHER} answers 404" in refusal(world.adopt)
    assert untouched(world)


def test_a_document_that_is_given_must_be_the_one_that_stands() -> None:
    world = Standing().stand()
    assert "given with --jwks" in refusal(lambda: world.adopt(given=document(*world.keys[1:])))
    assert untouched(world)
    world.adopt(given=document(*reversed(world.keys)))


def test_without_any_document_there_is_nothing_to_adopt() -> None:
    world = Standing()
    assert "There is no public document at memory:acme/jwks.json" in refusal(world.adopt)
    assert untouched(world)


def untouched(world: Standing) -> bool:
    """Nothing of ours is anywhere."""
    return "acme/ledger.json" not in world.documents and not world.handles and not world.pointers


def test_a_view_must_show_our_keys_as_they_are() -> None:
    world = Standing().stand()
    view = PublicDocument("old", "acme/old.json", (), frozenset({"EdDSA"}))
    world.keyset = replace(world.keyset, documents=(view, *world.keyset.documents))
    world.documents["acme/old.json"] = (document(world.keys[0] | {"use": None}), "v", world.headers)
    assert "memory:acme/old.json shows 2025 with other members" in refusal(world.adopt)
    world.documents["acme/old.json"] = (document(world.keys[0]), "v", world.headers)
    ring = world.adopt()
    assert {key.kid: set(key.published) for key in ring.keys} == {"2025": {"jwks", "old"}, "2026": {"jwks"}}
    assert "max-age=3600" in {entry.cache_control for entry in ring.documents["old"].served}


def test_a_document_that_may_not_show_a_key_it_holds_is_refused() -> None:
    world = Standing().stand()
    only = PublicDocument("jwks", "acme/jwks.json", (), frozenset({"ES256"}))
    other = PublicDocument("ed", "acme/ed.json", (), frozenset({"EdDSA"}))
    world.keyset = replace(world.keyset, documents=(only, other))
    assert "memory:acme/jwks.json holds 2026, but the configuration does not let it show EdDSA" in refusal(world.adopt)
    assert untouched(world)


def test_a_view_that_is_not_there_yet_is_no_hindrance() -> None:
    world = Standing().stand()
    view = PublicDocument("old", "acme/old.json", (), frozenset({"EdDSA"}))
    world.keyset = replace(world.keyset, documents=(*world.keyset.documents, view))
    ring = world.adopt()
    assert {entry.cache_control for entry in ring.documents["old"].served} == {POLICY.cache_control}
    world.tick()
    assert "acme/old.json" in world.documents


def test_members_beside_the_keys_are_told_to_be_lost() -> None:
    world = Standing().stand()
    world._written("acme/jwks.json", document(*world.keys, owner="us"), world.headers)
    assert world.adoption().propose(world.halves, ["2026"]).lost_members == ("owner",)


LISTED = {"issuer": "https://id.acme.example", "jwks_uri": URL, "response_types_supported": ["id_token"]}


@pytest.mark.parametrize(
    ("standing", "lost"),
    [
        (LISTED | {"id_token_signing_alg_values_supported": ["EdDSA"]}, None),
        (LISTED, None),
        (LISTED | {"token_endpoint": "https://id.acme.example/token"}, "'token_endpoint'"),
        (LISTED | {"issuer": "https://old.example"}, "'issuer'"),
        (LISTED | {"id_token_signing_alg_values_supported": ["EdDSA", "RS256"]}, "'id_token_signing_alg_values"),
        (LISTED | {"id_token_signing_alg_values_supported": "EdDSA"}, "'id_token_signing_alg_values"),
        ([], "itself"),
    ],
)
def test_a_discovery_document_that_stands_must_not_lose_a_member(standing: Any, lost: str | None) -> None:
    world = Standing().stand()
    found = Discovery("https://id.acme.example", URL)
    path = "acme/openid-configuration"
    world.keyset = replace(world.keyset, discovery=PublicDocument("discovery", path, discovery=found))
    world.adoption().propose(world.halves, ["2026"])
    world.documents[path] = (json.dumps(standing).encode(), "v", Headers("application/json", "max-age=60"))
    if lost:
        said = refusal(lambda: world.adoption().propose(world.halves, ["2026"]))
        assert f"memory:{path} would lose or change {lost}" in said
        assert untouched(world)
    else:
        assert "discovery" in world.adopt().documents


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_key_set_with_a_ledger_is_never_adopted() -> None:
    world = World()
    world.init()
    world.tick()
    before = dict(world.documents)
    adopting = Standing.adoption(world)  # type: ignore[arg-type]
    for halves in ([half("EdDSA")], []):
        assert "Key set acme has a ledger already (memory:acme/ledger.json)" in refusal(
            lambda halves=halves: adopting.done(halves)  # type: ignore[misc]
        )
    assert world.documents == before


def test_to_adopt_more_once_it_was_adopted_is_refused() -> None:
    world = Standing().stand()
    world.adopt()
    adopting = world.adoption()
    for halves in ([half("EdDSA")], [], [*world.halves, half("ES256", 3)]):
        assert "has a ledger already" in refusal(lambda halves=halves: adopting.done(halves))  # type: ignore[misc]
    assert adopting.done(list(reversed(world.halves))) == world.ring


def test_a_pointer_to_another_key_is_never_moved() -> None:
    world = Standing().stand()
    world.move_pointer_by_hand("EdDSA", "lost")
    assert "memory:acme/EdDSA names another key already (intent lost)" in refusal(world.adopt)
    assert world.pointers["EdDSA"].id == "lost"


def test_a_pointer_that_somebody_else_wrote_is_refused_with_what_to_do() -> None:
    world = Standing().stand()

    class Taken(AdoptingPorts):
        def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
            raise Refused("AWSCURRENT is on another version.")

    adopting = world.adoption()
    adopting._keys = Taken(world, "person")
    said = refusal(lambda: adopting.propose(world.halves, ["2026"]))
    assert "memory:acme/EdDSA is taken" in said
    assert "Choose another stores.keys" in said
    assert "AWSCURRENT is on another version." in said


def test_a_pointer_that_is_taken_in_the_meantime_is_left_alone() -> None:
    world = Standing().stand()
    adopting = world.adoption()
    proposal = adopting.propose(world.halves, ["2026"])
    world.move_pointer_by_hand("EdDSA", "another")
    with pytest.raises(Conflict, match="Another key was made current meanwhile"):
        adopting.adopt(proposal)
    assert "acme/ledger.json" not in world.documents


def test_a_document_that_changes_in_the_meantime_is_not_adopted() -> None:
    world = Standing().stand()
    adopting = world.adoption()
    proposal = adopting.propose(world.halves, ["2026"])
    for body in (document(world.keys[1]), b"<html>"):
        world._written("acme/jwks.json", body, world.headers) if body.startswith(b"{") else world.documents.update(
            {"acme/jwks.json": (body, "v", world.headers)}
        )
        with pytest.raises(Conflict, match="The public document was changed by somebody else meanwhile"):
            adopting.adopt(proposal)
    assert "acme/ledger.json" not in world.documents
    world._written("acme/jwks.json", world.body, world.headers)
    world.adopt()


def test_another_document_that_is_written_first_is_not_overwritten() -> None:
    world = Standing()
    adopting = world.adoption()
    proposal = adopting.propose(world.halves, ["2026"], world.body)
    other = document(world.keys[2])
    world._written("acme/jwks.json", other, world.headers)
    with pytest.raises(Conflict):
        adopting.adopt(proposal)
    assert world.documents["acme/jwks.json"][0] == other
    assert untouched(world) or not world.pointers


def test_a_published_key_that_its_private_half_does_not_fit_is_refused_before_anything_is_written() -> None:
    world = Standing()
    n = published("RS256", "x")["n"]
    world.keys = [published("RS256", "x", n=n + "=" * (-len(n) % 4 or 4))]
    world.body = document(*world.keys)
    world.configure(replace(POLICY, algorithms=("RS256",)))
    world.stand()
    world.halves = [half("RS256")]
    assert "What old.pem signs does not verify with the published x (RS256)" in refusal(
        lambda: world.adoption().propose(world.halves, ())
    )
    assert untouched(world)


def test_a_private_half_whose_numbers_are_damaged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(*_: object) -> bytes:
        raise ValueError(SECRET)

    world = Standing().stand()
    monkeypatch.setattr(material, "sign", sign)
    said = refusal(lambda: world.adoption().propose(world.halves, ["2026"]))
    assert "does not verify with the published 2026" in said
    assert SECRET not in said


def test_a_store_that_does_not_sign_with_what_it_was_given_is_noticed_before_the_pointer_moves() -> None:
    world = Standing().stand()

    class Forgetful(AdoptingPorts):
        def sign(self, ref: KeyRef, message: bytes) -> bytes:
            return b"?"

    adopting = world.adoption()
    proposal = adopting.propose(world.halves, ["2026"])
    adopting._keys = Forgetful(world, "person")
    assert "does not verify" in refusal(lambda: adopting.adopt(proposal))
    assert not world.pointers
    assert "acme/ledger.json" not in world.documents


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_machine_whose_clock_is_off_adopts_nothing(hours: int) -> None:
    world = Standing().stand()
    world.store_date = lambda: world.now
    world.skew["person"] = timedelta(hours=hours)
    assert "this machine's clock is " in refusal(world.adopt)
    assert untouched(world)


# -- take a protection away, and the world breaks ----------------------------------------------------------------------


def test_without_the_headers_of_before_a_cache_lacks_the_key_that_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Headers("application/json", "max-age=864000, stale-if-error=0")
    world = Standing(replace(POLICY, lifetime=3 * DAY), headers=slow).stand()

    def forgetful(ring: Keyring, *_: object, foreign: bool = False) -> Keyring:
        return ring if foreign else remembered(ring, *_)  # type: ignore[arg-type]

    remembered = facts.served
    monkeypatch.setattr(facts, "served", forgetful)
    world.adopt()
    monkeypatch.undo()
    # What a tick would note by itself: the document was put right before it came.
    body = world.documents["acme/jwks.json"][0]
    world._written("acme/jwks.json", body, Headers("application/jwk-set+json", world.policy.cache_control))
    with pytest.raises(Violation, match="may hold a copy without it"):
        world.run(10 * DAY)


def test_without_retention_from_now_on_a_previous_key_ends_while_issuers_may_sign_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Standing().stand()
    made = adoption._key

    def hasty(*given: Any) -> Key:
        key = made(*given)
        return key if key.activated_at else replace(key, superseded_at=START - DAY)

    monkeypatch.setattr(adoption, "_key", hasty)
    world.adopt()
    with pytest.raises(Violation, match="2025 was disabled while issuers may sign with it"):
        world.run(DAY)


# -- every effect fails ----------------------------------------------------------------------------------------------


def situation(given: bool) -> Standing:
    world = Standing()
    return world if given else world.stand()


@cache
def calm(given: bool) -> Standing:
    """Adopted without any fault."""
    world = situation(given)
    world.adopt(given=world.body if given else None)
    return world


CASES = [
    pytest.param(given, how, at, id=f"{'given' if given else 'standing'}-{at}-{name}-{how}")
    for given in (False, True)
    for at, name in enumerate(calm(given).effects)
    for how in ("lost", "applied", "kill-before", "kill-after")
]


@pytest.mark.parametrize(("given", "how", "at"), CASES)
def test_whatever_fails_to_adopt_again_ends_the_same_and_ticks_in_between_do_nothing(
    given: bool, how: str, at: int
) -> None:
    world = situation(given)
    body = world.body if given else None
    world.arm(how, at)
    try:
        world.adopt(given=body)
    except (RotatorError, Killed):
        if "acme/ledger.json" not in world.documents:
            left = dict(world.documents), dict(world.pointers), dict(world.handles)
            assert isinstance(world.try_tick("daemon"), Refused)
            assert (world.documents, world.pointers, world.handles) == left
    ring = world.adopt(given=body)
    assert world.end() == calm(given).end()
    assert world.adopt(given=body) == ring, "and once more is nothing"
    world.run(3 * HOUR)


def test_who_adopts_again_after_the_document_renamed_the_key_has_issuers_use_the_new_name() -> None:
    world = Standing().stand()
    world.arm("kill-before", calm(given=False).effects.index("create acme/ledger.json"))
    with pytest.raises(Killed):
        world.adopt()
    (current,) = world.kids
    assert world.kids == {current: "2026"}
    # What stood there until now is in no cache any more.
    world.advance(30 * DAY)
    world.body = document(published("EdDSA", "2025", 1), published("EdDSA", "renamed"))
    world.stand().advance(30 * DAY)
    adopting = world.adoption()
    ring = adopting.adopt(adopting.propose(world.halves, ["renamed"]))
    assert ring.current("EdDSA").kid == "renamed"  # type: ignore[union-attr]
    assert world.kids == {current: "renamed"}


@pytest.mark.parametrize("seed", range(20))
def test_two_people_who_adopt_at_once_make_one_ledger(seed: int) -> None:
    world = Standing(seed=seed).stand()
    turns = Turns(world, random.Random(seed), lambda rng: timedelta(seconds=rng.choice([0, 0, 1, 600])))
    people = {name: lambda name=name: world.adopt(name) for name in ("a", "b")}
    turns.run({**people, "daemon": world.engine("daemon").tick})
    ring = world.adopt()
    assert [key.id for key in ring.keys] == [key.id for key in calm(given=False).ring.keys]
    assert world.pointers["EdDSA"].id == calm(given=False).pointers["EdDSA"].id
    world.run(3 * HOUR)


def test_a_ledger_whose_answer_was_lost_is_known_as_our_own_and_another_is_not() -> None:
    world = Standing().stand()
    at = max(n for n, name in enumerate(calm(given=False).effects) if name == "create acme/ledger.json")
    world.arm("applied", at)
    assert world.adopt() == world.ring
    other = Standing().stand()
    adopting = other.adoption()
    proposal = adopting.propose(other.halves, ["2026"])
    adopting.adopt(proposal)
    with pytest.raises(Conflict):
        adopting.adopt(proposal)


def test_access_denied_is_told_as_it_is() -> None:
    from rotator.errors import AccessDenied

    world = Standing()

    class Closed(AdoptingPorts):
        def create(self, path_or_intent: Any, body: bytes = b"", headers: Headers | None = None) -> Any:
            raise AccessDenied(f"s3:PutObject on {path_or_intent}")

    for standing, what in ((False, "acme/jwks.json"), (True, "acme/ledger.json")):
        if standing:
            world.stand()
        adopting = world.adoption()
        proposal = adopting.propose(world.halves, ["2026"], world.body)
        adopting._public = adopting._ledger._store = Closed(world, "person")
        with pytest.raises(AccessDenied, match=what):
            adopting.adopt(proposal)


def test_a_url_that_does_not_answer_stops_it() -> None:
    world = Standing(urls=(URL,)).stand()

    class Silent(AdoptingPorts):
        def fetch(self, url: str) -> Fetched | None:
            raise StoreError(f"{url} does not answer")

    adopting = world.adoption()
    adopting._web = Silent(world, "person")
    with pytest.raises(StoreError, match="does not answer"):
        adopting.propose(world.halves, ["2026"])
