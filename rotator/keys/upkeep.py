"""Which keys of a key store nobody needs: left by a crash, known to no ledger, and made for this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotator.keys.plan import STRAY_AGE
from rotator.keys.policy import text

if TYPE_CHECKING:
    from datetime import datetime

    from rotator.keys.keyring import Keyring


def known(ring: Keyring, handle: str) -> bool:
    """Whether the key behind ``handle`` is one of the ledger's."""
    return any(key.handle == handle for key in ring.keys)


def why_spared(
    ring: Keyring, now: datetime, *, key_id: str, ledger_id: str | None, created_at: datetime | None
) -> str | None:
    """Why a key that ``ring`` does not have is left alone; ``None``: nobody needs it.

    Another ledger's keys are not ours to judge. A young key may belong to an attempt under way, and one of an intent
    that has no key yet may be adopted by it.
    """
    if ledger_id is None:
        return "it does not say which ledger it was made for"
    if ledger_id != ring.ledger_id:
        return f"it was made for another ledger ({ledger_id})"
    if any(key.id == key_id and key.handle is None for key in ring.keys):
        return "its intent has no key yet and may adopt it"
    if created_at is None or now - created_at < STRAY_AGE:
        return f"it is younger than {text(STRAY_AGE)}: an attempt may be under way"
    return None
