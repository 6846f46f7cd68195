"""``rotator sign``: what a person gets who wants a token, and what they are told who cannot have it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from typer.testing import CliRunner

from rotator.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

TOML = """
[stores]
keys = "{root}/keys"
ledger = "{root}/ledger"
public = "{root}/public"
[policy]
token_lifetime = "10m"
signer_lag = "0s"
[[keysets]]
name = "acme"
policy = {{ algorithms = ["ES256"] }}
[[keysets]]
name = "both"
issuer = "https://id.both.example"
policy = {{ algorithms = ["ES256", "RS256"] }}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two key sets with keys that sign, and the configuration of both."""
    root = tmp_path_factory.mktemp("sign")
    file = root / "rotator.toml"
    file.write_text(TOML.format(root=root.as_uri()))
    for command in ("init", "tick"):
        assert run(file, command).exit_code == 0
    return file


def run(config: Path, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), *arguments], input=stdin)


def signed(config: Path, *arguments: str, stdin: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of the token printed, which verifies with the public document as it stands."""
    done = run(config, "sign", *arguments, stdin=stdin)
    assert done.exit_code == 0, done.output
    token = done.stdout.removesuffix("\n")
    documents = (config.parent / "public").glob("*/.well-known/jwks.json")
    keys = {key["kid"]: key for document in documents for key in json.loads(document.read_text())["keys"]}
    header = jwt.get_unverified_header(token)
    key = jwt.PyJWK(keys[header["kid"]])
    return header, jwt.decode(token, key, algorithms=[header["alg"]], options={"verify_aud": False})


def test_it_prints_a_token_that_ends_in_time(config: Path) -> None:
    header, claims = signed(config, "acme", "--claims", '{"sub": "u1"}')
    assert header["typ"] == "JWT"
    assert claims["sub"] == "u1"
    assert abs(claims["iat"] - time.time()) < 60
    assert claims["exp"] - claims["iat"] == 600


def test_claims_and_headers_are_those_that_were_given(config: Path) -> None:
    now = int(time.time())
    given = {"iat": now - 5, "exp": now + 60, "sub": "ü"}
    header, claims = signed(config, "acme", "--claims", "-", "--header", '{"typ": "at+jwt"}', stdin=json.dumps(given))
    assert (header["typ"], claims) == ("at+jwt", given)


def test_the_configured_issuer_is_the_iss_unless_the_claims_say_another(config: Path) -> None:
    words = ("both", "--alg", "ES256", "--claims")
    assert signed(config, *words, "{}")[1]["iss"] == "https://id.both.example"
    assert signed(config, *words, '{"iss": "me"}')[1]["iss"] == "me"
    assert "iss" not in signed(config, "acme")[1]


def test_of_several_algorithms_one_is_named(config: Path) -> None:
    assert signed(config, "both", "--alg", "RS256")[0]["alg"] == "RS256"
    done = run(config, "sign", "both")
    assert (done.exit_code, done.stderr) == (
        2,
        "Error: Key set both: Say which algorithm with --alg: it has ES256, RS256.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["acme", "--claims", '{"exp": 4000000000}'], 3, "end later than token_lifetime (10m)"),
        (["acme", "--claims", '{"exp": "soon"}'], 2, "The claim exp must be a number"),
        (["acme", "--claims", '{"iat": "soon"}'], 2, "The claim iat must be a number"),
        (["acme", "--claims", '{"iat": true, "exp": 4}'], 2, "The claim iat must be a number"),
        (["acme", "--claims", '{"iat": null}'], 2, "The claim iat is null"),
        (["acme", "--claims", f'{{"exp": {"9" * 400}}}'], 2, "The claim exp must be a number"),
        (["acme", "--claims", f'{{"iat": {"9" * 400}}}'], 2, "The claim iat must be a number"),
        (["acme", "--claims", f'{{"iat": -{"9" * 400}, "exp": 4}}'], 2, "The claim iat must be a number"),
        (["acme", "--claims", '{"iat": 1e308}'], 3, "end later than token_lifetime (10m)"),
        (["acme", "--claims", '{"iat": 1e400}'], 2, "The claim iat must be a number"),
        (["acme", "--claims", "[1]"], 2, "is not a JSON object"),
        (["acme", "--claims", "{sub: u1}"], 2, "is not JSON; quote it"),
        (["acme", "--claims", '{"a": NaN}'], 2, "is not JSON"),
        (["acme", "--claims", "[" * 100_000], 2, "is not JSON"),
        (["acme", "--claims", " " * 1_000_001], 2, "is longer than 1,000,000"),
        (["acme", "--claims", ""], 2, "is not JSON"),
        (["acme", "--header", '{"alg": "none"}'], 2, "The header alg is the current key's"),
        (["acme", "--header", '{"kid": "x"}'], 2, "The header kid is the current key's"),
        (["acme", "--alg", "RS256"], 3, "RS256/pointer.json names no key"),
        (["acme", "--alg", "none"], 2, "Unknown algorithm 'none'"),
        (["other"], 2, "no key set 'other'"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_signed_is_told_in_a_sentence(config: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(config, "sign", *arguments)
    assert done.exit_code == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
