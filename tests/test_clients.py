"""Real verifiers follow every rotation, and would not without the gate; the table in the README says the same.

The story itself stands in ``tests/clients/story.py``; ``python -m tests.clients`` prints what came of it.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients import conformance, story, table
from tests.clients.clients import CACHE, CLIENTS, NEW_KID, Client
from tests.clients.traffic import PHASES, Count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.story import Told

# -- what takes no time ------------------------------------------------------------------------------------------------

RSA = {"kty": "RSA", "kid": "r", "n": "_" * 342, "e": "AQAB"}
EC = {"kty": "EC", "kid": "e", "crv": "P-256", "x": "A" * 43, "y": "B" * 43}
OKP = {"kty": "OKP", "kid": "o", "crv": "Ed25519", "x": "C" * 43}


def as_bytes(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_conformance_passes_a_good_document() -> None:
    assert conformance.faults(as_bytes(RSA, EC, OKP)) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "no array"),
        (b'{"keys": []}', "no array with something"),
        (b'{"keys": ["RSA"]}', "no object with a kty"),
        (as_bytes({**EC, "kid": " "}), "missing or blank"),
        (as_bytes({"kty": "EC", "crv": "P-256", "x": "A", "y": "B"}), "missing or blank"),
        (as_bytes(EC, {**RSA, "kid": "e"}), "one kid"),
        (as_bytes({**RSA, "d": "AQAB"}), "private or symmetric"),
        (as_bytes({"kty": "oct", "kid": "s"}), "private or symmetric"),
        (as_bytes({**RSA, "n": "_" * 300}), "fewer than 2048 bits"),
        (as_bytes({**RSA, "e": "AQAB=="}), "base64url without padding"),
        (as_bytes({**EC, "y": "B+/="}), "base64url without padding"),
        (as_bytes({**OKP, "x": None}), "x is missing"),
        (as_bytes({"kty": "OKP", "kid": "o", "x": "C" * 43}), "crv is missing"),
    ],
)
def test_conformance_names_a_fault(body: bytes, fault: str) -> None:
    assert any(fault in line for line in conformance.faults(body)), conformance.faults(body)


def test_conformance_passes_a_rotation_that_keeps_the_old_key_as_it_was() -> None:
    assert conformance.rotation_faults(as_bytes(RSA), as_bytes(RSA, EC)) == []


@pytest.mark.parametrize(
    ("after", "fault"),
    [
        (as_bytes(RSA), "no key with a new kid and new material"),
        (as_bytes(RSA, {**RSA, "kid": "r2"}), "no key with a new kid and new material"),
        (as_bytes(EC), "no old key is there as it was"),
        (as_bytes({**RSA, "use": "sig"}, EC), "no longer what it was"),
    ],
)
def test_conformance_names_a_fault_of_a_rotation(after: bytes, fault: str) -> None:
    assert any(fault in line for line in conformance.rotation_faults(as_bytes(RSA), after))


def test_the_table_shows_a_rejection_in_its_phase() -> None:
    told = story.Told()
    pyjwt = CLIENTS[0]
    for phase in PHASES:
        told.counts[pyjwt.name, "ES256", phase] = Count(accepted=3)
    told.counts[pyjwt.name, "ES256", "rotation"].rejected += ["why", "why"]
    assert table.cell(told, pyjwt, "ES256") == "✓ 2 ✓"
    assert table.cell(told, pyjwt, "RS384") == "· · ·"
    assert table.cell(told, pyjwt, "Ed25519") == "—"


def test_the_table_of_the_readme_has_every_client_and_no_rejection() -> None:
    rows = table.in_readme()
    assert rows.keys() == {client.name for client in CLIENTS}
    for client in CLIENTS:
        supported = ["✓ ✓ ·" if alg in story.GONE else "✓ ✓ ✓" for alg in story.COLUMNS]
        expected = [
            mark if client.verifier.uses(alg) else "—" for alg, mark in zip(story.COLUMNS, supported, strict=True)
        ]
        assert rows[client.name] == (*expected, client.trusts)


# -- the runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> Iterator[tuple[Future[Told], Future[Told]]]:
    """As it is, and without prepublish; both at once, because most of the time they sleep."""
    with ThreadPoolExecutor(2) as pool:
        yield (
            pool.submit(story.run, say=lambda line: print(f"as it is            {line}")),  # noqa: T201
            pool.submit(story.run, guarded=False, say=lambda line: print(f"without prepublish  {line}")),  # noqa: T201
        )


@pytest.fixture(scope="module")
def told(runs: tuple[Future[Told], Future[Told]]) -> Told:
    return runs[0].result()


@pytest.fixture(scope="module")
def without(runs: tuple[Future[Told], Future[Told]]) -> Told:
    return runs[1].result()


def had(client: Client, told: Told) -> None:
    if why := told.missing.get(client.name):
        if os.environ.get("CI"):
            pytest.fail(f"{why}; CI must have it")
        pytest.skip(why)


each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


@pytest.mark.slow
def test_a_run_went_through_rotations_a_change_and_a_revoke(told: Told, without: Told) -> None:
    print(f"\n{table.rendered(told, without)}")  # noqa: T201 - what the run was worth
    for alg in story.SECOND:
        assert told.rotations[alg] >= story.ROTATIONS
    assert told.impatient > 0, "a person was never told to wait"
    assert told.failures == []
    assert told.overdue <= told.asked() / 10, "too busy to prove anything"
    assert told.caches["HIT"] > 0
    assert told.caches["STALE"] > 0, "nobody ever saw a copy that was past its max-age"


@pytest.mark.slow
@each_client
def test_a_client_rejects_no_token(client: Client, told: Told) -> None:
    had(client, told)
    assert told.rejected(client.name) == []
    assert table.cells(told, client) == table.in_readme()[client.name]
    refused = [said for (name, _), said in told.refused.items() if name == client.name]
    assert "ok" not in refused, "it verifies more than rotator.keys.verifiers says"


@pytest.mark.slow
@each_client
def test_a_client_forgets_a_revoked_key(client: Client, told: Told) -> None:
    had(client, told)
    trusted = told.trusted[client.name]
    assert len(trusted) >= 3
    if client.trusts == CACHE:
        # What the policy says, and time for a busy machine to ask.
        assert all(seconds is not None and seconds <= story.TRUSTED + 5 for seconds in trusted), trusted
    elif client.trusts == NEW_KID:
        assert None not in trusted, "a rotation after the revoke made it look again"


@pytest.mark.slow
@each_client
def test_without_prepublish_the_same_client_rejects_tokens(client: Client, without: Told) -> None:
    had(client, without)
    assert without.rejected(client.name) != []
    # Nothing else is wrong with that run: keys that nobody rotated yet were accepted.
    founding = [without.counts[client.name, alg, "steady"] for alg in story.FIRST if client.verifier.uses(alg)]
    assert all(count.accepted and not count.rejected for count in founding)


@pytest.mark.slow
def test_every_document_of_the_run_conforms(told: Told) -> None:
    assert len(told.documents) > 3 * story.ROTATIONS
    assert [fault for body in told.documents for fault in conformance.faults(body)] == []
    assert len(told.around) >= story.ROTATIONS * len(story.SECOND)
    assert [fault for before, after in told.around for fault in conformance.rotation_faults(before, after)] == []
