"""Everything that can be set, table by table as in the file; the README's list of settings is made from this."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

from rotator import uris
from rotator.errors import ConfigurationError
from rotator.keys.algorithms import algorithm
from rotator.keys.discovery import OURS
from rotator.keys.jwks import KidFormat  # noqa: TC001 - pydantic reads the annotations
from rotator.keys.policy import KeySet, Policy, parse_duration, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo
    from pydantic_settings import PydanticBaseSettingsSource

PREFIX, DELIMITER = "ROTATOR_", "__"

#: Names of the public documents that are no views; the ledger knows each document by its name.
MAIN, DISCOVERY = "jwks", "discovery"

_VIEW = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

#: A discovery document is small, and every verifier reads all of it.
_MEMBERS_LENGTH = 20_000

#: The default of what must be set.
REQUIRED = ""

#: Longer durations would lead beyond the calendar, and no policy needs them.
_LONGEST = timedelta(days=3653)

#: ScheduleKeyDeletion, PendingWindowInDays.
_DELETION_DAYS = range(7, 31)

#: AWS takes 50 tags; rotator sets up to 5 of its own.
_TAGS, _TAG_NAME, _TAG_VALUE = 45, 128, 256


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError('a duration is text with a unit; write e.g. "60s".')  # noqa: TRY004 - pydantic collects it
    if re.fullmatch(r"[\d.]+", value.strip()):
        raise ValueError("a duration has a unit; write e.g. 60s.")
    try:
        duration = parse_duration(value)
    except ConfigurationError as exc:
        raise ValueError(str(exc)) from None
    if duration > _LONGEST:
        raise ValueError(f"{uris.quoted(value)} is longer than ten years ({text(_LONGEST)}).")
    return duration


def _deletion_window(value: timedelta) -> timedelta:
    if value % timedelta(days=1) or value.days not in _DELETION_DAYS:
        raise ValueError(
            f"{text(value)} is not possible: KMS waits {_DELETION_DAYS[0]} to {_DELETION_DAYS[-1]} whole days"
            " before it deletes a key."
        )
    return value


def _keyset_name(value: str) -> str:
    try:
        return KeySet(value, Policy()).name
    except ConfigurationError as exc:
        raise ValueError(str(exc)) from None


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _view_name(value: str) -> str:
    if not _VIEW.fullmatch(value) or value in {MAIN, DISCOVERY}:
        raise ValueError(
            f"{uris.quoted(value)} names no view: use 1 to 32 of a-z, 0-9, '_' and '-', not {MAIN} or {DISCOVERY}."
        )
    return value


def _view_path(value: str) -> str:
    uris.document_path(value.replace("{view}", "x"))
    return value


def _known(algorithms: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if algorithms == ():
        raise ValueError("is empty: name at least one algorithm.")
    for alg in algorithms or ():
        try:
            algorithm(alg)
        except ConfigurationError as exc:
            raise ValueError(str(exc)) from None
    return algorithms


def _members(members: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(OURS & members.keys()):
        raise ValueError(f"rotator itself says {', '.join(taken)}; leave them out.")
    try:
        length = len(json.dumps(members, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be what JSON can hold: text, numbers, true, false, lists and tables.") from None
    if length > _MEMBERS_LENGTH:
        raise ValueError(f"has {length} characters as JSON; {_MEMBERS_LENGTH} is the most.")
    return members


def _tags(tags: dict[str, str]) -> dict[str, str]:
    if reserved := sorted(tag for tag in tags if tag.lower().startswith(("rotator:", "aws:"))):
        raise ValueError(f"names that begin with rotator: or aws: are taken: {', '.join(reserved)}.")
    fits = all(0 < len(tag) <= _TAG_NAME and len(value) <= _TAG_VALUE for tag, value in tags.items())
    if not fits or len(tags) > _TAGS:
        raise ValueError(
            f"at most {_TAGS} tags, with names of 1 to {_TAG_NAME} and values of at most {_TAG_VALUE} characters."
        )
    return tags


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
DocumentsUri = Annotated[str, AfterValidator(uris.documents_uri)]
Endpoint = Annotated[str, AfterValidator(uris.endpoint)]
PublicUrl = Annotated[str, AfterValidator(uris.public_url)]
Tags = Annotated[dict[str, str], AfterValidator(_tags)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stores(_Table):
    """Where keys and documents live."""

    keys: Annotated[str, AfterValidator(uris.keys_uri)] = Field(
        default=REQUIRED,
        description="Home of the private keys: `secretsmanager://prefix`, `kms://prefix` or `file:///directory`.",
    )
    ledger: DocumentsUri = Field(
        default=REQUIRED, description="Home of the private ledgers: `s3://bucket/prefix` or `file:///directory`."
    )
    public: DocumentsUri = Field(
        default=REQUIRED, description="Home of the public documents: `s3://bucket/prefix` or `file:///directory`."
    )


class Aws(_Table):
    """How AWS is reached."""

    region: str | None = Field(
        default=None, description="AWS region; by default what the AWS SDK finds (`AWS_REGION`, profile)."
    )
    endpoint_url: Endpoint | None = Field(
        default=None, description="Endpoint of every AWS service, for emulators and private networks."
    )
    s3_endpoint_url: Endpoint | None = Field(
        default=None, description="Endpoint of S3 alone, for compatible stores; goes before `endpoint_url`."
    )
    s3_path_style: bool = Field(
        default=False, description="Address buckets as `endpoint/bucket`; many compatible stores need it."
    )


class SecretsManager(_Table):
    """Options of ``secretsmanager://``."""

    kms_key: str | None = Field(
        default=None, description="KMS key that encrypts new secrets; by default `aws/secretsmanager`."
    )
    pem: bool = Field(default=False, description="Keep each key as PEM (PKCS#8), too, beside the JWK.")
    tags: Tags = Field(default={}, description="Tags of new secrets.")


class Kms(_Table):
    """Options of ``kms://``."""

    deletion_window: Annotated[Duration, AfterValidator(_deletion_window)] = Field(
        default=timedelta(days=30),
        description="How long a retired key can still be recovered before KMS deletes it: 7d to 30d.",
    )
    current_alias: bool = Field(
        default=True, description="Let `alias/{prefix}/{keyset}/{alg}/current` follow the current key."
    )
    tags: Tags = Field(default={}, description="Tags of new keys.")


class File(_Table):
    """Options of ``file://`` for private keys."""

    passphrase_env: str | None = Field(
        default=None, description="Name of the environment variable that holds the passphrase of the key files."
    )
    passphrase_file: str | None = Field(
        default=None,
        description="Absolute path of a file that holds the passphrase; a line end after it does not count.",
    )


class Ledger(_Table):
    """Options of the ledgers."""

    sse_kms_key: str | None = Field(
        default=None, description="KMS key that encrypts the ledgers in S3; by default the bucket's encryption."
    )


class Public(_Table):
    """Options of the public documents."""

    sse_kms_key: str | None = Field(
        default=None,
        description="KMS key that encrypts the documents in S3; the CDN must be allowed to decrypt with it.",
    )
    content_type: Literal["application/jwk-set+json", "application/json"] = Field(
        default="application/jwk-set+json",
        description="`Content-Type` of the documents; some verifiers want `application/json`.",
    )


class CloudFront(_Table):
    """The CDN in front of the public documents."""

    distribution_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9]{1,64}\z",
        description="Distribution to invalidate after a change: a courtesy, and what makes a revoke fast. Its origin"
        " path must be the prefix of `stores.public`.",
    )


class PolicyTable(_Table):
    """The durations from which every deadline follows."""

    algorithms: tuple[str, ...] = Field(
        default=Policy.algorithms, description="The `alg`s; each has a succession of keys of its own."
    )
    rsa_bits: Count = Field(default=Policy.rsa_bits, description="Size of RSA keys: 2048, 3072 or 4096.")
    kid: KidFormat = Field(
        default=Policy.kid,
        description="`thumbprint` (RFC 7638), or `spki-sha256` as Kubernetes names its service account keys.",
    )
    lifetime: Duration = Field(default=Policy.lifetime, description="How long a key signs.")
    token_lifetime: Duration = Field(
        default=Policy.token_lifetime, description="The longest `exp − iat` the issuer gives."
    )
    signer_lag: Duration = Field(
        default=Policy.signer_lag,
        description="The longest an issuer signs with a key after it last looked which one is current.",
    )
    cache_max_age: Duration = Field(default=Policy.cache_max_age, description="`max-age` of the public documents.")
    cache_stale: Duration = Field(
        default=Policy.cache_stale,
        description="`stale-while-revalidate` and `stale-if-error` of the public documents.",
    )
    cache_tiers: Annotated[int, Field(ge=1, le=100)] = Field(
        default=Policy.cache_tiers, description="Caches in a row that do not pass `Age` on."
    )
    verifier_cache: Duration = Field(
        default=Policy.verifier_cache, description="How long verifiers keep a set of keys."
    )
    verifier_leeway: Duration = Field(default=Policy.verifier_leeway, description="The grace verifiers add to `exp`.")
    clock_skew: Duration = Field(default=Policy.clock_skew, description="The most any one clock may be off true time.")
    max_keys: Count = Field(
        default=Policy.max_keys, description="The most keys in a public document; AWS ALB reads no more than 10."
    )
    max_creations_per_day: Count | None = Field(
        default=Policy.max_creations_per_day,
        description="The most private keys made in 24 hours, and as many again where a revoke left none that signs; by"
        " default 10, or 4 for each algorithm, and with lifetimes of less than a day 4 more for each algorithm and"
        " lifetime in it.",
    )


class Schedule(_Table):
    """When rotator works."""

    interval: Duration = Field(default=Policy.interval, description="How often the daemon, or the CronJob, ticks.")


class Server(_Table):
    """What the daemon answers on."""

    host: str = Field(
        default="127.0.0.1",
        description="Address for health and metrics, and with file stores for the public documents.",
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=8765, description="Port there; 0 turns it off.")


class ViewTable(_Table):
    """A further public document of a key set, for verifiers that cannot use every key of it."""

    name: Annotated[str, AfterValidator(_view_name)] = Field(
        description="Name of the view: 1 to 32 of a-z, 0-9, `_` and `-`, such as `rs256`. The ledger knows it by this"
        " name."
    )
    shows: Annotated[tuple[str, ...], AfterValidator(_known)] = Field(description="The `alg`s that it shows.")
    path: Annotated[str, AfterValidator(_view_path)] = Field(
        default="{name}/.well-known/jwks-{view}.json", description="Where it is, below `stores.public`."
    )
    public_url: Annotated[tuple[PublicUrl, ...], BeforeValidator(_one_or_more)] = Field(
        default=(), description="Where verifiers fetch it, as above: it is gated like the main document."
    )


class DiscoveryTable(_Table):
    """The issuer's discovery document."""

    path: Annotated[str, AfterValidator(uris.document_path)] = Field(
        default="{name}/.well-known/openid-configuration",
        description="Where the discovery document is, below `stores.public`. It is fetched as"
        " `{issuer}/.well-known/openid-configuration`, and its `jwks_uri` is the first `public_url` of the JWKS.",
    )
    jwks: str = Field(default=MAIN, description="The document that it leads to: `jwks`, or the name of a view.")
    members: Annotated[dict[str, Any], AfterValidator(_members)] = Field(
        default={}, description="Further members of it, such as `authorization_endpoint` or `token_endpoint`."
    )


class KeySetTable(_Table):
    """One issuer's keys."""

    name: Annotated[str, AfterValidator(_keyset_name)] = Field(
        default=REQUIRED, description="Name of the key set: 1 to 63 of a-z, 0-9, `_` and `-`."
    )
    issuer: Annotated[str, AfterValidator(uris.issuer)] | None = Field(
        default=None, description="The `iss` of its tokens: an https URL."
    )
    path: Annotated[str, AfterValidator(uris.document_path)] = Field(
        default="{name}/.well-known/jwks.json", description="Its public document, below `stores.public`."
    )
    public_url: Annotated[tuple[PublicUrl, ...], BeforeValidator(_one_or_more)] = Field(
        default=(),
        description="The URL, or list of URLs, where verifiers fetch it: a key counts as published once it is seen at"
        " each. Without one, the store's read-back counts.",
    )
    shows: Annotated[tuple[str, ...] | None, AfterValidator(_known)] = Field(
        default=None, description="The `alg`s that the document at `path` shows; by default all."
    )
    views: tuple[ViewTable, ...] = ()
    discovery: DiscoveryTable | None = None
    policy: PolicyTable = Field(default=PolicyTable(), description="Any setting of `[policy]`, for this key set alone.")


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_ignore_empty=True
    )

    stores: Stores = Stores()
    aws: Aws = Aws()
    secretsmanager: SecretsManager = SecretsManager()
    kms: Kms = Kms()
    file: File = File()
    ledger: Ledger = Ledger()
    public: Public = Public()
    cloudfront: CloudFront = CloudFront()
    policy: PolicyTable = PolicyTable()
    schedule: Schedule = Schedule()
    server: Server = Server()
    keysets: tuple[KeySetTable, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - as pydantic-settings calls it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: ``reading`` lays the environment over the file, to know where each fault comes from."""
        return (init_settings,)


def table() -> list[tuple[str, str, str]]:
    """Every setting as (path, default, description), in the order of the file."""
    return [(path, _shown(field.default), field.description or "") for path, field in leaves()]


def leaves(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting below ``model`` with its path; ``[]`` marks a list of tables."""
    for name, field in model.model_fields.items():
        nested = table_of(field)
        if nested is None or (model is KeySetTable and nested is PolicyTable):
            yield f"{prefix}{name}", field
        else:
            yield from leaves(nested, f"{prefix}{name}{'[]' if nested in (KeySetTable, ViewTable) else ''}.")


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The table that ``field`` is, or is a list of; ``None``: it is a value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _shown(default: object) -> str:
    if default in (REQUIRED, PydanticUndefined):
        return "required"
    if default is None:
        return "none"
    if isinstance(default, timedelta):
        return text(default)
    if isinstance(default, tuple):
        return str(list(default)).replace("'", '"')
    if isinstance(default, PolicyTable):
        return "{}"
    return str(default).lower() if isinstance(default, bool) else str(default)
