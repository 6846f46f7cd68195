"""A boto3 client to an emulator, every request it sends, and the faults staged between the two."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from contextlib import closing, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from botocore.httpsession import URLLib3Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fault = Callable[[Any], AWSResponse | None]


class Raw(BytesIO):
    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


@functools.cache
def build(service: str, url: str, attempts: int = 3) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, s3={"addressing_style": "path"})
    return boto3.client(service, endpoint_url=url, config=config)  # type: ignore[call-overload]


def answered(request: Any, status: int, body: bytes) -> AWSResponse:
    return AWSResponse(request.url, status, HTTPHeaders(), Raw(body))


class Wire:
    """One client of ``service``. A fault meets the next request of its operation, once."""

    def __init__(self, service: str, url: str, attempts: int = 3) -> None:
        self.client = build(service, url, attempts)
        self._faults: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        self.sent: list[tuple[str, Any]] = []

    def __call__(self) -> Any:
        return self.client

    @contextmanager
    def connected(self) -> Iterator[Wire]:
        self.client.meta.events.register("before-send", self._before_send)
        try:
            yield self
        finally:
            self.client.meta.events.unregister("before-send", self._before_send)

    def _before_send(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        operation = event_name.rsplit(".", 1)[1]
        with self._lock:
            self.sent.append((operation, request))
            staged = next((fault for fault in self._faults if fault[0] == operation), None)
            if staged:
                self._faults.remove(staged)
        return staged[1](request) if staged else None

    def counted(self) -> Counter[str]:
        """How often each operation went over the wire since this was last asked."""
        with self._lock:
            counts = Counter(operation for operation, _ in self.sent)
            self.sent.clear()
        return counts

    def stage(self, operation: str, fault: Fault, times: int = 1) -> None:
        self._faults += [(operation, fault)] * times

    def answer(self, operation: str, status: int, body: bytes, times: int = 1) -> None:
        """AWS is not asked, and answers with ``body``."""
        self.stage(operation, lambda request: answered(request, status, body), times)

    def before(self, operation: str, happens: Callable[[], object]) -> None:
        """Somebody else does something while the request is under way."""

        def overtake(_: Any) -> None:
            happens()

        self.stage(operation, overtake)

    def lose(self, operation: str) -> None:
        """AWS does as it is told, and its answer is lost: boto3 asks again, where it may."""

        def apply(request: Any) -> AWSResponse | None:
            with closing(URLLib3Session()) as session:
                assert session.send(request).status_code == 200
            raise ReadTimeoutError(endpoint_url=request.url)

        self.stage(operation, apply)

    def crash(self, operation: str) -> None:
        """The process dies before it can send ``operation``."""

        def die(_: Any) -> AWSResponse | None:
            raise KeyboardInterrupt

        self.stage(operation, die)
