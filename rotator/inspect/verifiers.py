"""Will this verifier take this set? Its limits (``rotator.keys.verifiers``) held against what was found."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from rotator.errors import ConfigurationError
from rotator.jose.findings import Finding, error, warning
from rotator.jose.registry import ALGS
from rotator.keys.verifiers import VERIFIERS, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.inspect.keys import KeyReport

#: The checks of the OpenID conformance suite, under the name that ``--for`` takes.
OPENID = "openid"

#: What each name stands for.
TITLES = {row.name: row.title for row in VERIFIERS.values()} | {OPENID: "the OpenID conformance suite"}

#: Findings that make a key unreadable to a parser.
_MALFORMED = {"wrong-type", "not-base64url", "not-on-curve", "too-short", "too-long", "padded"}

#: Findings on which the OpenID conformance suite fails an issuer.
_CONFORMANCE = {
    "duplicate-kid",
    "empty-set",
    "missing-kid",
    "missing-kty",
    "missing-member",
    "not-an-object",
    "not-base64url",
    "padded",
    "private-key",
    "rsa-size",
    "symmetric-key",
    "wrong-content",
    "wrong-type",
}


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The verifiers of these names; ``all`` stands for every one.

    Raises:
        ConfigurationError: no such name; the message lists those there are.
    """
    wanted = [name.strip().lower() for each in names for name in each.split(",")]
    if "all" in wanted:
        return tuple(TITLES)
    for name in wanted:
        if name not in TITLES:
            raise ConfigurationError(f"There is no verifier {name[:40]!r}: choose from {', '.join(TITLES)} or all.")
    return tuple(dict.fromkeys(wanted))


def check(
    name: str, reports: Sequence[KeyReport], findings: Sequence[Finding], size: int, address: str | None
) -> Iterator[Finding]:
    """What keeps the verifier ``name`` from using the set; ``address``: the URL that it was fetched from."""
    if name == OPENID:
        yield from _of_conformance(reports, findings, address)
        return
    row = VERIFIERS[name]
    for says in _spoiled(row, reports, findings, size):
        yield error("verifier", f"{row.title}: {says}", f"--for {name}")
    usable = 0
    for report in reports:
        algs = _algs(report)
        usable += (fits := any(row.uses(alg) for alg in algs))
        if algs and not fits:
            says = (
                f"{row.title} does not verify {algs[0]}: it rejects tokens that this key signs. Give it a view without."
            )
            yield warning("verifier", says, f"--for {name}").at(report.where)
    if reports and not usable:
        yield error("verifier", f"{row.title} finds no key here that it can verify with.", f"--for {name}")


def _spoiled(row: Verifier, reports: Sequence[KeyReport], findings: Sequence[Finding], size: int) -> Iterator[str]:
    if row.max_keys is not None and len(reports) > row.max_keys:
        yield f"{len(reports)} keys, and it reads no more than {row.max_keys}. Publish fewer, or a view."
    if row.max_bytes is not None and size > row.max_bytes:
        yield f"the document has {size:,} bytes, and it reads no more than {row.max_bytes:,}."
    kinds = [report.kind for report in reports]
    codes = {finding.code for report in reports for finding in report.findings}
    seen = {
        "duplicate kid": any(finding.code == "duplicate-kid" for finding in findings),
        "AKP": any(kind is not None and kind.kty == "AKP" for kind in kinds),
        "unknown kty": "unknown-kty" in codes,
        "unknown crv": "unknown-curve" in codes,
        "missing member": bool(codes & {"missing-member", "missing-kty"}),
        "malformed key": bool(codes & _MALFORMED),
        "mixed kty": len({kind.kty for kind in kinds if kind is not None}) > 1,
    }
    says = {
        "duplicate kid": "one kid stands twice, and it then rejects the set or takes the wrong key.",
        "AKP": "a key of kty AKP (ML-DSA) stands in the set, and it then rejects all of it. Give it a view without.",
        "unknown kty": "a key of unknown kty stands in the set, and it then rejects all of it.",
        "unknown crv": "a key on an unknown curve stands in the set, and it then rejects all of it.",
        "missing member": "a key lacks a member, and it then rejects the whole set. Mend that key.",
        "malformed key": "a key cannot be read, and it then rejects the whole set. Mend that key.",
        "mixed kty": "keys of several kty stand in the set, and the first spoils the rest. Give it a view of one kty.",
    }
    yield from (says[what] for what in sorted(row.spoiled_by) if seen[what])


def _algs(report: KeyReport) -> list[str]:
    """What tokens signed with this key may say; none, if it signs none."""
    if report.alg is not None:
        purpose = ALGS.get(report.alg)
        return [report.alg] if purpose is None or purpose.use == "sig" else []
    if report.kind is None or report.use == "enc":
        return []
    return [alg for alg, purpose in ALGS.items() if purpose.use == "sig" and report.kind.name in purpose.kinds]


def _of_conformance(
    reports: Sequence[KeyReport], findings: Sequence[Finding], address: str | None
) -> Iterator[Finding]:
    if address is not None and not address.startswith("https://"):
        yield error("verifier", "The OpenID conformance suite fetches a jwks_uri by https:// alone.", f"--for {OPENID}")
    failed = chain(findings, *(report.findings for report in reports))
    codes = dict.fromkeys(finding.code for finding in failed if finding.code in _CONFORMANCE)
    if codes:
        says = f"The OpenID conformance suite fails a set with: {', '.join(codes)} (see there)."
        yield error("verifier", says, f"--for {OPENID}")
