"""RSA keys that are weaker than their size; points not on their curve, or useless on it. Numbers in, findings out."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from rotator.jose.findings import Finding, error, note, warning
from rotator.jose.keys import MOST_RSA_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEAST_BITS, _CUT_OFF_BITS, _MOST_BITS = 2048, 1000, 8192
_COMMON_E, _MOST_E_BITS = 65537, 31

_SIZE = "RFC 7518 section 3.3"
_NUMBERS = "RFC 8017 section 3.1"

#: Rounds of Fermat's method: primes that are too close give way in the first ones.
_FERMAT_ROUNDS = 8


def of_rsa(n: int, e: int) -> Iterator[Finding]:
    """What is weak or wrong about the RSA public key (``n``, ``e``)."""
    bits = n.bit_length()
    if bits < _LEAST_BITS:
        cut = " (it looks cut off)" if bits < _CUT_OFF_BITS else ""
        yield error("rsa-size", f"An RSA key of {bits} bits{cut}: 2048 is the least. Replace it.", _SIZE)
    elif bits > MOST_RSA_BITS:
        yield error("rsa-size", f"An RSA key of {bits:,} bits: nothing verifies with more than {MOST_RSA_BITS}.", _SIZE)
        return
    elif bits > _MOST_BITS:
        says = f"An RSA key of {bits} bits: verifying is slow, and many verifiers refuse it. 4096 is plenty."
        yield warning("rsa-size", says, _SIZE)
    elif bits % 8:
        yield note("rsa-size", f"An RSA key of {bits} bits: no program makes such a key by default.", _SIZE)
    yield from _of_exponent(n, e)
    if bits >= _CUT_OFF_BITS:
        yield from _of_modulus(n)


def _of_exponent(n: int, e: int) -> Iterator[Finding]:
    if e < 3 or e % 2 == 0 or e >= n:  # noqa: PLR2004 - the least odd exponent but 1
        yield error(
            "rsa-exponent", "'e' is no RSA exponent: it must be odd and between 3 and n. Replace the key.", _NUMBERS
        )
    elif e < _COMMON_E:
        says = f"'e' is {e}: some verifiers refuse less than 65537, and it makes padding mistakes fatal. Use 65537."
        yield warning("rsa-exponent", says, "FIPS 186-5 section 5.4")
    elif e.bit_length() > _MOST_E_BITS:
        says = f"'e' has {e.bit_length()} bits: Go and others refuse more than {_MOST_E_BITS}. Use 65537."
        yield warning("rsa-exponent", says, "FIPS 186-5 section 5.4")


def _of_modulus(n: int) -> Iterator[Finding]:
    if math.gcd(n, _small_primes()) != 1:
        says = "'n' has a small factor, so it is no product of two primes: it is damaged. Replace the key."
        yield error("rsa-modulus", says, _NUMBERS)
    elif _close_primes(n):
        says = "The two primes of 'n' are so close that anyone can factor it (CVE-2022-26320). Replace the key now."
        yield error("rsa-close-primes", says, "FIPS 186-5 appendix A.1.3")
    elif is_roca(n):
        says = (
            "'n' has the fingerprint of ROCA (CVE-2017-15361): its private half can be computed. Replace the key now."
        )
        yield error("rsa-roca", says, "CVE-2017-15361")


@cache
def _small_primes() -> int:
    return math.prod(p for p in range(2, 1000) if all(p % q for q in range(2, math.isqrt(p) + 1)))


def _close_primes(n: int) -> bool:
    mean = math.isqrt(n - 1) + 1
    for _ in range(_FERMAT_ROUNDS):
        rest = mean * mean - n
        if math.isqrt(rest) ** 2 == rest:
            return True
        mean += 1
    return False


@cache
def _roca_powers() -> tuple[int, dict[int, dict[int, int]]]:
    """The product of the odd primes up to 167, and for each the exponents of the powers of 65537 modulo it."""
    primes = [p for p in range(3, 168) if all(p % q for q in range(2, math.isqrt(p) + 1))]
    powers: dict[int, dict[int, int]] = {}
    for prime in primes:
        residue, found = 1, dict[int, int]()
        while residue not in found:
            found[residue] = len(found)
            residue = residue * 65537 % prime
        powers[prime] = found
    return math.prod(primes), powers


def is_roca(n: int) -> bool:
    """Whether ``n`` is a power of 65537 modulo the product of small primes, as only Infineon's faulty keys are.

    Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, section 3. One and the same exponent must fit modulo
    every prime: a sound key passes with a chance of less than 2⁻¹⁰⁰.
    """
    product, powers = _roca_powers()
    residue, exponent, period = n % product, 0, 1
    for prime, found in powers.items():
        known = found.get(residue % prime)
        if known is None:
            return False
        # The exponent is ``exponent`` modulo ``period``, and ``known`` modulo the order of 65537: both, or neither.
        order = len(found)
        common = math.gcd(period, order)
        if (known - exponent) % common:
            return False
        step = (known - exponent) // common * pow(period // common, -1, order // common) % (order // common)
        exponent, period = exponent + period * step, period * order // common
    return True


#: p and d of sign·x² + y² = 1 + d·x²·y² (RFC 8032 section 5), the sign, and the bits of y.
_ED25519 = (2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19), -1, 255)
_ED448 = (2**448 - 2**224 - 1, -39081, 1, 455)
_EDWARDS = {"Ed25519": _ED25519, "Ed448": _ED448}


def is_on_edwards_curve(name: str, octets: bytes) -> bool:
    """Whether ``octets`` decode to a point of Ed25519 or Ed448 (RFC 8032 sections 5.1.3 and 5.2.3)."""
    p, d, sign, bits = _EDWARDS[name]
    whole = int.from_bytes(octets, "little")
    y, odd = whole & ((1 << bits) - 1), whole >> bits
    if y >= p:
        return False
    # x² = (1 − y²) ÷ (sign − d·y²), and there is such an x where numerator times denominator is a square.
    square = (1 - y * y) * (sign - d * y * y) % p
    return not odd if square == 0 else pow(square, (p - 1) // 2, p) == 1


#: p and A of y² = x³ + A·x² + x (RFC 7748 section 4), and the bits of x.
_X25519 = (_ED25519[0], 486662, 255)
_X448 = (_ED448[0], 156326, 448)
_MONTGOMERY = {"X25519": _X25519, "X448": _X448}


def is_of_small_order(name: str, octets: bytes) -> bool:
    """Whether a few additions of the point in ``octets`` to itself come to nothing: it then keeps no secret.

    The points are roots: 0 and ±1 are those of order 1, 2 and 4, also on the twist; what is left is of order 8, whose
    double is one of order 4. There are none of order 8 on Ed448 and X448.
    """
    whole = int.from_bytes(octets, "little")
    if name in _MONTGOMERY:
        p, a, bits = _MONTGOMERY[name]
        u = (whole & ((1 << bits) - 1)) % p
        eighth = pow(u, 4, p) - 4 * u**3 - (2 + 4 * a) * u**2 - 4 * u + 1 if name == "X25519" else 1
        return u * (u * u - 1) * eighth % p == 0
    p, d, _, bits = _EDWARDS[name]
    y = (whole & ((1 << bits) - 1)) % p
    eighth = d * pow(y, 4, p) + 2 * y * y - 1 if name == "Ed25519" else 1
    return y * (y * y - 1) * eighth % p == 0
