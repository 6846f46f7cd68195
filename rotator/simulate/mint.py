"""Private keys for a simulated world: real ones, made fast enough for thousands of simulated years."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

from rotator.keys import material

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm

#: The size of simulated RSA keys: it has no bearing on when a key signs or leaves.
_BITS = 2048
_EXPONENT = 65537


class Mint:
    """Makes private keys. RSA moduli are all products of a few primes: never use such a key for anything else."""

    _primes: ClassVar[list[int]] = []
    """Shared by all worlds of a process: finding a prime is what costs."""

    def __init__(self) -> None:
        self._pairs = self._products()

    def make(self, row: Algorithm) -> PrivateKeyTypes:
        """A private key for ``row`` that this mint has not made before."""
        return next(self._pairs) if row.kty == "RSA" else material.generate(row, _BITS)

    def _products(self) -> Iterator[PrivateKeyTypes]:
        used: set[tuple[int, int]] = set()
        while True:
            for pair in combinations(self._primes, 2):
                if pair not in used:
                    used.add(pair)
                    yield _rsa(*pair)
            self._find()

    def _find(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        numbers = rsa.generate_private_key(_EXPONENT, _BITS).private_numbers()
        self._primes.extend((numbers.p, numbers.q))


def _rsa(p: int, q: int) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import rsa

    d = pow(_EXPONENT, -1, math.lcm(p - 1, q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    # Its own checks would cost as much as finding new primes.
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)
