"""What an operator configures: a TOML file, and over it the environment, become one immutable :class:`Configuration`.

``[policy] lifetime = "30d"`` in the file is ``ROTATOR_POLICY__LIFETIME=30d`` in the environment; lists and tables
are written there as JSON. Whatever is wrong is told at once, one sentence a line.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotator import uris
from rotator.errors import ConfigurationError, Refused
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.policy import Policy, text
from rotator.settings import documents, reading
from rotator.settings.tables import PolicyTable, Stores, table
from rotator.uris import Location

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rotator.keys.policy import KeySet
    from rotator.settings.reading import Faults
    from rotator.settings.tables import Server, Settings

__all__ = ["DEMO", "Configuration", "Location", "is_configured", "table"]

#: A whole life of keys within two minutes. Verifiers of real tokens keep keys longer than these do.
DEMO: Mapping[str, Any] = {
    "algorithms": ("ES256", "EdDSA"),
    "lifetime": timedelta(seconds=25),
    "token_lifetime": timedelta(seconds=5),
    "signer_lag": timedelta(seconds=2),
    "cache_max_age": timedelta(seconds=1),
    "cache_stale": timedelta(0),
    "verifier_cache": timedelta(seconds=4),
    "verifier_leeway": timedelta(seconds=1),
    "clock_skew": timedelta(0),
    "interval": timedelta(seconds=1),
}

#: Staging labels that one secret takes, and those that it needs beside one for each public key: AWSCURRENT, AWSPREVIOUS
#: and AWSPENDING, placeholder and unused version, three copies that fences made, and a key that was just withdrawn.
_LABELS, _OTHER_LABELS = 20, 9

#: One more than any key store takes, so that a longer one is refused there and not cut here.
_PASSPHRASE_BYTES = 1024


@dataclass(frozen=True)
class Configuration:
    """Key sets, and where their keys and documents live: valid, and safe by the policy's inequalities."""

    settings: Settings
    keysets: tuple[KeySet, ...]
    passphrase: bytes | None = field(default=None, repr=False)
    """Of the key files of a ``file://`` key store."""

    @classmethod
    def load(cls, path: Path | None = None, *, unsafe: bool = False) -> Configuration:
        """The configuration in ``path`` (or ``ROTATOR_CONFIG``), and over it the environment.

        ``unsafe`` lets a policy pass whose inequalities fail: to show them, never to rotate.

        Raises:
            ConfigurationError: something is wrong; the message names every fault.
            Refused: nothing is wrong, but the policy is unsafe.
        """
        if path is None and (named := os.environ.get(reading.CONFIG_VARIABLE)):
            path = Path(named)
        if path is None and not reading.variables():
            raise ConfigurationError(
                f"There is no configuration: name a file with --config or {reading.CONFIG_VARIABLE}, or set"
                " ROTATOR_STORES__KEYS and the other variables."
            )
        return _configuration(reading.read(path) if path else {}, {}, unsafe=unsafe)

    @classmethod
    def default(cls, root: Path, **policy: Any) -> Configuration:
        """One key set, ``default``, in files below ``root``: what runs where nothing is configured.

        The environment goes before it, and ``policy`` (fields of :class:`~rotator.keys.policy.Policy`) before both.
        """
        home = root.resolve()
        tables = {
            "stores": {name: (home / name).as_uri() for name in Stores.model_fields},
            "keysets": [{"name": "default"}],
        }
        schedule = {name: policy.pop(name) for name in ("interval",) if name in policy}
        return _configuration(tables, {"policy": policy, "schedule": schedule}, unsafe=False)

    @classmethod
    def demo(cls, root: Path) -> Configuration:
        """As :meth:`default`, with lifetimes of seconds: a newcomer sees a whole life of keys within two minutes."""
        return cls.default(root, **DEMO)

    @property
    def keys(self) -> Location:
        """Where the private keys live."""
        return uris.locate(self.settings.stores.keys, uris.KEY_URIS)

    @property
    def ledger(self) -> Location:
        """Where the ledgers live."""
        return uris.locate(self.settings.stores.ledger, uris.DOCUMENT_URIS)

    @property
    def public(self) -> Location:
        """Where the public documents live."""
        return uris.locate(self.settings.stores.public, uris.DOCUMENT_URIS)

    @property
    def interval(self) -> timedelta:
        """How often a tick is due."""
        return self.settings.schedule.interval

    @property
    def server(self) -> Server:
        """What the daemon answers on."""
        return self.settings.server


def is_configured(path: Path | None = None) -> bool:
    """Whether a file or the environment says where the stores are; else :meth:`Configuration.default` fits."""
    named = path or os.environ.get(reading.CONFIG_VARIABLE)
    return bool(named) or any(name.startswith("ROTATOR_STORES") for name in reading.variables())


def _configuration(tables: Mapping[str, Any], forced: Mapping[str, Any], *, unsafe: bool) -> Configuration:
    faults = reading.Faults()
    settings = reading.settings(tables, forced, faults)
    keysets = tuple(_keysets(settings, faults))
    _check_distinct(keysets, faults)
    _check_stores(settings, faults)
    _check_key_kinds(settings, keysets, faults)
    _check_labels(settings, keysets, faults)
    passphrase = _passphrase(settings, faults) if settings.stores.keys.startswith("file:") else None
    if faults.found:
        raise ConfigurationError("\n".join([*faults.found, *faults.unsafe]))
    if faults.unsafe and not unsafe:
        raise Refused("\n".join(faults.unsafe))
    return Configuration(settings, keysets, passphrase)


def _keysets(settings: Settings, faults: Faults) -> Iterator[KeySet]:
    base = Policy(**dict(settings.policy), interval=settings.schedule.interval)
    doubtful = faults.touch("policy") or faults.touch("schedule")
    if not settings.keysets and not faults.touch("keysets"):
        faults.add("keysets", "none is configured; add [[keysets]] with a name.")
    if not doubtful and not (settings.keysets and all(each.policy.model_fields_set for each in settings.keysets)):
        _check_policy("policy", base.faults(), faults)
    for index, each in enumerate(settings.keysets):
        own = {name: getattr(each.policy, name) for name in each.policy.model_fields_set}
        policy = replace(base, **own) if own else base
        if own and not doubtful and not faults.touch("keysets", index, "policy"):
            _check_policy(f"{reading.keyset_name(each.name, index)}.policy", policy.faults(), faults)
        if each.name:
            yield documents.keyset(each, index, policy, settings.public.content_type, faults)
        elif not faults.touch("keysets", index, "name"):
            faults.add(f"{reading.keyset_name(None, index)}.name", "is missing.")


def _check_policy(where: str, found: Sequence[str], faults: Faults) -> None:
    for fault in found:
        setting = fault.partition(" ")[0]
        if fault.startswith("Unsafe: "):
            faults.unsafe.append(f"{where}: {fault}")
        elif setting in PolicyTable.model_fields:
            faults.found.append(f"{where}.{fault}")
        else:
            # The interval is the policy's, but it is set elsewhere.
            faults.found.append(f"schedule.{fault}" if setting == "interval" else f"{where}: {fault}")


def _check_distinct(keysets: Sequence[KeySet], faults: Faults) -> None:
    for name, count in Counter(keyset.name for keyset in keysets).items():
        if count > 1:
            faults.add("keysets", f"{count} are named {name!r}; each needs a name of its own.")
    documents.check_distinct(keysets, faults)


def _check_stores(settings: Settings, faults: Faults) -> None:
    stores = settings.stores
    for name, uri in stores:
        if not uri and not faults.touch("stores", name):
            faults.add(f"stores.{name}", f"is missing. {Stores.model_fields[name].description}")
    located = {
        name: uris.locate(uri, uris.KEY_URIS if name == "keys" else uris.DOCUMENT_URIS) for name, uri in stores if uri
    }
    public = located.get("public")
    for name, location in located.items():
        if name != "public" and public and location.overlaps(public):
            faults.add(
                f"stores.{name}", "overlaps with stores.public, which everybody may read; give it another place."
            )
    for name, key in (("ledger", settings.ledger.sse_kms_key), ("public", settings.public.sse_kms_key)):
        if key and name in located and located[name].scheme != "s3":
            faults.add(f"{name}.sse_kms_key", f"stores.{name} is not in S3: nothing would be encrypted; leave it out.")


def _check_key_kinds(settings: Settings, keysets: Sequence[KeySet], faults: Faults) -> None:
    """KMS makes keys of fewer kinds than the other stores."""
    if settings.stores.keys.startswith("kms:"):
        configured = {alg: keyset.name for keyset in keysets for alg in keyset.policy.algorithms if alg in ALGORITHMS}
        for alg, name in configured.items():
            if ALGORITHMS[alg].kms_signing_algorithm is None:
                faults.add("policy.algorithms", f"AWS KMS has no {alg} keys (key set {name}); leave it out.")


def _check_labels(settings: Settings, keysets: Sequence[KeySet], faults: Faults) -> None:
    """A secret that is full of labels takes no key more, so none would ever leave."""
    if settings.stores.keys.startswith("secretsmanager:"):
        for policy, name in {keyset.policy: keyset.name for keyset in reversed(keysets)}.items():
            keys = policy.keys_per_algorithm
            if keys + _OTHER_LABELS > _LABELS and not policy.faults():
                faults.add(
                    "policy.lifetime",
                    f"2 + ⌈{text(policy.retention)} ÷ {text(policy.lifetime)}⌉ = {keys} keys of one algorithm at once"
                    f" need {keys + _OTHER_LABELS} staging labels, and AWS Secrets Manager takes {_LABELS} on a secret"
                    f" (key set {name}); make it longer, or retention shorter (token_lifetime, signer_lag).",
                )


def _passphrase(settings: Settings, faults: Faults) -> bytes | None:
    """The passphrase of the key files. No message quotes what is configured: it may be the passphrase itself."""
    variable, file = settings.file.passphrase_env, settings.file.passphrase_file
    passphrase = None
    if variable and file:
        faults.add("file.passphrase_env", "is set, and file.passphrase_file too; leave one of them out.")
    elif variable:
        passphrase = os.fsencode(os.environ.get(variable, ""))
        if not passphrase:
            faults.add("file.passphrase_env", "names an environment variable that is not set, or empty.")
    elif file and not file.startswith("/"):
        faults.add("file.passphrase_file", "must be an absolute path.")
    elif file:
        try:
            with Path(file).open("rb") as stream:
                passphrase = stream.read(_PASSPHRASE_BYTES + 2).removesuffix(b"\n").removesuffix(b"\r")
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is no path"
            faults.add("file.passphrase_file", f"names a file that cannot be read ({reason}).")
        if passphrase == b"":
            faults.add("file.passphrase_file", "names an empty file.")
    return passphrase or None
