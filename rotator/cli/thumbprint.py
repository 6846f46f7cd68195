"""``rotator thumbprint``."""

from __future__ import annotations

from typing import Any

from rotator.cli import fleet, output, sources
from rotator.errors import ConfigurationError


def thumbprint(
    source: sources.Source, passphrase_file: sources.PassphraseFile = None, as_json: fleet.Json = False
) -> None:
    """Print the fingerprints of each key.

    They are the RFC 7638 thumbprint, its URI (RFC 9278), and SHA-256 of the SPKI. Reads whatever 'rotator inspect'
    reads. Members that are written badly are first put right, as they would be for a verifier. A symmetric key has
    no fingerprint here: it would tell something of the key (RFC 7638 section 7).

    \b
    Examples:
      rotator thumbprint key.pem
      rotator thumbprint https://accounts.example.com/.well-known/jwks.json --json
    """
    from rotator import app
    from rotator.inspect import inspect

    report = inspect(sources.Reader(passphrase_file).read(source), app.now())
    rows = [_row(key.where, key.kid, key.thumbprint, key.spki_sha256) for key in report.keys if key.thumbprint]
    if as_json:
        output.data({"keys": rows})
    for row in () if as_json else rows:
        name = " ".join(part for part in (row["where"], row["kid"]) if part)
        if len(rows) > 1 or row["kid"]:
            output.say(name)
        output.say(f"  thumbprint    {row['thumbprint']}  (RFC 7638)")
        output.say(f"  URI           {row['uri']}  (RFC 9278)")
        output.say(f"  SPKI SHA-256  {row['spki_sha256']}")
        output.say(f"  the same      {row['spki_sha256_hex']}  (hexadecimal)")
    broken = [key for key in report.keys if not key.thumbprint]
    if broken or not rows:
        faults = [finding.says for finding in report.findings] + [f.says for key in broken for f in key.findings]
        left = f"{len(broken)} of {len(report.keys)} keys have none. " if rows else ""
        raise ConfigurationError(f"{left}{faults[0] if faults else 'There is no key in it.'}")


def _row(where: str, kid: str | None, found: str | None, spki: str | None) -> dict[str, Any]:
    from rotator.keys.material import unb64u

    return {
        "where": where,
        "kid": kid,
        "thumbprint": found,
        "uri": f"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{found}",
        "spki_sha256": spki,
        "spki_sha256_hex": unb64u(spki or "").hex(),
    }
