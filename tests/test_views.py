"""Further public documents of one ledger: views by algorithm and the discovery document, gated like the main one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from rotator.documents.filesystem import FilesystemDocuments
from rotator.documents.s3 import S3Documents
from rotator.engine import Engine
from rotator.errors import Refused, RotatorError, StoreError
from rotator.keys.discovery import Discovery
from rotator.keys.keyring import Stage
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Fetched, Headers
from rotator.stores.local import LocalKeys

if TYPE_CHECKING:
    from pathlib import Path

    from rotator.engine import Outcome
    from rotator.keys.keyring import Key, Keyring

ISSUER = "https://id.acme.example"
START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy(algorithms=("ES256", "EdDSA"))
MAIN = PublicDocument("jwks", "acme/jwks.json", (f"{ISSUER}/jwks.json",))
VIEW = PublicDocument("es256", "acme/jwks-es256.json", (f"{ISSUER}/jwks-es256.json",), frozenset({"ES256"}))
DISCOVERY = PublicDocument(
    "discovery",
    "acme/openid-configuration",
    (f"{ISSUER}/.well-known/openid-configuration",),
    discovery=Discovery(ISSUER, MAIN.urls[0]),
)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Edge:
    """Serves what the origin holds, or, at a URL that lags, what it held then; some URLs do not answer."""

    def __init__(self, public: FilesystemDocuments) -> None:
        self.public = public
        self.paths = {document.urls[0]: document.path for document in (MAIN, VIEW, DISCOVERY)}
        self.held: dict[str, Fetched | None] = {}
        self.silent: set[str] = set()

    def fetch(self, url: str) -> Fetched | None:
        if url in self.silent:
            raise StoreError(f"{url} gave no whole answer in time")
        return self.held[url] if url in self.held else self._now(url)

    def _now(self, url: str) -> Fetched | None:
        document = self.public.read(self.paths[url]).document
        if document is None:
            return None
        return Fetched(document.body, document.headers.cache_control if document.headers else None)

    def hold(self, url: str) -> None:
        self.held[url] = self._now(url)


class Acme:
    """One key set in files, behind one edge; its clock moves when a story says so."""

    def __init__(self, root: Path, *documents: PublicDocument, discovery: PublicDocument | None = None) -> None:
        self.root, self.now = root, START
        self.public = FilesystemDocuments(root / "public")
        self.edge = Edge(self.public)
        self.keyset = KeySet("acme", POLICY, documents or (MAIN,), discovery=discovery)

    @property
    def engine(self) -> Engine:
        return Engine(
            self.keyset,
            ledger=FilesystemDocuments(self.root / "ledger", private=True),
            public=self.public,
            keys=LocalKeys(self.root / "keys"),
            clock=lambda: self.now,
            web=self.edge,
            elapsed=lambda: self.now - START,
        )

    def begin(self) -> Acme:
        assert self.engine.init()
        self.tick()
        return self

    def tick(self, later: timedelta = timedelta(0)) -> Outcome:
        self.now += later
        return self.engine.tick()

    @property
    def ring(self) -> Keyring:
        return self.engine.ledger()

    def key(self, stage: Stage, alg: str = "ES256") -> Key:
        (key,) = (key for key in self.ring.of(alg) if key.stage is stage)
        return key

    def body(self, document: PublicDocument) -> dict[str, Any]:
        stored = self.public.read(document.path).document
        assert stored
        found: dict[str, Any] = json.loads(stored.body)
        return found

    def algs(self, document: PublicDocument) -> set[str]:
        return {key["alg"] for key in self.body(document)["keys"]}

    def overwrite(self, document: PublicDocument, body: dict[str, Any]) -> None:
        stored = self.public.read(document.path).document
        assert stored
        assert stored.headers
        self.public.replace(document.path, json.dumps(body).encode(), stored.headers, stored.version)

    def remove(self, document: PublicDocument) -> None:
        (self.root / "public" / document.path).unlink()


def waits(outcome: Outcome, step: str) -> list[str]:
    return [wait.reason for wait in outcome.plan.waits if wait.step == step]


# -- views -------------------------------------------------------------------------------------------------------


def test_a_view_shows_its_algorithms_and_the_main_document_all(tmp_path: Path) -> None:
    acme = Acme(tmp_path, MAIN, VIEW).begin()
    assert acme.algs(MAIN) == {"ES256", "EdDSA"}
    assert acme.algs(VIEW) == {"ES256"}
    assert acme.body(VIEW)["keys"][0]["kid"] == acme.key(Stage.CURRENT).kid, "who signs stands first"
    for document in (MAIN, VIEW):
        stored = acme.public.read(document.path).document
        assert stored
        assert stored.headers == Headers("application/jwk-set+json", POLICY.cache_control)


def test_a_view_that_lags_holds_the_gate_of_its_algorithms_and_of_no_other(tmp_path: Path) -> None:
    acme = Acme(tmp_path, MAIN, VIEW)
    acme.engine.init()
    acme.edge.hold(VIEW.urls[0])
    acme.tick()
    assert acme.ring.current("ES256") is None
    assert acme.ring.current("EdDSA")
    outcome = acme.tick(40 * DAY)
    assert acme.ring.current("ES256") is None, "however long it takes"
    assert waits(outcome, "note-published") == [f"{VIEW.urls[0]} answers 404"]
    acme.edge.held.clear()
    acme.tick()
    assert acme.ring.current("ES256")


def test_a_view_that_was_overwritten_starts_the_clock_of_the_next_key_again(tmp_path: Path) -> None:
    acme = Acme(tmp_path, MAIN, VIEW).begin()
    first, standby = acme.key(Stage.CURRENT), acme.key(Stage.NEXT)
    acme.now += 30 * DAY - HOUR
    acme.overwrite(VIEW, {"keys": [first.jwk]})
    acme.tick()
    acme.tick(2 * HOUR)
    assert acme.key(Stage.CURRENT).id == first.id
    acme.tick(POLICY.prepublish)
    assert acme.key(Stage.CURRENT).id == standby.id


def test_a_view_added_to_a_living_key_set_is_waited_for_in_full(tmp_path: Path) -> None:
    acme = Acme(tmp_path).begin()
    before = acme.key(Stage.CURRENT)
    acme.now += 30 * DAY - HOUR
    acme.keyset = replace(acme.keyset, documents=(MAIN, VIEW))
    acme.tick()
    assert acme.algs(VIEW) == {"ES256"}
    acme.tick(HOUR)
    assert acme.key(Stage.CURRENT) == before, "no cache of the view's URL can be older than the view, but it may lag"
    assert acme.key(Stage.PREVIOUS, "EdDSA").superseded_at, "what it does not show does not wait"
    acme.tick(POLICY.prepublish - HOUR)
    assert acme.key(Stage.PREVIOUS).id == before.id


def test_a_view_of_no_key_yet_is_not_written_and_one_that_was_emptied_stays(tmp_path: Path) -> None:
    empty = replace(VIEW, name="rs256", path="acme/jwks-rs256.json", algorithms=frozenset({"RS256"}))
    acme = Acme(tmp_path, MAIN, empty).begin()
    assert acme.public.read(empty.path).document is None
    assert acme.ring.current("ES256")
    acme.public.create(empty.path, b'{"keys": []}', Headers("application/jwk-set+json", POLICY.cache_control))
    acme.tick()
    assert acme.body(empty) == {"keys": []}


def test_a_revoked_key_leaves_every_view(tmp_path: Path) -> None:
    acme = Acme(tmp_path, MAIN, VIEW, discovery=DISCOVERY).begin()
    kid = acme.key(Stage.CURRENT).kid
    assert kid
    # An issuer's own site that is down must not keep a revoke from its end.
    acme.edge.silent.add(DISCOVERY.urls[0])
    acme.engine.revoke(kid, "stolen")
    acme.tick()
    for document in (MAIN, VIEW):
        assert kid not in {key["kid"] for key in acme.body(document)["keys"]}
    (revoked,) = (key for key in acme.ring.keys if key.revoked_at)
    assert revoked.gone.keys() == {"jwks", "es256"}
    assert acme.ring.current("ES256")


# -- discovery ---------------------------------------------------------------------------------------------------


def test_the_discovery_document_is_what_federations_read(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    assert acme.body(DISCOVERY) == {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/jwks.json",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "claims_supported": ["aud", "exp", "iat", "iss", "sub"],
        "id_token_signing_alg_values_supported": ["ES256", "EdDSA"],
    }
    stored = acme.public.read(DISCOVERY.path).document
    assert stored
    assert stored.headers == Headers("application/json", POLICY.cache_control)
    assert acme.tick(HOUR).steps == ()


def test_it_is_not_written_before_verifiers_can_fetch_the_jwks(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY)
    acme.engine.init()
    acme.edge.hold(MAIN.urls[0])
    acme.tick()
    assert acme.body(MAIN)["keys"]
    assert acme.public.read(DISCOVERY.path).document is None
    acme.edge.held.clear()
    acme.tick()
    assert acme.body(DISCOVERY)["issuer"] == ISSUER


def test_what_somebody_changes_in_it_is_put_right_and_the_clock_starts_again(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    before = acme.key(Stage.CURRENT)
    acme.now += 30 * DAY - HOUR
    acme.overwrite(DISCOVERY, acme.body(DISCOVERY) | {"jwks_uri": "https://elsewhere.example/jwks.json"})
    steps = [(done.step, done.document, done.reason) for done in acme.tick().steps]
    assert ("publish", "discovery", f"{DISCOVERY.path}: it says other things (jwks_uri)") in steps
    assert acme.body(DISCOVERY)["jwks_uri"] == MAIN.urls[0]
    acme.tick(HOUR)
    assert acme.key(Stage.CURRENT) == before, "verifiers may have been led elsewhere"
    acme.tick(POLICY.prepublish - HOUR)
    assert acme.key(Stage.PREVIOUS).id == before.id


@pytest.mark.parametrize("form", ["{}", "<html>", "[]", '{"issuer": "x"}'])
def test_whatever_stands_there_is_put_right(tmp_path: Path, form: str) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    right = acme.body(DISCOVERY)
    (tmp_path / "public" / DISCOVERY.path).write_text(form)
    acme.tick()
    assert acme.body(DISCOVERY) == right
    (tmp_path / "public" / DISCOVERY.path).write_text(json.dumps(right))
    steps = {done.reason for done in acme.tick().steps}
    assert steps == {f"{DISCOVERY.path}: it says other things (in another form)"}
    acme.remove(DISCOVERY)
    acme.tick()
    assert acme.body(DISCOVERY) == right


def test_an_added_algorithm_is_listed_long_before_its_first_key_signs(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    acme.keyset = replace(acme.keyset, policy=replace(POLICY, algorithms=("ES256", "EdDSA", "ES384")))
    acme.edge.hold(DISCOVERY.urls[0])
    acme.tick()
    listed = acme.body(DISCOVERY)["id_token_signing_alg_values_supported"]
    assert listed == ["ES256", "ES384", "EdDSA"], "always in one order"
    acme.tick(9 * DAY)
    assert acme.ring.current("ES384") is None, "verifiers that go by the old list would reject its tokens"
    acme.edge.held.clear()
    acme.tick()
    assert acme.ring.current("ES384") is None
    acme.tick(POLICY.prepublish)
    assert acme.ring.current("ES384")


def test_an_algorithm_leaves_the_list_with_its_last_key(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    acme.keyset = replace(acme.keyset, policy=replace(POLICY, algorithms=("ES256",)))
    acme.engine.retire("EdDSA")
    acme.tick()
    assert "EdDSA" in acme.body(DISCOVERY)["id_token_signing_alg_values_supported"], "its tokens live"
    acme.tick(POLICY.signer_lag + HOUR)
    acme.tick(POLICY.retention)
    assert acme.body(DISCOVERY)["id_token_signing_alg_values_supported"] == ["ES256"]


def test_it_may_lead_to_a_view(tmp_path: Path) -> None:
    led = replace(DISCOVERY, algorithms=VIEW.algorithms, discovery=Discovery(ISSUER, VIEW.urls[0], "es256"))
    acme = Acme(tmp_path, MAIN, VIEW, discovery=led).begin()
    assert acme.body(led)["jwks_uri"] == VIEW.urls[0]
    assert acme.body(led)["id_token_signing_alg_values_supported"] == ["ES256"]


# -- a discovery document that was there before ------------------------------------------------------------------


def taken_over(tmp_path: Path, body: str) -> Acme:
    acme = Acme(tmp_path).begin()
    (tmp_path / "public" / DISCOVERY.path).write_text(body)
    acme.keyset = replace(acme.keyset, discovery=DISCOVERY)
    return acme


def test_somebody_elses_discovery_document_is_left_alone_and_told(tmp_path: Path) -> None:
    theirs = json.dumps({"issuer": ISSUER, "jwks_uri": MAIN.urls[0], "token_endpoint": f"{ISSUER}/token"})
    acme = taken_over(tmp_path, theirs)
    outcome = acme.tick()
    assert (tmp_path / "public" / DISCOVERY.path).read_text() == theirs
    (told,) = waits(outcome, "publish")
    assert told.startswith(
        f"{DISCOVERY.path} was there before rotator wrote it, and says other things (claims_supported"
    )
    assert "token_endpoint" in told
    assert "take over what it says into 'members'" in told
    acme.remove(DISCOVERY)
    acme.tick()
    assert acme.body(DISCOVERY)["issuer"] == ISSUER


def test_what_is_no_discovery_document_is_left_alone_as_well(tmp_path: Path) -> None:
    acme = taken_over(tmp_path, "<html>")
    (told,) = waits(acme.tick(), "publish")
    assert "was there before rotator wrote it, and is no JSON object" in told


def test_one_that_says_the_same_is_taken_over(tmp_path: Path) -> None:
    right = Acme(tmp_path / "model", discovery=DISCOVERY).begin().body(DISCOVERY)
    acme = taken_over(tmp_path, json.dumps(right))
    assert not waits(acme.tick(), "publish")
    assert acme.body(DISCOVERY) == right
    assert (tmp_path / "public" / DISCOVERY.path).read_text().startswith("{\n")


def test_init_does_not_begin_beside_one(tmp_path: Path) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY)
    file = tmp_path / "public" / DISCOVERY.path
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(Refused, match="openid-configuration exists, but no ledger does"):
        acme.engine.init()


# -- faults ------------------------------------------------------------------------------------------------------


def test_a_discovery_document_that_cannot_be_written_is_told_and_holds_up_no_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = Acme(tmp_path, discovery=DISCOVERY).begin()
    acme.overwrite(DISCOVERY, {})
    kid = acme.key(Stage.CURRENT).kid
    assert kid
    acme.engine.revoke(kid, "stolen")

    def failing(path: str, *rest: Any) -> str:
        if path == DISCOVERY.path:
            raise StoreError("the disk is full")
        return FilesystemDocuments.replace(acme.public, path, *rest)

    monkeypatch.setattr(acme.public, "replace", failing)
    with pytest.raises(RotatorError, match="the disk is full"):
        acme.tick()
    assert kid not in {key["kid"] for key in acme.body(MAIN)["keys"]}
    assert acme.ring.current("ES256")


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied"])
def test_whichever_write_fails_the_documents_end_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, applied: bool
) -> None:
    acme = Acme(tmp_path, MAIN, VIEW, discovery=DISCOVERY)
    acme.engine.init()
    calls = iter(range(1000))

    def failing(write: Any) -> Any:
        def written(*order: Any) -> str:
            fails = next(calls) == at
            if fails and not applied:
                raise StoreError("the disk is full")
            version: str = write(*order)
            if fails:
                raise StoreError("the answer was lost")
            return version

        return written

    monkeypatch.setattr(acme.public, "create", failing(acme.public.create))
    monkeypatch.setattr(acme.public, "replace", failing(acme.public.replace))
    for _ in range(3):
        with suppress(RotatorError):
            acme.tick()
        acme.now += timedelta(minutes=1)
    assert acme.tick().steps == ()
    assert next(calls) > 5
    assert {alg for alg in POLICY.algorithms if acme.ring.current(alg)} == set(POLICY.algorithms)
    assert acme.algs(VIEW) == {"ES256"}
    assert len(acme.body(MAIN)["keys"]) == 4
    assert acme.body(DISCOVERY)["id_token_signing_alg_values_supported"] == ["ES256", "EdDSA"]
    assert not acme.engine.verify().severe


# -- what the gates are for --------------------------------------------------------------------------------------


def test_without_the_gate_of_a_view_a_key_signs_that_its_readers_do_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = Acme(tmp_path).begin()
    acme.keyset = replace(acme.keyset, documents=(MAIN, VIEW))
    acme.edge.hold(VIEW.urls[0])
    acme.now += POLICY.lifetime
    acme.tick()
    with_gate = acme.key(Stage.CURRENT)
    monkeypatch.setattr(KeySet, "gates_of", lambda keyset, _: keyset.documents[:1])
    with pytest.raises(StoreError, match=r"is not promoted: .* answers 404"):
        acme.tick()
    # The proof before a promotion looks there, too: without it as well the key signs.
    monkeypatch.setattr(KeySet, "documents_of", lambda keyset, _: keyset.documents[:1])
    acme.tick()
    assert acme.key(Stage.CURRENT) != with_gate
    assert acme.edge.fetch(VIEW.urls[0]) is None


# -- on S3 -------------------------------------------------------------------------------------------------------


def test_s3_serves_each_with_its_own_headers_and_puts_right_what_somebody_overwrites(
    tmp_path: Path, moto_url: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=moto_url)
    bucket = f"views-{uuid4().hex}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    documents = [replace(document, urls=()) for document in (MAIN, VIEW, DISCOVERY)]
    acme = Acme(tmp_path, *documents[:2], discovery=documents[2])
    acme.public = S3Documents(lambda: s3, bucket)  # type: ignore[assignment]
    acme.now = datetime.now(UTC)
    acme.engine.init()
    acme.engine.tick()
    kinds = {path: s3.head_object(Bucket=bucket, Key=path)["ContentType"] for path in (MAIN.path, DISCOVERY.path)}
    assert kinds == {MAIN.path: "application/jwk-set+json", DISCOVERY.path: "application/json"}
    assert s3.head_object(Bucket=bucket, Key=DISCOVERY.path)["CacheControl"] == POLICY.cache_control
    right = s3.get_object(Bucket=bucket, Key=DISCOVERY.path)["Body"].read()
    s3.put_object(Bucket=bucket, Key=DISCOVERY.path, Body=b"{}", ContentType="text/html")
    acme.now = datetime.now(UTC)
    acme.engine.tick()
    there = s3.get_object(Bucket=bucket, Key=DISCOVERY.path)
    assert (there["Body"].read(), there["ContentType"]) == (right, "application/json")
