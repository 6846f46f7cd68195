"""What the OpenID conformance suite checks of a ``jwks_uri``: of a document, and of two around a rotation.

Written anew from what it demands (RFC 7517, RFC 7518 section 6, RFC 8037 section 2), so that it needs no Java here.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
#: What a kty must have, all of it in base64url without padding. RFC 9964 for AKP.
_MEMBERS = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",), "AKP": ("pub",)}
_NAMES = {"EC": ("crv",), "OKP": ("crv",), "AKP": ("alg",)}
_RSA_BITS = 2048


def faults(body: bytes) -> list[str]:
    """Everything that the suite would complain about in a document."""
    try:
        document = json.loads(body)
    except ValueError:
        return ["it is not JSON"]
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        return ["keys is no array with something in it"]
    if not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        return ["keys holds something that is no object with a kty"]
    kids = [key.get("kid") for key in keys]
    found = [f"key {number}: {fault}" for number, key in enumerate(keys) for fault in _of(key)]
    if len(set(map(str, kids))) < len(kids):
        found.append("two keys have one kid")
    return found


def _of(key: Mapping[str, Any]) -> Iterator[str]:
    kid, kty = key.get("kid"), key["kty"]
    if not isinstance(kid, str) or not kid.strip():
        yield "its kid is missing or blank"
    if kty == "oct" or _PRIVATE & key.keys():
        yield "it is private or symmetric"
    for member in _NAMES.get(kty, ()):
        if not isinstance(key.get(member), str):
            yield f"{member} is missing"
    for member in _MEMBERS.get(kty, ()):
        value = key.get(member)
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value) or len(value) % 4 == 1:
            yield f"{member} is missing, or not base64url without padding"
        elif kty == "RSA" and member == "n" and _number(value).bit_length() < _RSA_BITS:
            yield f"n has fewer than {_RSA_BITS} bits"


def rotation_faults(before: bytes, after: bytes) -> list[str]:
    """What the suite would complain about in two documents, a rotation apart."""
    old, new = json.loads(before)["keys"], json.loads(after)["keys"]
    kids, materials = {key["kid"] for key in old}, {_material(key) for key in old}
    found = []
    if not any(key["kid"] not in kids and _material(key) not in materials for key in new):
        found.append("there is no key with a new kid and new material")
    if not any(key in new for key in old):
        found.append("no old key is there as it was")
    found += [
        f"key {key['kid']} is no longer what it was"
        for key in new
        for same in old
        if key["kid"] == same["kid"] and key != same
    ]
    return found


def _material(key: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(key.get(member)) for member in _MEMBERS.get(key["kty"], ()))


def _number(value: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
