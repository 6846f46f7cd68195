"""From the tables of a key set to its public documents: the main one, its views, and the discovery document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotator.keys.discovery import Discovery
from rotator.keys.policy import KeySet, PublicDocument
from rotator.settings import reading
from rotator.settings.tables import DISCOVERY, MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.keys.policy import Policy
    from rotator.settings.reading import Faults
    from rotator.settings.tables import KeySetTable

#: Where OpenID Connect Discovery 1.0 (section 4) has the document of an issuer.
WELL_KNOWN = "/.well-known/openid-configuration"


def keyset(each: KeySetTable, index: int, policy: Policy, content_type: str, faults: Faults) -> KeySet:
    """The key set that ``each`` describes; what is wrong with its documents is noted in ``faults``."""
    where = reading.keyset_name(each.name, index)
    main = PublicDocument(MAIN, each.path.replace("{name}", each.name), each.public_url, _shown(each.shows))
    documents = [main]
    for view in each.views:
        if any(view.name == other.name for other in documents):
            faults.add(f"{where}.views", f"two are named {view.name!r}; each needs a name of its own.")
        path = view.path.replace("{name}", each.name).replace("{view}", view.name)
        documents.append(PublicDocument(view.name, path, view.public_url, _shown(view.shows)))
    if not faults.touch("keysets", index, "views") and not faults.touch("keysets", index, "shows"):
        for alg in policy.algorithms:
            if not any(document.shows(alg) for document in documents):
                faults.add(f"{where}.shows", f"no document shows {alg}: nobody could verify its tokens. Add it to one.")
    discovery = _discovery(each, where, documents, faults) if each.discovery else None
    return KeySet(each.name, policy, tuple(documents), content_type, discovery)


def _shown(algorithms: Sequence[str] | None) -> frozenset[str] | None:
    return None if algorithms is None else frozenset(algorithms)


def _discovery(
    each: KeySetTable, where: str, documents: Sequence[PublicDocument], faults: Faults
) -> PublicDocument | None:
    asked = each.discovery
    jwks = next((document for document in documents if asked and document.name == asked.jwks), None)
    if asked is None or jwks is None:
        known = ", ".join(document.name for document in documents)
        faults.add(f"{where}.discovery.jwks", f"there is no such document; known are {known}.")
        return None
    if each.issuer is None:
        faults.add(f"{where}.issuer", "is missing: the URL of the discovery document follows from it.")
        return None
    if not jwks.urls:
        whose = f"{where}.public_url" if jwks.name == MAIN else f"{where}.views.{jwks.name}.public_url"
        faults.add(whose, "is missing: the discovery document has to say where verifiers fetch the JWKS (jwks_uri).")
        return None
    return PublicDocument(
        DISCOVERY,
        asked.path.replace("{name}", each.name),
        (each.issuer.rstrip("/") + WELL_KNOWN,),
        jwks.algorithms,
        Discovery(each.issuer, jwks.urls[0], jwks.name, asked.members),
    )


def check_distinct(keysets: Sequence[KeySet], faults: Faults) -> None:
    """Note every path and URL that two documents have in common."""
    documents = [(keyset, document) for keyset in keysets for document in keyset.written]
    paths: dict[str, tuple[KeySet, PublicDocument]] = {}
    urls: dict[str, tuple[KeySet, PublicDocument]] = {}
    for keyset, document in documents:
        paths.setdefault(document.path, (keyset, document))
        for url in document.urls:
            owner = urls.setdefault(url, (keyset, document))
            if not _same(owner, (keyset, document)):
                setting = "issuer" if document.discovery else _setting(document, "public_url")
                whose = _owner(keyset, *owner)
                faults.add(f"keysets.{keyset.name}.{setting}", f"{whose} names the same URL; each needs its own.")
    for keyset, document in documents:
        for above in _above(document.path):
            owner = paths.get(above, (keyset, document))
            if not _same(owner, (keyset, document)):
                relation = "is" if above == document.path else "lies below"
                faults.add(
                    f"keysets.{keyset.name}.{_setting(document, 'path')}",
                    f"{document.path} {relation} the path of {_owner(keyset, *owner)}; each needs its own.",
                )


def _same(one: tuple[KeySet, PublicDocument], other: tuple[KeySet, PublicDocument]) -> bool:
    return one[0].name == other[0].name and one[1].name == other[1].name


def _above(path: str) -> Iterator[str]:
    names = path.split("/")
    return ("/".join(names[: length + 1]) for length in range(len(names)))


def _owner(asking: KeySet, keyset: KeySet, document: PublicDocument) -> str:
    return f"document {document.name}" if keyset.name == asking.name else f"key set {keyset.name}"


def _setting(document: PublicDocument, setting: str) -> str:
    if document.discovery:
        return f"discovery.{setting}"
    return setting if document.name == MAIN else f"views.{document.name}.{setting}"
