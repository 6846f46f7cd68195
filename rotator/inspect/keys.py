"""One key: what it is, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.inspect import certificates, weakness
from rotator.inspect.members import Members
from rotator.jose import keys, pem
from rotator.jose.findings import Finding, error, note, warning
from rotator.jose.reading import Doubled, Item, doubled
from rotator.jose.registry import ALGS, KEY_OPS, KINDS, MISNAMED, TOLD_BY, Kind, kind_of
from rotator.keys import jwks
from rotator.keys.algorithms import PRIVATE_MEMBERS
from rotator.keys.material import b64u, b64u_int, unb64u

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from cryptography.x509 import Certificate

    from rotator.keys.jwks import Jwk

_USE = "RFC 7517 section 4.2"
_ALG = "RFC 7517 section 4.4"
_OPS = "RFC 7517 section 4.3"
_KID = "RFC 7517 section 4.5"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What is known of one key. Nothing in it is secret."""

    where: str
    form: str
    kind: Kind | None
    bits: int | None
    private: bool
    kid: str | None
    use: str | None
    alg: str | None
    key_ops: tuple[str, ...] | None
    thumbprint: str | None
    """RFC 7638, of the key as it should be written; ``None``: there is no key to be made out, or it is symmetric."""
    spki_sha256: str | None
    """SHA-256 of the DER SubjectPublicKeyInfo, base64url."""
    chain: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
    jwk: Jwk = field(repr=False)
    """Its public members as they should be written, with ``kid``, ``use`` and ``alg`` as they stand."""

    @property
    def type(self) -> str:
        """Kind and size in two words: ``RSA 2048``, ``EC P-256``."""
        if self.kind is None:
            return "unknown"
        size = str(self.bits or "?") if self.kind.name == self.kind.kty else self.kind.name
        return f"{self.kind.kty} {size}"


def check(item: Item, now: datetime, *, public: bool) -> KeyReport:
    """What ``item`` is and what is wrong with it; ``public``: it stood where verifiers fetch it, as in a set."""
    jwk = item.jwk
    members = Members(jwk)
    found = members.findings
    if isinstance(jwk, Doubled):
        found.append(doubled(jwk))
    kind = kind_of(jwk)
    if kind is None:
        found += _unknown(jwk)
        made: Jwk = {}
    else:
        made = _public(kind, members)
    private = jwks.is_private(jwk)
    if private:
        found += _private(item, kind, made, public=public)
    bits = _bits(kind, made, jwk)
    spki = _spki(kind, made, found)
    thumbprint = jwks.thumbprint(made) if spki is not None else None
    fingerprint = b64u(hashlib.sha256(item.spki or spki).digest()) if spki is not None else None
    if item.spki is not None:
        found.append(_restricted(item.spki))
    labels = {name: members.text(name, source) for name, source in (("kid", _KID), ("use", _USE), ("alg", _ALG))}
    operations = _operations(jwk, found)
    if item.written:
        found += _of_labels(labels, operations, kind, private=private)
        found += _of_kid(jwk, labels["kid"], made, {thumbprint, fingerprint}, public=public)
    if kind is not None and labels["alg"] is not None:
        found += _of_alg(labels["alg"], kind, labels["use"], bits)
    chain = item.chain
    if chain:
        found += certificates.of_chain(chain, now, "this key")
    else:
        faults, chain = certificates.check(jwk, spki, now)
        found += faults
    return KeyReport(
        item.where,
        item.form,
        kind,
        bits,
        private,
        labels["kid"],
        labels["use"],
        labels["alg"],
        operations,
        thumbprint,
        fingerprint,
        chain,
        tuple(finding.at(item.where) for finding in found),
        made | {name: value for name, value in labels.items() if value is not None},
    )


# -- the members that make the key ------------------------------------------------------------------------------------


def _unknown(jwk: Mapping[str, Any]) -> Iterator[Finding]:
    kty = jwk.get("kty")
    if not isinstance(kty, str) or not kty:
        yield error("missing-kty", "'kty' is missing or no string: there is no key without it.", "RFC 7517 section 4.1")
        return
    known = {name.lower(): name for name in TOLD_BY}
    if kty not in TOLD_BY:
        meant = known.get(kty.lower())
        if meant:
            yield error("unknown-kty", f"'kty' is {kty:.20}; write {meant!r}, just so.", "RFC 7517 section 4.1")
        else:
            says = f"'kty' is {kty:.40}, not a registered one: verifiers leave the key out, and some reject the set."
            yield warning("unknown-kty", says, "RFC 7517 section 5")
        return
    told_by = TOLD_BY[kty] or ""
    source = next(kind.source for kind in KINDS.values() if kind.kty == kty)
    value = jwk.get(told_by)
    if not isinstance(value, str) or not value:
        yield error(
            "missing-member", f"{told_by!r} is missing or no string: it says what kind of {kty} key this is.", source
        )
    elif value in KINDS:
        yield error("unknown-curve", f"{told_by!r} is {value}, which goes with 'kty' {KINDS[value].kty!r}.", source)
    elif value.lower() in MISNAMED:
        yield error("unknown-curve", f"{told_by!r} is {value}; in a JWK that is {MISNAMED[value.lower()]!r}.", source)
    else:
        says = f"{told_by!r} is {value:.40}, not registered for {kty}: verifiers leave the key out or reject the set."
        yield warning("unknown-curve", says, source)


def _public(kind: Kind, members: Members) -> Jwk:
    """The public members as they should be written; empty: they do not make a key."""
    values: dict[str, str | None] = {"kty": kind.kty}
    told_by = TOLD_BY[kind.kty]
    for name in kind.public:
        if name == told_by:
            values[name] = kind.name
        elif kind.size is None:
            number = members.number(name, kind.source)
            values[name] = None if number is None else b64u_int(number)
        else:
            octets = members.exactly(name, kind.size, kind.source, number=kind.kty == "EC")
            values[name] = None if octets is None else b64u(octets)
    if kind.kty == "oct" or any(value is None for value in values.values()):
        return {}
    return dict(values)


def mended(jwk: Mapping[str, Any]) -> Jwk:
    """``jwk`` with the members that make the key, and its certificates, as they should be written.

    What cannot be made out stands as it stood, for ``rotator.jose.keys.prove`` and :func:`check` to refuse.
    """
    kind = kind_of(jwk)
    if kind is None:
        return dict(jwk)
    members = Members(jwk)
    made = _public(kind, members)
    for name in _secrets(jwk):
        if kind.kty == "RSA":
            number = members.number(name, kind.source)
            octets = None if number is None else unb64u(b64u_int(number))
        else:
            octets = _secret(members, name, kind)
        if octets:
            made[name] = b64u(octets)
    return dict(jwk) | made | certificates.mended(jwk)


def _spki(kind: Kind | None, public: Jwk, found: list[Finding]) -> bytes | None:
    """The key as SPKI, once it is proven to be one; what speaks against it goes to ``found``."""
    if kind is None or not public:
        return None
    if kind.kty == "RSA":
        found += weakness.of_rsa(_number(public["n"]), _number(public["e"]))
        if _number(public["n"]).bit_length() > keys.MOST_RSA_BITS:
            return None
    elif kind.name in {"Ed25519", "Ed448"} and not weakness.is_on_edwards_curve(kind.name, unb64u(public["x"])):
        found.append(_off_curve(kind, "RFC 8032 section 5"))
        return None
    elif kind.kty == "OKP" and weakness.is_of_small_order(kind.name, unb64u(public["x"])):
        found.append(_small_order(kind))
    try:
        return keys.spki(keys.public_key(public))
    except ConfigurationError:
        if kind.kty == "EC":
            found.append(_off_curve(kind, "RFC 7518 section 6.2.1"))
    return None


def _off_curve(kind: Kind, source: str) -> Finding:
    says = f"The point is not on the curve {kind.name}: this is no key, and verifying with it is unsafe. Replace it."
    return error("not-on-curve", says, source)


def _restricted(spki: bytes) -> Finding:
    algs = ", ".join(pem.pss_algs(spki)) or "none that JOSE knows"
    says = f"The key is for RSASSA-PSS alone ({algs}): a JWK of it must say so with its 'alg'."
    return note("rsa-pss", says, "RFC 4055 section 1.2")


def _small_order(kind: Kind) -> Finding:
    if kind.name in {"Ed25519", "Ed448"}:
        says = "The point is of small order: anyone can write a signature that it verifies. Replace the key."
        return error("small-order", says, "RFC 8032 section 8.8")
    says = "The point is of small order: what is agreed on with it everybody knows. Replace the key."
    return error("small-order", says, "RFC 7748 section 7")


def _bits(kind: Kind | None, public: Jwk, jwk: Mapping[str, Any]) -> int | None:
    if kind is None:
        return None
    if kind.kty == "RSA":
        return _number(public["n"]).bit_length() if public else None
    if kind.kty == "oct":
        octets = Members(jwk).octets("k", kind.source)
        return None if octets is None else 8 * len(octets)
    return None


def _number(text: str) -> int:
    return int.from_bytes(unb64u(text), "big")


# -- private halves ---------------------------------------------------------------------------------------------------


def _private(item: Item, kind: Kind | None, made: Jwk, *, public: bool) -> Iterator[Finding]:
    if item.jwk.get("kty") == "oct":
        says = "This is a symmetric key: who verifies with it can sign. Never publish it; if it was public, replace it."
        yield (error if public else warning)("symmetric-key", says, "RFC 7517 section 9.2")
    else:
        names = f" ({', '.join(sorted(PRIVATE_MEMBERS & item.jwk.keys()))})" if item.written else ""
        if public:
            says = f"The key is private{names}: who fetched it can sign. Revoke it, publish its public half."
        else:
            says = f"This is a private key{names}: keep it to yourself ('rotator convert' writes its public half)."
        yield (error if public else warning)("private-key", says, "RFC 7517 section 9.2")
    if kind is not None:
        yield from _of_private_members(item.jwk, kind, made)


def _of_private_members(jwk: Mapping[str, Any], kind: Kind, public: Jwk) -> Iterator[Finding]:
    members = Members(jwk)
    for name in dict.fromkeys((*_secrets(jwk), *(kind.private if kind.kty == "oct" else ()))):
        octets = _secret(members, name, kind)
        if name == "k" and octets == b"":
            yield error("missing-member", "'k' is empty: there is no key without it.", kind.source)
    yield from members.findings
    if members.findings or not public or not set(kind.private) <= jwk.keys():
        return
    if not _belongs(jwk, public):
        says = "The private half does not belong to the public half: nothing verifies what it signs. Replace both."
        yield error("private-mismatch", says, kind.source)


def _secrets(jwk: Mapping[str, Any]) -> list[str]:
    return [name for name in ("d", "p", "q", "dp", "dq", "qi", "k", "priv") if name in jwk]


def _secret(members: Members, name: str, kind: Kind) -> bytes | None:
    if kind.secret is None:
        return members.octets(name, kind.source)
    return members.exactly(name, kind.secret, kind.source, number=kind.kty == "EC")


def _belongs(jwk: Mapping[str, Any], public: Jwk) -> bool:
    try:
        keys.private_key(dict(jwk) | public)
    except ConfigurationError:
        return False
    return True


# -- what the key says of itself --------------------------------------------------------------------------------------


def _operations(jwk: Mapping[str, Any], found: list[Finding]) -> tuple[str, ...] | None:
    if "key_ops" not in jwk:
        return None
    value = jwk["key_ops"]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        found.append(error("wrong-type", "'key_ops' must be an array of strings.", _OPS))
        return None
    if len(set(value)) < len(value):
        found.append(error("key-ops", "'key_ops' names an operation twice.", _OPS))
    return tuple(value)


def _of_labels(
    labels: Mapping[str, str | None], operations: tuple[str, ...] | None, kind: Kind | None, *, private: bool
) -> Iterator[Finding]:
    use, alg = labels["use"], labels["alg"]
    if alg is None and (kind is None or kind.kty != "AKP"):
        says = "There is no 'alg': each verifier has to know from elsewhere which algorithm to allow. Name it."
        yield note("no-alg", says, _ALG)
    if use is None and operations is None:
        says = "There is no 'use': verifiers cannot tell a signing key from one for encryption. Say 'sig' or 'enc'."
        yield note("no-use", says, _USE)
    elif use is not None and use not in {"sig", "enc"}:
        yield warning(
            "unknown-use",
            f"'use' is {use:.40}, and not 'sig' or 'enc': verifiers pass over the key.",
            _USE,
        )
    if operations is None:
        yield from _of_purpose(use, [], alg, kind)
        return
    unknown = [each[:40] for each in operations if each not in KEY_OPS]
    if unknown:
        yield warning("key-ops", f"'key_ops' names {', '.join(unknown)}, which is not registered.", _OPS)
    known = [each for each in operations if each in KEY_OPS]
    uses = {KEY_OPS[each][0] for each in known}
    if use in {"sig", "enc"} and uses - {use}:
        yield error(
            "use-against-key-ops", f"'use' is {use}, but 'key_ops' says {', '.join(known)}. Keep one of the two.", _OPS
        )
    elif use is not None:
        yield note("use-and-key-ops", "'use' and 'key_ops' stand together: one of them is enough.", _OPS)
    if len(uses) > 1:
        says = "'key_ops' mixes signing and encryption: one key for both lets one be turned against the other."
        yield warning("key-ops", says, _OPS)
    yield from _of_purpose(use, known, alg, kind)
    secret = [each for each in known if KEY_OPS[each][1] and each not in {"deriveKey", "deriveBits"}]
    if secret and not private:
        says = f"'key_ops' says {', '.join(secret)}, which takes a private key, and this is a public one. Say 'verify'."
        yield warning("key-ops", says, _OPS)


def _of_purpose(use: str | None, operations: list[str], alg: str | None, kind: Kind | None) -> Iterator[Finding]:
    """What ``use`` and ``key_ops`` ask that neither ``alg`` nor any other for such a key does."""
    purpose = ALGS.get(alg or "")
    fitting = {each.use for each in ALGS.values() if kind is not None and kind.name in each.kinds}
    (only,) = fitting if len(fitting) == 1 else (None,)
    if purpose is not None:
        against = [each for each in operations if KEY_OPS[each][0] != purpose.use]
        if against:
            says = (
                f"'key_ops' says {', '.join(against)}, but {alg} is for {purpose.use!r}: verifiers pass over the key."
            )
            yield error("alg-against-key-ops", says, _OPS)
    elif kind is not None and only is not None:
        if use in {"sig", "enc"} and use != only:
            says = f"'use' is {use}, but a key of kind {kind.name} is for {only!r} alone: verifiers pass over the key."
            yield error("use-against-key", says, _USE)
        against = [each for each in operations if KEY_OPS[each][0] != only]
        if against:
            says = f"'key_ops' says {', '.join(against)}, but a key of kind {kind.name} is for {only!r} alone."
            yield error("key-ops-against-key", says, _OPS)


def _of_alg(alg: str, kind: Kind, use: str | None, bits: int | None) -> Iterator[Finding]:
    if alg == "none":
        yield error(
            "alg-none",
            "'alg' is none: that is no algorithm for a key. Name the one it signs with.",
            "RFC 7518 section 3.6",
        )
        return
    purpose = ALGS.get(alg)
    if purpose is None:
        yield warning("unknown-alg", f"'alg' is {alg:.40}, which is not registered: verifiers leave the key out.", _ALG)
        return
    if kind.name not in purpose.kinds:
        fitting = "a symmetric key" if purpose.kinds == ("oct",) else f"a key of kind {' or '.join(purpose.kinds)}"
        says = f"'alg' is {alg}, which needs {fitting}, but this one is {kind.name}: no token verifies. Mend 'alg'."
        yield error("alg-against-key", says, _ALG)
    elif bits is not None and bits < 8 * purpose.least:
        says = f"{alg} needs a key of {8 * purpose.least} bits or more; this one has {bits}. Replace it."
        yield error("oct-size", says, "RFC 7518 section 3.2")
    if use in {"sig", "enc"} and use != purpose.use:
        yield error(
            "alg-against-use", f"'use' is {use}, but {alg} is for {purpose.use!r}: verifiers pass over the key.", _ALG
        )
    if alg == "RSA1_5":
        yield warning("weak-alg", "RSA1_5 is open to padding attacks: use RSA-OAEP-256.", "RFC 8725 section 3.2")


def _of_kid(
    jwk: Mapping[str, Any], kid: str | None, made: Jwk, derived: set[str | None], *, public: bool
) -> Iterator[Finding]:
    if "kid" not in jwk:
        if public:
            says = "There is no 'kid': verifiers must try every key, or reject. Give each key its thumbprint."
            yield warning("missing-kid", says, _KID)
        else:
            yield note("missing-kid", "There is no 'kid': in a set, verifiers could not find the key.", _KID)
    elif kid is not None and not kid.strip():
        yield error("missing-kid", "'kid' is blank: verifiers cannot find the key. Give it its thumbprint.", _KID)
    elif kid is not None and not kid.isprintable():
        yield warning("odd-kid", "'kid' has signs in it that cannot be shown: verifiers and logs may stumble.", _KID)
    elif kid is not None and made and kid not in {*derived, jwks.thumbprint(jwk)}:
        says = "'kid' is not the thumbprint of the key: nothing then keeps one kid from being used for two keys."
        yield note("kid-not-thumbprint", says, "RFC 7638 section 3")
