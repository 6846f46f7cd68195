"""ML-DSA in KMS, which no emulator has: a stub of our own in front of one, judged by botocore's model of KMS.

States, aliases and tags are the emulator's: behind each ML-DSA key stands a P-256 key there. What is sent and what is
answered must fit AWS's model of the call, enumerations included.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.httpsession import URLLib3Session
from botocore.session import get_session
from botocore.validate import ParamValidator

from rotator.keys import material
from rotator.keys.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL = get_session().get_service_model("kms")
_STANDS_BEHIND = {"KeySpec": "ECC_NIST_P256", "SigningAlgorithm": "ECDSA_SHA_256"}
_SPECS = {row.kms_key_spec: row for row in ALGORITHMS.values() if row.kty == "AKP"}


class _Answer(BytesIO):
    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


class MlDsaKms:
    """Answers for keys whose spec is ``ML_DSA_*``; every other call goes on as it is."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        """ARN → key spec and private half."""
        self.signed: list[dict[str, Any]] = []

    @contextmanager
    def before(self, *clients: Any) -> Iterator[None]:
        for client in clients:
            client.meta.events.register("before-send.kms", self._send)
        yield
        for client in clients:
            client.meta.events.unregister("before-send.kms", self._send)

    def _send(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        operation, asked = event_name.rsplit(".", 1)[1], json.loads(request.body)
        if operation == "CreateKey" and asked["KeySpec"] in _SPECS:
            return self._create(request, asked)
        if operation in {"DescribeKey", "GetPublicKey", "Sign"}:
            return self._answer(request, operation, asked)
        return None

    def _create(self, request: Any, asked: dict[str, Any]) -> AWSResponse:
        _judge("CreateKey", asked)
        answer, made = _forwarded(request, asked)
        arn = made["KeyMetadata"]["Arn"]
        self.keys[arn] = asked["KeySpec"], material.generate(_SPECS[asked["KeySpec"]], 0)
        return _as(answer, "CreateKey", {"KeyMetadata": made["KeyMetadata"] | self._metadata(arn)})

    def _metadata(self, arn: str) -> dict[str, Any]:
        return {"KeySpec": self.keys[arn][0], "SigningAlgorithms": ["ML_DSA_SHAKE_256"]}

    def _answer(self, request: Any, operation: str, asked: dict[str, Any]) -> AWSResponse | None:
        found, said = _forwarded(request, asked)
        arn = said.get("KeyMetadata", {}).get("Arn") or said.get("KeyId") or asked["KeyId"]
        if found.status_code != 200:
            # Asked again it might be none: another worker may have made the alias meanwhile.
            return found
        if arn not in self.keys:
            return None
        spec, private = self.keys[arn]
        if operation == "DescribeKey":
            return _as(found, operation, {"KeyMetadata": said["KeyMetadata"] | self._metadata(arn)})
        if operation == "GetPublicKey":
            spki = {"PublicKey": base64.b64encode(material.spki(private)).decode()}
            return _as(found, operation, said | self._metadata(arn) | spki)
        _judge(operation, asked)
        # RAW: KMS makes the message representative itself, as ML-DSA does (FIPS 204, section 5.2).
        assert (asked["SigningAlgorithm"], asked["MessageType"]) == ("ML_DSA_SHAKE_256", "RAW")
        self.signed.append(asked)
        signature = material.sign(private, _SPECS[spec], base64.b64decode(asked["Message"]))
        told = {"Signature": base64.b64encode(signature).decode(), "SigningAlgorithm": "ML_DSA_SHAKE_256"}
        return _as(found, operation, said | told)


def _forwarded(request: Any, asked: dict[str, Any]) -> tuple[AWSResponse, dict[str, Any]]:
    """What the emulator answers for the P-256 key behind it."""
    known = {name: value for name, value in _STANDS_BEHIND.items() if str(asked.get(name)).startswith("ML_DSA_")}
    before = request.body, request.headers["Content-Length"]
    request.body = json.dumps(asked | known).encode()
    request.headers["Content-Length"] = str(len(request.body))
    with closing(URLLib3Session()) as session:
        answer = session.send(request)
    request.body = before[0]
    request.headers["Content-Length"] = before[1]
    content = answer.content
    return AWSResponse(answer.url, answer.status_code, HTTPHeaders(), _Answer(content)), json.loads(content)


def _as(answer: AWSResponse, operation: str, body: dict[str, Any]) -> AWSResponse:
    _judge_enumerations(_MODEL.operation_model(operation).output_shape, body)
    return AWSResponse(answer.url, 200, HTTPHeaders(), _Answer(json.dumps(body).encode()))


def _judge(operation: str, asked: dict[str, Any]) -> None:
    shape: Any = _MODEL.operation_model(operation).input_shape
    report = ParamValidator().validate(asked, shape)
    assert not report.has_errors(), report.generate_report()
    _judge_enumerations(shape, asked)
    if operation == "Sign":
        limits = shape.members["Message"].metadata
        assert limits["min"] <= len(base64.b64decode(asked["Message"])) <= limits["max"]


def _judge_enumerations(shape: Any, value: Any) -> None:
    """botocore itself lets any text through where the model has an enumeration."""
    if shape.type_name == "structure":
        assert value.keys() <= shape.members.keys(), value.keys() - shape.members.keys()
        for name, item in value.items():
            _judge_enumerations(shape.members[name], item)
    elif shape.type_name == "list":
        for item in value:
            _judge_enumerations(shape.member, item)
    elif getattr(shape, "enum", None):
        assert value in shape.enum, (shape.name, value)
