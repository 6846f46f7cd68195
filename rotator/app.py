"""Where everything meets: the only module that knows every store, and the only one that reads the clock.

A new store is a file, a line in one of the dicts here, and the form of its URI in ``uris``. What a run does
not need is not imported, and no client is built before its first call.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotator.engine import Engine
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rotator.engine import Outcome, Report
    from rotator.engine.adoption import Adoption
    from rotator.engine.recovery import Recovery
    from rotator.keys.policy import KeySet
    from rotator.ports import AdoptingKeyStore, Cdn, DocumentStore
    from rotator.settings import Configuration, Location
    from rotator.signer import Signer


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def elapsed() -> timedelta:
    """Time gone by since the machine started; it goes on through a suspend where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return timedelta(seconds=time.clock_gettime(clock))


# -- stores ----------------------------------------------------------------------------------------------------------


def _client(configuration: Configuration, service: str, **options: Any) -> Callable[[], Any]:
    """What builds the one client of ``service`` when it is first called for."""
    from rotator import aws

    settings = configuration.settings.aws
    endpoint = settings.endpoint_url
    if service == "s3":
        endpoint = settings.s3_endpoint_url or endpoint
        options |= {"path_style": True} if settings.s3_path_style else {}
    return partial(aws.client, service, settings.region, endpoint, **options)


def _local_keys(configuration: Configuration, _: DocumentStore) -> AdoptingKeyStore:
    from rotator.stores.local import LocalKeys

    return LocalKeys(Path(configuration.keys.path), configuration.passphrase)


def _secretsmanager_keys(configuration: Configuration, _: DocumentStore) -> AdoptingKeyStore:
    from rotator.stores.secretsmanager import SecretsManagerKeys

    options = configuration.settings.secretsmanager
    return SecretsManagerKeys(
        _client(configuration, "secretsmanager"),
        configuration.keys.path,
        kms_key=options.kms_key,
        tags=options.tags,
        pem=options.pem,
    )


def _kms_keys(configuration: Configuration, ledger: DocumentStore) -> AdoptingKeyStore:
    from rotator.stores.kms import KmsKeys

    options = configuration.settings.kms
    return KmsKeys(
        _client(configuration, "kms"),
        _client(configuration, "resourcegroupstaggingapi"),
        ledger,
        configuration.keys.path,
        client_once=_client(configuration, "kms", attempts=1),
        deletion_window_days=options.deletion_window.days,
        tags=options.tags,
        current_alias=options.current_alias,
    )


def _filesystem_documents(_: Configuration, at: Location, *, private: bool) -> DocumentStore:
    from rotator.documents.filesystem import FilesystemDocuments

    return FilesystemDocuments(Path(at.path), private=private)


def _s3_documents(configuration: Configuration, at: Location, *, private: bool) -> DocumentStore:
    from rotator.documents.s3 import S3Documents

    options = configuration.settings.ledger if private else configuration.settings.public
    return S3Documents(_client(configuration, "s3"), at.bucket, at.path, sse_kms_key=options.sse_kms_key)


#: What makes the store behind each scheme of ``stores.keys``; KMS keeps its pointers beside the ledger.
KEY_STORES: Mapping[str, Callable[[Configuration, DocumentStore], AdoptingKeyStore]] = {
    "secretsmanager": _secretsmanager_keys,
    "kms": _kms_keys,
    "file": _local_keys,
}

#: What makes the store behind each scheme of ``stores.ledger`` (private) and ``stores.public``.
DOCUMENT_STORES: Mapping[str, Callable[..., DocumentStore]] = {"s3": _s3_documents, "file": _filesystem_documents}


def _documents(configuration: Configuration, at: Location, *, private: bool) -> DocumentStore:
    return DOCUMENT_STORES[at.scheme](configuration, at, private=private)


def _cdn(configuration: Configuration) -> Cdn | None:
    distribution = configuration.settings.cloudfront.distribution_id
    if distribution is None:
        return None
    from rotator.documents.cloudfront import CloudFront

    return CloudFront(_client(configuration, "cloudfront"), distribution)


def _ports(configuration: Configuration) -> dict[str, Any]:
    """What engine, adoption and recovery ask of the outside world, by the names of their arguments."""
    from rotator.documents.web import HttpsWeb

    ledger = _documents(configuration, configuration.ledger, private=True)
    return {
        "ledger": ledger,
        "public": _documents(configuration, configuration.public, private=False),
        "keys": KEY_STORES[configuration.keys.scheme](configuration, ledger),
        "clock": now,
        "web": HttpsWeb(),
        "elapsed": elapsed,
    }


# -- what daemon and command line ask ------------------------------------------------------------------------------


def engines(
    configuration: Configuration,
    report: Callable[[Report], None] = lambda _: None,
    only: Sequence[str] | None = None,
) -> dict[str, Engine]:
    """An engine for each key set (or for those named in ``only``), in the order of the configuration.

    They share stores and clients. Nothing is read and nothing is asked of any store yet.

    Raises:
        ConfigurationError: ``only`` names a key set that is not configured.
    """
    known = {keyset.name for keyset in configuration.keysets}
    wanted = known if only is None else set(only)
    if unknown := sorted(wanted - known):
        raise ConfigurationError(
            f"There is no key set {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}."
        )
    ports, cdn = _ports(configuration), _cdn(configuration)
    return {
        keyset.name: Engine(keyset, **ports, cdn=cdn, report=report)
        for keyset in configuration.keysets
        if keyset.name in wanted
    }


def adoption(configuration: Configuration, keyset: KeySet) -> Adoption:
    """What takes over ``keyset``, one of the configuration's. Nothing is asked of any store yet."""
    from rotator.engine.adoption import Adoption

    return Adoption(keyset, **_ports(configuration))


def recovery(
    configuration: Configuration, keyset: KeySet, report: Callable[[Report], None] = lambda _: None
) -> Recovery:
    """What brings back the ledger of ``keyset``, one of the configuration's. Nothing is asked of any store yet."""
    from rotator.engine.recovery import Recovery

    return Recovery(keyset, **_ports(configuration), report=report)


def secret_value(configuration: Configuration, name: str) -> bytes:
    """The current value of the secret that its owner calls ``name``.

    Raises:
        ConfigurationError: there is no such secret, or it has no value.
        AccessDenied: ``secretsmanager:GetSecretValue`` is missing.
    """
    from rotator.stores.secretsmanager import value_of

    return value_of(_client(configuration, "secretsmanager"), name)


def signer(configuration: Configuration, keyset: KeySet, alg: str) -> Signer:
    """What signs with the current key of one algorithm, found as issuers find it; the pointer has been read.

    Raises:
        NoCurrentKey: no key was promoted yet.
        RotatorError: as :meth:`rotator.signer.Signer.open`.
    """
    from rotator.keys.algorithms import algorithm
    from rotator.signer import Signer
    from rotator.signer.sources import source

    keys = configuration.keys
    found = source(
        keys,
        keyset.name,
        algorithm(alg),
        clients=lambda service: _client(configuration, service)(),
        pointers=_documents(configuration, configuration.ledger, private=True) if keys.scheme == "kms" else None,
        passphrase=configuration.passphrase,
    )
    policy = keyset.policy
    # Who asks for it signs at once: a signer_lag of nothing would leave no time for that.
    lag = max(policy.signer_lag, timedelta(minutes=1))
    return Signer(found, signer_lag=lag, token_lifetime=policy.token_lifetime, background=False)


def public_directory(configuration: Configuration) -> Path | None:
    """The directory of the public documents; ``None``: they are not files."""
    return Path(configuration.public.path) if configuration.public.scheme == "file" else None


def public_documents(configuration: Configuration) -> DocumentStore | None:
    """The public documents, where they are files that the loopback server may serve."""
    if public_directory(configuration) is None:
        return None
    return _documents(configuration, configuration.public, private=False)


def about(keyset: str, exc: RotatorError) -> str:
    """The error in words that name the key set: a store tells only of its path."""
    words = str(exc)
    return words if words.startswith(f"Key set {keyset}") else f"Key set {keyset}: {words}"


def lambda_handler(_event: object, _context: object) -> dict[str, Any]:
    """Tick every key set once, as AWS Lambda calls it; configured by ``ROTATOR_CONFIG`` and the environment.

    Raises:
        RotatorError: a key set failed; all others had their turn before.
        ConfigurationError: the configuration is wrong.
    """
    from rotator.daemon import fault
    from rotator.logs import Log
    from rotator.settings import Configuration

    log = Log()
    done: list[dict[str, Any]] = []
    faults: list[str] = []
    for name, engine in engines(Configuration.load(), log.step).items():
        try:
            done.append({"name": name, **_summary(engine.tick())})
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others have their turn
            faults.append(about(name, exc if isinstance(exc, RotatorError) else RotatorError(fault(exc))))
            log.say("error", "failed", keyset=name, error=faults[-1])
    if faults:
        raise RotatorError(f"{len(faults)} of {len(faults) + len(done)} key sets failed.\n" + "\n".join(faults))
    return {"keysets": done}


def _summary(outcome: Outcome) -> dict[str, Any]:
    due = outcome.plan.due
    return {
        "steps": [{"step": done.step, "reason": done.reason, "kid": done.kid} for done in outcome.steps],
        "next_change": due and due.isoformat(),
        "clock_fault": outcome.clock_fault,
    }
