from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rotator import files
from rotator.errors import AccessDenied, ConfigurationError, Refused, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.stores import local
from rotator.stores.local import LocalKeys
from tests.adapters.test_filesystem import dies_before, ended, failing, mode, names, started
from tests.contracts.key_store import MESSAGE, KeyStoreContract, again, intend, ref_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rotator.ports import KeyRef, KeyStore, Pointer

ES256, ES384, EDDSA, RS256 = (ALGORITHMS[alg] for alg in ("ES256", "ES384", "EdDSA", "RS256"))


class TestLocalKeys(KeyStoreContract):
    algorithms = (*KeyStoreContract.algorithms, "Ed448", "ML-DSA-65")

    @pytest.fixture
    def store(self, root: Path) -> KeyStore:
        return LocalKeys(root)

    @pytest.fixture
    def second(self, root: Path) -> KeyStore:
        return LocalKeys(root)

    def private_texts(self, store: KeyStore, ref: KeyRef) -> Sequence[str]:
        assert isinstance(store, LocalKeys)
        lines = store._file(ref).read_text().splitlines()
        assert len(lines) > 2
        return [line for line in lines if not line.startswith("---")]


def test_a_destroyed_key_is_remembered_for_a_year_so_that_a_stalled_worker_makes_no_second_one(root: Path) -> None:
    store, home = LocalKeys(root), root / "acme/ES256"
    intent = intend("acme", ES256)
    ref = ref_to(intent, store.create(intent))
    store.destroy(ref)
    with pytest.raises(Refused, match=f"was destroyed, and no second one is made.*{intent.id}.pem.destroyed"):
        store.create(again(intent))
    memory = home / f"{intent.id}.pem.destroyed"
    assert {file.name for file in home.iterdir()} == {".lock", memory.name}
    assert (mode(memory), memory.read_bytes()) == (0o600, b"")
    assert store.holds("acme", [ES256]) is None
    assert list(store.held("acme")) == []
    store.check("acme", [ES256])

    def age(days: int) -> None:
        os.utime(memory, (memory.stat().st_mtime - days * 86_400,) * 2)

    for days, left in ((360, True), (10, False)):
        age(days)
        another = intend("acme", ES256)
        store.destroy(ref_to(another, store.create(another)))
        assert memory.exists() is left


@pytest.mark.parametrize(("call", "number"), [("unlink", errno.EIO), ("touch", errno.ENOSPC)])
def test_a_destroy_that_is_broken_off_is_finished_by_the_next_and_then_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = LocalKeys(root)
    intent = intend("acme", ES256)
    ref = ref_to(intent, store.create(intent))
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, failing(number))
        with pytest.raises(StoreError):
            store.destroy(ref)
    # A full disk keeps no private half alive; one that cannot be erased is still the only one of its intent.
    assert (root / "acme/ES256" / ref.handle).exists() is (call == "unlink")
    if call == "unlink":
        assert ref_to(intent, store.create(again(intent))) == ref
    store.destroy(ref)
    with pytest.raises(Refused):
        store.create(again(intent))


class TestLocalKeysUnderAPassphrase(TestLocalKeys):
    algorithms = ("ES256",)

    @pytest.fixture
    def store(self, root: Path) -> KeyStore:
        return LocalKeys(root, b"correct horse")

    @pytest.fixture
    def second(self, root: Path) -> KeyStore:
        return LocalKeys(root, b"correct horse")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def keys(root: Path) -> LocalKeys:
    return LocalKeys(root)


@pytest.fixture
def home(root: Path) -> Path:
    return root / "acme" / "ES256"


def made(keys: LocalKeys) -> KeyRef:
    intent = intend("acme", ES256)
    return ref_to(intent, keys.create(intent))


def made_current(keys: LocalKeys) -> tuple[KeyRef, Pointer]:
    ref = made(keys)
    return ref, keys.move_pointer(keys.read_pointer("acme", ES256), ref)


# What issuers find


def test_an_issuer_reads_the_pointer_and_opens_the_file_it_names(keys: LocalKeys, home: Path) -> None:
    intent = intend("acme", ES256)
    key = keys.create(intent)
    ref = ref_to(intent, key)
    pointer = keys.move_pointer(keys.read_pointer("acme", ES256), ref)
    said = json.loads((home / "pointer.json").read_bytes())
    assert said == {"id": ref.id, "kid": ref.kid, "alg": "ES256", "key": f"{ref.id}.pem", "token": pointer.token}
    private = material.load_private_pem((home / said["key"]).read_bytes())
    public = jwks.public_jwk(key.spki, ES256)
    assert public["kid"] == said["kid"]
    assert material.verify(public, ES256, MESSAGE, material.sign(private, ES256, MESSAGE))


def test_an_issuer_finds_a_clear_absence_after_the_pointer_was_cleared(keys: LocalKeys, home: Path) -> None:
    _, pointer = made_current(keys)
    cleared = keys.clear_pointer("acme", ES256, pointer)
    said = json.loads((home / "pointer.json").read_bytes())
    assert said == {"id": None, "kid": None, "alg": "ES256", "key": None, "token": cleared.token}


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_nobody_else_can_read_a_key_whatever_the_umask(keys: LocalKeys, root: Path, home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ref, _ = made_current(keys)
    finally:
        os.umask(before)
    assert {mode(each) for each in (root, home.parent, home)} == {0o700}
    assert names(home) == sorted([".lock", ref.handle, "pointer.json"])
    assert {mode(file) for file in home.iterdir()} == {0o600}


def test_a_setgid_directory_as_kubernetes_makes_it_is_no_reason_to_refuse(keys: LocalKeys, root: Path) -> None:
    root.mkdir(0o700)
    root.chmod(0o2700)
    made(keys)
    keys.check("acme", [ES256])


# Passphrases


def test_a_key_is_encrypted_under_the_passphrase_and_wrong_ones_are_told_with_the_file(root: Path, home: Path) -> None:
    ref = made(LocalKeys(root, b"correct horse"))
    assert b"ENCRYPTED" in (home / ref.handle).read_bytes()
    assert LocalKeys(root, b"correct horse").sign(ref, MESSAGE)
    for passphrase, reason in ((b"battery staple", "wrong passphrase"), (None, "needs a passphrase")):
        with pytest.raises(ConfigurationError, match=reason) as raised:
            LocalKeys(root, passphrase).sign(ref, MESSAGE)
        assert str(home / ref.handle) in str(raised.value)
        assert "battery" not in str(raised.value)


def test_a_passphrase_for_a_key_that_has_none_is_told(keys: LocalKeys, root: Path) -> None:
    ref = made(keys)
    with pytest.raises(ConfigurationError, match="not encrypted"):
        LocalKeys(root, b"correct horse").sign(ref, MESSAGE)


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_openssl_cannot_use_is_refused_at_once(root: Path, passphrase: bytes) -> None:
    with pytest.raises(ConfigurationError, match="use 1 to 1023"):
        LocalKeys(root, passphrase)


# What is refused


def everything(keys: LocalKeys, ref: KeyRef, pointer: Pointer) -> dict[str, Callable[[], object]]:
    return {
        "check": lambda: keys.check("acme", [ES256]),
        "read_pointer": lambda: keys.read_pointer("acme", ES256),
        "create": lambda: keys.create(intend("acme", ES256)),
        "sign": lambda: keys.sign(ref, MESSAGE),
        "move_pointer": lambda: keys.move_pointer(pointer, ref),
        "clear_pointer": lambda: keys.clear_pointer("acme", ES256, pointer),
        "fence": lambda: keys.fence("acme", ES256, pointer),
    }


@pytest.mark.parametrize("which", ["root", "key set", "algorithm"])
@pytest.mark.parametrize("loose", [0o755, 0o750, 0o701])
def test_a_directory_open_to_others_is_refused_with_the_command_that_mends_it(
    keys: LocalKeys, root: Path, home: Path, which: str, loose: int
) -> None:
    ref, pointer = made_current(keys)
    directory = {"root": root, "key set": home.parent, "algorithm": home}[which]
    directory.chmod(loose)
    for call in everything(keys, ref, pointer).values():
        with pytest.raises(ConfigurationError, match=f"mode {loose:04o}") as raised:
            call()
    command = str(raised.value).split("`")[1]
    assert shlex.split(command) == ["chmod", "700", str(directory)]
    subprocess.run(shlex.split(command), check=True)
    assert keys.sign(ref, MESSAGE)


@pytest.mark.parametrize(("which", "refused_by"), [("key", "check sign move_pointer"), ("pointer", "check fence")])
def test_a_file_open_to_others_is_refused_with_the_command_that_mends_it(
    keys: LocalKeys, home: Path, which: str, refused_by: str
) -> None:
    ref, pointer = made_current(keys)
    file = home / {"key": ref.handle, "pointer": "pointer.json"}[which]
    file.chmod(0o640)
    for name in refused_by.split():
        with pytest.raises(ConfigurationError, match="mode 0640") as raised:
            everything(keys, ref, pointer)[name]()
    assert f"chmod 600 {file}" in str(raised.value)


def test_what_belongs_to_another_user_is_refused(keys: LocalKeys, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, pointer = made_current(keys)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for call in everything(keys, ref, pointer).values():
        with pytest.raises(ConfigurationError, match=f"belongs to uid {owner}.*`chown {owner + 1} {root}`"):
            call()


def test_a_link_in_place_of_a_key_a_pointer_or_a_directory_is_refused(
    keys: LocalKeys, home: Path, tmp_path: Path
) -> None:
    ref, pointer = made_current(keys)
    for name, refused_by in ((ref.handle, "check sign move_pointer"), ("pointer.json", "check read_pointer fence")):
        real = (home / name).rename(tmp_path / name)
        (home / name).symlink_to(real)
        for each in refused_by.split():
            with pytest.raises(ConfigurationError, match="regular file, and no link"):
                everything(keys, ref, pointer)[each]()
        real.replace(home / name)
    real = home.rename(tmp_path / "elsewhere")
    home.symlink_to(real)
    for call in everything(keys, ref, pointer).values():
        with pytest.raises(ConfigurationError, match="must be a directory, and no link"):
            call()


def test_the_root_itself_may_be_a_link(keys: LocalKeys, root: Path, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir(0o700)
    root.symlink_to(tmp_path / "volume")
    assert keys.sign(made(keys), MESSAGE)


def test_a_pipe_in_place_of_a_key_keeps_nobody_waiting(keys: LocalKeys, home: Path) -> None:
    ref = made(keys)
    (home / ref.handle).unlink()
    os.mkfifo(home / ref.handle, 0o600)
    with pytest.raises(ConfigurationError, match="regular file"):
        keys.sign(ref, MESSAGE)


@pytest.mark.parametrize("keyset", ["", "..", "a/b", "/etc", ".acme", "ACME", "a" * 64, "acme\n"])
def test_a_key_set_that_leads_elsewhere_is_refused(keys: LocalKeys, root: Path, keyset: str) -> None:
    intent = replace(intend("acme", ES256), keyset=keyset)
    for attempt in (
        lambda: keys.check(keyset, [ES256]),
        lambda: keys.holds(keyset, [ES256]),
        lambda: keys.read_pointer(keyset, ES256),
        lambda: keys.create(intent),
    ):
        with pytest.raises(ConfigurationError, match="cannot name a key set"):
            attempt()
    assert not root.exists()


def test_an_intent_or_a_handle_that_leads_elsewhere_is_refused(keys: LocalKeys) -> None:
    ref = made(keys)
    with pytest.raises(ConfigurationError, match="cannot name an intent"):
        keys.create(replace(intend("acme", ES256), id="../pointer"))
    for handle in ("../x.pem", "/etc/passwd", "arn:aws:kms:eu-west-1:1:key/x", made(keys).handle):
        for call in (keys.destroy, keys.disable, lambda ref: keys.sign(ref, MESSAGE)):
            with pytest.raises(ConfigurationError, match="its handle should be"):
                call(replace(ref, handle=handle))
    assert keys.sign(ref, MESSAGE)


# Torn and foreign files

_WHOLE = {"id": "0a5c", "kid": "k", "alg": "ES256", "key": "0a5c.pem", "token": "t"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 40,
        b'{"id": "0a5c", "ki',
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        json.dumps(_WHOLE | {"alg": "RS256"}).encode(),
        json.dumps(_WHOLE | {"key": "other.pem"}).encode(),
        json.dumps(_WHOLE | {"id": "../0a5c", "key": "../0a5c.pem"}).encode(),
        json.dumps(_WHOLE | {"id": 7, "key": "7.pem"}).encode(),
        json.dumps(_WHOLE | {"id": None, "key": None}).encode(),
        json.dumps(_WHOLE | {"kid": None}).encode(),
        json.dumps(_WHOLE | {"token": ""}).encode(),
        json.dumps({name: _WHOLE[name] for name in ("id", "kid", "alg", "key")}).encode(),
    ],
)
def test_a_torn_or_foreign_pointer_is_refused_and_left_alone(keys: LocalKeys, home: Path, content: bytes) -> None:
    ref, pointer = made_current(keys)
    (home / "pointer.json").write_bytes(content)
    for name in ("check", "read_pointer", "move_pointer", "clear_pointer", "fence"):
        with pytest.raises(Refused, match="Move it away") as raised:
            everything(keys, ref, pointer)[name]()
        assert str(home / "pointer.json") in str(raised.value)
    assert (home / "pointer.json").read_bytes() == content


def test_a_pointer_written_by_a_later_release_is_understood(keys: LocalKeys, home: Path) -> None:
    ref, pointer = made_current(keys)
    said = json.loads((home / "pointer.json").read_bytes())
    (home / "pointer.json").write_text(json.dumps(said | {"since": ["2031-01-01"]}))
    assert keys.read_pointer("acme", ES256) == pointer
    assert keys.fence("acme", ES256, pointer).id == ref.id


def test_another_key_in_the_file_is_refused_and_never_signs(keys: LocalKeys, home: Path) -> None:
    ref, other = made(keys), made(keys)
    (home / other.handle).replace(home / ref.handle)
    with pytest.raises(Refused, match="another key"):
        keys.sign(ref, MESSAGE)


@pytest.mark.parametrize("alg", ["ES384", "EdDSA", "RS256"])
def test_a_key_of_another_algorithm_in_the_file_is_told_with_the_file(keys: LocalKeys, home: Path, alg: str) -> None:
    intent = intend("acme", ES256)
    ref = ref_to(intent, keys.create(intent))
    (home / ref.handle).write_bytes(material.private_pem(material.generate(ALGORITHMS[alg], 2048)))
    for attempt in (lambda: keys.sign(ref, MESSAGE), lambda: keys.create(again(intent))):
        with pytest.raises(ConfigurationError, match="does not fit ES256") as raised:
            attempt()
        assert str(home / ref.handle) in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 60, 200])
def test_a_torn_key_is_told_with_the_file_and_not_quoted(keys: LocalKeys, home: Path, cut: int) -> None:
    ref = made(keys)
    content = (home / ref.handle).read_bytes()
    (home / ref.handle).write_bytes(content[:cut])
    with pytest.raises(ConfigurationError, match="cannot be read") as raised:
        keys.sign(ref, MESSAGE)
    assert raised.value.__cause__ is None
    assert content[30:50].decode() not in str(raised.value)


def test_a_signature_kept_by_its_kubernetes_kid_is_made_as_well(keys: LocalKeys) -> None:
    intent = replace(intend("acme", ES256), kid_format="spki-sha256")
    assert keys.sign(ref_to(intent, keys.create(intent)), MESSAGE)


def test_the_pointer_is_not_moved_to_a_key_that_is_missing_or_disabled(keys: LocalKeys, home: Path) -> None:
    ref, pointer = made_current(keys)
    missing, disabled = made(keys), made(keys)
    (home / missing.handle).unlink()
    keys.disable(disabled)
    for each in (missing, disabled):
        with pytest.raises(Refused, match="not moved"):
            keys.move_pointer(pointer, each)
    with pytest.raises(ConfigurationError, match="missing"):
        keys.sign(missing, MESSAGE)
    assert keys.read_pointer("acme", ES256).id == ref.id


# The end of a key


def test_a_disabled_key_stays_its_intents_key_and_can_be_put_back_by_a_person(keys: LocalKeys, home: Path) -> None:
    intent = intend("acme", ES256)
    key = keys.create(intent)
    ref = ref_to(intent, key)
    keys.disable(ref)
    assert names(home) == [".lock", f"{intent.id}.pem.disabled"]
    assert keys.create(again(intent)) == key
    with pytest.raises(Refused, match="was disabled"):
        keys.sign(ref, MESSAGE)
    (home / f"{intent.id}.pem.disabled").rename(home / f"{intent.id}.pem")
    assert keys.sign(ref, MESSAGE)


def test_loose_modes_do_not_keep_a_revoked_key_alive(keys: LocalKeys, root: Path, home: Path) -> None:
    disabled, destroyed = made(keys), made(keys)
    root.chmod(0o755)
    keys.disable(disabled)
    keys.destroy(disabled)
    keys.destroy(destroyed)
    assert names(home) == sorted([".lock", f"{disabled.handle}.destroyed", f"{destroyed.handle}.destroyed"])


def test_a_destroyed_key_leaves_no_copy_that_a_crash_had_left(keys: LocalKeys, home: Path) -> None:
    ref = made(keys)
    (home / f".{ref.handle}.tmp").hardlink_to(home / ref.handle)
    keys.destroy(ref)
    assert names(home) == [".lock", f"{ref.handle}.destroyed"]


def test_there_are_no_strays(keys: LocalKeys) -> None:
    made(keys)
    assert not keys.traits.leaves_strays
    assert list(keys.strays("acme")) == []


# What is there


def test_what_is_held_is_named_also_for_algorithms_no_longer_configured(keys: LocalKeys, home: Path) -> None:
    ref, pointer = made_current(keys)
    assert keys.holds("acme", [RS256]) == str(home / ref.handle)
    keys.disable(ref)
    assert keys.holds("acme", [RS256]) == str(home / f"{ref.handle}.disabled")
    keys.destroy(ref)
    assert keys.holds("acme", [RS256]) == str(home / "pointer.json")
    (home / "pointer.json").unlink()
    assert keys.holds("acme", [RS256]) is None
    assert pointer.id == ref.id


def test_a_home_that_cannot_be_listed_is_never_reported_empty(keys: LocalKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    made(keys)
    monkeypatch.setattr(Path, "iterdir", failing(errno.EACCES))
    with pytest.raises(AccessDenied, match="closed to uid"):
        keys.holds("acme", [ES256])


def test_the_check_finds_a_place_that_cannot_be_written_before_anything_is_there(
    keys: LocalKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.check("acme", [ES256])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(AccessDenied, match=f"{tmp_path} cannot be written"):
        keys.check("acme", [ES256])


def test_no_key_is_loaded_unless_it_signs(keys: LocalKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> Any:
        raise AssertionError("a key was loaded")

    monkeypatch.setattr(material, "load_private_pem", load)
    keys.check("acme", [ES256])
    ref, pointer = made_current(keys)
    keys.move_pointer(keys.fence("acme", ES256, pointer), made(keys))
    keys.check("acme", [ES256])
    keys.disable(ref)
    keys.destroy(ref)


# Crashes, races and full disks


def pointer_names(keys: LocalKeys) -> str | None:
    return keys.read_pointer("acme", ES256).id


def test_a_crash_anywhere_in_a_create_leaves_a_whole_key_or_none_and_no_copy(tmp_path: Path) -> None:
    for call in itertools.count(1):
        root = tmp_path / str(call)
        keys, intent = LocalKeys(root), intend("acme", ES256)
        died = dies_before(call, lambda: keys.create(intent))  # noqa: B023 - called at once
        key = keys.create(again(intent))
        assert keys.sign(ref_to(intent, key), MESSAGE)
        assert names(root / "acme/ES256") == [".lock", key.handle]
        assert (root / "acme/ES256" / key.handle).stat().st_nlink == 1
        if not died:
            break
    assert call > 12


@pytest.mark.parametrize("deed", ["move", "clear", "fence"])
def test_a_crash_anywhere_in_a_change_of_the_pointer_leaves_it_whole_old_or_new(tmp_path: Path, deed: str) -> None:
    for call in itertools.count(1):
        keys = LocalKeys(tmp_path / str(call))
        old, pointer = made_current(keys)
        new = made(keys)
        becomes: dict[str, tuple[str | None, Callable[[], object]]] = {
            "move": (new.id, lambda: keys.move_pointer(pointer, new)),  # noqa: B023 - called at once
            "clear": (None, lambda: keys.clear_pointer("acme", ES256, pointer)),  # noqa: B023
            "fence": (old.id, lambda: keys.fence("acme", ES256, pointer)),  # noqa: B023
        }
        expected, act = becomes[deed]
        died = dies_before(call, act)
        found = keys.read_pointer("acme", ES256)
        assert (found == pointer) or (found.id == expected and found.token != pointer.token)
        assert keys.move_pointer(found, new).id == new.id
        assert names(tmp_path / str(call) / "acme/ES256") == sorted([".lock", "pointer.json", old.handle, new.handle])
        if not died:
            break
    assert call > 6


def test_a_crash_anywhere_in_the_end_of_a_key_is_mended_by_doing_it_again(tmp_path: Path) -> None:
    for call in itertools.count(1):
        root = tmp_path / str(call)
        keys = LocalKeys(root)
        ref = made(keys)

        def act() -> None:
            keys.disable(ref)  # noqa: B023 - called at once
            keys.destroy(ref)  # noqa: B023

        died = dies_before(call, act)
        act()
        assert names(root / "acme/ES256") == [".lock", f"{ref.handle}.destroyed"]
        if not died:
            break
    assert call > 6


def test_a_key_and_a_pointer_are_on_disk_before_they_are_reported(
    keys: LocalKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(keys)
    calls: list[str] = []

    def noted(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            calls.append(real.__name__)
            return real(*args, **kwargs)

        return called

    for real in (os.fsync, os.link, os.replace, os.rename, os.unlink):
        monkeypatch.setattr(os, real.__name__, noted(real))
    ref, _ = made_current(keys)
    assert calls == ["fsync", "link", "unlink", "fsync", "fsync", "replace", "unlink", "fsync"]
    calls.clear()
    keys.disable(ref)
    assert calls == ["rename", "fsync"]


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.ENOSPC, StoreError, "the disk is full"),
        (errno.EDQUOT, StoreError, "the disk is full"),
        (errno.EIO, StoreError, "next tick"),
        (errno.EACCES, AccessDenied, "chown"),
        (errno.EROFS, ConfigurationError, "read-only"),
        (errno.ENOTSUP, ConfigurationError, "Mend that path"),
    ],
)
def test_what_the_system_refuses_leaves_all_as_it_was_and_says_what_to_do(
    keys: LocalKeys,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[Exception],
    advice: str,
) -> None:
    ref, pointer = made_current(keys)
    before = {file: file.read_bytes() for file in home.iterdir()}
    with monkeypatch.context() as patch:
        for call in ("link", "replace", "rename"):
            patch.setattr(os, call, failing(number))
        for attempt in (
            lambda: keys.create(intend("acme", ES256)),
            lambda: keys.fence("acme", ES256, pointer),
            lambda: keys.disable(ref),
        ):
            with pytest.raises(error, match=advice) as raised:
                attempt()
            assert type(raised.value) is error
            assert str(home) in str(raised.value)
    assert {file: file.read_bytes() for file in home.iterdir()} == before


def test_a_full_disk_leaves_no_half_written_private_key(
    keys: LocalKeys, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(keys)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(StoreError, match="the disk is full"):
            made(keys)
    assert len(names(home)) == 2


def test_a_key_that_may_not_be_read_is_never_made_anew(keys: LocalKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = intend("acme", ES256)
    key = keys.create(intent)
    with monkeypatch.context() as patch:
        patch.setattr(local, "_read", failing(errno.EACCES))
        for attempt in (
            lambda: keys.create(again(intent)),
            lambda: keys.sign(ref_to(intent, key), MESSAGE),
            lambda: keys.read_pointer("acme", ES256),
        ):
            with pytest.raises(AccessDenied, match="closed to uid"):
                attempt()
    assert keys.create(again(intent)) == key


def test_of_processes_that_race_for_an_intent_all_get_the_same_key(keys: LocalKeys, home: Path) -> None:
    intent, outcomes = intend("acme", ES256), home.parents[2]

    def by(number: int) -> Callable[[], object]:
        return lambda: (outcomes / f"by {number}").write_bytes(keys.create(again(intent)).spki)

    assert [ended(child) for child in [started(by(number)) for number in range(4)]] == [0] * 4
    assert {(outcomes / f"by {number}").read_bytes() for number in range(4)} == {keys.create(intent).spki}
    assert names(home) == [".lock", f"{intent.id}.pem"]


def test_of_processes_that_race_for_the_pointer_exactly_one_wins(keys: LocalKeys) -> None:
    _, pointer = made_current(keys)
    refs = [made(keys) for _ in range(4)]

    def by(ref: KeyRef) -> Callable[[], object]:
        return lambda: keys.move_pointer(pointer, ref)

    codes = [ended(child) for child in [started(by(ref)) for ref in refs]]
    assert sorted(codes) == [0, 7, 7, 7]
    assert pointer_names(keys) == refs[codes.index(0)].id


def test_a_worker_whose_lock_does_not_reach_adopts_the_key_and_never_overwrites_it(
    keys: LocalKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent = intend("acme", ES256)
    key = keys.create(intent)
    monkeypatch.setattr(LocalKeys, "_existing", lambda *_: None)
    assert keys.create(again(intent)) == key


def test_a_stalled_writer_is_waited_for_only_so_long(
    keys: LocalKeys, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, pointer = made_current(keys)
    monkeypatch.setattr(files, "_TRIES", 3)
    with (home / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for attempt in (lambda: keys.fence("acme", ES256, pointer), lambda: keys.destroy(ref)):
            with pytest.raises(StoreError, match="stalled"):
                attempt()
        assert keys.read_pointer("acme", ES256) == pointer
        assert keys.sign(ref, MESSAGE)
    keys.destroy(ref)
