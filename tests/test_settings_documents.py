"""Views and the discovery document as an operator configures them, and every way to get them wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from rotator.cli import app
from rotator.errors import ConfigurationError
from rotator.keys.discovery import Discovery
from rotator.keys.policy import PublicDocument
from rotator.settings import Configuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rotator.keys.policy import KeySet

BASE = """
[stores]
keys = "secretsmanager://acme/jwt"
ledger = "s3://acme-ledger/"
public = "s3://acme-jwks/"
[policy]
algorithms = ["RS256", "ES256"]
[[keysets]]
name = "acme"
issuer = "https://id.acme.example/"
public_url = "https://id.acme.example/jwks.json"
"""
VIEW = '[[keysets.views]]\nname = "rs256"\nshows = ["RS256"]\n'


@pytest.fixture
def acme(tmp_path: Path) -> Callable[..., KeySet]:
    def loaded(more: str = "", base: str = BASE) -> KeySet:
        file = tmp_path / "rotator.toml"
        file.write_text(base + more)
        return Configuration.load(file).keysets[0]

    return loaded


@pytest.fixture
def faults(acme: Callable[..., KeySet]) -> Callable[..., list[str]]:
    def told(more: str = "", base: str = BASE) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            acme(more, base)
        return str(caught.value).splitlines()

    return told


def test_a_view_has_a_path_of_its_own_and_the_urls_it_is_given(acme: Callable[..., KeySet]) -> None:
    main = PublicDocument("jwks", "acme/.well-known/jwks.json", ("https://id.acme.example/jwks.json",))
    plain = PublicDocument("rs256", "acme/.well-known/jwks-rs256.json", (), frozenset({"RS256"}))
    assert acme(VIEW).documents == (main, plain)
    assert acme(VIEW).written == (main, plain)
    full = acme(VIEW + 'path = "{name}/{view}.json"\npublic_url = ["https://a.example/1", "https://b.example/2"]\n')
    urls = ("https://a.example/1", "https://b.example/2")
    assert full.documents[1] == PublicDocument("rs256", "acme/rs256.json", urls, frozenset({"RS256"}))


def test_a_view_may_show_what_is_not_configured_any_more(acme: Callable[..., KeySet]) -> None:
    assert acme(VIEW.replace("RS256", "PS512")).documents[1].algorithms == frozenset({"PS512"})


def test_the_main_document_may_show_some_where_a_view_shows_the_rest(acme: Callable[..., KeySet]) -> None:
    some = 'shows = ["ES256"]\n'
    assert acme(some + VIEW).documents[0].algorithms == frozenset({"ES256"})


def test_the_discovery_document_follows_from_the_issuer(acme: Callable[..., KeySet]) -> None:
    oidc = acme("[keysets.discovery]\n").discovery
    assert oidc == PublicDocument(
        "discovery",
        "acme/.well-known/openid-configuration",
        ("https://id.acme.example/.well-known/openid-configuration",),
        None,
        Discovery("https://id.acme.example/", "https://id.acme.example/jwks.json"),
    )
    more = (
        '[keysets.discovery]\npath = "oidc/{name}.json"\nmembers = { token_endpoint = "https://t.example", n = [1] }\n'
    )
    oidc = acme(more).discovery
    assert oidc
    assert oidc.path == "oidc/acme.json"
    assert oidc.discovery
    assert oidc.discovery.members == {"token_endpoint": "https://t.example", "n": [1]}


def test_the_discovery_document_may_lead_to_a_view(acme: Callable[..., KeySet]) -> None:
    oidc = acme(
        VIEW + 'public_url = "https://id.acme.example/rs.json"\n[keysets.discovery]\njwks = "rs256"\n'
    ).discovery
    assert oidc
    assert oidc.algorithms == frozenset({"RS256"})
    assert oidc.discovery
    assert (oidc.discovery.jwks, oidc.discovery.jwks_uri) == ("rs256", "https://id.acme.example/rs.json")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            'shows = ["RS256"]\n',
            ["acme.shows: no document shows ES256: nobody could verify its tokens. Add it to one."],
        ),
        ("shows = []\n", ["acme.shows: is empty: name at least one algorithm."]),
        ('shows = ["none"]\n', ["acme.shows: Unknown algorithm 'none': choose from RS256,"]),
        ('[[keysets.views]]\nname = "x"\n', ["acme.views.shows: is missing."]),
        ('[[keysets.views]]\nshows = ["RS256"]\n', ["acme.views.name: is missing."]),
        (VIEW.replace("rs256", "jwks"), ["acme.views.name: 'jwks' names no view: use 1 to 32 of a-z"]),
        (VIEW.replace("rs256", "discovery"), ["acme.views.name: 'discovery' names no view"]),
        (VIEW.replace("rs256", "RS 256"), ["acme.views.name: 'RS 256' names no view"]),
        (VIEW.replace("RS256", "RS255"), ["acme.views.shows: Unknown algorithm 'RS255'"]),
        (VIEW + VIEW, ["acme.views: two are named 'rs256'; each needs a name of its own."]),
        (VIEW + 'path = "../{view}"\n', ["acme.views.path: '../x' climbs out"]),
        (VIEW + 'public_url = "http://x.example"\n', ["acme.views.public_url: must begin with https://"]),
        (
            VIEW + 'path = "{name}/.well-known/jwks.json"\n',
            ["acme.views.rs256.path: acme/.well-known/jwks.json is the path of document jwks; each needs its own."],
        ),
        (
            VIEW + 'public_url = "https://id.acme.example/jwks.json"\n',
            ["acme.views.rs256.public_url: document jwks names the same URL; each needs its own."],
        ),
        ('[keysets.discovery]\njwks = "rs256"\n', ["acme.discovery.jwks: there is no such document; known are jwks."]),
        (
            VIEW + '[keysets.discovery]\njwks = "rs256"\n',
            ["acme.views.rs256.public_url: is missing: the discovery document has to say where"],
        ),
        ('[keysets.discovery]\nmembers = { issuer = "x" }\n', ["acme.discovery.members: rotator itself says issuer"]),
        (
            "[keysets.discovery]\nmembers = { at = 2026-01-01 }\n",
            ["acme.discovery.members: must be what JSON can hold"],
        ),
        ("[keysets.discovery]\nmembers = { at = nan }\n", ["acme.discovery.members: must be what JSON can hold"]),
        (
            f'[keysets.discovery]\nmembers = {{ x = "{"x" * 20_000}" }}\n',
            ["acme.discovery.members: has 20009 characters"],
        ),
        ('[keysets.discovery]\nurl = "x"\n', ["acme.discovery.url: unknown setting"]),
        ("discovery = true\n", ["acme.discovery: must be a table"]),
        (
            '[keysets.discovery]\npath = "{name}/.well-known/jwks.json/x"\n',
            ["acme.discovery.path: acme/.well-known/jwks.json/x lies below the path of document jwks"],
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(faults: Callable[..., list[str]], more: str, told: list[str]) -> None:
    found = faults(more)
    assert len(found) == len(told), found
    for fault, start in zip(found, told, strict=True):
        assert fault.startswith(f"keysets.{start}"), fault


@pytest.mark.parametrize(
    ("line", "told"), [("issuer", "acme.issuer: is missing"), ("public_url", "acme.public_url: is")]
)
def test_a_discovery_document_needs_an_issuer_and_a_url(faults: Callable[..., list[str]], line: str, told: str) -> None:
    base = "\n".join(each for each in BASE.splitlines() if not each.startswith(line)) + "\n"
    (fault,) = faults("[keysets.discovery]\n", base)
    assert fault.startswith(f"keysets.{told}")


def test_two_key_sets_of_one_issuer_have_one_discovery_document(faults: Callable[..., list[str]]) -> None:
    second = BASE[BASE.index("[[keysets]]") :].replace('"acme"', '"globex"').replace("jwks.json", "globex.json")
    assert faults(f"[keysets.discovery]\n{second}[keysets.discovery]\n") == [
        "keysets.globex.issuer: key set acme names the same URL; each needs its own."
    ]


def test_status_names_the_documents_beside_the_first(tmp_path: Path) -> None:
    stores = "\n".join(f'{name} = "{(tmp_path / name).as_uri()}"' for name in ("keys", "ledger", "public"))
    (tmp_path / "r.toml").write_text(f"[stores]\n{stores}\n{BASE[BASE.index('[policy]') :]}{VIEW}[keysets.discovery]\n")
    shown = [
        CliRunner().invoke(app, ["-c", str(tmp_path / "r.toml"), command]).output for command in ("init", "status")
    ]
    assert "acme: acme/.well-known/jwks-rs256.json shows RS256\n" in shown[1]
    assert "acme: acme/.well-known/openid-configuration leads to https://id.acme.example/jwks.json\n" in shown[1]
