"""What a configuration costs which verifier is said, with the view that helps; and nothing where nothing is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator.cli import app
from rotator.daemon import Daemon
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.cautions import Caution, cautions
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.keys.verifiers import VERIFIERS

if TYPE_CHECKING:
    from pathlib import Path

ALB, AUTHLIB, OCI = (VERIFIERS[name].title for name in ("alb", "authlib", "oci"))
MAIN = PublicDocument("jwks", "acme/jwks.json")
RS256 = PublicDocument("rs256", "acme/rs256.json", algorithms=frozenset({"RS256"}))


def of(*algs: str, views: tuple[PublicDocument, ...] = (), **policy: Any) -> list[Caution]:
    return cautions(KeySet("acme", Policy(algorithms=algs, **policy), (MAIN, *views)))


def naming(title: str, found: list[Caution]) -> Caution:
    (caution,) = (each for each in found if title in each.verifiers)
    return caution


def test_what_every_verifier_reads_needs_no_word() -> None:
    assert of("RS256") == []


def test_an_ml_dsa_key_in_the_only_document_spoils_it_for_authlib_and_a_view_mends_that() -> None:
    (tokens, spoiled) = of("RS256", "ML-DSA-65")
    assert tokens.sentence.startswith("ML-DSA-65 tokens are rejected by PyJWT")
    assert tokens.shows == ()
    assert f"{AUTHLIB}, {VERIFIERS['keyfunc'].title} reject a whole set that holds an ML-DSA key" in spoiled.sentence
    assert spoiled.sentence.endswith('Lead them to a view: [[keysets.views]] shows = ["RS256"].')
    assert spoiled.shows == ("RS256",)
    assert of("RS256", "ML-DSA-65", views=(RS256,)) == [tokens]


def test_the_load_balancer_of_aws_gets_a_view_of_the_one_algorithm_it_reads() -> None:
    caution = naming(ALB, of("ES256", "RS256"))
    assert caution.sentence.startswith(f"{ALB}, AWS API Gateway HTTP API verify RS256 alone. Lead them")
    assert caution.shows == ("RS256",)
    assert of("ES256", "RS256", views=(RS256,)) == []


def test_without_an_algorithm_it_reads_no_view_helps_and_that_is_said() -> None:
    caution = naming(ALB, of("ES256"))
    assert caution == Caution(
        "ES256 tokens are rejected by AWS Application Load Balancer, AWS API Gateway HTTP API.", caution.verifiers
    )


def test_the_new_name_of_eddsa_is_told_with_the_old_one() -> None:
    (caution,) = of("Ed25519")
    assert {VERIFIERS["pyjwt"].title, VERIFIERS["envoy"].title} <= set(caution.verifiers)
    assert caution.sentence.endswith("Most of them know these keys by the name EdDSA.")
    assert "by the name" not in naming(VERIFIERS["jwks-rsa"].title, of("EdDSA")).sentence


def test_more_keys_than_a_verifier_reads_are_told_with_their_number() -> None:
    often: dict[str, Any] = {"lifetime": timedelta(hours=30), "token_lifetime": timedelta(days=8), "max_keys": 50}
    caution = naming(OCI, of("RS256", "ES256", **often))
    assert f"{OCI} reads 10 keys, and there may be 18" in caution.sentence
    assert caution.shows == ("RS256",)
    # A key set of one algorithm that changes keys faster still: no view is small enough.
    faster = often | {"lifetime": timedelta(hours=26), "token_lifetime": timedelta(days=10)}
    caution = naming(OCI, of("RS256", "ES256", **faster))
    assert caution.shows == ()
    assert caution.sentence.endswith("Not even a view of one algorithm is small enough: let keys live longer.")


def test_a_library_that_takes_the_first_key_gets_a_view_of_one_kind() -> None:
    caution = naming("python-jose 3.5", of("ES256", "RS256", "ES384"))
    assert "takes the first key of a set, of whatever kind" in caution.sentence
    assert caution.shows == ("ES256", "ES384")


def test_a_main_document_that_shows_too_little_is_told() -> None:
    keyset = KeySet(
        "acme", Policy(algorithms=("RS256", "ML-DSA-44")), (replace(MAIN, algorithms=frozenset({"ML-DSA-44"})),)
    )
    assert "find no algorithm that it knows" in naming(VERIFIERS["jose"].title, cautions(keyset)[1:]).sentence


@pytest.mark.parametrize("alg", list(ALGORITHMS))
def test_whatever_is_configured_each_verifier_is_named_at_most_once_for_a_view(alg: str) -> None:
    found = [each for each in of("RS256", alg) if each.shows] if alg != "RS256" else of(alg)
    names = [name for each in found for name in each.verifiers]
    assert len(names) == len(set(names))


# -- where an operator sees them ---------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "rotator.toml"
    stores = "\n".join(f'{name} = "{(tmp_path / name).as_uri()}"' for name in ("keys", "ledger", "public"))
    file.write_text(f'[stores]\n{stores}\n[policy]\nalgorithms = ["ES256", "ML-DSA-44"]\n[[keysets]]\nname = "acme"\n')
    return str(file)


def test_policy_shows_them(config: str) -> None:
    shown = CliRunner().invoke(app, ["--config", config, "policy"])
    assert shown.exit_code == 0
    assert "! ML-DSA-44 tokens are rejected by" in shown.output
    told = json.loads(CliRunner().invoke(app, ["--config", config, "policy", "--json"]).output)["keysets"][0][
        "warnings"
    ]
    assert [each["view_shows"] for each in told if each["view_shows"]] == [["ES256"]]


def test_init_warns_once_and_beside_what_programs_read(config: str) -> None:
    first, again = (CliRunner().invoke(app, ["--config", config, "init"]) for _ in range(2))
    assert first.stdout == "acme: created\n"
    assert "acme: warning: " in first.stderr
    assert "reject a whole set that holds an ML-DSA key" in first.stderr
    assert (again.stdout, again.stderr) == ("acme: found\n", "")


def test_the_daemon_warns_when_it_starts(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Daemon, "run", lambda *_: [])
    told = CliRunner().invoke(app, ["--config", config, "run", "--port", "0"]).stderr
    warned = [line for line in map(json.loads, told.splitlines()) if line["level"] == "warning"]
    assert {(line["event"], line["keyset"]) for line in warned} == {("verifiers", "acme")}
    assert any("ML-DSA-44 tokens are rejected" in line["reason"] for line in warned)
