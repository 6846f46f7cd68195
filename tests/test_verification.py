"""The probe for monitors: quiet where tokens verify, and plain where they do not."""

from __future__ import annotations

import codecs
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator.cli import app
from rotator.engine.verifying import PATIENCE
from rotator.errors import Refused, StoreError
from rotator.keys import discovery, jwks
from rotator.keys.algorithms import algorithm
from rotator.keys.keyring import Stage
from rotator.keys.verification import Copy, Fault, faults, leads_to, of_anybody
from rotator.serve import Server, Site
from rotator.stores.local import LocalKeys
from tests.test_discovery import DOCUMENT, LED, OIDC
from tests.test_plan import CURRENT, DAY, HOUR, JWKS, KEYSET, MINUTE, NEXT, NOW, QUIET, jwk_of, key, ring, with_policy
from tests.test_views import DISCOVERY, MAIN, POLICY, VIEW, Acme, Edge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rotator.ports import Fetched

URL = "https://id.acme.example/jwks.json"
HEADER = KEYSET.policy.cache_control
RIGHT = [jwk_of("c"), jwk_of("n")]


def copy(body: bytes | None = None, **facts: Any) -> Copy:
    there: dict[str, Any] = {"cache_control": HEADER, "content_type": "application/json"}
    return Copy(URL, jwks.serialize(RIGHT, 7) if body is None else body, **(there | facts))


def of(keys: list[jwks.Jwk], revision: int = 7) -> Copy:
    return copy(jwks.serialize(keys, revision))


def codes(found: list[Fault]) -> list[tuple[str, bool]]:
    return [(fault.code, fault.severe) for fault in found]


# -- one copy, held against the ledger ---------------------------------------------------------------------------


def test_what_the_ledger_wants_is_fine() -> None:
    assert faults(QUIET, KEYSET, JWKS, copy()) == []


PRIVATE = jwk_of("other") | {"d": "AA"}


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (copy(b"<html>"), [("not-a-jwks", True)]),
        (copy(codecs.BOM_UTF8 + jwks.serialize(RIGHT, 7)), [("not-strict", True)]),
        (of([jwk_of("n")]), [("missing-key", True)]),
        (of([jwk_of("c")]), [("missing-key", False)]),
        (of([jwk_of("c") | {"x": "AA"}, jwk_of("n")]), [("changed-key", True)]),
        (of([*RIGHT, jwk_of("r")]), [("revoked-key", True)]),
        (of([*RIGHT, jwk_of("w")]), [("late-copy", False)]),
        (of([*RIGHT, jwk_of("theirs")]), [("foreign-keys", False)]),
        (of([*RIGHT, PRIVATE]), [("private-key", True), ("foreign-keys", False)]),
        (of([*RIGHT, jwk_of("n")]), [("duplicate-kid", True)]),
        (of([]), [("missing-key", True), ("missing-key", False), ("empty", True)]),
        (of([*RIGHT, *(jwk_of(str(n)) for n in range(9))]), [("foreign-keys", False), ("too-many-keys", True)]),
        (of([*RIGHT, jwk_of("t") | {"n": "A" * 160_000}]), [("foreign-keys", False), ("large", False)]),
        (of(RIGHT, 8), [("newer-than-the-ledger", True)]),
        (copy(cache_control="max-age=90000"), [("cached-for-longer", True)]),
        (copy(cache_control=None), [("cached-for-longer", True)]),
        (copy(age=2 * HOUR), [("stale-copy", True)]),
        (copy(content_type="text/html; charset=utf-8"), [("content-type", False)]),
        (copy(content_type=None), [("content-type", False)]),
        (copy(content_type="Application/JWK-Set+JSON; charset=utf-8"), []),
        (copy(content_type=None, public=False), []),
    ],
)
def test_each_fault_is_found_alone(shown: Copy, found: list[tuple[str, bool]]) -> None:
    ledger = ring(CURRENT, NEXT, key("r", "next", revoked_at=NOW), key("w", "retired"), key("i", "intended"))
    assert codes(faults(ledger, KEYSET, JWKS, shown)) == found
    for fault in faults(ledger, KEYSET, JWKS, shown):
        assert fault.where == URL
        assert '"d"' not in fault.says


def test_a_view_is_not_asked_for_what_it_does_not_show() -> None:
    ledger = ring(CURRENT, key("e", "current", alg="ES256"))
    view = replace(JWKS, algorithms=frozenset({"ES256"}))
    assert faults(ledger, KEYSET, view, of([jwk_of("e", "ES256")])) == []


def test_a_key_in_the_middle_of_its_promotion_counts_as_signing() -> None:
    ledger = ring(CURRENT, key("n", "next", promoting_at=NOW))
    assert codes(faults(ledger, KEYSET, JWKS, of([jwk_of("c")]))) == [("missing-key", True)]


def test_a_discovery_document_is_severe_where_it_leads_elsewhere_or_lists_too_little() -> None:
    body = discovery.project(QUIET, OIDC) or b""
    members = json.loads(body)
    assert faults(QUIET, LED, DOCUMENT, copy(body)) == []
    for change, severe in (
        ({"jwks_uri": "https://elsewhere.example"}, True),
        ({discovery.ALGORITHMS_MEMBER: []}, True),
        ({"token_endpoint": "x"}, False),
    ):
        changed = copy(json.dumps(members | change).encode())
        assert codes(faults(QUIET, LED, DOCUMENT, changed)) == [("discovery-differs", severe)]
    assert codes(faults(QUIET, LED, DOCUMENT, copy(b"[]"))) == [("not-a-discovery-document", True)]
    assert faults(ring(key("m", "made")), LED, DOCUMENT, copy(b"{}")) == []


# -- a document of somebody else ---------------------------------------------------------------------------------


def test_what_headers_of_anybody_are_told() -> None:
    assert list(of_anybody(copy())) == []
    assert codes(list(of_anybody(copy(cache_control=None, content_type=None)))) == [
        ("no-cache-control", False),
        ("content-type", False),
    ]
    assert codes(list(of_anybody(copy(age=2 * DAY)))) == [("stale-copy", True)]
    assert codes(list(of_anybody(copy(redirected=True)))) == [("redirect", True)]
    assert codes(faults(QUIET, KEYSET, JWKS, copy(redirected=True))) == [("redirect", True)]


def test_what_a_discovery_document_leads_to() -> None:
    assert leads_to(discovery.project(QUIET, OIDC) or b"") == (OIDC.issuer, OIDC.jwks_uri)
    for body in (b"<html>", b"[]", b"{}", b'{"issuer": "x"}', b'{"issuer": 1, "jwks_uri": "x"}', copy().body):
        assert leads_to(body) is None


# -- a key set ---------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acme:
    fetch = Edge._now

    def typed(edge: Edge, url: str) -> Fetched | None:
        found = fetch(edge, url)
        return found and replace(found, content_type="application/json")

    monkeypatch.setattr(Edge, "_now", typed)
    return Acme(tmp_path, MAIN, VIEW, discovery=DISCOVERY).begin()


def test_a_key_set_at_work_is_fine_and_each_current_key_signed(acme: Acme) -> None:
    found = acme.engine.verify()
    assert found.faults == ()
    assert not found.severe
    assert [shown.where for shown in found.copies] == [MAIN.urls[0], VIEW.urls[0], DISCOVERY.urls[0]]
    assert set(found.signed) == {acme.key(Stage.CURRENT).kid, acme.key(Stage.CURRENT, "EdDSA").kid}


def test_what_does_not_answer_and_what_is_missing_is_told_with_its_url(acme: Acme) -> None:
    acme.edge.silent.add(MAIN.urls[0])
    acme.edge.held[VIEW.urls[0]] = None
    found = acme.engine.verify()
    assert [(fault.code, fault.where) for fault in found.faults] == [
        ("unreachable", MAIN.urls[0]),
        ("missing", VIEW.urls[0]),
    ]
    assert found.severe


def test_before_the_first_key_signs_a_missing_document_is_not_the_fault(tmp_path: Path) -> None:
    young = Acme(tmp_path, MAIN, replace(VIEW, urls=()))
    young.engine.init()
    assert {fault.code for fault in young.engine.verify().faults} == {"no-current-key"}


def test_without_urls_the_origin_is_looked_at(tmp_path: Path) -> None:
    plain = Acme(tmp_path, replace(MAIN, urls=())).begin()
    found = plain.engine.verify()
    assert found.faults == ()
    assert [(shown.where, shown.public) for shown in found.copies] == [(MAIN.path, False)]
    plain.remove(MAIN)
    assert [(fault.code, fault.where) for fault in plain.engine.verify().faults] == [("missing", MAIN.path)]


def test_an_origin_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Acme(tmp_path, replace(MAIN, urls=())).begin()

    def closed(_: str) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(plain.public, "read", closed)
    told = [(fault.code, fault.says) for fault in plain.engine.verify().faults]
    assert told == [("unreadable", "the disk is gone"), ("unreachable", "the origin could not be read")]


def test_an_issuer_led_astray_is_told(acme: Acme) -> None:
    store = LocalKeys(acme.root / "keys")
    row = acme.key(Stage.CURRENT)
    pointer = acme.root / "keys" / "acme" / "ES256" / "pointer.json"
    heir = acme.key(Stage.NEXT)
    pointer.write_text(
        json.dumps(json.loads(pointer.read_text()) | {"id": heir.id, "kid": heir.kid, "key": heir.handle})
    )
    assert store.read_pointer("acme", algorithm(row.alg)).id == heir.id
    found = acme.engine.verify()
    assert codes(list(found.faults)) == [("pointer", True)]
    assert row.kid not in found.signed


def test_a_private_key_that_is_gone_or_another_is_told(acme: Acme) -> None:
    current, other = acme.key(Stage.CURRENT), acme.key(Stage.NEXT)
    home = acme.root / "keys" / "acme" / "ES256"
    whole = (home / (current.handle or "")).read_bytes()
    (home / (current.handle or "")).unlink()
    (fault,) = acme.engine.verify().faults
    assert (fault.code, fault.where) == ("cannot-sign", current.kid)
    (home / (current.handle or "")).write_bytes((home / (other.handle or "")).read_bytes())
    (home / (current.handle or "")).chmod(0o600)
    (fault,) = acme.engine.verify().faults
    assert (fault.code, fault.severe) == ("cannot-sign", True)
    (home / (current.handle or "")).write_bytes(whole)
    assert not acme.engine.verify().faults


def test_a_copy_with_another_key_under_our_kid_is_told_twice(acme: Acme) -> None:
    body = acme.body(VIEW)
    body["keys"][0] |= {"x": body["keys"][1]["x"], "y": body["keys"][1]["y"]}
    acme.overwrite(VIEW, body)
    assert codes(list(acme.engine.verify().faults)) == [("changed-key", True), ("signature", True)]


@pytest.mark.parametrize("left", [b'{"keys": []}', b"<html>"])
def test_a_key_that_a_copy_lacks_did_not_verify_everywhere(acme: Acme, left: bytes) -> None:
    (acme.root / "public" / VIEW.path).write_bytes(left)
    assert acme.engine.verify().signed == (acme.key(Stage.CURRENT, "EdDSA").kid,)


def test_a_step_that_nobody_does_is_told_after_a_while(acme: Acme) -> None:
    late = 2 * POLICY.interval + PATIENCE
    acme.now += POLICY.lifetime + late - MINUTE
    assert not acme.engine.verify().faults
    acme.now += 2 * MINUTE
    (fault,) = acme.engine.verify().faults
    assert (fault.code, fault.severe) == ("overdue", True)
    assert fault.says == (
        "promote is due for more than 7m (the current key signs for 30d), and not done: see that the daemon, CronJob or"
        " Lambda runs"
    )
    acme.edge.silent.add(MAIN.urls[0])
    with pytest.raises(StoreError):
        acme.tick()
    acme.edge.silent.clear()
    acme.now += DAY
    said = {fault.code: fault.says for fault in acme.engine.verify().faults}
    assert said["overdue"].endswith("and not done: ticks fail")


def test_the_trouble_of_the_last_tick_and_a_clock_that_is_off_are_warnings(
    acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    kid = acme.key(Stage.NEXT).kid
    acme.edge.silent.add(MAIN.urls[0])
    acme.now += POLICY.lifetime
    with pytest.raises(StoreError, match=str(kid)):
        acme.tick()
    acme.edge.silent.clear()
    found = acme.engine.verify()
    assert ("trouble", False) in codes(list(found.faults))
    monkeypatch.setattr(LocalKeys, "read_pointer", _dated(LocalKeys.read_pointer, acme))
    assert ("clock", False) in codes(list(acme.engine.verify().faults))


def _dated(read: Any, acme: Acme) -> Any:
    def dated(store: LocalKeys, keyset: str, row: Any) -> Any:
        return replace(read(store, keyset, row), date=acme.now + timedelta(minutes=10))

    return dated


def test_without_a_ledger_there_is_nothing_to_hold_it_against(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no ledger"):
        Acme(tmp_path).engine.verify()


def test_an_algorithm_that_left_the_configuration_is_looked_at_as_long_as_it_signs(acme: Acme) -> None:
    acme.keyset = replace(acme.keyset, policy=replace(POLICY, algorithms=("ES256",)))
    assert len(acme.engine.verify().signed) == 2
    acme.keyset = replace(acme.keyset, policy=with_policy(algorithms=("ES256", "EdDSA", "ES384")).policy)
    assert [(fault.code, fault.says) for fault in acme.engine.verify().faults] == [
        ("no-current-key", "no ES384 key signs")
    ]


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A configuration whose documents are served on loopback: its path, and the root of the URLs."""
    from rotator.documents.filesystem import FilesystemDocuments

    paths = [f"acme/.well-known/{name}" for name in ("jwks.json", "openid-configuration")]
    site = Site(FilesystemDocuments(tmp_path / "public"), [("acme", path) for path in paths])
    server = Server(site, "127.0.0.1", 0)
    stores = "\n".join(f'{name} = "{(tmp_path / name).as_uri()}"' for name in ("keys", "ledger", "public"))
    file = tmp_path / "rotator.toml"
    file.write_text(
        f'[stores]\n{stores}\n[policy]\nalgorithms = ["ES256"]\n[[keysets]]\nname = "acme"\n'
        f'issuer = "{server.url}/acme"\npublic_url = "{server.url}/{paths[0]}"\n[keysets.discovery]\n'
    )
    for command in ("init", "tick"):
        assert CliRunner().invoke(app, ["--config", str(file), command]).exit_code == 0
    yield str(file), f"{server.url}/acme/.well-known"
    server.close()


def test_verify_tells_a_monitor_in_words_and_in_json(served: tuple[str, str], tmp_path: Path) -> None:
    config, root = served
    shown = CliRunner().invoke(app, ["--config", config, "verify"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"acme: fine\n  fetched  {root}/jwks.json (")
    assert f"  fetched  {root}/openid-configuration (" in shown.output
    (tmp_path / "public" / "acme" / ".well-known" / "jwks.json").write_text('{"keys": []}')
    wrong = CliRunner().invoke(app, ["--config", config, "verify", "acme", "--json"])
    assert wrong.exit_code == 1
    (facts,) = json.loads(wrong.stdout)["keysets"]
    assert facts["ok"] is False
    assert {fault["code"] for fault in facts["faults"]} == {"missing-key", "empty"}
    assert "FAULT" in CliRunner().invoke(app, ["--config", config, "verify"]).output


def test_verify_tells_of_a_key_set_that_cannot_be_looked_at(served: tuple[str, str], tmp_path: Path) -> None:
    config, _ = served
    (tmp_path / "ledger" / "acme" / "ledger.json").unlink()
    shown = CliRunner().invoke(app, ["--config", config, "verify"])
    assert shown.exit_code == 3
    assert "acme: cannot be verified: see the error below" in shown.output
    told = CliRunner().invoke(app, ["--config", config, "verify", "--json"])
    assert json.loads(told.stdout)["keysets"][0]["ok"] is False


def test_verify_looks_at_any_url_and_follows_a_discovery_document(served: tuple[str, str]) -> None:
    _, root = served
    shown = CliRunner().invoke(app, ["verify", f"{root}/openid-configuration", "--json"])
    assert shown.exit_code == 0
    (facts,) = json.loads(shown.stdout)["urls"]
    assert [each["where"] for each in facts["fetched"]] == [f"{root}/openid-configuration", f"{root}/jwks.json"]
    assert facts["faults"] == []
    assert CliRunner().invoke(app, ["verify", f"{root}/jwks.json"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("jwks.json", '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}', None),
        ("jwks.json", "<html>", "not-a-jwks"),
        ("openid-configuration", '{"issuer": "https://other.example", "jwks_uri": "http://127.0.0.1:1/x"}', "issuer"),
        ("jwks.json?secret=1", None, None),
        ("nothing", None, "missing"),
    ],
)
def test_what_is_wrong_at_a_url_is_told(
    served: tuple[str, str], tmp_path: Path, name: str, body: str | None, code: str | None
) -> None:
    _, root = served
    if body is not None:
        (tmp_path / "public" / "acme" / ".well-known" / name).write_text(body)
    shown = CliRunner().invoke(app, ["verify", f"{root}/{name}", "--json"])
    assert "secret" not in shown.output
    assert "c2VjcmV0" not in shown.output
    if name.startswith("jwks.json?"):
        assert shown.exit_code == 0
        return
    assert shown.exit_code == 1
    found = {fault["code"] for fault in json.loads(shown.stdout)["urls"][0]["faults"]}
    assert code is None or code in found
    assert found


@pytest.mark.parametrize("url", ["http://id.example.com/jwks.json", "https://"])
def test_what_is_no_url_to_fetch_is_a_mistake_of_the_caller(url: str) -> None:
    shown = CliRunner().invoke(app, ["verify", url])
    assert shown.exit_code == 2
    assert "must begin with https://" in shown.stderr


def test_a_key_set_and_a_url_are_two_calls(served: tuple[str, str]) -> None:
    config, root = served
    shown = CliRunner().invoke(app, ["--config", config, "verify", "acme", root])
    assert shown.exit_code == 2
    assert "Name key sets or URLs, not both" in shown.output
