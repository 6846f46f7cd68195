from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests import emulators
from tests.leaks import pytest_configure as pytest_configure  # noqa: PLC0414 - hooks of pytest, found by name here
from tests.leaks import pytest_runtest_makereport as pytest_runtest_makereport  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterator

# A plain run tries the same few examples every time, and .ci/run the same many (--hypothesis-profile=thorough): what
# they cover is no matter of luck. --hypothesis-profile=explore tries new ones and prints how to see a failure again.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("plain", PATIENT, max_examples=40, derandomize=True)
settings.register_profile("thorough", PATIENT, max_examples=500, derandomize=True)
settings.register_profile("explore", PATIENT, max_examples=500, derandomize=False, database=None, print_blob=True)
settings.load_profile("plain")

# Counting lines doubles the time of a test. The tests in these files reach every branch of keys/ and engine/ (.ci/run
# judges nothing else); those of other files, and long lives (no_cover), run without.
COUNTED = {
    *("adopt", "adoption", "attacks", "cautions", "discovery", "emergency", "engine", "facts", "jwks", "isolation"),
    *("keyring", "ledger_json", "material", "odd_input", "old_copies", "plan", "policy", "publication"),
    *("recover_command", "recovery", "upkeep", "verification", "views"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name != "tests" or item.path.stem.removeprefix("test_") not in COUNTED:
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """The suite never meets the person's own AWS account or rotator configuration."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "ROTATOR_"))]:
        del os.environ[name]
    os.environ.update(emulators.CREDENTIALS)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    with emulators.moto() as url:
        yield url


@pytest.fixture(scope="session")
def ministack_url() -> Iterator[str]:
    with emulators.ministack() as url:
        yield url
