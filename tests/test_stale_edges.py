"""nginx and varnish in front of one document: a key signs only after the slowest edge has shown it.

The edges obey the origin's headers (RFC 9111, RFC 5861), but for one that stays stale: whoever is served by it must
not meet a token that its copy cannot verify, however long the key that signs has been due to go.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from rotator import app
from rotator.settings import Configuration
from tests import nginx, varnish
from tests.accounts import Account, moto
from tests.processes import Rotators, together
from tests.proxy import Proxy, proxy
from tests.test_end_to_end import PATH, configured, fetch, led_to, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.proxy import Call, Fault, Forward

pytestmark = pytest.mark.slow

#: In seconds; prepublish is 2.9.
LIFETIME = 6
POLICY = {"lifetime": LIFETIME, "verifier_cache": 0.5, "skew": 0.2}


def stale_shield(between: Proxy) -> Callable[[], None]:
    """What stands behind an edge hands out its first copy for ever, as if it were new; returns what ends that."""
    first: list[bytes] = []

    def old(_: Call, forward: Forward) -> bytes:
        if not first:
            first.append(forward())
        return first[0]

    def weather(_: Call) -> Fault:
        return old

    def end() -> None:
        between.begin()

    between.begin(weather)
    return end


@pytest.mark.parametrize("stale", ["nginx behind a stale shield", "varnish that overrides the origin"])
def test_no_key_signs_that_an_edge_does_not_show(stale: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        account = Account(stack.enter_context(moto()), "secretsmanager", "edges")
        between = stack.enter_context(proxy(account.endpoint))
        shield = f"{between.url}/{account.public}/"
        is_nginx = stale.startswith("nginx")
        place = stack.enter_context(
            nginx.places(shield if is_nginx else f"{account.origin}/", tmp_path / "nginx", count=1)
        )
        edge = stack.enter_context(varnish.edge(account.origin, tmp_path / "varnish", stubborn=not is_nginx))
        urls = [f"{place.urls[0]}/{PATH}", f"{edge.url}/{PATH}"]
        stuck, fresh = urls if is_nginx else reversed(urls)
        freshen = stale_shield(between) if is_nginx else lambda: edge.purge(PATH)

        file = configured(account, tmp_path / "rotator.toml", urls, POLICY)
        engine = app.engines(Configuration.load(file))["acme"]
        assert engine.init()
        daemon = stack.enter_context(Rotators(file, ["run"]))
        # An edge asked any earlier would keep that there is nothing.
        until(lambda: engine.ledger().current("ES256"), 60, "a first key signs")
        until(lambda: len(kids(fresh)) == 2, 60, "the next key is public")
        first = led_to(account, "ES256").kid
        time.sleep(LIFETIME + engine.keyset.policy.prepublish.total_seconds() + 2)

        ring = engine.ledger()
        current = ring.current("ES256")
        assert current
        assert current.kid == led_to(account, "ES256").kid == first
        assert kids(stuck) == {first}
        assert [key.published_at for key in ring.keys if key.kid != first] == [None]
        waits = engine.tick().plan.waits
        assert any(stuck in wait.reason or "does not show" in wait.reason for wait in waits), waits
        asked = together(file, ["rotate", "acme"])[0]
        assert asked.code == 3, asked

        freshen()
        until(lambda: led_to(account, "ES256").kid != first, 60, "the next key signs")
        # Caches, like their readers, obey the policy again: the gate was what it always is.
        until(lambda: kids(stuck) == kids(fresh), 30, "both edges show the same")
        ring = engine.ledger()
        second = next(key for key in ring.keys if key.kid != first and key.activated_at)
        assert second.published_at
        assert second.promoting_at
        assert second.promoting_at - second.published_at >= engine.keyset.policy.prepublish
        assert second.kid in kids(stuck)
        daemon.stop()
        assert daemon.ended()[0].code == 0


def kids(url: str) -> set[str]:
    return {key["kid"] for key in fetch(url)["keys"]}
