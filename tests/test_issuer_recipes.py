"""The recipes for issuers in other languages (deploy/issuers), run in Node against what rotator's stores write."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import jwt
import pytest
import yaml
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet as JoserfcKeys

from rotator.documents.s3 import S3Documents
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.stores.kms import KmsKeys
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests.accounts import moto
from tests.contracts.key_store import intend, ref_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rotator.ports import KeyRef, KeyStore

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")]

RECIPES = Path(__file__).parents[1] / "deploy" / "issuers"
CLAIMS = {"iss": "https://id.acme.example", "sub": "ü1"}
LAG = 2.0

#: A service that signs what it is given, a line at a time.
SERVICE = """
import { createInterface } from 'node:readline';
const [recipe, ...given] = JSON.parse(process.argv[2]);
const { issuer } = await import(`./${recipe}.mjs`);
const sign = await issuer(...given);
for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(await sign(JSON.parse(line)));
  } catch (error) {
    console.log(`${error.name}: ${error.message}`);
  }
}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes with what they need, as somebody has them who copied them."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    copied = tmp_path_factory.mktemp("recipes") / "issuers"
    shutil.copytree(RECIPES, copied, ignore=shutil.ignore_patterns("node_modules"))
    (copied / "service.mjs").write_text(SERVICE)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(npm, cwd=copied, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return copied


class Issuer:
    """A recipe at work, and the keys it may sign with."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.public: dict[str, dict[str, Any]] = {}

    def token(self, claims: Mapping[str, Any] = CLAIMS) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(claims) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline().strip()
        assert line, "the issuer ended"
        return line

    def kid(self, claims: Mapping[str, Any] = CLAIMS) -> str:
        """The kid of the key that signs; fails where PyJWT or joserfc do not accept what it signed."""
        token = self.token(claims)
        header = jwt.get_unverified_header(token)
        key = self.public[header["kid"]]
        assert header["typ"] == "JWT"
        assert jwt.decode(token, jwt.PyJWK(key), algorithms=[key["alg"]]) == claims
        keys: Any = {"keys": list(self.public.values())}
        assert joserfc_jwt.decode(token, JoserfcKeys.import_key_set(keys), algorithms=[key["alg"]]).claims == claims
        return str(header["kid"])

    def follows_to(self, ref: KeyRef) -> None:
        deadline = time.monotonic() + LAG
        while self.kid() != ref.kid:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def running(home: Path, endpoint: str, *given: object) -> Iterator[Issuer]:
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "eu-west-1", "NODE_NO_WARNINGS": "1"}
    process = subprocess.Popen(
        ["node", "service.mjs", json.dumps(given)],
        cwd=home,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Issuer(process)
    finally:
        process.kill()
        process.communicate()


def rotate(store: KeyStore, alg: str, public: dict[str, dict[str, Any]]) -> KeyRef:
    intent = intend("acme", ALGORITHMS[alg])
    made = store.create(intent)
    ref = ref_to(intent, made)
    public[ref.kid] = jwks.public_jwk(made.spki, intent.algorithm)
    store.move_pointer(store.read_pointer("acme", intent.algorithm), ref)
    return ref


# -- Secrets Manager ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def secrets(aws: str) -> tuple[SecretsManagerKeys, str]:
    prefix = f"recipe/{uuid.uuid4().hex[:12]}"
    client = boto3.client("secretsmanager", endpoint_url=aws)
    return SecretsManagerKeys(lambda: client, prefix), prefix


@pytest.mark.parametrize("alg", ["RS256", "PS384", "ES256", "ES512", "EdDSA"])
def test_the_recipe_for_secrets_manager_follows_a_rotation(
    home: Path, aws: str, secrets: tuple[SecretsManagerKeys, str], alg: str
) -> None:
    store, prefix = secrets
    public: dict[str, dict[str, Any]] = {}
    first = rotate(store, alg, public)
    with running(home, aws, "secretsmanager", f"{prefix}/acme/{alg}", LAG * 1000) as issuer:
        issuer.public = public
        assert issuer.kid() == first.kid
        issuer.follows_to(rotate(store, alg, public))
        store.clear_pointer("acme", ALGORITHMS[alg], store.read_pointer("acme", ALGORITHMS[alg]))
        time.sleep(LAG / 2)
        assert issuer.token() == f"Error: Secret {prefix}/acme/{alg} holds no key."


# -- KMS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kms(ministack_url: str) -> tuple[KmsKeys, str]:
    """A key store whose pointers are in a bucket of their own, and the bucket."""
    name = f"recipe-{uuid.uuid4().hex[:12]}"
    s3, client = boto3.client("s3", endpoint_url=ministack_url), boto3.client("kms", endpoint_url=ministack_url)
    tagging = boto3.client("resourcegroupstaggingapi", endpoint_url=ministack_url)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    pointers = S3Documents(lambda: s3, name)
    return KmsKeys(lambda: client, lambda: tagging, pointers, name, client_once=lambda: client), name


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_the_recipe_for_kms_follows_a_rotation_and_a_revoke(
    home: Path, ministack_url: str, kms: tuple[KmsKeys, str], alg: str
) -> None:
    store, name = kms
    public: dict[str, dict[str, Any]] = {}
    first = rotate(store, alg, public)
    with running(home, ministack_url, "kms", name, f"acme/{alg}.pointer.json", 60_000) as issuer:
        issuer.public = public
        for _ in range(8):  # r and s of several lengths
            assert issuer.kid() == first.kid
        long = {**CLAIMS, "long": "x" * 5000}
        if alg == "EdDSA":
            assert issuer.token(long).startswith("Error: KMS signs at most 4096 bytes with EdDSA; this token has ")
        else:
            assert issuer.kid(long) == first.kid
        second = rotate(store, alg, public)
        assert issuer.kid() == first.kid
        store.disable(first)
        assert issuer.kid() == second.kid


def test_the_recipe_for_kms_reads_the_pointer_in_time(home: Path, ministack_url: str, kms: tuple[KmsKeys, str]) -> None:
    store, name = kms
    public: dict[str, dict[str, Any]] = {}
    rotate(store, "ES256", public)
    with running(home, ministack_url, "kms", name, "acme/ES256.pointer.json", LAG * 1000) as issuer:
        issuer.public = public
        issuer.follows_to(rotate(store, "ES256", public))
        boto3.client("s3", endpoint_url=ministack_url).delete_object(Bucket=name, Key="acme/ES256.pointer.json")
        assert issuer.kid()
        time.sleep(LAG)
        assert issuer.token().startswith("Error: The current key was not read for signer_lag")


# -- ML-DSA: an old Node has none, and no emulator of KMS --------------------------------------------------------------


def made(alg: str) -> tuple[Any, dict[str, Any]]:
    """A private key of its own, and its public JWK."""
    private = material.generate(ALGORITHMS[alg], 2048)
    return private, jwks.public_jwk(material.spki(private), ALGORITHMS[alg])


def verifies(token: str, public: dict[str, Any]) -> bool:
    message, _, signature = token.rpartition(".")
    return material.verify(public, ALGORITHMS[public["alg"]], message.encode(), material.unb64u(signature))


@contextmanager
def ml_dsa_kms(private: Any, pointer: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An S3 that holds ``pointer`` and a KMS that signs with ``private``; and what was asked of it."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(json.dumps(pointer).encode())

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = base64.b64decode(asked[-1]["Message"])
            signature = material.sign(private, ALGORITHMS[pointer["alg"]], message)
            self.answer(json.dumps({"Signature": base64.b64encode(signature).decode()}).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_the_recipe_for_kms_signs_with_ml_dsa_in_any_node(home: Path, alg: str) -> None:
    private, public = made(alg)
    pointer = {"kid": public["kid"], "alg": alg, "key_arn": "arn:aws:kms:eu-west-1:111122223333:key/1"}
    with (
        ml_dsa_kms(private, pointer) as (endpoint, asked),
        running(home, endpoint, "kms", "ledgers", f"acme/{alg}.pointer.json", 60_000) as issuer,
    ):
        assert verifies(issuer.token(), public)
        assert issuer.token({"long": "x" * 5000}).startswith(f"Error: KMS signs at most 4096 bytes with {alg}; ")
    (call,) = asked
    row = ALGORITHMS[alg]
    assert (call["SigningAlgorithm"], call["MessageType"]) == (row.kms_signing_algorithm, "RAW")
    assert call["KeyId"] == pointer["key_arn"]


@pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_a_private_jwk_for_ml_dsa_signs_where_node_can_and_is_refused_in_a_sentence_where_not(
    home: Path, tmp_path: Path, alg: str
) -> None:
    private, public = made(alg)
    jwk = material.private_jwk(private, public)
    mounted = tmp_path / "jwk.json"
    mounted.write_text(json.dumps(jwk))
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, version[1:].split(".")[:2])) >= (24, 6):
        with running(home, "http://127.0.0.1:9", "mounted", str(mounted), LAG * 1000) as issuer:
            assert verifies(issuer.token(), public)
    else:
        words = ["node", "service.mjs", json.dumps(["mounted", str(mounted), LAG * 1000])]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False, timeout=20)
        assert f"holds a key for {alg}, which Node {version} cannot use: take 24.6 or newer." in done.stderr
        assert jwk["priv"] not in done.stderr
    mounted.unlink()


# -- External Secrets Operator -----------------------------------------------------------------------------------------


def manifests() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((RECIPES / "external-secret.yaml").read_text())
    return {manifest["kind"]: manifest for manifest in found}


def test_the_manifests_fit_one_another() -> None:
    found = manifests()
    secret, store, pod = found["ExternalSecret"], found["SecretStore"], found["Deployment"]["spec"]["template"]["spec"]
    reference = secret["spec"]["secretStoreRef"]
    assert (reference["kind"], reference["name"]) == (store["kind"], store["metadata"]["name"])
    (volume,), (mount,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
    assert volume["secret"]["secretName"] == secret["spec"]["target"]["name"]
    assert mount["name"] == volume["name"]
    assert "subPath" not in mount
    authorized = store["spec"]["provider"]["aws"]["auth"]["jwt"]["serviceAccountRef"]["name"]
    assert authorized == pod["serviceAccountName"]
    (entry,) = secret["spec"]["data"]
    assert f"{mount['mountPath']}/{entry['secretKey']}" in (RECIPES / "mounted.mjs").read_text()


def test_the_recipe_for_a_mounted_secret_follows_the_operator(
    home: Path, aws: str, secrets: tuple[SecretsManagerKeys, str], tmp_path: Path
) -> None:
    store, prefix = secrets
    (entry,) = manifests()["ExternalSecret"]["spec"]["data"]
    name = entry["remoteRef"]["key"].replace("acme/jwt", prefix, 1)
    alg = name.rpartition("/")[2]
    client = boto3.client("secretsmanager", endpoint_url=aws)
    mounted = tmp_path / entry["secretKey"]

    def sync() -> None:
        """What the operator and the kubelet do: the value of the default version, put in place at once."""
        half = tmp_path / "..half"
        half.write_text(client.get_secret_value(SecretId=name)["SecretString"])
        half.replace(mounted)

    public: dict[str, dict[str, Any]] = {}
    first = rotate(store, alg, public)
    sync()
    with running(home, aws, "mounted", str(mounted), LAG * 1000) as issuer:
        issuer.public = public
        assert issuer.kid() == first.kid
        second = rotate(store, alg, public)
        assert issuer.kid() == first.kid
        sync()
        issuer.follows_to(second)
        mounted.write_text('{"d": "secret')
        time.sleep(LAG + 0.1)
        assert issuer.token().startswith("Error: The current key was not read for signer_lag")
