"""Private keys as versions of an AWS Secrets Manager secret; issuers read the version that holds AWSCURRENT.

The state can be read off the staging labels alone, so a tick with nothing to do never reads a private key:

* AWSCURRENT is the pointer and its version id the token: UpdateSecretVersionStage with RemoveFromVersionId is the
  compare-and-swap. On a version without a key (a placeholder) it is a pointer that names no key.
* ``rotator-{intent id}`` is on the version to sign with for that key: first the one whose version id *is* the intent
  id, after a fence its newest copy. A copy also carries ``rotator-fence-{nonce}-{intent id}``.
* ``rotator-unused`` is on the version that was put last to take AWSCURRENT, until it has it: whoever could not finish
  takes that one, and puts no other.
* The first value ever put takes AWSCURRENT whatever labels are named, so a placeholder always goes first.
* AWSPENDING and AWSPREVIOUS are where people and tools expect them; nothing is decided by them. After a fence no
  version has AWSPREVIOUS: it would lead people back to the version id that the fence took out of use.

All of these together are at most 20 on one secret: the settings refuse a policy that needs more.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any

from rotator.aws import date_of, translated
from rotator.errors import ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.keys import material
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.jwks import public_jwk
from rotator.ports import Held, Pointer, StoredKey, Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import CreateSecretRequestTypeDef

    from rotator.keys.algorithms import Algorithm
    from rotator.ports import Intent, KeyRef, Stray, Takeover

_CURRENT, _PENDING, _PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
_PLACEHOLDER = "rotator-placeholder"
_FENCE = "rotator-fence-"
_UNUSED = "rotator-unused"

#: The label of a key, or of a copy of it that a fence made. Version ids have 32 to 64 characters.
_KEY_LABEL = re.compile(rf"(?:{_FENCE}[0-9a-f]{{8}}-|rotator-)(?P<id>.{{32,64}})")

#: "/", key set, "/" and algorithm take at most 73 of a secret name's 512 characters.
_PREFIX = re.compile(r"[A-Za-z0-9_+=.@-]+(/[A-Za-z0-9_+=.@-]+)*")
_PREFIX_LENGTH = 256

_TAGGING = "Creating a tagged secret needs secretsmanager:TagResource, too."


class _Versions(dict[str, set[str]]):
    """The labelled versions of one secret as last seen: a hint, which the call that uses it proves. Never changed."""

    def holder(self, label: str) -> str | None:
        """The version that carries ``label``."""
        return next((version for version, labels in self.items() if label in labels), None)

    def key_in(self, version: str) -> str | None:
        """The intent id of the key in ``version``; ``None``: a placeholder, or not made here."""
        for label in self.get(version, ()):
            if match := _KEY_LABEL.fullmatch(label):
                return match["id"]
        # The original keeps its id when a fence takes its label to a copy.
        return version if self.holder(_label(version)) else None

    def labels_of(self, id_: str) -> list[tuple[str, str]]:
        """Each (label, version) of the key of intent ``id_`` but AWSCURRENT; those it is known by come last."""
        labels = [(label, version) for version in self if self.key_in(version) == id_ for label in self[version]]
        return sorted(
            set(labels) - {(_CURRENT, self.holder(_CURRENT))}, key=lambda each: (each[0] == _label(id_), each)
        )

    def moved(self, label: str, target: str | None, source: str | None = None) -> _Versions:
        """The same after what Secrets Manager does to ``label``."""
        after = _Versions({version: labels - {label} for version, labels in self.items()})
        if target:
            after[target] = after.get(target, set()) | {label}
        return after.moved(_PREVIOUS, source) if label == _CURRENT else after


class SecretsManagerKeys:
    """One secret ``{prefix}/{keyset}/{alg}`` per algorithm, one version of it per key, each a private JWK.

    A value holds the private JWK as any JOSE library reads it; with ``pem`` also a member ``pem`` (PKCS#8) beside it.
    A version can be neither disabled nor deleted: ``disable`` and ``destroy`` take its labels, and AWS prunes versions
    without labels in its own time. Until then whoever knows the version id and may read the secret can read it.

    A secret made in advance, without a value or with ``{"rotator": "placeholder"}``, is used as it is.

    IAM, where SECRET is ``arn:aws:secretsmanager:REGION:ACCOUNT:secret:{prefix}/*``:

    * ``secretsmanager:DescribeSecret``, ``secretsmanager:GetSecretValue``, ``secretsmanager:PutSecretValue``,
      ``secretsmanager:UpdateSecretVersionStage`` on SECRET
    * ``secretsmanager:CreateSecret``, ``secretsmanager:TagResource`` on SECRET, unless secrets are made in advance
    * with a customer's ``kms_key``: ``kms:GenerateDataKey``, ``kms:Decrypt`` on that key

    An issuer needs ``secretsmanager:GetSecretValue`` on its SECRET (it may be bound to
    ``secretsmanager:VersionStage = AWSCURRENT``) and ``kms:Decrypt`` on that key; nothing else.
    """

    def __init__(
        self,
        client: Callable[[], SecretsManagerClient],
        prefix: str,
        *,
        kms_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        pem: bool = False,
    ) -> None:
        self._client = client
        self._prefix = prefix.strip("/")
        self._kms_key = kms_key
        self._tags = dict(tags or {})
        self._pem = pem
        self._seen: dict[str, _Versions] = {}
        self._placeholders: set[tuple[str, str]] = set()
        if not _PREFIX.fullmatch(self._prefix) or len(self._prefix) > _PREFIX_LENGTH:
            raise ConfigurationError(
                f"Secrets Manager: prefix {prefix!r} must be 1 to {_PREFIX_LENGTH} of A-Z a-z 0-9 _ + = . @ - "
                "with single slashes within."
            )
        if reserved := sorted(tag for tag in self._tags if tag.lower().startswith(("rotator:", "aws:"))):
            raise ConfigurationError(
                f"Secrets Manager: tags {', '.join(reserved)}: names that begin with rotator: or aws: are taken."
            )

    @property
    def traits(self) -> Traits:
        """``create`` is idempotent and leaves no strays."""
        return Traits()

    def check(self, keyset: str, algorithms: Sequence[Algorithm]) -> None:
        """See :meth:`rotator.ports.KeyStore.check`. One DescribeSecret per algorithm; a missing secret is fine."""
        for algorithm in algorithms:
            self._describe(self._name(keyset, algorithm))

    def holds(self, keyset: str, algorithms: Sequence[Algorithm]) -> str | None:
        """See :meth:`rotator.ports.KeyStore.holds`. A secret with no value but placeholders holds nothing."""
        for algorithm in algorithms:
            name = self._name(keyset, algorithm)
            versions, _ = self._describe(name)
            if not all(self._is_placeholder(name, version, labels) for version, labels in versions.items()):
                return f"secret {name}"
        return None

    def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.read_pointer`. One DescribeSecret; no value is read.

        Where rotator did not label the version under AWSCURRENT, its value is read, to tell a placeholder.
        """
        name = self._name(keyset, algorithm)
        versions, date = self._describe(name)
        if not versions:
            # The placeholder that will go first: making the secret does not change the pointer.
            return Pointer(None, _first(name), date)
        current = versions.holder(_CURRENT)
        if current is not None and (id_ := versions.key_in(current)):
            return Pointer(id_, current, date)
        if current is not None and self._is_placeholder(name, current, versions[current]):
            return Pointer(None, current, date)
        remove = f" --remove-from-version-id {current}" if current else ""
        raise Refused(
            f"AWSCURRENT of secret {name} is on {f'version {current}' if current else 'no version'}, not on one that "
            "rotator made: somebody changed the secret by hand, and issuers follow it. Put the label back: "
            f"aws secretsmanager update-secret-version-stage --secret-id {name} --version-stage {_CURRENT}{remove} "
            f"--move-to-version-id {versions.holder(_PREVIOUS) or 'VERSION'} (or, where no issuer signs with it yet, "
            'put the value {"rotator": "placeholder"}).'
        )

    def create(self, intent: Intent) -> StoredKey:
        """See :meth:`rotator.ports.KeyStore.create`. PutSecretValue, then AWSPENDING as a courtesy: two calls.

        The intent id is the request token, under which Secrets Manager refuses any second value.
        """
        name = self._name(intent.keyset, intent.algorithm)
        versions = self._known(name)
        if not versions:
            self._make(name, intent.keyset, intent.algorithm, intent.ledger_id)
        elif intent.id in versions:
            return self._adopt(name, intent)
        private = material.generate(intent.algorithm, intent.rsa_bits)
        spki = material.spki(private)
        public = public_jwk(spki, intent.algorithm, intent.kid_format)
        if not self._put_key(name, intent.id, private, public):
            return self._adopt(name, intent)
        self._mark_pending(name, intent.id)
        return StoredKey(intent.id, spki, public["kid"])

    def known(self, name: str, keyset: str) -> StoredKey:
        """None: a version of ours holds the private half itself."""
        raise ConfigurationError(f"Secrets Manager takes over private halves, not {name}: give its value ({keyset}).")

    def adopt(self, takeover: Takeover) -> StoredKey:
        """See :meth:`rotator.ports.AdoptingKeyStore.adopt`. PutSecretValue; where it came from stays as it is."""
        private = takeover.private
        if private is None:
            raise ConfigurationError(f"Secrets Manager cannot keep {takeover.kid}: give its private half.")
        name, spki = self._name(takeover.keyset, takeover.algorithm), material.spki(private)
        versions, _ = self._describe(name)
        if not versions:
            self._make(name, takeover.keyset, takeover.algorithm, takeover.ledger_id)
        # The kid is the published one; the other members are written as RFC 7518 wants them, whoever wrote those.
        public = public_jwk(spki, takeover.algorithm) | {"kid": takeover.kid}
        if takeover.id in versions or not self._put_key(name, takeover.id, private, public):
            kept = _parsed(self._value(name, VersionId=takeover.id))
            if material.spki(material.load_private_jwk(kept)) != spki or kept.get("kid") != takeover.kid:
                raise Refused(f"Version {takeover.id} of secret {name} holds another key than {takeover.kid}.")
        return StoredKey(takeover.id, spki, takeover.kid)

    def locate_pointer(self, keyset: str, algorithm: Algorithm) -> str:
        """See :meth:`rotator.ports.AdoptingKeyStore.locate_pointer`."""
        return f"{_CURRENT} of secret {self._name(keyset, algorithm)}"

    def _put_key(self, name: str, id_: str, private: PrivateKeyTypes, public: dict[str, Any]) -> bool:
        jwk = material.private_jwk(private, public)
        if self._pem:
            jwk["pem"] = material.private_pem(private).decode("ascii")
        return self._put(name, id_, json.dumps(jwk), _label(id_))

    def _adopt(self, name: str, intent: Intent) -> StoredKey:
        jwk = _parsed(self._value(name, VersionId=intent.id))
        private, kid = material.load_private_jwk(jwk), jwk.get("kid")
        versions = self._known(name)
        if not versions.get(intent.id, set()) & {_CURRENT, _PREVIOUS}:
            # Whoever made it may have crashed before this.
            self._mark_pending(name, intent.id)
        return StoredKey(intent.id, material.spki(private), kid if isinstance(kid, str) else None)

    def _mark_pending(self, name: str, version: str) -> None:
        for versions in (self._seen.get(name), None):
            holder = (self._describe(name)[0] if versions is None else versions).holder(_PENDING)
            if holder == version or self._relabel(name, _PENDING, holder, version) is not None:
                return
        # Lost twice, then to a newer key: the label is where it belongs.

    def sign(self, ref: KeyRef, message: bytes) -> bytes:
        """See :meth:`rotator.ports.KeyStore.sign`. One GetSecretValue, as issuers do."""
        name = self._name(ref.keyset, ref.algorithm)
        value = self._value(name, VersionStage=_label(ref.id))
        if value is None:
            raise _gone(name, ref)
        jwk = _parsed(value)
        private = material.load_private_jwk(jwk)
        if jwk.get("kid") != ref.kid:
            raise Refused(
                f"Cannot sign with the version of secret {name} that is labelled {_label(ref.id)}: issuers take the kid"
                f" of its value, and that is not {ref.kid}. Revoke {ref.kid} to have another key made."
            )
        return material.sign(private, ref.algorithm, message)

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.move_pointer`. One UpdateSecretVersionStage."""
        name = self._name(ref.keyset, ref.algorithm)
        if pointer.id == ref.id:
            versions, date = self._describe(name)
            if versions.holder(_CURRENT) != pointer.token:
                raise _moved(name)
            return Pointer(ref.id, pointer.token, date)
        label = _label(ref.id)
        version = self._seen.get(name, _Versions()).holder(label) or self._describe(name)[0].holder(label)
        if version is None:
            raise _gone(name, ref)
        return self._swap(name, pointer, ref.id, version)

    def clear_pointer(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.clear_pointer`. A new placeholder takes AWSCURRENT: three calls."""
        name = self._name(keyset, algorithm)
        if not self._known(name):
            self._make(name, keyset, algorithm)
        version = self._unused(name, pointer, _PLACEHOLDER)
        if version is None:
            version = str(uuid.uuid4())
            self._put(name, version, _keyless(keyset, algorithm), _PLACEHOLDER, _UNUSED)
        return self._take(name, pointer, None, version)

    def fence(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.fence`. A copy of the key takes AWSCURRENT: five calls.

        After a crash before the third of them the pointer is as it was and the key in two versions. A token is a
        version id, so it is good again once somebody moves AWSCURRENT back to the version that was fenced: by that
        id alone, for no label leads there any more.
        """
        if pointer.id is None:
            return self.clear_pointer(keyset, algorithm, pointer)
        name = self._name(keyset, algorithm)
        version = self._unused(name, pointer, _label(pointer.id))
        if version is None:
            self._forget_copies(name, pointer.id, lambda copy, labels: copy != pointer.token and _PREVIOUS in labels)
            value = self._value(name, VersionId=pointer.token, VersionStage=_CURRENT)
            if value is None:
                raise _moved(name)
            version = str(uuid.uuid4())
            fence = f"{_FENCE}{secrets.token_hex(4)}-{pointer.id}"
            self._put(name, version, value, fence, _label(pointer.id), _UNUSED)
        fenced = self._take(name, pointer, pointer.id, version)
        # Not before: another worker's fence may be about to move AWSCURRENT to one of them.
        with suppress(StoreError):
            self._forget_copies(name, pointer.id, lambda copy, labels: copy != version and _UNUSED not in labels)
        return fenced

    def _forget_copies(self, name: str, id_: str, which: Callable[[str, set[str]], bool]) -> None:
        """Take the label of a copy, of which a secret has room for few, from each that an earlier fence made."""
        versions = self._seen.get(name, _Versions())
        for label, copy in versions.labels_of(id_):
            if label.startswith(_FENCE) and which(copy, versions[copy]):
                self._relabel(name, label, copy, None)

    def _unused(self, name: str, pointer: Pointer, label: str) -> str | None:
        """The version under ``label`` that was put to take AWSCURRENT from ``pointer`` and never had it, if any."""
        versions = self._seen.get(name, _Versions())
        version = versions.holder(_UNUSED)
        if version is None or version == pointer.token or label not in versions[version]:
            return None
        return None if versions[version] & {_CURRENT, _PREVIOUS} else version

    def _take(self, name: str, pointer: Pointer, id_: str | None, version: str) -> Pointer:
        """Give AWSCURRENT to ``version``, so that the token of ``pointer`` is of no use to anybody who read it before.

        What fails after the first call leaves a pointer that is moved already: whoever tries again moves it further.
        """
        taken = self._swap(name, pointer, id_, version)
        if pointer.id == id_:
            # People and tools go back to AWSPREVIOUS, and on to AWSPENDING: the token would be good again.
            for label in sorted(self._known(name).get(pointer.token, set()) & {_PREVIOUS, _PENDING}):
                self._relabel(name, label, pointer.token, None)
        self._relabel(name, _UNUSED, version, None)
        return taken

    def disable(self, ref: KeyRef) -> None:
        """Take AWSPREVIOUS and AWSPENDING from the key: a call for each that is there. The value stays readable."""

        def goes(label: str, beside: set[str]) -> bool:
            # Of a copy's two labels one will do: this key is fenced no more.
            return label in {_PREVIOUS, _PENDING} or (label.startswith(_FENCE) and _label(ref.id) in beside)

        self._strip(ref, goes)

    def destroy(self, ref: KeyRef) -> None:
        """Take every label but AWSCURRENT from the key, a call for each; AWS then prunes the value in its own time."""
        self._strip(ref)

    def _strip(self, ref: KeyRef, which: Callable[[str, set[str]], bool] = lambda *_: True) -> None:
        """Take each label from the key of which ``which`` says so, given those beside it; AWSCURRENT stays."""
        name = self._name(ref.keyset, ref.algorithm)
        for versions in (self._seen.get(name), None):
            # That there is nothing to take is believed of a fresh look alone.
            known = self._describe(name)[0] if versions is None else versions
            labels = [each for each in known.labels_of(ref.id) if which(each[0], known[each[1]])]
            if all(self._relabel(name, label, version, None) is not None for label, version in labels) and (
                labels or versions is None
            ):
                return
        if set(labels) <= set(self._describe(name)[0].labels_of(ref.id)):
            raise StoreError(f"Secrets Manager refuses to take its labels from a version of secret {name}.")
        # Another worker takes them at the same time: one of the two will record it.
        raise Conflict(f"The labels of secret {name} were changed by somebody else since they were read.")

    def held(self, keyset: str) -> Sequence[Held]:
        """See :meth:`rotator.ports.Searchable.held`. One DescribeSecret for each algorithm that there is."""
        found = []
        for alg, row in ALGORITHMS.items():
            name = self._name(keyset, row)
            try:
                versions, _ = self._describe(name)
            except ConfigurationError:
                # The whole secret is going to be deleted.
                continue
            # AWSPREVIOUS is wherever AWSCURRENT was before: without it AWSCURRENT never moved.
            unmoved = versions.holder(_CURRENT) == _first(name) and versions.holder(_PREVIOUS) is None
            labels = set().union(*versions.values())
            ids = sorted({match["id"] for label in labels if (match := _KEY_LABEL.fullmatch(label))})
            found += [Held(id_, id_, alg, unsigned=unmoved) for id_ in ids if _label(id_) in labels]
        return found

    def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
        """See :meth:`rotator.ports.Searchable.public_half`. One GetSecretValue, as there is no other way to know it."""
        name = self._name(keyset, ALGORITHMS[held.alg or ""])
        answer = self._answer(name, VersionStage=_label(held.id))
        if answer is None:
            return None, None
        made_at = answer.get("CreatedDate")
        try:
            private = material.load_private_jwk(_parsed(answer.get("SecretString")))
        except ConfigurationError as exc:
            raise ConfigurationError(f"Secret {name}, version labelled {_label(held.id)}: {exc}") from None
        return material.spki(private), made_at.astimezone(UTC) if made_at else None

    def kid_in_tokens(self, keyset: str, algorithm: Algorithm) -> str | None:
        """See :meth:`rotator.ports.Searchable.kid_in_tokens`. One GetSecretValue, as issuers do."""
        kid = _parsed(self._value(self._name(keyset, algorithm), VersionStage=_CURRENT)).get("kid")
        return kid if isinstance(kid, str) else None

    def strays(self, keyset: str) -> Iterable[Stray]:  # noqa: ARG002 - the port's signature
        """Nothing: a version is named after its intent before it exists."""
        return ()

    def discard(self, stray: Stray) -> None:
        """Nothing: there are no strays."""

    # What is in a secret

    def _name(self, keyset: str, algorithm: Algorithm) -> str:
        return f"{self._prefix}/{keyset}/{algorithm.alg}"

    def _known(self, name: str) -> _Versions:
        return self._seen[name] if name in self._seen else self._describe(name)[0]

    def _describe(self, name: str) -> tuple[_Versions, datetime | None]:
        """The labelled versions of a secret; none where it is missing, or has no value yet."""
        client = self._client()
        with translated("secretsmanager:DescribeSecret", f"secret {name}"):
            try:
                answer = client.describe_secret(SecretId=name)
            except client.exceptions.ResourceNotFoundException as exc:
                self._seen[name] = _Versions()
                return self._seen[name], date_of(exc.response)
        if answer.get("DeletedDate") is not None:
            raise _unusable(name)
        stages = answer.get("VersionIdsToStages", {})
        self._seen[name] = _Versions({version: set(labels) for version, labels in stages.items() if labels})
        return self._seen[name], date_of(answer)

    def _is_placeholder(self, name: str, version: str, labels: set[str]) -> bool:
        if version == _first(name) or _PLACEHOLDER in labels or (name, version) in self._placeholders:
            return True
        if any(map(_KEY_LABEL.fullmatch, labels)):
            return False
        keyless = _parsed(self._value(name, VersionId=version)).get("rotator") == "placeholder"
        if keyless:
            self._placeholders.add((name, version))
        return keyless

    def _make(self, name: str, keyset: str, algorithm: Algorithm, ledger_id: str | None = None) -> None:
        """Make the secret with a placeholder in it, or put one into a secret that has no value."""
        self._seen.pop(name, None)
        tags = self._tags | {"rotator:keyset": keyset} | ({"rotator:ledger": ledger_id} if ledger_id else {})
        request: CreateSecretRequestTypeDef = {
            "Name": name,
            "Description": f"Signing keys of key set {keyset} ({algorithm.alg}), kept by rotator.",
            "ClientRequestToken": _first(name),
            "SecretString": _keyless(keyset, algorithm),
            "Tags": [{"Key": tag, "Value": text} for tag, text in tags.items()],
        }
        if self._kms_key:
            request["KmsKeyId"] = self._kms_key
        client = self._client()
        with translated("secretsmanager:CreateSecret", f"secret {name}", denied=_TAGGING):
            try:
                client.create_secret(**request)
            except client.exceptions.ResourceExistsException:
                # Made by another worker, or in advance. Where it has a value by now, this moves nothing.
                self._put(name, _first(name), _keyless(keyset, algorithm), _PLACEHOLDER)
                return
            except client.exceptions.InvalidRequestException:
                raise _unusable(name) from None
        self._seen[name] = _Versions({_first(name): {_CURRENT}})

    # Calls

    def _value(self, name: str, **which: str) -> str | None:
        """The value of one version; ``None``: there is none."""
        return (self._answer(name, **which) or {}).get("SecretString")

    def _answer(self, name: str, **which: str) -> Mapping[str, Any] | None:
        client = self._client()
        with translated("secretsmanager:GetSecretValue", f"secret {name}"):
            try:
                return client.get_secret_value(SecretId=name, **which)
            except (client.exceptions.ResourceNotFoundException, client.exceptions.InvalidRequestException):
                return None

    def _put(self, name: str, version: str, value: str, *labels: str) -> bool:
        """Put a new version under ``labels``, never under AWSCURRENT; ``False``: ``version`` has another value."""
        client = self._client()
        try:
            with translated("secretsmanager:PutSecretValue", f"secret {name}"):
                try:
                    client.put_secret_value(
                        SecretId=name, ClientRequestToken=version, SecretString=value, VersionStages=labels
                    )
                except client.exceptions.ResourceExistsException:
                    self._seen.pop(name, None)
                    return False
                except client.exceptions.InvalidRequestException:
                    raise _unusable(name) from None
        except RotatorError as exc:
            failure = exc
        else:
            for label in labels:
                self._note(name, label, version)
            return True
        self._seen.pop(name, None)
        # What botocore raises may quote the value: nothing of it is kept.
        failure.__cause__ = failure.__context__ = None
        raise failure

    def _swap(self, name: str, pointer: Pointer, id_: str | None, target: str) -> Pointer:
        """Move AWSCURRENT from the version in ``pointer`` to ``target``: the compare-and-swap."""
        versions = self._seen.get(name) or self._describe(name)[0]
        if versions.holder(_UNUSED) == pointer.token:
            # Whoever put AWSCURRENT there died before it said so. Taken as unused, its id would come back as a token.
            self._relabel(name, _UNUSED, pointer.token, None)
        answer = self._relabel(name, _CURRENT, pointer.token, target)
        if answer is not None:
            return Pointer(id_, target, date_of(answer))
        versions, date = self._describe(name)
        current = versions.holder(_CURRENT)
        if current == target:
            # A repeat by boto3 of a call whose answer was lost met its own effect.
            return Pointer(id_, target, date)
        if current == pointer.token:
            raise StoreError(f"Secrets Manager refuses to move AWSCURRENT of secret {name} to version {target}.")
        raise _moved(name)

    def _relabel(self, name: str, label: str, source: str | None, target: str | None) -> Mapping[str, Any] | None:
        """Move ``label``; ``None``: it is not on ``source``, or one of the versions is gone."""
        client = self._client()
        request = {"RemoveFromVersionId": source, "MoveToVersionId": target}
        with translated("secretsmanager:UpdateSecretVersionStage", f"secret {name}"):
            try:
                answer = client.update_secret_version_stage(
                    SecretId=name, VersionStage=label, **{key: version for key, version in request.items() if version}
                )
            except (
                client.exceptions.InvalidParameterException,
                client.exceptions.InvalidRequestException,
                client.exceptions.ResourceNotFoundException,
            ):
                self._seen.pop(name, None)
                return None
        self._note(name, label, target, source)
        return answer

    def _note(self, name: str, label: str, target: str | None, source: str | None = None) -> None:
        if name in self._seen:
            self._seen[name] = self._seen[name].moved(label, target, source)


def value_of(client: Callable[[], SecretsManagerClient], name: str) -> bytes:
    """The current value of the secret ``name`` (or ARN), whoever keeps it.

    Raises:
        ConfigurationError: there is no such secret, or it has no value.
    """
    service = client()
    with translated("secretsmanager:GetSecretValue", f"secret {name}"):
        try:
            answer: Mapping[str, Any] = service.get_secret_value(SecretId=name)
        except (service.exceptions.ResourceNotFoundException, service.exceptions.InvalidRequestException):
            raise ConfigurationError(f"Secret {name} does not exist, has no value, or is being deleted.") from None
    binary: bytes | None = answer.get("SecretBinary")
    return str(answer["SecretString"]).encode() if binary is None else binary


def _label(id_: str) -> str:
    return f"rotator-{id_}"


def _first(name: str) -> str:
    """The version id of the placeholder that is the first version of every secret made here."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rotator:{name}"))


def _keyless(keyset: str, algorithm: Algorithm) -> str:
    return json.dumps({"rotator": "placeholder", "keyset": keyset, "alg": algorithm.alg})


def _parsed(value: str | None) -> dict[str, Any]:
    try:
        parsed = json.loads(value or "")
    except (ValueError, RecursionError):
        # Its error would carry the whole value.
        parsed = None
    return parsed if isinstance(parsed, dict) else {}


def _moved(name: str) -> Conflict:
    return Conflict(f"AWSCURRENT of secret {name} was moved by somebody else since it was read.")


def _gone(name: str, ref: KeyRef) -> StoreError:
    return StoreError(f"Secret {name} has no version labelled {_label(ref.id)}: the private half of {ref.kid} is gone.")


def _unusable(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"Secret {name} takes no values: it is scheduled for deletion, or kept by another service. Restore it (aws "
        f"secretsmanager restore-secret --secret-id {name}), or configure another prefix."
    )
