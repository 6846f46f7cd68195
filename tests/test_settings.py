"""What an operator writes, and what they are told: each bad input with the exact sentence it gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotator import uris
from rotator.errors import ConfigurationError, Refused, RotatorError
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.policy import Policy, PublicDocument, parse_duration, text
from rotator.settings import DEMO, Configuration, Location, is_configured, table
from rotator.settings.tables import PolicyTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Load = Callable[..., Configuration]

EXAMPLES = sorted((Path(__file__).parent.parent / "config").glob("*.toml"))

MINIMAL = """
[stores]
keys = "secretsmanager://acme/jwt"
ledger = "s3://acme-ledger/"
public = "s3://acme-jwks/"
[[keysets]]
name = "acme"
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    def loaded(toml: str = MINIMAL, env: Mapping[str, str] | None = None, **options: bool) -> Configuration:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "rotator.toml"
        file.write_text(toml, encoding="utf-8")
        return Configuration.load(file, **options)

    return loaded


@pytest.fixture
def faults(load: Load) -> Callable[..., list[str]]:
    def told(toml: str = MINIMAL, env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(toml, env)
        return str(caught.value).splitlines()

    return told


def changed(old: str, new: str) -> str:
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


# -- good input ------------------------------------------------------------------------------------------------------


def test_the_least_that_an_operator_must_write(load: Load) -> None:
    configuration = load()
    (acme,) = configuration.keysets
    assert (acme.name, acme.policy) == ("acme", Policy())
    assert acme.documents == (PublicDocument("jwks", "acme/.well-known/jwks.json"),)
    assert configuration.keys == Location("secretsmanager", "acme/jwt")
    assert configuration.ledger == Location("s3", "", "acme-ledger")
    assert configuration.public == Location("s3", "", "acme-jwks")
    assert configuration.server.host == "127.0.0.1"


def test_a_key_set_has_its_own_policy_path_and_urls(load: Load) -> None:
    configuration = load(
        """
        [stores]
        keys = "kms://acme"
        ledger = "s3://acme-ledger/rotator/prod/"
        public = "file:///srv/with%20space"
        [policy]
        algorithms = ["RS256", "ES256"]
        token_lifetime = "2h"
        [schedule]
        interval = "PT5M"
        [public]
        content_type = "application/json"
        [[keysets]]
        name = "acme"
        issuer = "http://localhost:8080/acme"
        public_url = "http://127.0.0.1:8080/jwks.json"
        [[keysets]]
        name = "partners"
        path = "keys/{name}.json"
        public_url = ["https://a.example/keys", "https://b.example/keys?tenant=1"]
        policy = { algorithms = ["EdDSA"], max_keys = 5 }
        """
    )
    acme, partners = configuration.keysets
    assert acme.policy == Policy(
        algorithms=("RS256", "ES256"), token_lifetime=timedelta(hours=2), interval=timedelta(minutes=5)
    )
    assert acme.documents[0].urls == ("http://127.0.0.1:8080/jwks.json",)
    assert partners.policy == Policy(
        algorithms=("EdDSA",), token_lifetime=timedelta(hours=2), interval=timedelta(minutes=5), max_keys=5
    )
    assert partners.documents == (
        PublicDocument("jwks", "keys/partners.json", ("https://a.example/keys", "https://b.example/keys?tenant=1")),
    )
    assert partners.content_type == "application/json"
    assert configuration.ledger == Location("s3", "rotator/prod", "acme-ledger")
    assert configuration.public == Location("file", "/srv/with space")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_every_example_loads(file: Path) -> None:
    assert Configuration.load(file).keysets


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_every_setting_of_an_example_is_known_and_explained(file: Path) -> None:
    known = {path for path, _, _ in table()}
    above, section = "", ""
    for line in file.read_text().splitlines():
        if header := re.fullmatch(r"\[+([\w.]+)\]+", line):
            section = header[1].replace("keysets.", "keysets[].") + ("[]" if line.startswith("[[") else "")
        elif setting := re.match(r"(?:# )?([a-z0-9_]+) = ", line):
            assert f"{section}.{setting[1]}" in known
            assert above.startswith("# "), f"{setting[1]} is not explained"
        above = line


def test_there_is_an_example_for_each_way_to_run() -> None:
    assert [file.stem for file in EXAMPLES] == ["kms", "kubernetes", "local", "secretsmanager"]


def test_the_table_tells_every_setting_and_its_default() -> None:
    rows = {path: (default, description) for path, default, description in table()}
    assert {f"policy.{each.name}" for each in fields(Policy)} - rows.keys() == {"policy.interval"}
    assert rows["policy.lifetime"] == ("30d", "How long a key signs.")
    assert rows["schedule.interval"][0] == "1m"
    assert rows["stores.keys"][0] == "required"
    assert rows["keysets[].path"][0] == "{name}/.well-known/jwks.json"
    assert all(description.endswith(".") for _, description in rows.values())


def test_the_policys_defaults_are_the_policys() -> None:
    assert Policy(**dict(PolicyTable())) == Policy()


def test_a_configuration_cannot_be_changed(load: Load) -> None:
    configuration = load()
    with pytest.raises(AttributeError):
        configuration.keysets = ()  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        configuration.settings.server.port = 1


# -- without a file --------------------------------------------------------------------------------------------------


def test_without_any_configuration_the_default_works_in_a_directory(tmp_path: Path) -> None:
    configuration = Configuration.default(tmp_path / "a b")
    (keyset,) = configuration.keysets
    assert (keyset.name, keyset.policy) == ("default", Policy())
    assert configuration.keys == Location("file", f"{tmp_path}/a b/keys")
    assert configuration.ledger == Location("file", f"{tmp_path}/a b/ledger")
    assert configuration.public == Location("file", f"{tmp_path}/a b/public")


def test_the_default_of_a_relative_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert Configuration.default(Path("../data")).keys.path == f"{tmp_path}/data/keys"


def test_the_environment_goes_before_the_default_and_arguments_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTATOR_POLICY__ALGORITHMS", '["ES256"]')
    monkeypatch.setenv("ROTATOR_POLICY__LIFETIME", "60d")
    policy = (
        Configuration.default(tmp_path, lifetime=timedelta(days=9), interval=timedelta(seconds=5)).keysets[0].policy
    )
    assert policy == Policy(algorithms=("ES256",), lifetime=timedelta(days=9), interval=timedelta(seconds=5))


def test_the_demo_shows_a_whole_life_within_two_minutes(tmp_path: Path) -> None:
    (keyset,) = Configuration.demo(tmp_path).keysets
    policy = keyset.policy
    assert keyset.policy == Policy(**DEMO)
    assert policy.faults() == []
    # Made at once, two lifetimes as next and current, then previous: with a tick's delay at each change.
    assert 2 * policy.lifetime + policy.retention + 6 * policy.interval < timedelta(minutes=2)


def test_a_configuration_may_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_configured()
    monkeypatch.setenv("ROTATOR_POLICY__LIFETIME", "31d")
    assert not is_configured()
    monkeypatch.setenv("ROTATOR_STORES__KEYS", "kms://acme")
    monkeypatch.setenv("ROTATOR_STORES__LEDGER", "s3://acme-ledger")
    monkeypatch.setenv("ROTATOR_STORES", '{"public": "s3://acme-jwks"}')
    monkeypatch.setenv("ROTATOR_KEYSETS", '[{"name": "acme", "policy": {"algorithms": ["ES256"]}}]')
    monkeypatch.setenv("ROTATOR_KMS__DELETION_WINDOW", "7d")
    monkeypatch.setenv("ROTATOR_KMS__TAGS", '{"team": "identity"}')
    monkeypatch.setenv("ROTATOR_AWS__S3_PATH_STYLE", "true")
    monkeypatch.setenv("ROTATOR_SERVER__PORT", "0")
    assert is_configured()
    configuration = Configuration.load()
    assert configuration.keysets[0].policy == Policy(algorithms=("ES256",), lifetime=timedelta(days=31))
    assert configuration.settings.kms.deletion_window == timedelta(days=7)
    assert configuration.settings.kms.tags == {"team": "identity"}
    assert configuration.settings.aws.s3_path_style
    assert configuration.server.port == 0


def test_rotator_config_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme.toml").write_text(MINIMAL)
    monkeypatch.setenv("ROTATOR_CONFIG", str(tmp_path / "acme.toml"))
    assert is_configured()
    assert Configuration.load().keysets[0].name == "acme"


def test_the_environment_goes_before_the_file(load: Load) -> None:
    toml = MINIMAL + '[policy]\nlifetime = "20d"\ntoken_lifetime = "2h"\n[kms.tags]\nteam = "a"\n'
    configuration = load(toml, {"ROTATOR_POLICY__LIFETIME": "40d", "rotator_kms__tags__cost": "b"})
    assert configuration.keysets[0].policy == Policy(lifetime=timedelta(days=40), token_lifetime=timedelta(hours=2))
    assert configuration.settings.kms.tags == {"team": "a", "cost": "b"}


def test_an_empty_variable_is_not_set(load: Load) -> None:
    assert load(env={"ROTATOR_AWS__REGION": "", "ROTATOR_KEYSETS": ""}).settings.aws.region is None


def test_what_kubernetes_tells_pods_about_services_is_no_setting(load: Load) -> None:
    load(
        env={
            "ROTATOR_SERVICE_HOST": "10.0.0.7",
            "ROTATOR_SERVICE_PORT": "8765",
            "ROTATOR_SERVICE_PORT_HTTP_METRICS": "8765",
            "ROTATOR_PORT": "tcp://10.0.0.7:8765",
            "ROTATOR_PORT_8765_TCP": "tcp://10.0.0.7:8765",
            "ROTATOR_PORT_8765_TCP_PROTO": "tcp",
            "ROTATOR_PORT_8765_TCP_PORT": "8765",
            "ROTATOR_PORT_8765_TCP_ADDR": "10.0.0.7",
            "ROTATOR_METRICS_SERVICE_HOST": "10.0.0.8",
            "ROTATOR_METRICS_PORT": "tcp://10.0.0.8:80",
        }
    )


# -- files that cannot be read ---------------------------------------------------------------------------------------


def test_no_configuration_at_all() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load()
    assert str(caught.value) == (
        "There is no configuration: name a file with --config or ROTATOR_CONFIG, or set ROTATOR_STORES__KEYS and the"
        " other variables."
    )


def test_a_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "rotator.toml"
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load(file)
    assert str(caught.value) == f"The configuration {file} cannot be read: No such file or directory."


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load(tmp_path)
    assert str(caught.value) == f"The configuration {tmp_path} cannot be read: Is a directory."


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        Configuration.load(tmp_path / "rotator.toml")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[stores]\nkeys = \n", "is not TOML: Invalid value (at line 2, column 8)."),
        (b"[stores\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 8)."),
        (b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 6)."),
        (b'keys = "\xff"\n', "is not UTF-8 text."),
    ],
)
def test_a_file_that_is_no_toml_names_the_line(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "rotator.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load(file)
    assert str(caught.value) == f"The configuration {file} {fault}"


def test_a_file_that_is_nested_without_end(tmp_path: Path) -> None:
    file = tmp_path / "rotator.toml"
    file.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigurationError, match="is not TOML"):
        Configuration.load(file)


# -- stores ----------------------------------------------------------------------------------------------------------

KEYS, DOCUMENTS = "secretsmanager://, kms://, file://", "s3://, file://"
NO_BUCKET = (
    "is not the name of an S3 bucket: 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending with a letter or digit"
    " (for an access point, use its alias)."
)
NO_S3_PREFIX = (
    "is not a prefix for S3: up to 512 of A-Z a-z 0-9 . _ ~ @ : = + , - with single slashes within, and no '..'."
)
NO_SECRET = "is not a prefix for names of secrets: 1 to 256 of A-Z a-z 0-9 _ + = . @ - with single slashes within."
NO_ALIAS = (
    "is not a prefix for KMS aliases: 1 to 128 of A-Z a-z 0-9 _ - with single slashes within, and not aws/, which AWS"
    " keeps to itself."
)
RELATIVE = "a directory must be absolute, with three slashes: file:///var/lib/rotator."


@pytest.mark.parametrize(
    ("setting", "uri", "fault"),
    [
        ("keys", "vault://acme", f"unknown scheme 'vault'; known are {KEYS}."),
        ("keys", "s3://acme-keys", f"unknown scheme 's3'; known are {KEYS}."),
        ("keys", "acme/jwt", f"must be a URI; known are {KEYS}."),
        ("keys", "secretsmanager://", f"'' {NO_SECRET}"),
        ("keys", "secretsmanager://acme//jwt", f"'acme//jwt' {NO_SECRET}"),
        ("keys", "secretsmanager://acme jwt", f"'acme jwt' {NO_SECRET}"),
        ("keys", f"secretsmanager://{'a' * 257}", f"'{'a' * 60}' {NO_SECRET}"),
        ("keys", "kms://acme.jwt", f"'acme.jwt' {NO_ALIAS}"),
        ("keys", "kms://aws/jwt", f"'aws/jwt' {NO_ALIAS}"),
        ("keys", "file://keys", RELATIVE),
        ("keys", "file://./keys", RELATIVE),
        ("keys", "file:///srv/../keys", "the name of a directory has no '..' and no control character."),
        ("keys", "file:///srv/%2e%2e/keys", "the name of a directory has no '..' and no control character."),
        ("keys", "file:///srv/%00", "the name of a directory has no '..' and no control character."),
        ("keys", "file:///srv/keys?mode=0600", "write ? and # in a file URI as %3F and %23."),
        ("ledger", "gs://acme", f"unknown scheme 'gs'; known are {DOCUMENTS}."),
        ("ledger", "kms://acme", f"unknown scheme 'kms'; known are {DOCUMENTS}."),
        ("ledger", "s3:/acme-ledger", f"must be a URI; known are {DOCUMENTS}."),
        ("ledger", "s3://", f"'' {NO_BUCKET}"),
        ("ledger", "s3://Acme_Ledger", f"'Acme_Ledger' {NO_BUCKET}"),
        ("ledger", "s3://a..b", f"'a..b' {NO_BUCKET}"),
        ("ledger", "s3://me:secret@bucket/x", f"'…@bucket' {NO_BUCKET}"),
        ("ledger", "s3://acme-ledger/a//b", f"'a//b' {NO_S3_PREFIX}"),
        ("ledger", "s3://acme-ledger/../b", f"'../b' {NO_S3_PREFIX}"),
        ("public", "file://public", RELATIVE),
    ],
)
def test_a_bad_uri(faults: Callable[..., list[str]], setting: str, uri: str, fault: str) -> None:
    toml = re.sub(rf"(?m)^{setting} = .*$", lambda _: f"{setting} = {json.dumps(uri)}", MINIMAL)
    assert faults(toml) == [f"stores.{setting}: {fault}"]


def test_a_bad_uri_in_the_environment_is_told_by_its_variable(faults: Callable[..., list[str]]) -> None:
    assert faults(env={"ROTATOR_STORES__LEDGER": "ledger/"}) == [
        f"ROTATOR_STORES__LEDGER: must be a URI; known are {DOCUMENTS}."
    ]


def test_missing_stores_and_key_sets(faults: Callable[..., list[str]]) -> None:
    about = {path: description for path, _, description in table()}
    assert faults("") == [
        "keysets: none is configured; add [[keysets]] with a name.",
        *(f"stores.{name}: is missing. {about[f'stores.{name}']}" for name in ("keys", "ledger", "public")),
    ]


@pytest.mark.parametrize(
    ("keys", "ledger", "public", "faulty"),
    [
        ("file:///data", "file:///ledger", "file:///data", ["keys"]),
        ("file:///data/public/keys", "file:///ledger", "file:///data/public", ["keys"]),
        ("file:///data", "file:///data/ledger/", "file:///data/./public", ["keys"]),
        ("file:///keys", "file:///ledger", "file:///", ["keys", "ledger"]),
        ("kms://acme", "s3://acme-jwks/ledger", "s3://acme-jwks/", ["ledger"]),
        ("kms://acme", "s3://acme-jwks/x", "s3://acme-jwks/x/", ["ledger"]),
        ("kms://acme", "s3://acme-jwks/private", "s3://acme-jwks/public", []),
        ("kms://acme", "s3://acme-jwks/private", "s3://acme-jwks/private-not", []),
        ("file:///data/keys", "file:///data/ledger", "file:///data/public", []),
    ],
)
def test_nothing_private_lies_where_everybody_may_read(
    load: Load, faults: Callable[..., list[str]], keys: str, ledger: str, public: str, faulty: list[str]
) -> None:
    toml = f'stores = {{ keys = "{keys}", ledger = "{ledger}", public = "{public}" }}\n[[keysets]]\nname = "acme"\n'
    if not faulty:
        load(toml)
    else:
        assert faults(toml) == [
            f"stores.{name}: overlaps with stores.public, which everybody may read; give it another place."
            for name in faulty
        ]


def test_kms_is_asked_for_no_key_that_it_does_not_make(load: Load, faults: Callable[..., list[str]]) -> None:
    asked = MINIMAL + '[policy]\nalgorithms = ["ES256", "Ed448"]\n'
    load(asked)
    assert faults(asked.replace("secretsmanager://acme/jwt", "kms://acme")) == [
        "policy.algorithms: AWS KMS has no Ed448 keys (key set acme); leave it out."
    ]
    load(MINIMAL.replace("secretsmanager://acme/jwt", "kms://acme") + '[policy]\nalgorithms = ["ML-DSA-87"]\n')


def test_a_secret_is_asked_for_no_more_labels_than_it_takes(load: Load, faults: Callable[..., list[str]]) -> None:
    def policy(token_lifetime: str) -> str:
        return f'{MINIMAL}[policy]\nlifetime = "30h"\nmax_keys = 40\ntoken_lifetime = "{token_lifetime}"\n'

    fits, full = policy("11d3h"), policy("11d4h")
    assert load(fits).keysets[0].policy.keys_per_algorithm == 11
    (fault,) = faults(full)
    assert fault == (
        "policy.lifetime: 2 + ⌈11d6h9m ÷ 1d6h⌉ = 12 keys of one algorithm at once need 21 staging labels, and AWS"
        " Secrets Manager takes 20 on a secret (key set acme); make it longer, or retention shorter (token_lifetime,"
        " signer_lag)."
    )
    load(full.replace("secretsmanager://acme/jwt", "kms://acme"))
    # Who has to change the policy anyway is shown the proof first.
    with pytest.raises(Refused, match="max_keys is 10"):
        load(full.replace("max_keys = 40", "max_keys = 10"))


def test_encryption_that_would_not_happen(faults: Callable[..., list[str]]) -> None:
    toml = changed("s3://acme-ledger/", "file:///ledger") + '[ledger]\nsse_kms_key = "alias/acme"\n'
    assert faults(toml) == ["ledger.sse_kms_key: stores.ledger is not in S3: nothing would be encrypted; leave it out."]


# -- names, types and values -----------------------------------------------------------------------------------------

TABLE = "must be a table; in the environment write it as JSON."
LIST = "must be a list; in the environment write it as JSON."
UNKNOWN = "unknown setting; did you mean"
TABLES = "stores, aws, secretsmanager, kms, file, ledger, public, cloudfront, policy, schedule, server, keysets"
DURATIONS = "Write e.g. 30d, 1h30m, 90s or ISO 8601 (P30D, PT1H)."
NO_WINDOW = "is not possible: KMS waits 7 to 30 whole days before it deletes a key."
NO_TAGS = "at most 45 tags, with names of 1 to 128 and values of at most 256 characters."
CONTENT_TYPES = "must be 'application/jwk-set+json' or 'application/json'."


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ('[policy]\nlifetim = "30d"', f"policy.lifetim: {UNKNOWN} policy.lifetime?"),
        ('[polcy]\nlifetime = "30d"', f"polcy: {UNKNOWN} policy?"),
        ("[server]\nprot = 80", f"server.prot: {UNKNOWN} server.port?"),
        ("[server]\nlifetime = 80", f"server.lifetime: {UNKNOWN} policy.lifetime?"),
        ("[tls]\non = true", f"tls: unknown setting; known here are {TABLES}."),
        ("[server]\ntls = true", "server.tls: unknown setting; known here are host, port."),
        ('[file]\npassphrase = "hunter2"', f"file.passphrase: {UNKNOWN} file.passphrase_env?"),
        ('[policy]\nlifetime = "a month"', f"policy.lifetime: Not a duration: 'a month'. {DURATIONS}"),
        ('[policy]\nlifetime = "P1M"', f"policy.lifetime: Not a duration: 'P1M'. {DURATIONS}"),
        ('[policy]\nlifetime = "-5m"', f"policy.lifetime: Not a duration: '-5m'. {DURATIONS}"),
        ("[schedule]\ninterval = 60", 'schedule.interval: a duration is text with a unit; write e.g. "60s".'),
        ('[schedule]\ninterval = "60"', "schedule.interval: a duration has a unit; write e.g. 60s."),
        ('[policy]\nlifetime = "4000d"', "policy.lifetime: '4000d' is longer than ten years (3653d)."),
        ('[kms]\ndeletion_window = "3d"', f"kms.deletion_window: 3d {NO_WINDOW}"),
        ('[kms]\ndeletion_window = "7d1h"', f"kms.deletion_window: 7d1h {NO_WINDOW}"),
        ('[kms.tags]\n"rotator:x" = "y"', "kms.tags: names that begin with rotator: or aws: are taken: rotator:x."),
        ('[kms.tags]\n"" = "y"', f"kms.tags: {NO_TAGS}"),
        ("[kms.tags]\nteam = 7", "kms.tags.team: must be text."),
        ('[kms]\ntags = "team"', f"kms.tags: {TABLE}"),
        ("policy = 3", f"policy: {TABLE}"),
        ('[policy]\nalgorithms = "RS256"', f"policy.algorithms: {LIST}"),
        ('[policy]\nalgorithms = ["RS256", 3]', "policy.algorithms: must be text."),
        ('[policy]\nkid = "uuid"', "policy.kid: must be 'thumbprint' or 'spki-sha256'."),
        ("[policy]\ncache_tiers = 0", "policy.cache_tiers: must be at least 1."),
        ("[policy]\nmax_keys = 1.5", "policy.max_keys: must be a whole number."),
        (f"[policy]\nmax_keys = 0x1{'0' * 5000}", "policy.max_keys: must be at most 1000000."),
        ("[server]\nport = 65536", "server.port: must be at most 65535."),
        ("[server]\nhost = 127", "server.host: must be text."),
        ('[aws]\ns3_path_style = "maybe"', "aws.s3_path_style: must be true or false."),
        ('[aws]\nendpoint_url = "localhost:4566"', "aws.endpoint_url: is no URL; write e.g. https://id.example.com."),
        ('[aws]\nendpoint_url = "ftp://localhost"', "aws.endpoint_url: must begin with https:// or http://."),
        ('[cloudfront]\ndistribution_id = "https://x"', "cloudfront.distribution_id: is no such ID."),
        ('[public]\ncontent_type = "text/plain"', f"public.content_type: {CONTENT_TYPES}"),
        ('_env_file = "x"', "_env_file: unknown setting; did you mean file?"),
    ],
)  # fmt: skip
def test_a_bad_setting(faults: Callable[..., list[str]], toml: str, fault: str) -> None:
    toml = toml + MINIMAL if toml.startswith(("policy =", "_env")) else MINIMAL + toml
    assert faults(toml) == [fault]


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("ROTATOR_POLICY__LIFETIM", "30d", "unknown variable; did you mean ROTATOR_POLICY__LIFETIME?"),
        ("ROTATOR_POLICY_LIFETIME", "30d", "unknown variable; did you mean ROTATOR_POLICY__LIFETIME?"),
        ("ROTATOR_SERVER_PORT", "80", "unknown variable; did you mean ROTATOR_SERVER__PORT?"),
        ("ROTATOR_FOO", "1", "unknown variable; the README lists all settings."),
        ("ROTATOR_STORES__KEYS__REGION", "x", "unknown variable; did you mean ROTATOR_STORES__KEYS?"),
        ("ROTATOR_KEYSETS__0__NAME", "x", "unknown variable; did you mean ROTATOR_KEYSETS?"),
        ("ROTATOR_POLICY__LIFETIME", "30", "a duration has a unit; write e.g. 60s."),
        ("ROTATOR_POLICY__ALGORITHMS", "RS256", LIST),
        ("ROTATOR_POLICY", "{", TABLE),
        ("ROTATOR_POLICY", "[" * 100_000, TABLE),
        ("ROTATOR_POLICY", "[" * 800 + "]" * 800, TABLE),
        ("ROTATOR_KEYSETS", '[{"name": ', LIST),
        ("ROTATOR_KEYSETS", '{"name": "acme"}', LIST),
        ("ROTATOR_POLICY__MAX_KEYS", "many", "must be a whole number."),
    ],
)
def test_a_bad_variable(faults: Callable[..., list[str]], variable: str, value: str, fault: str) -> None:
    assert faults(env={variable: value}) == [f"{variable}: {fault}"]


# -- key sets --------------------------------------------------------------------------------------------------------

NO_PATH = (
    "is no path: A-Z a-z 0-9 . _ ~ @ : = + , - with single slashes within, and a last name that does not begin with a"
    " dot."
)
CLIMBS = "climbs out; no '.' and no '..' stands between the slashes of a path."
NOT_HTTPS = "must begin with https:// (http:// is for loopback hosts alone)."
NO_ISSUER = "an issuer has no query and no fragment (OpenID Connect Discovery, section 3)."
NO_URL = "is no URL; write e.g. https://id.example.com."


@pytest.mark.parametrize(
    ("setting", "value", "fault"),
    [
        ("path", "/etc/jwks.json", "'/etc/jwks.json' is absolute; a path is relative to stores.public."),
        ("path", "../other/jwks.json", f"'../other/jwks.json' {CLIMBS}"),
        ("path", "acme/../../jwks.json", f"'acme/../../jwks.json' {CLIMBS}"),
        ("path", "acme\\jwks.json", f"'acme\\\\jwks.json' {NO_PATH}"),
        ("path", "", f"'' {NO_PATH}"),
        ("path", "acme//jwks.json", f"'acme//jwks.json' {NO_PATH}"),
        ("path", "acme/", f"'acme/' {NO_PATH}"),
        ("path", "acme/\njwks.json", f"'acme/\\njwks.json' {NO_PATH}"),
        ("path", "acme/\0", f"'acme/\\x00' {NO_PATH}"),
        ("path", "acme/.lock", f"'acme/.lock' {NO_PATH}"),
        ("path", "a" * 201, "is too long: at most 512 characters, and 200 between two slashes."),
        ("issuer", "acme", NO_URL),
        ("issuer", "http://id.acme.example", NOT_HTTPS),
        ("issuer", "https://id.acme.example?x=1", NO_ISSUER),
        ("public_url", "http://cdn.acme.example/jwks.json", NOT_HTTPS),
        ("public_url", "ftp://cdn.acme.example/jwks.json", NOT_HTTPS),
        ("public_url", "cdn.acme.example/jwks.json", NO_URL),
        ("public_url", "https:///jwks.json", NO_URL),
        ("public_url", "https://[::1/jwks.json", NO_URL),
        ("public_url", "https://a.example:99999/", NO_URL),
        ("public_url", "https://a.example:-1/", NO_URL),
        ("public_url", "https://xn--/jwks.json", NO_URL),
        ("public_url", "https://xn--a.example/jwks.json", NO_URL),
        ("public_url", "https://a..example/jwks.json", NO_URL),
        ("public_url", f"https://{'a' * 64}.example/jwks.json", NO_URL),
        ("public_url", f"https://{'a.' * 126}example/jwks.json", NO_URL),
        ("issuer", "https://xn--", NO_URL),
        ("public_url", "https://a.example/ jwks.json", NO_URL),
        ("public_url", "https://a.example/\tjwks.json", NO_URL),
        ("public_url", "https://me:hunter2@a.example/", "holds a user name or password; leave them out."),
        ("public_url", "https://a.example/#keys", "has a fragment (#…), which is never sent; leave it out."),
        ("public_url", ["https://a.example/", 7], "must be text."),
        ("public_url", 7, LIST),
        ("lifetime", "3d", "unknown setting; did you mean policy.lifetime?"),
        ("policy", {"lifetim": "3d"}, "unknown setting; did you mean keysets.policy.lifetime?"),
        ("policy", {"lifetime": 3}, 'a duration is text with a unit; write e.g. "60s".'),
    ],
)  # fmt: skip
def test_a_bad_key_set(faults: Callable[..., list[str]], setting: str, value: object, fault: str) -> None:
    inner = f".{next(iter(value))}" if isinstance(value, dict) else ""
    found = faults(env={"ROTATOR_KEYSETS": json.dumps([{"name": "acme", setting: value}])})
    assert found == [f"keysets.acme.{setting}{inner}: {fault}"]


@pytest.mark.parametrize("name", ["Acme", "a/b", "..", "-a", "a" * 64, "ä", "a\n"])
def test_a_bad_name(faults: Callable[..., list[str]], name: str) -> None:
    (fault,) = faults(env={"ROTATOR_KEYSETS": json.dumps([{"name": "fine"}, {"name": name}])})
    assert fault.startswith(f"keysets #2.name: Key set name {name!r}: use 1 to 63 of a-z, 0-9, '_' and '-', ")


def test_key_sets_without_a_name(faults: Callable[..., list[str]]) -> None:
    assert faults(env={"ROTATOR_KEYSETS": '[{}, {"name": 7}, "acme"]'}) == [
        "keysets #2.name: must be text.",
        f"keysets #3: {TABLE}",
        "keysets #1.name: is missing.",
    ]


def test_key_sets_that_would_overwrite_one_another(faults: Callable[..., list[str]]) -> None:
    keysets = [
        {"name": "a", "public_url": "https://x.example/"},
        {"name": "a"},
        {"name": "b", "path": "a/.well-known/jwks.json", "public_url": ["https://x.example/"]},
        {"name": "c", "path": "b"},
        {"name": "d", "path": "b/jwks.json"},
    ]
    assert faults(env={"ROTATOR_KEYSETS": json.dumps(keysets)}) == [
        "keysets: 2 are named 'a'; each needs a name of its own.",
        "keysets.b.public_url: key set a names the same URL; each needs its own.",
        "keysets.b.path: a/.well-known/jwks.json is the path of key set a; each needs its own.",
        "keysets.d.path: b/jwks.json lies below the path of key set c; each needs its own.",
    ]


# -- the policy ------------------------------------------------------------------------------------------------------

TOO_SHORT = (
    "Unsafe: A key signs for {lifetime}; its successor needs 1d1h7m in public and two ticks of 1m, 1d1h9m in all,"
    " before it can take over. Required: lifetime > prepublish + 2 × interval."
)


def test_an_unsafe_policy_is_refused(load: Load) -> None:
    with pytest.raises(Refused) as caught:
        load(MINIMAL + '[policy]\nlifetime = "1d"\n')
    assert str(caught.value) == f"policy: {TOO_SHORT.format(lifetime='1d')}"


def test_an_unsafe_policy_can_be_looked_at(load: Load) -> None:
    configuration = load(MINIMAL + '[policy]\nlifetime = "1d"\n', unsafe=True)
    assert not all(line.holds for line in configuration.keysets[0].policy.inequalities())


def test_an_unsafe_policy_and_another_fault_is_a_configuration_error(faults: Callable[..., list[str]]) -> None:
    assert faults(MINIMAL + '[policy]\nlifetime = "1d"\n[server]\nport = -1\n') == [
        "server.port: must be at least 0.",
        f"policy: {TOO_SHORT.format(lifetime='1d')}",
    ]


def test_each_key_sets_policy_is_judged_once_and_by_itself(load: Load) -> None:
    keysets = [
        {"name": "a"},
        {"name": "b"},
        {"name": "c", "policy": {"lifetime": "2h"}},
        {"name": "d", "policy": {"lifetime": "30d"}},
    ]
    with pytest.raises(Refused) as caught:
        load(MINIMAL + '[policy]\nlifetime = "1d"\n', {"ROTATOR_KEYSETS": json.dumps(keysets)})
    assert str(caught.value).splitlines() == [
        f"policy: {TOO_SHORT.format(lifetime='1d')}",
        f"keysets.c.policy: {TOO_SHORT.format(lifetime='2h')}",
    ]


def test_a_policy_that_no_key_set_follows_is_not_judged(load: Load) -> None:
    keysets = [{"name": "a", "policy": {"lifetime": "30d"}}]
    load(MINIMAL + '[policy]\nlifetime = "1d"\n', {"ROTATOR_KEYSETS": json.dumps(keysets)})


def test_policies_that_make_no_sense(faults: Callable[..., list[str]]) -> None:
    toml = """
    [policy]
    algorithms = ["RS256", "HS256", "RS256"]
    rsa_bits = 1024
    lifetime = "0s"
    cache_max_age = "1.5s"
    max_creations_per_day = 0
    [schedule]
    interval = "0s"
    """
    assert faults(MINIMAL + toml) == [
        "policy.lifetime is 0: it must be longer.",
        "schedule.interval is 0: it must be longer.",
        "policy.cache_max_age is 1.5 s: an HTTP header needs whole seconds.",
        "policy.max_creations_per_day is 0: it must be at least 1.",
        "policy.algorithms names one twice: RS256, HS256, RS256.",
        f"policy: Unknown algorithm 'HS256': choose from {', '.join(ALGORITHMS)}.",
        "policy.rsa_bits is 1024: choose from 2048, 3072, 4096.",
    ]


def test_a_policy_is_not_judged_by_what_stands_in_for_a_bad_value(faults: Callable[..., list[str]]) -> None:
    toml = MINIMAL + '[policy]\nlifetime = "1d"\nverifier_cache = "an hour"\n'
    assert faults(toml) == [
        "policy.verifier_cache: Not a duration: 'an hour'. Write e.g. 30d, 1h30m, 90s or ISO 8601 (P30D, PT1H)."
    ]


def test_all_faults_are_told_at_once(faults: Callable[..., list[str]]) -> None:
    toml = """
    [stores]
    keys = "vault://acme"
    ledger = "s3://acme-jwks"
    public = "s3://acme-jwks"
    [policy]
    lifetim = "30d"
    rsa_bits = "big"
    [servr]
    port = 1
    [[keysets]]
    name = "acme"
    path = "../x"
    policy = { lifetime = "1d", kid = "x" }
    [[keysets]]
    name = "acme"
    """
    assert faults(toml, {"ROTATOR_FILE__PASPHRASE_ENV": "x", "ROTATOR_SERVER__PORT": "http"}) == [
        "ROTATOR_FILE__PASPHRASE_ENV: unknown variable; did you mean ROTATOR_FILE__PASSPHRASE_ENV?",
        "servr: unknown setting; did you mean server?",
        f"stores.keys: unknown scheme 'vault'; known are {KEYS}.",
        "policy.rsa_bits: must be a whole number.",
        "policy.lifetim: unknown setting; did you mean policy.lifetime?",
        "ROTATOR_SERVER__PORT: must be a whole number.",
        f"keysets.acme.path: '../x' {CLIMBS}",
        "keysets.acme.policy.kid: must be 'thumbprint' or 'spki-sha256'.",
        "keysets: 2 are named 'acme'; each needs a name of its own.",
        "stores.ledger: overlaps with stores.public, which everybody may read; give it another place.",
    ]


# -- the passphrase --------------------------------------------------------------------------------------------------

LOCAL = """
[stores]
keys = "file:///data/keys"
ledger = "file:///data/ledger"
public = "file:///data/public"
[[keysets]]
name = "acme"
[file]
"""


def test_the_passphrase_comes_from_a_variable_of_any_name(load: Load) -> None:
    configuration = load(LOCAL + 'passphrase_env = "ROTATOR_KEY_PASSPHRASE"', {"ROTATOR_KEY_PASSPHRASE": "hunter2"})
    assert configuration.passphrase == b"hunter2"
    assert "hunter2" not in repr(configuration)


@pytest.mark.parametrize("content", [b"hunter2", b"hunter2\n", b"hunter2\r\n"])
def test_the_passphrase_comes_from_a_file(load: Load, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "passphrase").write_bytes(content)
    assert load(LOCAL + f'passphrase_file = "{tmp_path}/passphrase"').passphrase == b"hunter2"


def test_without_key_files_no_passphrase_is_looked_for(load: Load) -> None:
    assert load(MINIMAL + '[file]\npassphrase_env = "MISSING"').passphrase is None


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ('passphrase_env = "hunter2"', "passphrase_env: names an environment variable that is not set, or empty."),
        ('passphrase_env = "hunter=2"', "passphrase_env: names an environment variable that is not set, or empty."),
        (
            'passphrase_env = "hunter\\u00002"',
            "passphrase_env: names an environment variable that is not set, or empty.",
        ),
        ('passphrase_file = "hunter2"', "passphrase_file: must be an absolute path."),
        (
            'passphrase_file = "/hunter2"',
            "passphrase_file: names a file that cannot be read (No such file or directory).",
        ),
        ('passphrase_file = "/hunter\\u00002"', "passphrase_file: names a file that cannot be read (it is no path)."),
        ('passphrase_file = "/dev/null"', "passphrase_file: names an empty file."),
        (
            'passphrase_env = "HOME"\npassphrase_file = "/dev/null"',
            "passphrase_env: is set, and file.passphrase_file too; leave one of them out.",
        ),
    ],
)
def test_a_bad_passphrase_is_never_quoted(faults: Callable[..., list[str]], setting: str, fault: str) -> None:
    assert faults(LOCAL + setting) == [f"file.{fault}"]


SECRETS = [
    '[stores]\nkeys = "secretsmanager://u:hunter2@x y"',
    '[stores]\nledger = "s3://u:hunter2@bucket"',
    '[file]\npassphrase = "hunter2"',
    'passphrase = "hunter2"',
    '[aws]\nendpoint_url = "https://u:hunter2@host"',
    '[aws]\nsecret_access_key = "hunter2"',
    '[[keysets]]\nname = "a"\npublic_url = "http://u:hunter2@host"',
    '[[keysets]]\nname = "a"\npublic_url = "ftp://host/?token=hunter2"',
    '[server]\nport = "hunter2"',
    '[policy]\nalgorithms = "hunter2"\nmax_keys = "hunter2"\nkid = "hunter2"',
]  # fmt: skip


@pytest.mark.parametrize("toml", SECRETS)
def test_no_message_holds_what_may_be_a_secret(load: Load, toml: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(toml)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.__cause__)


# -- anything at all -------------------------------------------------------------------------------------------------

fuzz = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
durations = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3653))


def loads_or_tells(**env: Any) -> Configuration | None:
    """Load ``env`` over a whole configuration; anything but our errors is a traceback that a person would see."""
    base = {
        "ROTATOR_STORES": {"keys": "kms://acme", "ledger": "s3://acme-ledger", "public": "s3://acme-jwks"},
        "ROTATOR_KEYSETS": [{"name": "acme"}],
    }
    merged = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (base | env).items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in merged.items():
            patch.setenv(name, value)
        try:
            return Configuration.load()
        except RotatorError:
            return None


paths = sorted(path for path, _, _ in table() if "[]" not in path)


@fuzz
@given(st.dictionaries(st.sampled_from(paths), values, max_size=4))
def test_any_value_of_any_setting_loads_or_is_told(settings: dict[str, Any]) -> None:
    tables: dict[str, Any] = {}
    for path, value in settings.items():
        name, setting = path.split(".")
        tables.setdefault(f"ROTATOR_{name.upper()}", {})[setting] = value
    loads_or_tells(**tables)


@fuzz
@given(values)
def test_any_key_sets_load_or_are_told(keysets: object) -> None:
    loads_or_tells(ROTATOR_KEYSETS=keysets)


entry = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "", "A"]) | values,
        "path": st.sampled_from(["a", "a/b", "{name}.json", "../x"]) | values,
        "public_url": st.sampled_from(["https://a.example/", "http://localhost/x"]) | values,
        "issuer": values,
        "policy": st.dictionaries(st.sampled_from([*PolicyTable.model_fields, "x"]), values, max_size=3) | values,
        "other": values,
    },
)


@fuzz
@given(st.lists(entry | values, max_size=4))
def test_key_sets_of_any_kind_load_or_are_told(keysets: list[object]) -> None:
    loads_or_tells(ROTATOR_KEYSETS=keysets)


@fuzz
@given(st.from_regex(r"\AROTATOR_[A-Z_0-9]{1,30}\Z"), st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_variable_loads_or_is_told(name: str, value: str) -> None:
    loads_or_tells(**{name: value})


@fuzz
@given(st.binary(max_size=200))
def test_any_file_loads_or_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rotator.toml"
    file.write_bytes(content)
    with pytest.raises(RotatorError):
        Configuration.load(file)


@fuzz
@given(st.fixed_dictionaries({}, optional={
    name: durations.map(text) for name, field in PolicyTable.model_fields.items() if field.annotation is timedelta
} | {"cache_tiers": st.integers(1, 100)}), durations.map(text))  # fmt: skip
def test_any_durations_load_or_are_told(policy: dict[str, str | int], interval: str) -> None:
    configuration = loads_or_tells(ROTATOR_POLICY=policy, ROTATOR_SCHEDULE__INTERVAL=interval)
    if configuration:
        (keyset,) = configuration.keysets
        assert all(
            getattr(keyset.policy, name) == parse_duration(str(value))
            for name, value in policy.items()
            if name != "cache_tiers"
        )
        assert keyset.policy.faults() == []


@given(durations.map(lambda duration: timedelta(seconds=duration // timedelta(seconds=1))))
def test_a_duration_is_read_as_it_is_written(duration: timedelta) -> None:
    assert parse_duration(text(duration)) == duration


def fault_in(check: Callable[[str], object], value: str) -> str | None:
    try:
        check(value)
    except ValueError as exc:
        return str(exc)
    return None


schemes = st.sampled_from(["s3", "file", "kms", "secretsmanager", "", "S3", "x"])


@fuzz
@given(schemes, st.text() | st.from_regex(r"/?([a-z0-9._~-]{1,20}/?){1,4}"))
def test_a_uri_is_refused_in_a_sentence_or_stays_where_it_points(scheme: str, rest: str) -> None:
    uri = f"{scheme}://{rest}"
    for check, known in ((uris.keys_uri, uris.KEY_URIS), (uris.documents_uri, uris.DOCUMENT_URIS)):
        fault = fault_in(check, uri)
        if fault is not None:
            assert fault.endswith(".")
            continue
        path = uris.locate(uri, known).path
        assert ".." not in path.split("/")
        assert "//" not in path
        assert path == "/" or not path.endswith("/")


names = st.sampled_from(["a", ".", "..", "", "{name}", ".well-known", "\\", "%2e", "jwks.json"])


@fuzz
@given(st.text() | st.lists(names).map("/".join))
def test_a_path_is_refused_in_a_sentence_or_stays_inside(path: str) -> None:
    fault = fault_in(uris.document_path, path)
    if fault is not None:
        assert fault.endswith(".")
    else:
        assert os.path.normpath(f"/srv/public/{path}") == f"/srv/public/{path}"


@fuzz
@given(st.text() | st.from_regex(r"https?://[a-z@:\[\]0-9.]{1,20}(/[a-z?#%]*)?"))
def test_a_url_is_refused_in_a_sentence_or_names_a_host(url: str) -> None:
    fault = fault_in(uris.public_url, url)
    if fault is not None:
        assert fault.endswith(".")
    else:
        assert re.fullmatch(r"(?i:https|http)://[^@/?#]+([/?].*)?", url)


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_settings_import_neither_adapters_nor_what_these_need() -> None:
    heavy = ["boto3", "botocore", "httpx", "cryptography", "apscheduler", "structlog", "rotator.engine", "rotator.aws"]
    code = f"import sys, rotator.settings; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_thousand_key_sets_load_within_a_second_or_two() -> None:
    keysets = [{"name": f"k{number}", "public_url": f"https://a.example/{number}"} for number in range(1_000)]
    started = time.process_time()
    configuration = loads_or_tells(ROTATOR_KEYSETS=keysets)
    assert configuration
    assert len(configuration.keysets) == len(keysets)
    assert time.process_time() - started < 2
