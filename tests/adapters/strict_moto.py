"""moto's server with a Secrets Manager that keeps to what AWS documents, where moto 5.2 does not.

* A version has one value for good: moto lets a second PutSecretValue overwrite a version that carries AWSPENDING.
* A label is on one version: moto attaches it to a second one when RemoveFromVersionId is left out.
* UpdateSecretVersionStage does all or nothing: moto takes the label away before it looks for the version to move to.
* Versions keep labels of ours when AWSCURRENT leaves them: moto's PutSecretValue drops them.
* GetSecretValue without a stage gives AWSCURRENT: moto gives the version that was put under it last.
* DescribeSecret lists labelled versions only.
* A secret has at most 20 labels, and takes no writes when it is scheduled for deletion.
* Requests do not interleave within one operation.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from moto.secretsmanager import models
from moto.secretsmanager.exceptions import InvalidParameterException, InvalidRequestException, SecretsManagerClientError
from moto.server import main

LABELS = 20

_backend: Any = models.SecretsManagerBackend
_secret: Any = models.FakeSecret
_lock = threading.RLock()


class LimitExceededException(SecretsManagerClientError):
    def __init__(self) -> None:
        super().__init__("LimitExceededException", "You've exceeded the quota for staging labels.")


def _one_at_a_time(operation: Any, *, writes: bool = True) -> Any:
    @functools.wraps(operation)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _lock:
            secret = self.secrets.get(kwargs.get("secret_id") or kwargs.get("name"))
            if writes and secret and secret.is_deleted():
                raise InvalidRequestException("You can't perform this operation: it was marked for deletion.")
            answer = operation(self, *args, **kwargs)
            if writes and secret and sum(len(each["version_stages"]) for each in secret.versions.values()) > LABELS:
                raise LimitExceededException
            return answer

    return locked


def _existing(original: Any) -> Any:
    def check(self: Any, name: str, token: str, string: Any, binary: Any, on_create: bool = False) -> Any:
        version = self.secrets[name].versions.get(token) if name in self.secrets else None
        stages = version["version_stages"] if version else []
        if version and ("secret_string" in version or "secret_binary" in version) and "AWSPENDING" in stages:
            version["version_stages"] = [stage for stage in stages if stage != "AWSPENDING"]
            try:
                return original(self, name, token, string, binary, on_create)
            finally:
                version["version_stages"] = stages
        return original(self, name, token, string, binary, on_create)

    return check


def _reset(original: Any) -> Any:
    def reset(self: Any, secret_version: dict[str, Any], version_id: str) -> None:
        kept = {each: [s for s in v["version_stages"] if s[:3] != "AWS"] for each, v in self.versions.items()}
        self.default_version_id = _holder(self, "AWSCURRENT") or self.default_version_id
        original(self, secret_version, version_id)
        for each, stages in kept.items():
            if each != version_id:
                now = self.versions[each]["version_stages"]
                now += [stage for stage in stages if stage not in now and stage not in secret_version["version_stages"]]

    return reset


def _update(original: Any) -> Any:
    def update(
        self: Any, secret_id: str, version_stage: str, remove_from_version_id: str, move_to_version_id: str
    ) -> Any:
        if secret := self.secrets.get(secret_id):
            holder = _holder(secret, version_stage)
            if move_to_version_id and move_to_version_id not in secret.versions:
                raise InvalidParameterException(f"Not a valid version: {move_to_version_id}")
            if move_to_version_id and holder not in {None, move_to_version_id, remove_from_version_id}:
                raise InvalidParameterException(f"{version_stage} is attached to {holder}: name it to remove it from.")
            if version_stage == "AWSCURRENT" and not move_to_version_id:
                raise InvalidParameterException("You can only move AWSCURRENT. It can't be completely removed.")
            if move_to_version_id and holder == move_to_version_id and not remove_from_version_id:
                return secret.arn, secret.name
        answer = original(self, secret_id, version_stage, remove_from_version_id, move_to_version_id)
        if version_stage == "AWSCURRENT":
            secret.default_version_id = move_to_version_id
        return answer

    return update


def _holder(secret: Any, stage: str) -> str | None:
    return next((each for each, version in secret.versions.items() if stage in version["version_stages"]), None)


def _labelled(original: Any) -> Any:
    return lambda self: {version: stages for version, stages in original(self).items() if stages}


def strict() -> None:
    _backend._check_with_existing_secrets_and_versions = _existing(_backend._check_with_existing_secrets_and_versions)
    _backend.update_secret_version_stage = _update(_backend.update_secret_version_stage)
    _secret.reset_default_version = _reset(_secret.reset_default_version)
    _secret._form_version_ids_to_stages = _labelled(_secret._form_version_ids_to_stages)
    for operation in ("create_secret", "put_secret_value", "update_secret_version_stage"):
        setattr(_backend, operation, _one_at_a_time(getattr(_backend, operation)))
    for operation in ("describe_secret", "get_secret_value"):
        setattr(_backend, operation, _one_at_a_time(getattr(_backend, operation), writes=False))


if __name__ == "__main__":
    strict()
    main()
