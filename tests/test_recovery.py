"""A lost ledger comes back, and no token is rejected for it: named stories, then lives with losses at random."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.engine.recovery import MOST_VERSIONS, Proposal, Recovery, Wanted
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused, RotatorError
from rotator.keys import jwks, material, recovery
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.jwks import is_private
from rotator.keys.keyring import Key, Keyring, Retired, Stage, from_json, to_json
from rotator.keys.plan import Observed, explain
from rotator.keys.policy import KeySet, PublicDocument
from rotator.keys.publication import Seen, project
from rotator.keys.recovery import LEAP, Found, Rebuilt, changes, rebuild, revoke
from rotator.ports import Held, PastVersion
from rotator.simulate.world import Killed, Violation
from tests.world import POLICY, START, Fault, Ports, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEDGER = "acme/ledger.json"
JWKS = PublicDocument("jwks", "acme/jwks.json")
KEYSET = KeySet("acme", POLICY, (JWKS,))

# -- what follows from what is left ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A key as it may be found: named ``name``, with its public half."""

    name: str
    alg: str = "EdDSA"
    kid: str | None = None

    @property
    def spki(self) -> bytes:
        return _spki(self.name, self.alg)

    @property
    def jwk(self) -> jwks.Jwk:
        made = jwks.public_jwk(self.spki, ALGORITHMS[self.alg])
        return made if self.kid is None else {**made, "kid": self.kid}

    def found(self, **facts: Any) -> Found:
        return replace(Found(f"id-{self.name}", self.alg, f"handle-{self.name}", self.spki), **facts)


_MADE: dict[tuple[str, str], bytes] = {}


def _spki(name: str, alg: str) -> bytes:
    if (name, alg) not in _MADE:
        _MADE[name, alg] = material.spki(material.generate(ALGORITHMS[alg], 2048))
    return _MADE[name, alg]


A, B, C = Made("a"), Made("b"), Made("c")
STRANGER = {"kty": "oct-not", "kid": "legacy", "alg": "RS256"}


def shown(*keys: jwks.Jwk, revision: int = 7) -> dict[str, Seen]:
    parsed = jwks.parse(jwks.serialize(keys, revision))
    return {"jwks": Seen(exists=True, jwks=parsed, cache_control=POLICY.cache_control, content_type="a/b")}


def rebuilt(
    documents: dict[str, Seen], pointer: str | None, *found: Found, keyset: KeySet = KEYSET, **further: Any
) -> Rebuilt:
    pointers = dict.fromkeys(ALGORITHMS) | {"EdDSA": pointer}
    return rebuild(keyset, START, documents=documents, pointers=pointers, found=found, ledger_id="new", **further)


def stages(ring: Keyring) -> dict[str, str]:
    return {key.id: str(key.stage) for key in ring.keys}


def told(result: Rebuilt) -> dict[str, str]:
    return {line.key: line.becomes for line in result.lines}


def test_a_key_that_signs_and_is_not_public_is_published_under_the_kid_that_tokens_carry() -> None:
    kubernetes = jwks.kid_of(A.spki, ALGORITHMS["EdDSA"], "spki-sha256")
    made_elsewhere = A.found(id=jwks.adopted_id(A.spki, ALGORITHMS["EdDSA"]))
    # policy.kid may have changed since it was made; a kid that is not the key's own is not believed.
    for found, in_tokens, kid in (
        (A.found(), kubernetes, kubernetes),
        (A.found(), A.jwk["kid"], A.jwk["kid"]),
        (A.found(), "legacy", A.jwk["kid"]),
        (A.found(), None, A.jwk["kid"]),
        (made_elsewhere, "legacy", "legacy"),
        (made_elsewhere, None, A.jwk["kid"]),
    ):
        result = rebuilt(shown(B.jwk), found.id, found, B.found(), in_tokens={"EdDSA": in_tokens} if in_tokens else {})
        (key,) = (key for key in result.ring.keys if key.id == found.id)
        assert (key.kid, key.jwk) == (kid, A.jwk | {"kid": kid})
        assert str(key.stage) == "current"


def test_a_ledger_that_is_lost_after_the_policy_named_kids_anew_is_rebuilt_with_the_kid_that_issuers_use() -> None:
    world = a_world_in_mid_life()
    current = world.kid(Stage.CURRENT)
    parsed = jwks.parse(world.documents["acme/jwks.json"][0])
    assert parsed
    world.restore(jwks.serialize([jwk for jwk in parsed.keys if jwk["kid"] != current], 7))
    world.configure(replace(world.policy, kid="spki-sha256"))
    world.lose()
    proposal = world.recovery(Left).propose()
    assert proposal
    assert {line.key: line.becomes for line in proposal.lines}[current] == "current"
    world.recovery(Left).write(proposal)
    world.tick()
    assert current in world.public_kids()


def test_the_pointer_says_which_key_is_current_and_every_other_may_have_signed_until_now() -> None:
    result = rebuilt(shown(A.jwk, B.jwk), "id-a", A.found(), B.found())
    assert stages(result.ring) == {"id-a": "current", "id-b": "previous"}
    a, b = result.ring.keys
    assert b.superseded_at == START
    assert (b.signer_lag, b.token_lifetime, b.verifier_leeway) == (
        POLICY.signer_lag,
        POLICY.token_lifetime,
        POLICY.verifier_leeway,
    )
    assert b.fence_due
    assert not a.fence_due
    # A discovery document lists the algorithms of keys that were seen, whatever stage they are in.
    assert a.published == b.published == {"jwks": START}
    assert [key.jwk for key in (a, b)] == [A.jwk, B.jwk]
    assert from_json(to_json(result.ring), "acme") == result.ring


def test_no_new_key_is_promoted_without_its_gate() -> None:
    ring = rebuilt(shown(A.jwk), "id-a", A.found()).ring
    assert ring.founded_at == START
    assert not any(key.founding for key in ring.keys)
    assert ring.documents["jwks"].served[0].until is None


def test_copies_that_went_out_with_other_headers_are_waited_for() -> None:
    documents = {"jwks": replace(shown(A.jwk)["jwks"], cache_control="max-age=999999")}
    served = rebuilt(documents, "id-a", A.found()).ring.documents["jwks"]
    assert [entry.cache_control for entry in served.served] == [POLICY.cache_control, "max-age=999999"]
    assert served.cache_control == POLICY.cache_control


def test_a_key_is_next_only_where_it_is_proven_that_it_never_signed() -> None:
    result = rebuilt(shown(A.jwk), None, A.found(unsigned=True))
    (key,) = result.ring.keys
    assert (key.stage, key.standby, key.published) == (Stage.PENDING, True, {})
    assert told(result) == {A.jwk["kid"]: "next"}


def test_a_published_key_without_a_private_half_stays_as_a_foreign_one() -> None:
    result = rebuilt(shown(A.jwk, B.jwk, STRANGER), "id-a", A.found())
    assert told(result) == {A.jwk["kid"]: "current", B.jwk["kid"]: "foreign", "legacy": "foreign"}
    assert result.ring.spent_kids() == set()


def test_a_key_that_is_not_public_is_not_taken_in() -> None:
    result = rebuilt(shown(A.jwk), "id-a", A.found(), B.found())
    assert stages(result.ring) == {"id-a": "current"}
    assert told(result)["handle-b"] == "left out"


def test_a_key_that_signs_and_is_not_public_will_be_published() -> None:
    result = rebuilt(shown(B.jwk), "id-a", A.found(), B.found())
    assert stages(result.ring) == {"id-a": "current", "id-b": "previous"}
    assert result.ring.keys[0].forced
    assert "verifiers reject its tokens" in result.warnings[0]


def test_where_no_pointer_is_left_it_says_what_that_costs() -> None:
    result = rebuilt(shown(A.jwk), None, A.found())
    assert stages(result.ring) == {"id-a": "previous"}
    assert "The pointer names no EdDSA key" in result.warnings[0]
    assert rebuilt(shown(A.jwk), None, A.found(unsigned=True)).warnings == ()
    assert rebuilt(shown(A.jwk, B.jwk), "id-a", A.found(), B.found()).warnings == ()


def test_where_the_pointer_names_a_key_that_is_gone_nothing_signs() -> None:
    result = rebuilt(shown(A.jwk), "id-lost", A.found())
    assert stages(result.ring) == {"id-a": "previous"}
    assert "does not hold" in result.warnings[0]
    explain(replace(result.ring, revision=8), KEYSET, Observed({"EdDSA": "id-lost"}, shown(A.jwk)))


def test_an_algorithm_that_left_the_configuration_is_found_by_its_pointer_and_its_keys() -> None:
    old, older = Made("r", "ES256"), Made("s", "ES256")
    pointers = dict.fromkeys(ALGORITHMS) | {"EdDSA": "id-a", "ES256": "id-r"}
    result = rebuild(
        KEYSET,
        START,
        documents=shown(A.jwk, old.jwk, older.jwk),
        pointers=pointers,
        found=[A.found(), older.found(), old.found()],
        ledger_id="new",
    )
    assert stages(result.ring) == {"id-a": "current", "id-r": "current", "id-s": "previous"}
    assert [key.id for key in result.ring.keys if key.fence_due] == ["id-s"]


def test_a_store_that_does_not_know_the_algorithm_leaves_it_to_pointer_and_document() -> None:
    result = rebuilt(shown(A.jwk, B.jwk), "id-a", A.found(alg=None), B.found(alg=None))
    assert stages(result.ring) == {"id-a": "current", "id-b": "previous"}
    nameless = {name: value for name, value in B.jwk.items() if name != "alg"}
    assert stages(rebuilt(shown(A.jwk, nameless), "id-a", A.found(), B.found(alg=None)).ring) == {"id-a": "current"}


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"x": "AAAA"}, id="other members"),
        pytest.param({"x": 5}, id="a member that is no text"),
        pytest.param({"alg": "ES256"}, id="another algorithm"),
        pytest.param({"kty": "EC"}, id="another kind"),
    ],
)
def test_a_published_key_that_only_has_the_kid_of_a_found_one_is_not_it(lie: dict[str, Any]) -> None:
    result = rebuilt(shown(A.jwk, {**B.jwk, **lie}), "id-a", A.found(), B.found())
    assert stages(result.ring) == {"id-a": "current"}
    assert told(result)["handle-b"] == "left out"


def test_a_key_of_another_kind_than_its_place_in_the_store_says_is_left_out() -> None:
    misplaced = Found("id-b", "ES256", "handle-b", B.spki)
    for jwk in (B.jwk, {**B.jwk, "alg": "ES256"}):
        assert stages(rebuilt(shown(A.jwk, jwk), "id-a", A.found(), misplaced).ring) == {"id-a": "current"}


def test_a_key_that_was_made_elsewhere_keeps_its_kid_and_its_members() -> None:
    taken = Made("t", kid="legacy-2019")
    id_ = jwks.adopted_id(taken.spki, ALGORITHMS["EdDSA"])
    padded = {**taken.jwk, "x": f"{taken.jwk['x']}="}
    (key,) = rebuilt(shown(padded), id_, taken.found(id=id_)).ring.keys
    assert (key.kid, key.jwk, key.stage, key.adopted) == ("legacy-2019", padded, Stage.CURRENT, True)


def test_of_two_published_kids_of_one_key_the_derived_one_is_ours() -> None:
    twice = Made("a", kid="alias")
    result = rebuilt(shown(twice.jwk, A.jwk), "id-a", A.found())
    assert told(result) == {A.jwk["kid"]: "current", "alias": "foreign"}


def test_of_two_copies_of_one_key_the_one_that_issuers_follow_is_taken() -> None:
    result = rebuilt(shown(A.jwk), "id-a", A.found(id="id-copy", handle="copy"), A.found())
    assert stages(result.ring) == {"id-a": "current"}
    assert told(result) == {A.jwk["kid"]: "current", "copy": "left out"}
    assert not result.ring.keys[0].forced
    assert result.warnings == ()


def test_private_members_of_a_published_key_never_enter_the_ledger() -> None:
    result = rebuilt(shown({**A.jwk, "d": "secret"}, {"kty": "oct", "k": "secret", "kid": "o"}), "id-a", A.found())
    assert result.ring.keys[0].jwk == A.jwk
    assert b"secret" not in to_json(result.ring)


def test_age_is_what_the_store_knows_of_it_and_never_in_the_future() -> None:
    ring = rebuilt(
        shown(A.jwk, B.jwk), "id-a", A.found(created_at=START - 9 * DAY), B.found(created_at=START + DAY)
    ).ring
    assert [key.created_at for key in ring.keys] == [START - 9 * DAY, START]
    assert ring.keys[0].activated_at == START - 9 * DAY
    assert ring.newest_fact() == START


def test_the_upkeep_goes_on_finding_keys_of_the_lost_ledger() -> None:
    assert rebuilt(shown(A.jwk), "id-a", A.found()).ring.ledger_id == "new"
    assert rebuilt(shown(A.jwk), "id-a", A.found(ledger_id="lost"), B.found(ledger_id="x")).ring.ledger_id == "lost"


def test_a_revoked_kid_never_comes_back() -> None:
    result = rebuilt(shown(A.jwk, B.jwk, STRANGER), "id-a", A.found(), B.found(), revoked=[B.jwk["kid"], "legacy", "z"])
    assert stages(result.ring) == {"id-a": "current", "id-b": "revoked"}
    assert result.ring.spent_kids() >= {B.jwk["kid"], "legacy", "z"}
    assert result.ring.documents["jwks"].invalidate_due
    assert told(result) == {
        A.jwk["kid"]: "current",
        B.jwk["kid"]: "revoked",
        "legacy": "remembered",
        "z": "remembered",
    }


def test_a_revoke_of_the_current_key_lets_the_next_one_sign_as_soon_as_it_is_seen() -> None:
    ring = rebuilt(shown(A.jwk), "id-a", A.found(), revoked=[A.jwk["kid"]]).ring
    assert stages(ring) == {"id-a": "revoked"}
    assert ring.succession("EdDSA").forced_at


def an_older_ledger() -> Keyring:
    """One in which a signs, b is next, and much is remembered."""
    made = {"alg": "EdDSA", "intended_at": START - 40 * DAY, "attempt": "n", "attempted_at": START - 40 * DAY}
    a = Key(
        id="id-a",
        created_at=START - 40 * DAY,
        kid=A.jwk["kid"],
        jwk=A.jwk,
        handle="handle-a",
        activated_at=START - 30 * DAY,
        token_lifetime=9 * HOUR,
        **made,  # type: ignore[arg-type]
    )
    b = replace(a, id="id-b", kid=B.jwk["kid"], jwk=B.jwk, handle="handle-b", activated_at=None)
    unmade = Key(id="id-u", **made)  # type: ignore[arg-type]
    revoked = replace(b, id="id-c", kid=C.jwk["kid"], jwk=C.jwk, revoked_at=START - 20 * DAY)
    return Keyring(
        keyset="acme",
        ledger_id="lost",
        created_at=START - 50 * DAY,
        revision=5,
        keys=(a, b, unmade, revoked),
        retired=(
            Retired("id-x", "kid-x", "EdDSA", START - 45 * DAY),
            Retired("id-y", "kid-y", "EdDSA", START - 45 * DAY, revoked=True),
        ),
        dropped={"stranger": START - 44 * DAY},
    )


def test_an_older_ledger_remembers_what_must_never_come_back_and_what_was_promised() -> None:
    result = rebuilt(shown(A.jwk), "id-a", A.found(), older=an_older_ledger())
    ring = result.ring
    assert (ring.ledger_id, ring.created_at) == ("lost", START - 50 * DAY)
    assert ring.spent_kids() == {"kid-x", "kid-y", "stranger", B.jwk["kid"], C.jwk["kid"]}
    assert ring.remembers("id-x")
    assert {gone.kid for gone in ring.retired if gone.revoked} == {"kid-y", C.jwk["kid"]}
    (key,) = ring.keys
    assert key.activated_at == START - 30 * DAY
    assert (key.token_lifetime, key.signer_lag) == (9 * HOUR, POLICY.signer_lag)


def test_what_an_older_ledger_revoked_is_revoked_though_it_is_still_public() -> None:
    ring = rebuilt(shown(A.jwk, C.jwk), "id-a", A.found(), C.found(), older=an_older_ledger()).ring
    assert stages(ring) == {"id-a": "current", "id-c": "revoked"}


def test_a_published_key_is_kept_though_an_older_ledger_calls_it_retired() -> None:
    legend = Made("x", kid="kid-x")
    ring = rebuilt(shown(A.jwk, legend.jwk), "id-a", A.found(), older=an_older_ledger()).ring
    assert "kid-x" not in ring.spent_kids()


def test_a_key_that_left_the_older_ledger_before_is_not_revoked_twice() -> None:
    ring = revoke(
        Keyring(
            "acme", "l", START, keys=(replace(an_older_ledger().keys[0], withdrawn_at=START, superseded_at=START),)
        ),
        KEYSET,
        [A.jwk["kid"]],
        START,
    )
    assert ring.keys[0].revoked_at is None
    assert [(gone.kid, gone.revoked) for gone in ring.retired] == [(A.jwk["kid"], True)]


def test_differences_are_told_in_words() -> None:
    before = an_older_ledger()
    after = rebuilt(shown(B.jwk, STRANGER), "id-b", B.found(), older=before).ring
    said = "\n".join(changes(replace(before, keys=(*before.keys,)), after))
    assert f"{B.jwk['kid']}: pending before, now current" in said
    assert f"{A.jwk['kid']}: current before, remembered as gone" in said
    assert "(intent id-u): pending before, forgotten: it was never made" in said
    assert f"{A.jwk['kid']}: unknown before, now current" in "\n".join(
        changes(after, rebuilt(shown(A.jwk), "id-a", A.found()).ring)
    )
    kept = rebuilt(shown(A.jwk, B.jwk), "id-b", B.found(), older=before).ring
    assert f"{A.jwk['kid']}: current before, foreign now" in "\n".join(changes(before, kept))


def test_without_a_public_document_nobody_knows_whom_verifiers_trust() -> None:
    nothing = {"jwks": Seen()}
    with pytest.raises(Refused, match="the public document is missing"):
        rebuilt(nothing, "id-a", A.found())
    with pytest.raises(Refused, match="is not a JWKS"):
        rebuilt({"jwks": Seen(exists=True)}, None, A.found())
    assert rebuilt(nothing, None, A.found()).ring.keys == ()
    # A person says so by an empty set.
    assert stages(rebuilt(shown(), "id-a", A.found()).ring) == {"id-a": "current"}


def test_of_several_documents_each_key_counts_as_known_where_its_algorithm_is_shown() -> None:
    view = PublicDocument("view", "acme/view.json", algorithms=frozenset({"ES256"}))
    keyset = KeySet("acme", POLICY, (JWKS, view))
    es = Made("r", "ES256")
    documents = {**shown(A.jwk, es.jwk), "view": Seen()}
    pointers = {"EdDSA": "id-a", "ES256": "id-r"}
    ring = rebuild(
        keyset, START, documents=documents, pointers=pointers, found=[A.found(), es.found()], ledger_id="new"
    ).ring
    assert {key.alg: set(key.published) for key in ring.keys} == {"EdDSA": {"jwks"}, "ES256": {"jwks", "view"}}


# -- in the simulated world --------------------------------------------------------------------------------------


class Left(Ports):
    """Ports of a key store that can be looked through."""

    def held(self, keyset: str) -> Sequence[Held]:
        def apply() -> list[Held]:
            world = self.world
            made_at = {id_: at for id_, _, at in world.creations}
            return [
                Held(handle, id_, "EdDSA", created_at=made_at[id_])
                for id_, handle in world.handles.items()
                if handle not in world.destroyed | world.discarded
            ]

        return self._do("held", apply)  # type: ignore[no-any-return]

    def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
        return material.spki(self.world.private[held.handle]), None

    def kid_in_tokens(self, keyset: str, algorithm: Any) -> str | None:
        return self.world.kids.get(self.world.pointers[algorithm.alg].id or "")

    world: Lasting


class Kept(Left):
    """And of a ledger whose versions are kept."""

    def versions(self, path: str) -> Iterator[PastVersion]:
        assert path == LEDGER
        past = [PastVersion(str(number), at) for number, (at, _) in enumerate(self.world.past)]
        yield from self._do("versions", lambda: reversed(past))

    def read_version(self, path: str, version: str) -> bytes:
        if not version.isdigit() or int(version) >= len(self.world.past):
            raise Refused(f"there is no version {version}")
        return self._do("read version", lambda: self.world.past[int(version)][1])  # type: ignore[no-any-return]


class Lasting(World):
    """A world that remembers every ledger it had, and checks that no key leaves whose tokens live."""

    kept = False

    def __post_init__(self) -> None:
        self.past: list[tuple[datetime, bytes]] = []
        self.kids: dict[str, str] = {}
        self.given_up: set[str] = set()
        super().__post_init__()

    def _written(self, path: str, body: bytes, headers: Any) -> str:
        if path == LEDGER:
            self.past.append((self.now, body))
            self.kids |= {key.id: key.kid for key in from_json(body, "acme").keys if key.kid}
        return super()._written(path, body, headers)

    def check(self) -> None:
        super().check()
        policy, public = self.policy, self.public_kids()
        for id_, until in self.named_until.items():
            ends = until and until + policy.signer_lag + policy.token_lifetime + policy.verifier_leeway
            if (ends is None or self.now < ends) and self.kids[id_] not in public | self.given_up:
                raise Violation(f"{self.kids[id_]} is not public, but tokens it signed may be alive")

    def recovery(self, ports: type[Ports] = Left) -> Recovery:
        left: Any = (Kept if self.kept and ports is Left else ports)(self, "person")
        return Recovery(
            self.keyset,
            ledger=left,
            public=left,
            keys=left,
            clock=lambda: self.now + self.skew.get("person", timedelta(0)),
            web=left,
            elapsed=self.age,
            nonce=lambda: f"recovery-{next(self.counter):08x}",
            report=self.reports.append,
        )

    def recover(self, **wanted: Any) -> Proposal:
        asked = Wanted(**wanted)
        proposal = self.recovery().propose(asked)
        assert proposal
        ring = self.recovery().write(proposal, asked)
        assert ring == self.ring
        told = self.reports[-1]
        assert (told.step, told.reason) == ("recover", ring.history[-1].reason)
        return proposal

    def lose(self) -> None:
        del self.documents[LEDGER]

    def damage(self, body: bytes = b'{"format": 1, "keyset"') -> None:
        self.documents[LEDGER] = (body, f"v{next(self.counter)}", self.documents[LEDGER][2])

    def bring_back(self, number: int) -> None:
        self.damage(self.past[number][1])


class Remembering(Lasting):
    kept = True


def a_world_in_mid_life(kind: type[Lasting] = Lasting) -> Any:
    """Its second key signs, the first was superseded a moment ago, and the third stands by."""
    if kind not in _LIVED:
        world = kind(policy=replace(POLICY, lifetime=10 * DAY))
        world.init()
        go_on(world, 10 * DAY)
        world.tick()
        assert sorted(world.stages().values()) == ["current", "next", "previous"]
        _LIVED[kind] = world
    return _copied(_LIVED[kind])


_LIVED: dict[type[Lasting], Lasting] = {}


def _copied(world: Lasting) -> Lasting:
    again = object.__new__(type(world))
    shared = {"private": world.private, "counter": itertools.count(100_000), "store_date": lambda: None}
    vars(again).update(
        {name: shared[name] if name in shared else deepcopy(value) for name, value in vars(world).items()}
    )
    return again


def go_on(world: World, span: timedelta) -> None:
    """Tick four times a day for ``span``, and check everything each time."""
    world.run(span, every=6 * HOUR)


def test_a_sound_ledger_is_left_alone() -> None:
    world = a_world_in_mid_life()
    before = world.documents[LEDGER]
    assert world.recovery().propose() is None
    for wanted in (Wanted(rebuild=True), Wanted(copy=before[0]), Wanted(version="3"), Wanted(revoked=("x",))):
        with pytest.raises(Refused, match="the ledger is sound"):
            world.recovery().propose(wanted)
    assert world.documents[LEDGER] == before


def test_a_lost_ledger_is_rebuilt_and_rotation_goes_on() -> None:
    world = a_world_in_mid_life()
    public, signing = world.public_kids(), world.kid(Stage.CURRENT)
    world.lose()
    assert isinstance(world.try_tick(), Refused)
    proposal = world.recover()
    assert proposal.fault == "it is missing"
    assert proposal.source.startswith("rebuilt from")
    assert {line.key: line.becomes for line in proposal.lines} == {
        kid: "current" if kid == signing else "previous" for kid in public
    }
    world.tick()
    assert world.public_kids() > public
    assert world.kid(Stage.CURRENT) == signing
    go_on(world, 30 * DAY)
    assert world.kid(Stage.CURRENT) not in public
    assert world.public_kids().isdisjoint(public)


def test_a_damaged_ledger_is_replaced_and_never_counts_back() -> None:
    world = a_world_in_mid_life()
    revision = world.ring.revision
    torn = world.documents[LEDGER][0]
    world.damage(torn[: torn.index(b'"revision"') + 20])
    proposal = world.recover()
    assert "not readable JSON" in proposal.fault
    assert "Nothing was changed" not in proposal.fault
    assert world.ring.revision == revision + LEAP
    go_on(world, 30 * DAY)


def test_a_ledger_older_than_the_world_is_rebuilt_with_what_it_remembers() -> None:
    world = a_world_in_mid_life()
    before = world.ring
    number = next(n for n, (_, body) in enumerate(world.past) if from_json(body, "acme").revision == 9)
    world.bring_back(number)
    assert isinstance(world.try_tick(), Refused)
    proposal = world.recover()
    assert "the ledger is older than the world" in proposal.fault
    assert any("unknown before" in line for line in proposal.changes)
    assert any("an older ledger (revision 9)" in line for line in proposal.warnings)
    assert world.ring.ledger_id == before.ledger_id
    assert world.ring.revision > before.revision
    go_on(world, 30 * DAY)


def test_a_kept_version_goes_before_a_rebuilt_ledger() -> None:
    world = a_world_in_mid_life(Remembering)
    before = world.ring
    world.lose()
    proposal = world.recover()
    assert (
        proposal.source
        == f"version {len(world.past) - 2} of {world.past[-2][0]:%Y-%m-%d %H:%M:%S}Z, revision {before.revision}"
    )
    assert {line.becomes for line in proposal.lines} == {"current", "next", "previous"}
    assert replace(world.ring, revision=0, writer="", history=()) == replace(before, revision=0, writer="", history=())
    assert world.ring.history[-1].step == "recover"
    assert world.ring.revision == before.revision + LEAP
    go_on(world, 30 * DAY)


def test_of_the_versions_the_one_that_came_furthest_is_taken_and_none_older_than_the_world() -> None:
    world = a_world_in_mid_life(Remembering)
    furthest = world.ring.revision
    # Somebody copied an old version over the newest, and then something broke it.
    for junk in (world.past[2][1], world.past[-2][1], b"", b"<html>", world.past[-1][1][:50]):
        world.past.append((world.now, junk))
    world.damage(b"{}")
    proposal = world.recovery().propose()
    assert proposal
    assert proposal.source.endswith(f"revision {furthest}")
    assert proposal.changes == ()


def test_where_no_version_fits_the_newest_is_asked_what_it_remembers() -> None:
    world = a_world_in_mid_life(Remembering)
    world.past = world.past[:4]
    world.lose()
    proposal = world.recover()
    assert proposal.source.startswith("rebuilt")
    assert any("an older ledger (revision 3)" in line for line in proposal.warnings)


def test_only_so_many_versions_are_read() -> None:
    world = a_world_in_mid_life(Remembering)
    good = world.past[-1]
    world.past += [(world.now, b"junk")] * MOST_VERSIONS
    world.lose()
    proposal = world.recovery().propose()
    assert proposal
    assert proposal.source.startswith("rebuilt")
    world.past = [good] * MOST_VERSIONS
    world.effects.clear()
    assert world.recovery().propose()
    assert world.effects.count("read version") == 11


def test_a_person_may_choose_the_version_or_bring_a_copy() -> None:
    world = a_world_in_mid_life(Remembering)
    copy, number = world.past[-2][1], len(world.past) - 2
    world.lose()
    proposal = world.recovery().propose(Wanted(version=str(number)))
    assert proposal
    assert proposal.source.startswith(f"version {number} of ")
    for bad, why in (("2", "older than the world"), ("none", "there is no version none")):
        with pytest.raises(Refused, match=why):
            world.recovery().propose(Wanted(version=bad))
    for body, why in ((world.past[2][1], "older than the world"), (b"<html>", "not readable JSON")):
        with pytest.raises(Refused, match=why):
            world.recovery().propose(Wanted(copy=body))
    assert world.recover(copy=copy).source.startswith("a copy that was kept of")
    go_on(world, 30 * DAY)


def test_a_version_is_chosen_only_where_versions_are_kept() -> None:
    world = a_world_in_mid_life()
    world.lose()
    with pytest.raises(ConfigurationError, match="keeps no versions"):
        world.recovery().propose(Wanted(version="3"))


def test_a_rebuild_may_be_asked_for_though_a_version_fits() -> None:
    world = a_world_in_mid_life(Remembering)
    retired = world.ring.retired
    world.lose()
    assert world.recover(rebuild=True).source.startswith("rebuilt")
    assert set(world.ring.retired) >= set(retired)


class Denied(Kept):
    def versions(self, path: str) -> Iterator[PastVersion]:
        raise AccessDenied("s3:ListBucketVersions is denied.")


def test_versions_that_may_not_be_read_are_not_missing_ones() -> None:
    world = a_world_in_mid_life(Remembering)
    world.lose()
    with pytest.raises(AccessDenied, match="--rebuild"):
        world.recovery(Denied).propose()
    assert world.recovery(Denied).propose(Wanted(rebuild=True))


class WriteDenied(Kept):
    def replace(self, *_: Any) -> str:
        raise AccessDenied(f"s3:PutObject is denied after {len(self.world.effects)} calls.")

    create = replace  # type: ignore[assignment]


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
def test_a_recovery_that_may_not_write_says_so_and_does_not_look_whether_it_did(*, lost: bool) -> None:
    world = a_world_in_mid_life(Remembering)
    if lost:
        world.lose()
    else:
        world.damage()
    before = world.documents.get(LEDGER)
    person = world.recovery(WriteDenied)
    proposal = person.propose()
    assert proposal
    with pytest.raises(AccessDenied, match="s3:PutObject") as told:
        person.write(proposal)
    assert f"after {len(world.effects)} calls" in str(told.value)
    assert world.documents.get(LEDGER) == before
    assert not world.reports or world.reports[-1].step != "recover"


def test_a_revoke_goes_into_the_same_write_whatever_the_source() -> None:
    for kind in (Lasting, Remembering):
        world = a_world_in_mid_life(kind)
        leaked = world.kid(Stage.CURRENT)
        world.given_up.add(leaked)
        world.lose()
        world.recover(revoked=(leaked,))
        key = world.ring.by_kid(leaked)
        assert key
        assert key.stage is Stage.REVOKED
        world.tick()
        assert leaked not in world.public_kids()
        go_on(world, 10 * DAY)
        assert world.kid(Stage.CURRENT) != leaked


def test_the_wrong_key_store_is_no_reason_to_forget_every_key() -> None:
    world = a_world_in_mid_life()
    world.lose()
    world.handles.clear()
    world.pointers.clear()
    with pytest.raises(Refused, match=r"is stores\.keys right"):
        world.recovery().propose()
    public = world.public_kids()
    proposal = world.recover(rebuild=True)
    assert {line.becomes for line in proposal.lines} == {"foreign"}
    world.given_up |= public
    world.named_until.clear()
    world.tick()
    assert world.public_kids() > public


def test_a_key_store_that_cannot_be_looked_through_rebuilds_nothing() -> None:
    world = a_world_in_mid_life()
    world.lose()
    with pytest.raises(Refused, match="cannot be looked through"):
        world.recovery(Ports).propose()


def test_a_newer_ledger_or_that_of_another_key_set_is_not_replaced() -> None:
    world = a_world_in_mid_life(Remembering)
    good = world.documents[LEDGER][0]
    for bad, why in (
        (good.replace(b'"format": 1', b'"format": 9'), "Upgrade rotator"),
        (good.replace(b'"keyset": "acme"', b'"keyset": "globex"'), "belongs to key set"),
    ):
        world.damage(bad)
        with pytest.raises(Refused, match=why):
            world.recovery().propose()


def test_a_clock_that_is_wrong_recovers_nothing() -> None:
    world = a_world_in_mid_life(Remembering)
    for hours in (-48, 48):
        world.skew["person"] = timedelta(hours=hours)
        world.store_date = lambda: world.now
        with pytest.raises(Refused, match="clock"):
            world.recovery().propose()
        world.store_date = lambda: None
    world.skew["person"] = timedelta(hours=-48)
    with pytest.raises(Refused, match="more than 2 × clock_skew"):
        world.recovery().propose()
    world.lose()
    with pytest.raises(Refused, match="more than 2 × clock_skew"):
        world.recovery().propose()


def test_a_ledger_from_before_the_key_was_made_is_not_put_to_work() -> None:
    """Every key that it knows is gone from public by now: the document looks like a stranger's, but not the pointer."""
    world = a_world_in_mid_life()
    go_on(world, 10 * DAY + 12 * HOUR)
    signing = world.ring.current("EdDSA")
    assert signing
    rings = [from_json(body, "acme") for _, body in world.past]
    number = next(n for n, ring in enumerate(rings) if (key := ring.key(signing.id)) and not key.created_at)
    assert world.public_kids().isdisjoint(rings[number].kids())
    world.bring_back(number)
    public = world.public_kids()
    with pytest.raises(Refused, match="has yet to make: the ledger is older than the world"):
        world.tick()
    assert world.public_kids() == public
    world.recover()
    assert world.kid(Stage.CURRENT) == signing.kid
    go_on(world, 20 * DAY)


def test_a_document_whose_revision_no_ledger_reaches_is_refused() -> None:
    world = a_world_in_mid_life()
    world.lose()
    parsed = jwks.parse(world.documents["acme/jwks.json"][0])
    assert parsed
    world.restore(jwks.serialize(parsed.keys, 10**12))
    assert world.recover()
    assert world.ring.revision == 10**12 + LEAP


def test_nothing_is_written_where_the_world_moved_since_it_was_shown() -> None:
    world = a_world_in_mid_life()
    world.lose()
    proposal = world.recovery().propose()
    assert proposal
    stray = next(id_ for id_, stage in _stages_of(world).items() if stage == "next")
    world.move_pointer_by_hand("EdDSA", stray)
    with pytest.raises(Conflict, match="something changed"):
        world.recovery().write(proposal)
    assert LEDGER not in world.documents


def _stages_of(world: Lasting) -> dict[str, str]:
    return {key.id: str(key.stage) for key in from_json(world.past[-1][1], "acme").keys}


def test_where_somebody_else_recovered_first_nothing_is_written() -> None:
    world = a_world_in_mid_life()
    world.lose()
    proposal = world.recovery().propose()
    assert proposal
    world.recover()
    recovered = world.documents[LEDGER]
    with pytest.raises(Conflict, match="something changed"):
        world.recovery().write(proposal)
    assert world.documents[LEDGER] == recovered


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("how", ["lost", "applied", "kill-before", "kill-after"])
def test_a_recovery_that_fails_at_any_effect_leaves_the_old_or_the_new_ledger(how: str, damaged: bool) -> None:
    for at in itertools.count():
        world = a_world_in_mid_life()
        if damaged:
            world.damage()
        else:
            world.lose()
        standing = world.documents.get(LEDGER)
        proposal = world.recovery().propose()
        assert proposal
        world.fault, world.armed_at = Fault(how, at), len(world.effects)
        with suppress(RotatorError, Killed):
            world.recovery().write(proposal)
        if world.fault is not None:
            break
        if world.documents.get(LEDGER) == standing:
            world.recover()
        world.tick()
    assert at > 10


def a_promotion_that_stalls_while(world: Lasting, others: Callable[[], Any]) -> None:
    """Worker a recorded a promotion and is about to move the pointer; before it does, ``others`` have their turn."""

    def choose(names: list[str]) -> str:
        proved = world.effects[-1:] == ["keys.sign"] and "person" in names
        return "person" if proved else names[0]

    def person() -> None:
        world.turns, turns = None, world.turns
        others()
        world.turns = turns

    turns = Turns(world, random.Random(0), lambda _: timedelta(0))
    turns.run({"a": lambda: world.engine("a").tick(), "person": person}, choose)


def rebuilt_and_gone_on(world: Lasting) -> None:
    """The ledger that knew of the promotion is lost; after the rebuild the key it was about leaves."""
    world.lose()
    world.recover()
    # Not long enough for another promotion, which would move the pointer and so fail the stalled one.
    go_on(world, DAY)


def test_a_worker_that_stalled_in_a_promotion_is_fenced() -> None:
    world = a_world_in_mid_life()
    world.advance(10 * DAY)
    signing = world.kid(Stage.CURRENT)
    a_promotion_that_stalls_while(world, lambda: rebuilt_and_gone_on(world))
    assert world.effects.index("fence") < len(world.effects) - 1 - world.effects[::-1].index("move pointer")
    assert world.kid(Stage.CURRENT) == signing
    assert world.pointers["EdDSA"].id == world.ring.by_kid(signing).id
    go_on(world, 20 * DAY)


def test_without_the_fence_it_leads_issuers_to_a_key_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_fenced", lambda ring: ring)
    world = a_world_in_mid_life()
    world.advance(10 * DAY)
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        a_promotion_that_stalls_while(world, lambda: rebuilt_and_gone_on(world))


def test_without_counting_keys_as_having_signed_until_now_tokens_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = recovery.rebuild

    def trusting(keyset: KeySet, now: datetime, **left: Any) -> Rebuilt:
        built = honest(keyset, now, **left)
        ids = [key.id for key in built.ring.keys if key.superseded_at]
        long_ago = built.ring.with_keys(ids, lambda key: replace(key, superseded_at=now - 9 * DAY))
        return replace(built, ring=long_ago)

    monkeypatch.setattr(recovery, "rebuild", trusting)
    world = a_world_in_mid_life()
    world.lose()
    world.recover()
    with pytest.raises(Violation, match="was disabled while issuers may sign with it"):
        world.tick()


def test_a_rebuilt_ledger_that_could_skip_a_gate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = recovery.rebuild

    def hasty(keyset: KeySet, now: datetime, **left: Any) -> Rebuilt:
        built = honest(keyset, now, **left)
        return replace(built, ring=replace(built.ring, founded_at=None))

    monkeypatch.setattr(recovery, "rebuild", hasty)
    world = a_world_in_mid_life()
    world.lose()
    with pytest.raises(Refused, match="a public document that this ledger never wrote"):
        world.recover()


def test_a_pointer_that_nobody_can_read_is_followed_by_nobody() -> None:
    class Deleted(Left):
        def read_pointer(self, keyset: str, algorithm: Any) -> Any:
            if algorithm.alg in gone:
                raise ConfigurationError("the secret is scheduled for deletion")
            return super().read_pointer(keyset, algorithm)

    world = a_world_in_mid_life()
    world.lose()
    gone = {"RS256", "ES512"}
    assert world.recovery(Deleted).propose()
    gone = {"EdDSA"}
    with pytest.raises(ConfigurationError, match="scheduled for deletion"):
        world.recovery(Deleted).propose()


def test_a_key_whose_public_half_the_store_will_not_tell_stays_public_as_a_foreign_one() -> None:
    class Silent(Left):
        def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
            spki, made_at = super().public_half(keyset, held)
            return (None if held.id == quiet else spki), made_at

    world = a_world_in_mid_life()
    old = next(key for key in world.ring.keys if key.stage is Stage.PREVIOUS)
    quiet = old.id
    world.lose()
    proposal = world.recovery(Silent).propose()
    assert proposal
    assert {line.key: line.becomes for line in proposal.lines}[old.kid or ""] == "foreign"
    world.recovery(Silent).write(proposal)
    world.tick()
    assert old.kid in world.public_kids()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
ODD_KEYS = st.lists(
    st.builds(
        lambda base, odd: {**base, **odd},
        st.sampled_from([{}, A.jwk, B.jwk, C.jwk]),
        st.dictionaries(st.sampled_from(["kid", "kty", "alg", "x", "crv", "d", "k", "use", "n"]), JSON, max_size=3),
    ),
    max_size=5,
)


@given(ODD_KEYS, st.integers(), st.sampled_from([None, "id-a", "id-x"]))
def test_whatever_stands_in_public_a_rebuilt_ledger_is_sound_and_lets_no_key_go(
    keys: list[jwks.Jwk], revision: int, pointer: str | None
) -> None:
    documents = shown(*keys, revision=revision)
    result = rebuilt(documents, pointer, A.found(), B.found(), C.found())
    ring = replace(result.ring, revision=max(0, revision) + 1)
    assert from_json(to_json(ring), "acme") == ring
    explain(ring, KEYSET, Observed({"EdDSA": pointer}, documents))
    seen = documents["jwks"]
    kept = {kid for jwk in project(ring, JWKS, seen) if isinstance(kid := jwk.get("kid"), str)}
    public = {jwk["kid"] for jwk in keys if isinstance(jwk.get("kid"), str) and jwk.get("kty") != "oct"}
    assert public <= kept
    assert not any(is_private(jwk) for jwk in project(ring, JWKS, seen))


@pytest.mark.parametrize("kind", [Lasting, Remembering])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 12))])
@pytest.mark.no_cover
def test_a_life_with_losses_rejects_no_token(seed: int, kind: type[Lasting]) -> None:
    rng = random.Random(seed)
    policy = replace(POLICY, lifetime=3 * DAY, token_lifetime=timedelta(hours=rng.choice([1, 30])))
    world = kind(policy=policy, seed=seed)
    world.init()
    world.tick()
    for _ in range(4):
        _run_roughly(world, rng, rng.uniform(0.1, 5) * DAY)
        loss = rng.choice(["lose", "damage", "old"])
        if loss == "lose":
            world.lose()
        elif loss == "damage":
            world.damage(world.past[-1][1][: rng.randrange(len(world.past[-1][1]) - 2)])
        else:
            world.bring_back(rng.randrange(len(world.past)))
        for worker in "ab":
            # Whatever they do, they do not make it worse.
            with suppress(RotatorError):
                world.engine(worker).tick()
        world.advance(timedelta(minutes=rng.uniform(0, 3_000)))
        proposal = world.recovery().propose(Wanted())
        if proposal:
            public = world.public_kids()
            world.recovery().write(proposal)
            shown = {line.key for line in proposal.lines if line.becomes not in {"left out", "remembered"}}
            assert public <= shown or not proposal.source.startswith("rebuilt")
        world.tick()
    go_on(world, 12 * DAY)
    assert not world.ring.trouble


def _run_roughly(world: Lasting, rng: random.Random, span: timedelta) -> None:
    """Two workers tick beside each other, and are killed or fail now and then."""
    end = world.now + span
    while world.now < end:
        if rng.random() < 0.4:
            world.arm(rng.choice(["lost", "applied", "kill-before", "kill-after"]), rng.randrange(20))
        world.try_tick(rng.choice("ab"))
        world.fault = None
        world.advance(timedelta(minutes=rng.uniform(1, 300)))
