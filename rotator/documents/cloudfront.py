"""Invalidations of what CloudFront caches in front of the public documents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from rotator.aws import code_of, translated
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mypy_boto3_cloudfront import CloudFrontClient

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]+")


class CloudFront:
    """Asks one distribution to drop its copies; that a copy is gone is seen by fetching it, not by asking here.

    IAM: ``cloudfront:CreateInvalidation`` on ``arn:aws:cloudfront::ACCOUNT:distribution/{distribution_id}``.
    """

    def __init__(self, client: Callable[[], CloudFrontClient], distribution_id: str) -> None:
        self._client = client
        self._distribution_id = distribution_id
        if not _DISTRIBUTION.fullmatch(distribution_id):
            raise ConfigurationError(
                f"{distribution_id!r} is not the ID of a CloudFront distribution (E1ABC2DEF3GHIJ)."
            )

    def invalidate(self, paths: Sequence[str], reference: str) -> None:
        """See :meth:`rotator.ports.Cdn.invalidate`. One CreateInvalidation."""
        from botocore.exceptions import ClientError

        if not paths:
            return
        # The same request under the same reference counts once; the order must not make it another request.
        items = sorted({"/" + quote(path.lstrip("/"), safe="/*%~") for path in paths})
        with translated("cloudfront:CreateInvalidation", f"distribution {self._distribution_id}"):
            try:
                self._client().create_invalidation(
                    DistributionId=self._distribution_id,
                    InvalidationBatch={
                        "Paths": {"Quantity": len(items), "Items": items},
                        "CallerReference": reference,
                    },
                )
            except ClientError as exc:
                if _counted_before(exc):
                    return
                if code_of(exc) == "NoSuchDistribution":
                    raise ConfigurationError(
                        f"CloudFront has no distribution {self._distribution_id} in this account. Mend its ID."
                    ) from exc
                raise


def _counted_before(exc: Exception) -> bool:
    # The documented code, and the one that CloudFront was seen to send.
    return code_of(exc) == "InvalidationBatchAlreadyExists" or (
        code_of(exc) == "InvalidArgument" and "caller reference" in str(exc)
    )
