"""``rotator`` with its first protection taken away: prepublish is zero, a key may sign as soon as it was seen once.

For the run that shows what the protection is for. Nothing in ``rotator`` itself can be told to do this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotator.__main__ import main
from rotator.keys import facts, plan

if TYPE_CHECKING:
    from datetime import datetime

    from rotator.keys.keyring import Key
    from rotator.keys.policy import KeySet


def at_once(_: KeySet, key: Key) -> datetime | None:
    return key.published_at


def take_away() -> None:
    for module in (plan, facts):
        vars(module)["gate"] = at_once


if __name__ == "__main__":
    take_away()
    main()
