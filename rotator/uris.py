"""Where things are, as operators write it: URIs of stores, paths of documents, URLs of verifiers.

Every function raises ``ValueError`` with the sentence that the operator reads. No sentence quotes what may hold a
password or a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Names that need no quoting in a URL, a file system, an S3 key or a CDN's invalidation.
_NAMES = re.compile(r"[A-Za-z0-9._~@:=+,-]+(?:/[A-Za-z0-9._~@:=+,-]+)*")
_NAMES_IN_WORDS = "A-Z a-z 0-9 . _ ~ @ : = + , - with single slashes within"
_PATH_LENGTH, _NAME_LENGTH = 512, 200

_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SECRET_PREFIX = re.compile(r"(?=.{1,256}$)[A-Za-z0-9_+=.@-]+(?:/[A-Za-z0-9_+=.@-]+)*")
_ALIAS_PREFIX = re.compile(r"(?!aws(?:/|$))(?=.{1,128}$)[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")

#: Characters of a host's name, and between its dots.
_HOST_LENGTH, _LABEL = 253, range(1, 64)


@dataclass(frozen=True, slots=True)
class Location:
    """A store's URI taken apart: ``s3://bucket/path``, ``file:///path``, ``kms://path``; no slash ends ``path``."""

    scheme: str
    path: str
    bucket: str = ""

    def overlaps(self, other: Location) -> bool:
        """Whether both are the same, or one lies inside the other."""
        here, there = f"{self.path.rstrip('/')}/", f"{other.path.rstrip('/')}/"
        return (self.scheme, self.bucket) == (other.scheme, other.bucket) and (
            here.startswith(there) or there.startswith(here) or "/" in {here, there}
        )


def _directory(rest: str) -> Location:
    if not rest.startswith("/"):
        raise ValueError("a directory must be absolute, with three slashes: file:///var/lib/rotator.")
    if "?" in rest or "#" in rest:
        raise ValueError("write ? and # in a file URI as %3F and %23.")
    path = unquote(rest)
    names = path.split("/")
    if _UNPRINTABLE.search(path) or ".." in names:
        raise ValueError("the name of a directory has no '..' and no control character.")
    return Location("file", "/" + "/".join(name for name in names if name not in {"", "."}))


def _bucket(rest: str) -> Location:
    bucket, _, path = rest.partition("/")
    path = path.removesuffix("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"{quoted(bucket)} is not the name of an S3 bucket: 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending"
            " with a letter or digit (for an access point, use its alias)."
        )
    if path and (not _NAMES.fullmatch(path) or _climbs(path) or len(path) > _PATH_LENGTH):
        raise ValueError(
            f"{quoted(path)} is not a prefix for S3: up to {_PATH_LENGTH} of {_NAMES_IN_WORDS}, and no '..'."
        )
    return Location("s3", path, bucket)


def _secret_prefix(rest: str) -> Location:
    path = rest.removesuffix("/")
    if not _SECRET_PREFIX.fullmatch(path):
        raise ValueError(
            f"{quoted(path)} is not a prefix for names of secrets: 1 to 256 of A-Z a-z 0-9 _ + = . @ - with single"
            " slashes within."
        )
    return Location("secretsmanager", path)


def _alias_prefix(rest: str) -> Location:
    path = rest.removesuffix("/")
    if not _ALIAS_PREFIX.fullmatch(path):
        raise ValueError(
            f"{quoted(path)} is not a prefix for KMS aliases: 1 to 128 of A-Z a-z 0-9 _ - with single slashes within,"
            " and not aws/, which AWS keeps to itself."
        )
    return Location("kms", path)


#: What may follow ``scheme://``; ``rotator.app`` has the store behind each scheme.
KEY_URIS: Mapping[str, Callable[[str], Location]] = {
    "secretsmanager": _secret_prefix,
    "kms": _alias_prefix,
    "file": _directory,
}
DOCUMENT_URIS: Mapping[str, Callable[[str], Location]] = {"s3": _bucket, "file": _directory}


def locate(uri: str, known: Mapping[str, Callable[[str], Location]]) -> Location:
    """``uri`` taken apart, if its scheme is one of ``known``."""
    scheme, separator, rest = uri.partition("://")
    schemes = ", ".join(f"{each}://" for each in known)
    if not separator:
        raise ValueError(f"must be a URI; known are {schemes}.")
    if scheme not in known:
        raise ValueError(f"unknown scheme {quoted(scheme)}; known are {schemes}.")
    return known[scheme](rest)


def keys_uri(uri: str) -> str:
    """``uri``, if it names a key store."""
    locate(uri, KEY_URIS)
    return uri


def documents_uri(uri: str) -> str:
    """``uri``, if it names a document store."""
    locate(uri, DOCUMENT_URIS)
    return uri


def document_path(path: str) -> str:
    """``path``, if it stays inside whatever store it is put into; ``{name}`` stands for the key set's name."""
    plain = path.replace("{name}", "x")
    names = plain.split("/")
    if plain.startswith("/"):
        raise ValueError(f"{quoted(path)} is absolute; a path is relative to stores.public.")
    if _climbs(plain):
        raise ValueError(f"{quoted(path)} climbs out; no '.' and no '..' stands between the slashes of a path.")
    if not _NAMES.fullmatch(plain) or names[-1].startswith("."):
        raise ValueError(
            f"{quoted(path)} is no path: {_NAMES_IN_WORDS}, and a last name that does not begin with a dot."
        )
    if len(plain) > _PATH_LENGTH or max(map(len, names)) > _NAME_LENGTH:
        raise ValueError(f"is too long: at most {_PATH_LENGTH} characters, and {_NAME_LENGTH} between two slashes.")
    return path


def public_url(url: str) -> str:
    """``url``, if a verifier can fetch it safely: https, or http on this machine."""
    scheme, host = _host_of(url)
    if scheme != "https" and not (scheme == "http" and _is_loopback(host)):
        raise ValueError("must begin with https:// (http:// is for loopback hosts alone).")
    return url


def issuer(url: str) -> str:
    """``url``, if it can be the ``iss`` of a token."""
    if "?" in url or "#" in url:
        raise ValueError("an issuer has no query and no fragment (OpenID Connect Discovery, section 3).")
    return public_url(url)


def endpoint(url: str) -> str:
    """``url``, if an AWS client can be pointed there."""
    if _host_of(url)[0] not in {"https", "http"}:
        raise ValueError("must begin with https:// or http://.")
    return url


def shown(url: str) -> str:
    """``url`` as messages may show it: without user, password and query, any of which may be a secret."""
    return re.sub("//[^/]*@", "//", re.split("[?#]", url, maxsplit=1)[0], count=1)


def quoted(value: str) -> str:
    """``value`` for a message: short, and without what may be a password before an @."""
    return repr(re.sub(r".*@", "…@", value, flags=re.DOTALL)[:60])


def _climbs(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))


def _host_of(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        host = None
    # urlsplit drops characters that no URL holds (RFC 3986, appendix A); who fetches it would not.
    if not host or not _URL.fullmatch(url) or not _resolvable(host):
        raise ValueError("is no URL; write e.g. https://id.example.com.")
    if user is not None:
        raise ValueError("holds a user name or password; leave them out.")
    if parts.fragment:
        raise ValueError("has a fragment (#…), which is never sent; leave it out.")
    return parts.scheme, host


def _resolvable(host: str) -> bool:
    """Whether a resolver can be asked for ``host`` (RFC 1035 section 2.3.4, RFC 5891 section 4.4)."""
    labels = host.removesuffix(".").split(".")
    if not all(len(label) in _LABEL for label in labels) or len(host) > _HOST_LENGTH:
        return False
    if not host.startswith("xn--"):
        return True
    # As httpx does, who fetches it.
    import idna

    try:
        idna.decode(host)
    except UnicodeError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
