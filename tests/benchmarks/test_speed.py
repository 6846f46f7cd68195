"""What the README claims about speed and size, as ratios against a floor measured in the same run.

pytest -m slow tests/benchmarks -s        # prints the table
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rotator.keys.plan import plan
from tests.emulators import free_port
from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROTATOR = str(Path(sys.executable).with_name("rotator"))

#: Long enough to see a leak or a busy loop.
AT_REST = timedelta(minutes=5)

#: The same calls as an idle tick on S3 and Secrets Manager, with nothing around them.
BARE = """
import boto3
from botocore.config import Config
config = Config(s3={"addressing_style": "path"})
secrets = boto3.client("secretsmanager", endpoint_url=URL)
s3 = boto3.client("s3", endpoint_url=URL, config=config)
secrets.describe_secret(SecretId="bench/acme/ES256")
s3.get_object(Bucket=PUBLIC, Key="acme/jwks.json")["Body"].read()
s3.get_object(Bucket=LEDGER, Key="acme/ledger.json")["Body"].read()
"""


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, str, str]]]:
    """The rows of this run; printed at its end."""
    rows: list[tuple[str, str, str]] = []
    yield rows
    width = max(len(row[0]) for row in rows)
    print()  # noqa: T201 - the table is what this file is for
    for what, figure, bound in rows:
        print(f"{what:<{width}}  {figure:>12}  {bound}")  # noqa: T201


@pytest.fixture(scope="module")
def on_aws(moto_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, str]:
    """A founded key set on moto: the configuration file, the URL and the buckets."""
    import boto3

    name = f"bench-{uuid.uuid4().hex[:8]}"
    s3 = boto3.client("s3", endpoint_url=moto_url)
    for bucket in (f"{name}-ledger", f"{name}-public"):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    path = tmp_path_factory.mktemp("bench") / "rotator.toml"
    path.write_text(
        f"""
[stores]
keys = "secretsmanager://bench"
ledger = "s3://{name}-ledger/"
public = "s3://{name}-public/"
[aws]
endpoint_url = "{moto_url}"
s3_path_style = true
[cloudfront]
distribution_id = "E2QWRUHAPOMQZL"
[policy]
algorithms = ["ES256"]
[server]
port = {free_port()}
[[keysets]]
name = "acme"
path = "acme/jwks.json"
"""
    )
    for command in ("init", "tick"):
        subprocess.run([ROTATOR, "--config", str(path), command], check=True, capture_output=True)
    return path, moto_url, f"{name}-ledger", f"{name}-public"


def ratio(ours: list[str], floor: list[str], rounds: int = 9) -> tuple[float, float, float]:
    """Median wall seconds of both, in turn, and the median of their ratios pair by pair."""
    pairs = []
    for _ in range(rounds + 1):
        taken = []
        for command in (ours, floor):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
            taken.append(time.perf_counter() - started)
        pairs.append((taken[0], taken[1]))
    warm = pairs[1:]
    return (
        statistics.median(mine for mine, _ in warm),
        statistics.median(bare for _, bare in warm),
        statistics.median(mine / bare for mine, bare in warm),
    )


def test_an_idle_tick_costs_little_more_than_its_calls(
    on_aws: tuple[Path, str, str, str], table: list[tuple[str, str, str]]
) -> None:
    path, url, ledger, public = on_aws
    script = f"URL, LEDGER, PUBLIC = {url!r}, {ledger!r}, {public!r}\n{BARE}"
    # boto3 and pydantic-settings are given: the floor pays for both. What boto3 alone would cost stands beside it.
    mine, bare, factor = ratio(
        [ROTATOR, "--config", str(path), "tick"], [sys.executable, "-c", f"import pydantic_settings\n{script}"]
    )
    _, plain, strict = ratio([ROTATOR, "--config", str(path), "tick"], [sys.executable, "-c", script])
    table.append(("idle tick ÷ boto3 and pydantic-settings", f"{factor:.2f}", f"≤ 1.5; {mine:.2f} s ÷ {bare:.2f} s"))
    table.append(("idle tick ÷ boto3 alone", f"{strict:.2f}", f"{mine:.2f} s ÷ {plain:.2f} s"))
    assert factor <= 1.5


def test_help_is_quick(table: list[tuple[str, str, str]]) -> None:
    mine, bare, factor = ratio([ROTATOR, "--help"], [sys.executable, "-c", "pass"], rounds=15)
    table.append(("--help ÷ python -c pass", f"{factor:.2f}", f"≤ 8; {mine * 1000:.0f} ms ÷ {bare * 1000:.0f} ms"))
    assert factor <= 8


def test_help_imports_nothing_of_aws() -> None:
    script = "import sys, rotator.cli; print([name for name in sys.modules if name.startswith(('boto', 'pydantic'))])"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_ten_thousand_key_sets_are_planned_in_a_second(table: list[tuple[str, str, str]]) -> None:
    world = World()
    world.init()
    world.tick()
    world.run(timedelta(days=31), every=timedelta(hours=6))
    observed = world.engine()._observer.observe().observed()
    ring, now = world.ring, world.now

    def seconds(work: Callable[[], Any]) -> float:
        started = time.process_time()
        for _ in range(10_000):
            work()
        return time.process_time() - started

    taken = min(seconds(lambda: plan(ring, world.keyset, now, observed)) for _ in range(3))
    # The floor: to decide anything about a key set, its ledger must be read from JSON once.
    body = world.documents["acme/ledger.json"][0]
    floor = min(seconds(lambda: json.loads(body)) for _ in range(3))
    table.append(
        ("plan of 10,000 key sets", f"{taken:.2f} s", f"≤ 1 s; {taken / floor:.1f} × json.loads of the ledgers")
    )
    assert taken < 1.0 or taken < 3 * floor


def test_a_daemon_at_rest_is_small_and_still(
    on_aws: tuple[Path, str, str, str], table: list[tuple[str, str, str]]
) -> None:
    path, *_ = on_aws
    process = subprocess.Popen(
        [ROTATOR, "--config", str(path), "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(15)
        before = cpu_seconds(process.pid)
        time.sleep(AT_REST.total_seconds())
        share = (cpu_seconds(process.pid) - before) / AT_REST.total_seconds()
        resident = resident_megabytes(process.pid)
    finally:
        process.terminate()
        assert process.wait(10) == 0
    table.append(("daemon at rest, resident memory", f"{resident:.0f} MB", "≤ 100 MB"))
    table.append(("daemon at rest, share of one core", f"{share:.2%}", f"< 1 % over {AT_REST}"))
    assert resident <= 100
    assert share < 0.01


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
