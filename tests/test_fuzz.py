"""Bad input everywhere a stranger, a torn write or an old tool can put it: a sentence and an exit code, never a
traceback; a ledger that is none is not written; a public document that is none is put right.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rotator.cli import app as commands
from rotator.errors import ConfigurationError, Refused, RotatorError
from rotator.keys import jwks
from rotator.keys.algorithms import algorithm
from rotator.keys.keyring import Stage
from rotator.keys.policy import parse_duration, text
from rotator.ports import LARGEST, Fetched
from rotator.settings import Configuration
from tests.world import POLICY, Ports, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAY = timedelta(days=1)
FAST = replace(POLICY, lifetime=4 * DAY)
URL = "https://auth.example.com/jwks.json"
LEDGER, PUBLIC = "acme/ledger.json", "acme/jwks.json"
DEEP = 100_000

#: Bodies that are no document of ours whatever they are put in the place of.
ODD: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\r\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "a byte order mark of UTF-16": '{"keys": []}'.encode("utf-16"),
    "invalid UTF-8": b'{"keys": [{"kid": "\xff\xfe\xc0\x80"}]}',
    "NUL bytes": b"\0" * 1000,
    "HTML": b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "nested lists": b"[" * DEEP,
    "nested lists that end": b"[" * DEEP + b"]" * DEEP,
    "nested tables": b'{"keys":' * DEEP + b"1" + b"}" * DEEP,
    "nested deep inside": b'{"format": 1, "keyset": "acme", "keys": ' + b"[" * 900 + b"]" * 900 + b"}",
    "null": b"null",
    "a number": b"1e999999",
    "a huge whole number": b"9" * 10_000,
    "a huge format": b'{"format": ' + b"9" * 10_000 + b', "keyset": "acme"}',
    "a text": b'"' + b"x" * 100_000 + b'"',
    "a lone surrogate": b'{"format": 1, "keyset": "\\ud800", "keys": [{"kid": "\\udfff"}]}',
    "not a number": b'{"format": NaN, "keys": NaN}',
    "endless": b'{"format": Infinity, "keys": [Infinity, -Infinity]}',
    "two names": b'{"format": 1, "format": 1, "keyset": "acme", "keys": [], "keys": []}',
    "another member": b'{"format": 1, "keyset": "acme", "\\ud800": 1}',
    "two documents": b'{"keys": []}{"keys": []}',
    "megabytes": b'{"keys": [' + b'{"kty": "oct"},' * 100_000 + b"{}]}",
    "more than is read": b'"' + b"x" * (LARGEST + 100),
}

NO_TEXT: tuple[Any, ...] = (None, 1, 1.5, [], {}, True)

#: Sets that are JSON, and hold what no verifier should meet.
ODD_KEYS: dict[str, list[Any]] = {
    "of no kind": [None, 1, "kid", [], [[]], True],
    "with kids that are no text": [{"kty": "RSA", "kid": kid} for kid in NO_TEXT],
    "with surrogates": [{"kty": "OKP", "kid": "\ud800", "x": "\udfff"}],
    "with private members": [{"kty": "RSA", "kid": "p", "d": "c2VjcmV0", "p": 1, "oth": []}],
    "symmetric": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}],
    "twice": [{"kty": "EC", "kid": "twice", "x": n} for n in range(3)],
    "with deep members": [{"kty": "EC", "kid": "deep", "x": json.loads("[" * 400 + "]" * 400)}],
    "with huge numbers": [{"kty": "EC", "kid": "n", "x": 10**4000, "y": -1e308}],
    "that steer a terminal": [{"kty": "EC", "kid": "\x1b[2J\r\n" + "x" * 5_000}],
    "in great number": [{"kty": "EC", "kid": f"many-{n}"} for n in range(50)],
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class Tolerant(World):
    """A world that does not mind strangers without a kid beside our keys."""

    def check_written(self, kids: set[str], length: int) -> None:
        super().check_written(kids, min(length, len(kids)))


def short(exc: Exception) -> None:
    assert 10 < len(str(exc)) < 2_000


def founded(**kwargs: Any) -> World:
    world = Tolerant(policy=FAST, **kwargs)
    world.init()
    world.tick()
    return world


@pytest.fixture(scope="module")
def there() -> World:
    """A world in use, to take documents from; nobody may change it."""
    return founded()


def put(world: World, path: str, body: bytes) -> None:
    world.documents[path] = (body, f"fuzz-{next(world.counter)}", world.documents[path][2])


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0.5,
    1e308,
    "",
    "\ud800",
    "2026-13-45T99:00:00Z",
    [],
    {},
    [[]],
    {"": []},
    10**400,
)


def mutations(value: Any) -> Iterator[Any]:
    """``value`` with each of its parts, one at a time, left out or made into something of another type."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, part in list(parts):
        shorter = {name: each for name, each in value.items() if name != at} if isinstance(value, dict) else None
        yield value[:at] + value[at + 1 :] if shorter is None else shorter
        for other in (*WRONG, *mutations(part)):
            yield {**value, at: other} if isinstance(value, dict) else [*value[:at], other, *value[at + 1 :]]


# -- the ledger --------------------------------------------------------------------------------------------------


def refused(world: World, body: bytes) -> None:
    """No tick, no look, no request does anything but refuse; nothing at all is written."""
    put(world, LEDGER, body)
    before, effects = dict(world.documents), len(world.effects)
    engine = world.engine()
    asked: tuple[Callable[[], object], ...] = (
        engine.tick,
        engine.look,
        partial(engine.revoke, "kid", "x"),
        partial(engine.blast_radius, "kid"),
        engine.init,
    )
    for ask in asked:
        with pytest.raises(Refused) as told:
            ask()
        assert "Nothing was changed" in str(told.value)
        assert len(str(told.value)) < 500
    assert world.documents == before
    assert not [effect for effect in world.effects[effects:] if not effect.startswith("read")]


@pytest.mark.parametrize("odd", ODD)
def test_a_ledger_that_is_none_is_refused_and_never_written(odd: str) -> None:
    refused(founded(), ODD[odd])


def test_a_ledger_torn_at_any_byte_is_refused_and_never_written() -> None:
    world = founded()
    whole = world.documents[LEDGER][0]
    for end in range(0, len(whole) - 2, 97):
        refused(world, whole[:end])


def test_a_ledger_with_a_wrong_value_anywhere_is_refused_or_a_ledger(there: World) -> None:
    whole = json.loads(there.documents[LEDGER][0])
    world, taken, mutants = founded(), 0, list(mutations(whole))
    for mutant in mutants:
        put(world, LEDGER, json.dumps(mutant).encode())
        before = dict(world.documents)
        try:
            world.engine().look()
            taken += 1
        except RotatorError as exc:
            short(exc)
        assert world.documents == before
    assert len(mutants) > 1_000
    # What is left out, or empty, may never have happened; of all else next to nothing looks like a fact.
    assert taken < len(mutants) / 4


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"format":1,"keyset":"acme"}')
def test_any_bytes_in_the_place_of_the_ledger_are_refused(body: bytes) -> None:
    refused(WORLD, body)


WORLD = founded()


# -- the public document at the origin ---------------------------------------------------------------------------


def put_right(world: World, body: bytes) -> None:
    kids = {key.kid for key in world.ring.keys if key.public}
    world.restore(body)
    world.tick()
    parsed = jwks.parse(world.documents[PUBLIC][0])
    assert parsed
    assert kids <= parsed.kids()
    assert not any(map(jwks.is_private, parsed.keys))
    assert world.engine().look().plan.step is None, "and that is the end of it"


@pytest.mark.parametrize("odd", ODD)
def test_what_somebody_puts_in_the_place_of_the_public_document_is_put_right(odd: str) -> None:
    put_right(founded(), ODD[odd])


@pytest.mark.parametrize("odd", ODD_KEYS)
@pytest.mark.parametrize("beside", [True, False], ids=["beside ours", "instead of ours"])
def test_odd_keys_in_the_public_document_do_no_harm(odd: str, beside: bool) -> None:
    world = founded()
    ours = json.loads(world.documents[PUBLIC][0])
    body = json.dumps(ours | {"keys": (ours["keys"] if beside else []) + ODD_KEYS[odd]}).encode()
    world.restore(body)
    if len(ODD_KEYS[odd]) < 10:
        put_right(world, body)
        return
    # Strangers filled it: our keys that may have signed come back, whatever room there is.
    world.engine().tick()
    assert world.kid(Stage.CURRENT) in world.public_kids()


def test_a_public_document_torn_at_any_byte_is_put_right() -> None:
    world = founded()
    whole = world.documents[PUBLIC][0]
    for end in range(0, len(whole) - 2, 61):
        put_right(world, whole[:end])


def test_a_public_document_with_a_wrong_value_anywhere_is_put_right() -> None:
    world = founded()
    whole = json.loads(world.documents[PUBLIC][0])
    for mutant in list(mutations(whole))[::7]:
        body = json.dumps(mutant).encode()
        revision = mutant.get("rotator_revision") if isinstance(mutant, dict) else None
        if type(revision) is int and revision > world.ring.revision:
            # It says that it was made from a later ledger: that is for a person to judge.
            world.restore(body)
            with pytest.raises(Refused, match="older than the world"):
                world.engine().tick()
            world.restore(whole_of(world))
            continue
        put_right(world, body)


def whole_of(world: World) -> bytes:
    return jwks.serialize([key.jwk for key in world.ring.keys if key.public and key.jwk], 0)


@given(body=st.binary(max_size=200) | st.builds(lambda keys: json.dumps({"keys": keys}).encode(), JSON))
def test_any_bytes_in_the_place_of_the_public_document_are_put_right(body: bytes) -> None:
    put_right(WORLD_IN_USE, body)


WORLD_IN_USE = founded()


# -- what the public URL serves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_no_key_signs_while_the_public_url_serves_something_else(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = founded(urls=(URL,))
    world.advance(5 * DAY)
    before = world.pointers["EdDSA"]
    with monkeypatch.context() as lying:
        lying.setattr(Ports, "fetch", lambda *_: Fetched(ODD[odd], FAST.cache_control))
        assert isinstance(world.try_tick(), RotatorError | None)
        assert world.pointers["EdDSA"] == before
        # A revoke is not held up, and not called over where nothing that can be read says so.
        leaked = world.kid(Stage.CURRENT)
        world.engine().revoke(leaked, "leaked")
        world.try_tick()
        assert leaked not in world.public_kids()
    world.tick()
    assert world.kid(Stage.CURRENT) in world.public_kids()


HEADER = st.none() | st.text(max_size=60) | st.from_regex(r"(max-age|s-maxage|stale-\w+|no-store)=-?\d{0,30}(, )?")


@given(header=HEADER, age=st.integers(-(2**40), 2**40))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_whatever_headers_the_public_url_sends_the_gate_is_kept(
    header: str | None, age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = WORLD_BEHIND_A_URL
    body = world.documents[PUBLIC][0]
    with monkeypatch.context() as lying:
        lying.setattr(Ports, "fetch", lambda *_: Fetched(body, header, timedelta(seconds=age)))
        before = world.documents[LEDGER]
        world.engine().look()
        assert world.try_tick() is None
        assert world.documents[LEDGER] == before


WORLD_BEHIND_A_URL = founded(urls=(URL,))


# -- what a store says of a key, and durations -------------------------------------------------------------------


@given(st.binary(max_size=120), st.sampled_from(["RS256", "ES256", "ES512", "EdDSA"]))
def test_what_is_no_public_key_is_told_in_a_sentence(spki: bytes, alg: str) -> None:
    with pytest.raises(ConfigurationError, match=r"public key|does not fit"):
        jwks.public_jwk(spki, algorithm(alg))


@given(st.timedeltas(timedelta(0), 3_653 * DAY))
@example(timedelta(microseconds=1))
@example(timedelta(seconds=59, microseconds=999_999))
def test_every_duration_is_read_as_it_is_written(duration: timedelta) -> None:
    assert parse_duration(text(duration)) == duration


# -- the command line, as a person would -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a key set in use."""
    root = tmp_path_factory.mktemp("fuzz")
    places = "".join(f'{name} = "{(root / name).as_uri()}"\n' for name in ("keys", "ledger", "public"))
    policy = 'algorithms = ["ES256"]'
    (root / "rotator.toml").write_text(f'[stores]\n{places}[policy]\n{policy}\n[[keysets]]\nname="acme"\n')
    for command in ("init", "tick"):
        assert said(root, command)[0] == 0
    return root


def said(home: Path, *words: str) -> tuple[int, str]:
    """The exit code and everything that was printed; a traceback fails the test."""
    done = CliRunner().invoke(commands, ["--config", str(home / "rotator.toml"), *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert done.exit_code in {0, 1, 2, 3}, done.output
    assert (done.exit_code == 0) or "Error: " in done.output
    assert "bug" not in done.output.lower(), done.output
    return done.exit_code, done.output


ASKED = (
    ("tick",),
    ("plan",),
    ("status",),
    ("rotate", "acme"),
    ("revoke", "acme", "some-kid", "--reason", "x", "--yes"),
    ("init",),
    ("policy",),
)


def files(home: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("odd", ODD)
def test_whatever_stands_in_the_place_of_the_ledger_a_person_reads_one_sentence(odd: str, home: Path) -> None:
    file = home / "ledger" / "acme" / "ledger.json"
    good = file.read_bytes()
    file.write_bytes(ODD[odd])
    try:
        before = files(home)
        for words in ASKED[:-1]:
            code, told = said(home, *words)
            assert code == 3, (words, told)
            assert "Nothing was changed" in told
            assert len(told) < 1500
        assert files(home) == before
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("odd", [*ODD, *ODD_KEYS])
def test_whatever_stands_in_the_place_of_the_public_document_a_tick_puts_it_right(odd: str, home: Path) -> None:
    file = home / "public" / "acme" / ".well-known" / "jwks.json"
    good = file.read_bytes()
    file.write_bytes(ODD[odd] if odd in ODD else json.dumps({"keys": ODD_KEYS[odd]}).encode())
    try:
        said(home, "plan")
        code, told = said(home, "tick")
        assert code == 0, told
        assert "\x1b" not in told
        assert said(home, "status")[0] == 0
        kids = {key["kid"] for key in json.loads(file.read_bytes())["keys"] if isinstance(key.get("kid"), str)}
        assert {key["kid"] for key in json.loads(good)["keys"][:1]} <= kids
    finally:
        file.write_bytes(good)
        said(home, "tick")


CONFIGURATIONS: dict[str, bytes] = {name: body for name, body in ODD.items() if name != "more than is read"} | {
    "nested arrays": b"x = " + b"[" * DEEP,
    "nested arrays that end": b"x = " + b"[" * DEEP + b"]" * DEEP,
    "nested tables of TOML": b"x = " + b"{a=" * DEEP,
    "a long dotted name": b".".join([b"a"] * 2_000) + b" = 1",
    "wrong types": b"stores = 1\npolicy = [1]\nkeysets = 3\naws = true\nserver = 'x'\n",
    "numbers that are none": b"[policy]\nlifetime = nan\ncache_tiers = inf\nmax_keys = 1e400\n",
    "huge numbers": b"[policy]\nmax_keys = " + b"9" * 4_000 + b"\nlifetime = '" + b"9" * 4_000 + b"d'\n",
    "a date": b"[policy]\nlifetime = 2026-01-01T00:00:00Z\nalgorithms = 2026-01-01\n",
    "control characters": b"[stores]\nkeys = 'file:///\\u0000'\nledger = \"file:///\\u0000\\u001b[2J\"\npublic='s3://'\n",
    "paths that lead out": b"[[keysets]]\nname = '../../etc'\npath = '/../../{name}'\npublic_url = 'javascript:x'\n",
    "ten thousand key sets": b"".join(b"[[keysets]]\nname = 'a%d'\n" % n for n in range(2_000)),
}


@pytest.mark.parametrize("odd", CONFIGURATIONS)
def test_whatever_stands_in_the_configuration_a_person_reads_what_is_wrong(odd: str, tmp_path: Path) -> None:
    (tmp_path / "rotator.toml").write_bytes(CONFIGURATIONS[odd])
    for words in ASKED:
        code, told = said(tmp_path, *words)
        assert code == 2, (words, told)
        assert "\x1b" not in told
    assert [file.name for file in tmp_path.iterdir()] == ["rotator.toml"]


def test_a_configuration_torn_at_any_byte_or_wrong_in_one_place_loads_or_is_told(tmp_path: Path) -> None:
    whole = (
        b'[stores]\nkeys = "file:///a"\nledger = "file:///b"\npublic = "s3://bucket/c"\n[policy]\nlifetime = "30d"\n'
        b'algorithms = ["ES256"]\n[schedule]\ninterval = "1m"\n[[keysets]]\nname = "acme"\npolicy = {max_keys = 9}\n'
    )
    file = tmp_path / "rotator.toml"
    wrong = [whole[:end] for end in range(len(whole))]
    wrong += [
        whole[:at] + odd + whole[at + 1 :] for at in range(0, len(whole), 5) for odd in (b"\0", b"\xff", b'"', b"[")
    ]
    for body in wrong:
        file.write_bytes(body)
        try:
            Configuration.load(file)
        except (ConfigurationError, Refused) as exc:
            short(exc)


def test_headers_beside_a_document_that_are_none_are_no_headers(home: Path) -> None:
    sidecar = home / "public" / "acme" / ".well-known" / ".jwks.json.headers.json"
    good = sidecar.read_bytes()
    for odd in ODD.values():
        sidecar.write_bytes(odd)
        assert said(home, "tick")[0] == 0
    assert sidecar.read_bytes() == good
