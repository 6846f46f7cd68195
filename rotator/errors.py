"""Every error of rotator: what happened, to which key set and key, and what to do next.

``exit_code`` is the process exit code a command ends with when the error reaches it:
1 a key set failed, 2 configuration, 3 refused because unsafe.
No message ever holds key material.
"""

from __future__ import annotations


class RotatorError(Exception):
    """Root of the tree: a key set failed; nothing is lost and the next tick tries again."""

    exit_code = 1


class ConfigurationError(RotatorError):
    """The configuration, a file or a resource it names is wrong; only a person can mend it."""

    exit_code = 2


class Refused(RotatorError):
    """Going on would be unsafe: nothing was written, and the message names what to do instead."""

    exit_code = 3


class Damaged(Refused):
    """What stands in the place of the ledger is none, or half of one: ``rotator recover`` brings one back."""


class Outdated(Refused):
    """The ledger is older than the world: somebody restored it, and ``rotator recover`` brings the newest back."""


class NoCurrentKey(Refused):
    """The pointer names no key: none was promoted yet, or the algorithm was retired. Nothing was signed."""


class Stale(Refused):
    """The pointer was not read for ``signer_lag``: another key may be current. Nothing is signed until it is read."""


class StoreError(RotatorError):
    """A store did not answer, or answered with a fault that may pass. The effect may have been applied."""


class KeyStopped(StoreError):
    """The private half no longer signs: it is disabled, or gone. The pointer may name another key by now."""


class AccessDenied(StoreError):
    """A permission is missing: the message names the action and the resource."""


class Conflict(StoreError):
    """A compare-and-swap found another version than expected: somebody else was here. Read again and go on."""
