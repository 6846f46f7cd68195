"""The watch over private values can fail: each way in which a key could leak is caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rotator.keys import material
from rotator.keys.algorithms import algorithm
from tests.leaks import Watch, forms, secret_values, telling_lines

LEAKS = """
import base64, json, logging, subprocess, sys
import pytest, typer
from typer.testing import CliRunner
from rotator.documents.filesystem import FilesystemDocuments
from rotator.keys import jwks, material
from rotator.keys.algorithms import algorithm
from rotator.ports import Headers
from tests.leaks import forms, secret_values

def key(alg="ES256"):
    private = material.generate(algorithm(alg), 2048)
    return private, forms(secret_values(private)["d"])

def test_leak_by_print(): print("d is", key()[1]["base64url"])
def test_leak_by_print_in_hexadecimal(): print("0x" + "..", key()[1]["hexadecimal"])
def test_leak_by_print_in_decimal(): print(key()[1]["decimal"])
def test_leak_by_pem(): sys.stderr.write(material.private_pem(key("EdDSA")[0]).decode())
def test_leak_by_pem_of_rsa(): sys.stderr.write(material.private_pem(key("RS256")[0]).decode()[900:])
def test_leak_by_log(): logging.getLogger("x").error("key %s", key()[1]["base64"])
def test_leak_by_capsys(capsys): print(key()[1]["base64url"]); capsys.readouterr()
def test_leak_by_file(tmp_path): (tmp_path / "public.json").write_text(json.dumps({"d": key()[1]["base64url"]}))
def test_leak_by_raw_bytes(tmp_path): (tmp_path / "x.bin").write_bytes(b"\\0" + secret_values(key()[0])["d"] + b"\\0")
def test_leak_by_document(tmp_path_factory):
    private, _ = key()
    jwk = material.private_jwk(private, jwks.public_jwk(material.spki(private), algorithm("ES256")))
    store = FilesystemDocuments(tmp_path_factory.mktemp("elsewhere"))
    store.create("acme/jwks.json", json.dumps({"keys": [jwk]}).encode(), Headers("x", None))
def test_leak_inside_base64(tmp_path):
    private, said = key()
    (tmp_path / "x").write_text("prefix" + said["base64url"] + "suffix")
def test_leak_by_process():
    subprocess.run([sys.executable, "-c", "print('%s')" % key()[1]["base64url"]], capture_output=True)
def test_leak_by_command():
    app = typer.Typer()
    app.command()(lambda: typer.echo(key()[1]["base64url"]))
    CliRunner().invoke(app, [])

def test_fine(tmp_path, capsys):
    private, _ = key()
    print(jwks.public_jwk(material.spki(private), algorithm("ES256")))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a.pem").write_bytes(material.private_pem(private))
"""


def test_each_leak_is_caught_and_what_is_fine_passes(tmp_path: Path) -> None:
    story = tmp_path / "test_story.py"
    story.write_text(LEAKS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        "from tests.leaks import pytest_configure, pytest_runtest_makereport", encoding="utf-8"
    )
    leaks = LEAKS.count("def test_leak_")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(story)],
        env={"PYTHONPATH": str(root), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert f"{leaks} failed, 1 passed" in done.stdout, done.stdout[-3000:]
    assert done.stdout.count("A private value leaked") >= leaks


@pytest.mark.parametrize("alg", ["RS256", "ES256", "ES512", "EdDSA"])
def test_every_private_member_is_learned_in_every_form(alg: str) -> None:
    watch = Watch()
    private = material.generate(algorithm(alg), 2048)
    watch.learn(private, alg)
    jwk = material.private_jwk(private, {"kty": algorithm(alg).kty})
    for member in secret_values(private):
        watch.look(f'{{"{member}": "{jwk[member]}"}}', member)
        assert watch.found.pop().endswith(f"stands in {member}")
        watch.found.clear()
    for value in secret_values(private).values():
        for form, words in forms(value).items():
            watch.look(f"- {words}.", form)
            assert watch.found, form
            watch.found.clear()
    assert list(telling_lines(material.private_pem(private)))
