"""What is wired to what, what is shared, and what is never built."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from datetime import UTC, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rotator import app, aws, uris
from rotator.documents.cloudfront import CloudFront
from rotator.documents.filesystem import FilesystemDocuments
from rotator.documents.s3 import S3Documents
from rotator.documents.web import HttpsWeb
from rotator.engine import Engine, Report
from rotator.errors import ConfigurationError, RotatorError
from rotator.settings import Configuration
from rotator.stores.kms import KmsKeys
from rotator.stores.local import LocalKeys
from rotator.stores.secretsmanager import SecretsManagerKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Configure = Callable[..., Configuration]

S3 = {"ledger": "s3://acme-ledger/rotator", "public": "s3://acme-jwks/"}
ACME = {"name": "acme"}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    def configured(**tables: Any) -> Configuration:
        for name, value in ({"keysets": [ACME]} | tables).items():
            monkeypatch.setenv(f"ROTATOR_{name.upper()}", json.dumps(value))
        return Configuration.load()

    return configured


@pytest.fixture
def wire(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the engine of ``acme`` is given under a configuration."""

    def wired(**tables: Any) -> Any:
        configuration = configure(**tables)
        with monkeypatch.context() as patch:
            patch.setattr(app, "Engine", lambda keyset, **ports: SimpleNamespace(keyset=keyset, **ports))
            return app.engines(configuration)["acme"]

    return wired


def call(client: Any) -> tuple[Any, ...]:
    assert client.func is aws.client
    return (*client.args, *sorted(client.keywords.items()))


# -- wiring ----------------------------------------------------------------------------------------------------------


def test_there_is_a_store_behind_every_uri_that_settings_take() -> None:
    assert app.KEY_STORES.keys() == uris.KEY_URIS.keys()
    assert app.DOCUMENT_STORES.keys() == uris.DOCUMENT_URIS.keys()


def test_files(wire: Callable[..., Any], tmp_path: Path) -> None:
    stores = {name: (tmp_path / name).as_uri() for name in ("keys", "ledger", "public")}
    engine = wire(stores=stores)
    assert isinstance(engine.keys, LocalKeys)
    assert isinstance(engine.ledger, FilesystemDocuments)
    assert isinstance(engine.public, FilesystemDocuments)
    roots = (engine.keys._root, engine.ledger._root, engine.public._root)
    assert roots == tuple(tmp_path / name for name in stores)
    assert (engine.ledger._file_mode, engine.public._file_mode) == (0o600, 0o644)
    assert (engine.cdn, engine.clock, engine.elapsed) == (None, app.now, app.elapsed)
    configuration = Configuration.load()
    assert app.public_directory(configuration) == tmp_path / "public"
    served = app.public_documents(configuration)
    assert served
    assert served.locate("acme/jwks.json") == f"{stores['public']}/acme/jwks.json"


def test_secrets_manager_and_s3(wire: Callable[..., Any]) -> None:
    engine = wire(
        stores={"keys": "secretsmanager://acme/jwt", **S3},
        aws={
            "region": "eu-central-1",
            "endpoint_url": "http://aws.example:1",
            "s3_endpoint_url": "http://s3.example:2",
            "s3_path_style": True,
        },
        secretsmanager={"kms_key": "alias/acme", "pem": True, "tags": {"team": "identity"}},
        ledger={"sse_kms_key": "alias/ledger"},
        public={"sse_kms_key": "alias/public", "content_type": "application/json"},
    )
    keys, ledger, public = engine.keys, engine.ledger, engine.public
    assert isinstance(keys, SecretsManagerKeys)
    assert call(keys._client) == ("secretsmanager", "eu-central-1", "http://aws.example:1")
    assert (keys._prefix, keys._kms_key, keys._pem) == ("acme/jwt", "alias/acme", True)
    assert keys._tags == {"team": "identity"}
    assert isinstance(ledger, S3Documents)
    assert isinstance(public, S3Documents)
    s3 = ("s3", "eu-central-1", "http://s3.example:2", ("path_style", True))
    assert call(ledger._client) == call(public._client) == s3
    assert (ledger._bucket, ledger._prefix, ledger._sse_kms_key) == ("acme-ledger", "rotator", "alias/ledger")
    assert (public._bucket, public._prefix, public._sse_kms_key) == ("acme-jwks", "", "alias/public")
    assert engine.keyset.content_type == "application/json"
    assert engine.cdn is None
    configuration = Configuration.load()
    assert app.public_directory(configuration) is None
    assert app.public_documents(configuration) is None


def test_kms_keeps_its_pointers_beside_the_ledger(wire: Callable[..., Any]) -> None:
    engine = wire(
        stores={"keys": "kms://acme/jwt", **S3},
        kms={"deletion_window": "7d", "current_alias": False, "tags": {"team": "identity"}},
    )
    keys = engine.keys
    assert isinstance(keys, KmsKeys)
    assert keys._pointers is engine.ledger
    assert call(keys._client) == ("kms", None, None)
    assert call(keys._client_once) == ("kms", None, None, ("attempts", 1))
    assert call(keys._tagging) == ("resourcegroupstaggingapi", None, None)
    assert (keys._prefix, keys._window, keys._current_alias) == ("acme/jwt", 7, False)
    assert keys._tags == {"team": "identity"}


def test_public_urls_are_fetched_and_a_distribution_is_invalidated(wire: Callable[..., Any]) -> None:
    engine = wire(
        stores={"keys": "kms://acme", **S3},
        cloudfront={"distribution_id": "E1ABC"},
        keysets=[{"name": "acme", "public_url": "https://cdn.example/jwks.json"}],
    )
    assert isinstance(engine.web, HttpsWeb)
    assert isinstance(engine.cdn, CloudFront)
    assert call(engine.cdn._client) == ("cloudfront", None, None)


def test_key_sets_share_their_stores_and_keep_their_order(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["zeta", "acme", "mid"]
    configuration = configure(stores={"keys": "kms://acme", **S3}, keysets=[{"name": name} for name in names])
    shared: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        app, "Engine", lambda _, keys, ledger, public, **__: shared.append((id(keys), id(ledger), id(public)))
    )
    assert list(app.engines(configuration)) == names
    assert shared == [shared[0]] * 3
    assert list(app.engines(configuration, only=["mid", "zeta"])) == ["zeta", "mid"]
    assert app.engines(configuration, only=[]) == {}


def test_a_key_set_that_is_not_configured(configure: Configure) -> None:
    configuration = configure(stores={"keys": "kms://acme", **S3}, keysets=[{"name": "b"}, {"name": "a"}])
    with pytest.raises(ConfigurationError) as caught:
        app.engines(configuration, only=["a", "x", "y"])
    assert str(caught.value) == "There is no key set 'x', 'y'; known are a, b."


def test_the_clock_is_in_utc() -> None:
    first = app.now()
    assert first.tzinfo is UTC
    assert timedelta(0) <= app.now() - first < timedelta(seconds=5)


def test_elapsed_time_is_told_by_a_clock_that_nobody_can_set(monkeypatch: pytest.MonkeyPatch) -> None:
    first, earlier = app.elapsed(), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert timedelta(0) <= timedelta(seconds=earlier) - first < timedelta(seconds=5)
    told = {time.CLOCK_BOOTTIME: 90.5, time.CLOCK_MONOTONIC: 30.25}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: told[clock])
    assert app.elapsed() == timedelta(seconds=90.5), "with what went by while the machine was suspended"
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert app.elapsed() == timedelta(seconds=30.25), "where no clock tells of a suspend"


# -- a whole run -----------------------------------------------------------------------------------------------------


def test_the_default_configuration_publishes_its_first_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTATOR_POLICY__ALGORITHMS", '["ES256"]')
    monkeypatch.setenv("ROTATOR_FILE__PASSPHRASE_ENV", "PASSPHRASE")
    monkeypatch.setenv("PASSPHRASE", "hunter2")
    configuration = Configuration.default(tmp_path)
    heard: list[Report] = []
    engine = app.engines(configuration, heard.append)["default"]
    assert engine.init()
    outcome = engine.tick()
    assert [report.step for report in heard] == [report.step for report in outcome.steps]
    directory = app.public_directory(configuration)
    assert directory
    published = json.loads((directory / "default/.well-known/jwks.json").read_bytes())
    assert {key["kid"] for key in published["keys"]} <= {key.kid for key in outcome.ring.keys}
    private = [file.read_text() for file in (tmp_path / "keys").rglob("*.pem")]
    assert private
    assert all(text.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----") for text in private)


@pytest.fixture
def on_moto(configure: Configure, moto_url: str) -> Configuration:
    import boto3

    name = uuid.uuid4().hex
    for bucket in (f"ledger-{name}", f"jwks-{name}"):
        boto3.client("s3", endpoint_url=moto_url).create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
    return configure(
        stores={"keys": f"secretsmanager://{name}", "ledger": f"s3://ledger-{name}", "public": f"s3://jwks-{name}"},
        aws={"endpoint_url": moto_url},
        cloudfront={"distribution_id": "E1ABC"},
        policy={"algorithms": ["ES256"]},
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The AWS clients that are built, by service."""
    import boto3

    services: list[str] = []
    build: Any = boto3.session.Session.client

    def counted(session: Any, service: Any, **options: Any) -> Any:
        services.append(service)
        return build(session, service, **options)

    monkeypatch.setattr(boto3.session.Session, "client", counted)
    aws.client.cache_clear()
    yield services
    aws.client.cache_clear()


def test_an_idle_tick_builds_two_clients(on_moto: Configuration, built: list[str]) -> None:
    engine = app.engines(on_moto)["acme"]
    engine.init()
    while engine.tick().steps:
        pass
    aws.client.cache_clear()
    built.clear()
    assert app.engines(on_moto)["acme"].tick().steps == ()
    assert sorted(built) == ["s3", "secretsmanager"]


@pytest.mark.parametrize("keys", ["secretsmanager://acme", "kms://acme"])
def test_building_engines_loads_nothing_of_aws(configure: Configure, keys: str) -> None:
    configure(
        stores={"keys": keys, **S3},
        cloudfront={"distribution_id": "E1ABC"},
        keysets=[{"name": "acme", "public_url": "https://cdn.example/jwks.json"}],
    )
    heavy = ["boto3", "botocore", "httpx", "cryptography", "apscheduler", "structlog", "typer", "rich"]
    code = (
        "import sys; from rotator import app; from rotator.settings import Configuration;"
        f"app.engines(Configuration.load()); print([name for name in {heavy!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# -- Lambda ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_key_sets(configure: Configure, tmp_path: Path) -> Configuration:
    return configure(
        stores={name: (tmp_path / name).as_uri() for name in ("keys", "ledger", "public")},
        policy={"algorithms": ["ES256"]},
        keysets=[{"name": "first"}, {"name": "second"}],
    )


def test_the_lambda_ticks_every_key_set(two_key_sets: Configuration) -> None:
    for engine in app.engines(two_key_sets).values():
        engine.init()
    summary = app.lambda_handler({"source": "aws.scheduler"}, None)
    json.dumps(summary)
    assert [keyset["name"] for keyset in summary["keysets"]] == ["first", "second"]
    assert all(keyset["steps"][0]["step"] == "intend" for keyset in summary["keysets"])
    assert all(keyset["next_change"] > app.now().isoformat() for keyset in summary["keysets"])


def test_the_lambda_fails_after_all_had_their_turn(
    two_key_sets: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.engines(two_key_sets)["second"].init()
    with pytest.raises(RotatorError) as caught:
        app.lambda_handler({}, None)
    count, fault = str(caught.value).splitlines()
    assert count == "1 of 2 key sets failed."
    assert fault.startswith("Key set first: there is no ledger at ")
    assert (tmp_path / "public/second/.well-known/jwks.json").exists()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"keyset": "first", "error": fault}.items() <= lines[0].items()
    assert {"keyset": "second", "step": "intend"}.items() <= lines[1].items()


def test_a_bug_in_one_key_set_does_not_keep_the_lambda_from_the_others(
    two_key_sets: Configuration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in app.engines(two_key_sets).values():
        engine.init()
    tick = Engine.tick

    def buggy(engine: Engine) -> Any:
        if engine.keyset.name == "first":
            raise KeyError("a private key")
        return tick(engine)

    monkeypatch.setattr(Engine, "tick", buggy)
    with pytest.raises(RotatorError) as caught:
        app.lambda_handler({}, None)
    assert "Key set first: rotator met a bug: KeyError" in str(caught.value)
    assert "private key" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (tmp_path / "public/second/.well-known/jwks.json").exists()


def test_the_lambda_needs_a_configuration() -> None:
    with pytest.raises(ConfigurationError, match="There is no configuration"):
        app.lambda_handler({}, None)
