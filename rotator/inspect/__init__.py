"""What an input is and what is wrong with it: bytes in, findings out. Pure; the clock is passed in.

``rotator.jose`` reads; this room judges. A fault never hides the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.inspect import keys, sets, tokens, verifiers
from rotator.jose.findings import warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rotator.inspect.keys import KeyReport
    from rotator.inspect.tokens import TokenReport
    from rotator.jose.findings import Finding, Severity
    from rotator.jose.reading import Contents


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known of one input."""

    form: str
    size: int
    keys: tuple[KeyReport, ...]
    findings: tuple[Finding, ...]
    """Of the input as a whole; those of a key stand with the key."""
    token: TokenReport | None = None

    def everything(self) -> Iterator[Finding]:
        """The findings of the input, then those of each key, then those of the token."""
        yield from self.findings
        for report in self.keys:
            yield from report.findings
        if self.token is not None:
            yield from self.token.findings

    @property
    def worst(self) -> Severity | None:
        """The worst severity that was found; ``None``: nothing is wrong."""
        return max((finding.severity for finding in self.everything()), default=None)


def inspect(
    contents: Contents,
    now: datetime,
    *,
    against: Contents | None = None,
    verifier_names: Sequence[str] = (),
    address: str | None = None,
) -> Report:
    """What ``contents`` is and what is wrong with it at ``now``.

    A token is held ``against`` a set, if there is one; a set against the limits of each named verifier.
    """
    # What stands in a set, or at a URL, is there for verifiers to fetch.
    public = contents.form == "JWKS" or address is not None
    reports = tuple(keys.check(item, now, public=public) for item in contents.items)
    findings = list(contents.findings)
    token = None
    if contents.token:
        candidates = None if against is None else [keys.check(item, now, public=True) for item in against.items]
        token = tokens.check(contents.token, now, candidates)
        if any(key.private for key in candidates or ()):
            says = "The set to verify with holds private keys: whoever verifies needs the public ones alone."
            findings.append(warning("private-key", says, "RFC 7517 section 9.2"))
    else:
        if contents.form == "JWKS":
            findings += sets.check(reports)
        for name in verifier_names:
            findings += list(verifiers.check(name, reports, tuple(findings), contents.size, address))
    return Report(contents.form, contents.size, reports, tuple(findings), token)
