"""The image, and the manifests as Kubernetes would get them: rendered, valid, and in step with the code."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from typer.testing import CliRunner

from rotator import __version__, cli, daemon
from rotator.cli import run
from rotator.settings import Configuration, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
BASE, CRONJOB = DEPLOY / "kubernetes" / "base", DEPLOY / "kubernetes" / "overlays" / "cronjob"

#: CronJob.timeZone is there for good since the first of them.
VERSIONS = ("1.27", kubernetes_validate.latest_version())

#: The promise of ``rotator run``: it ends so soon after SIGTERM.
ENDS_WITHIN = 10


def is_setting(name: str) -> bool:
    """Whether ``name`` is no variable of ours, or one that the configuration knows."""
    return not name.startswith("ROTATOR_") or name in {*reading._known(), reading.CONFIG_VARIABLE}


def is_command(name: str) -> bool:
    """Whether the command line knows ``name``."""
    return CliRunner().invoke(cli.app, [name, "--help"]).exit_code == 0


# -- the image ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), without comments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]


@pytest.fixture(scope="module")
def final(instructions: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The instructions of the stage that is shipped."""
    last = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[last:]


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install '.[dev]' brings it)")
    done = subprocess.run([hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_image_runs_one_process_as_a_nameless_user(final: list[tuple[str, str]]) -> None:
    found = dict(final)
    assert found["ENTRYPOINT"] == '["rotator"]'
    assert is_command(*json.loads(found["CMD"]))
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", found["USER"])
    assert found["HEALTHCHECK"] == "NONE"


def test_the_shipped_stage_takes_what_was_built_and_runs_nothing(final: list[tuple[str, str]]) -> None:
    assert [rest for word, rest in final if word in {"COPY", "ADD", "RUN"}] == [
        "--from=build /opt/rotator /opt/rotator"
    ]


def test_the_base_image_is_pinned_and_no_secret_is_asked_for(instructions: list[tuple[str, str]]) -> None:
    arguments = [rest for word, rest in instructions if word == "ARG"]
    assert [re.fullmatch(r"PYTHON=3\.\d+-slim-\w+", argument) is not None for argument in arguments] == [True]
    assert {rest.split()[0] for word, rest in instructions if word == "FROM"} == {"python:${PYTHON}"}


def test_every_variable_of_the_image_is_a_setting(final: list[tuple[str, str]]) -> None:
    names = re.findall(r"(\w+)=", dict(final)["ENV"])
    assert [name for name in names if not is_setting(name)] == []
    assert "ROTATOR_CONFIG" in names


def test_nothing_but_what_is_copied_leaves_the_checkout(instructions: list[tuple[str, str]]) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    local = [rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest]
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(itertools.chain(*local))


# -- the manifests -----------------------------------------------------------------------------------------------------


def render(directory: Path) -> list[dict[str, Any]]:
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not kubectl and not kustomize:
        pytest.skip("neither kubectl nor kustomize is installed")
    command = [kubectl, "kustomize"] if kubectl else [str(kustomize), "build"]
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def base() -> list[dict[str, Any]]:
    return render(BASE)


@pytest.fixture(scope="module")
def cronjob() -> list[dict[str, Any]]:
    return render(CRONJOB)


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def pod_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The one pod template among ``manifests``."""
    (pod,) = (pod for manifest in manifests for pod in _pods(manifest.get("spec", {})))
    return pod


def _pods(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "template" in spec:
        yield spec["template"]
    elif "jobTemplate" in spec:
        yield from _pods(spec["jobTemplate"]["spec"])


@pytest.fixture(params=["base", "cronjob"])
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", request.getfixturevalue(request.param))


@pytest.fixture
def pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of its pod."""
    return cast("dict[str, Any]", pod_of(manifests)["spec"])


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return cast("dict[str, Any]", found)


@pytest.fixture
def configuration() -> Configuration:
    return Configuration.load(BASE / "rotator.toml")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(manifests: list[dict[str, Any]], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_cronjob_takes_the_place_of_the_deployment(
    base: list[dict[str, Any]], cronjob: list[dict[str, Any]]
) -> None:
    shared = {"Namespace", "ServiceAccount", "ConfigMap"}
    assert {manifest["kind"] for manifest in base} == shared | {"Deployment"}
    assert {manifest["kind"] for manifest in cronjob} == shared | {"CronJob"}


def test_the_pod_may_do_nothing_that_it_need_not(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_the_user_is_that_of_the_image(pod: dict[str, Any], final: list[tuple[str, str]]) -> None:
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == dict(final)["USER"]


def test_the_namespace_lets_no_other_pod_in_either(manifests: list[dict[str, Any]]) -> None:
    namespace = one(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [manifest["metadata"]["namespace"] for manifest in manifests if manifest is not namespace]
    assert set(others) == {namespace["metadata"]["name"]}


def test_the_role_of_the_pod_is_that_of_its_service_account(
    manifests: list[dict[str, Any]], pod: dict[str, Any]
) -> None:
    account = one(manifests, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert re.fullmatch(
        r"arn:aws:iam::\d{12}:role/.+", account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    )
    assert account["automountServiceAccountToken"] is False


def test_the_image_is_that_of_this_version(container: dict[str, Any]) -> None:
    assert container["image"] == f"jwks-rotator:{__version__}"


def test_memory_is_bounded_and_the_processor_is_not(container: dict[str, Any]) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}


def test_the_pod_runs_a_command_with_the_configuration_that_is_mounted(
    manifests: list[dict[str, Any]], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert is_command(*container["args"])
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert [name for name in environment if not is_setting(name)] == []
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    configured = one(manifests, "ConfigMap")
    assert volume["configMap"]["name"] == configured["metadata"]["name"]
    (file,) = configured["data"]
    assert environment["ROTATOR_CONFIG"] == f"{mount['mountPath']}/{file}"
    # A changed configuration has another name: the pods are replaced.
    assert re.fullmatch(r"rotator-[a-z0-9]{10}", configured["metadata"]["name"])


def test_the_configuration_in_the_manifests_is_the_example() -> None:
    # kustomize reads no file outside its own directory.
    assert (BASE / "rotator.toml").read_bytes() == (ROOT / "config" / "kubernetes.toml").read_bytes()


def test_the_probes_ask_what_the_daemon_answers(base: list[dict[str, Any]], configuration: Configuration) -> None:
    (container,) = pod_of(base)["spec"]["containers"]
    pages = run._pages(cast("daemon.Daemon", SimpleNamespace(standings={})))
    (port,) = container["ports"]
    for kind in ("livenessProbe", "readinessProbe"):
        probe = container[kind]["httpGet"]
        assert probe["path"] in pages
        assert probe["port"] == port["name"]
    assert container["livenessProbe"]["httpGet"]["path"] != container["readinessProbe"]["httpGet"]["path"]
    annotations = pod_of(base)["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in pages
    assert {port["containerPort"], int(annotations["prometheus.io/port"])} == {configuration.server.port}
    assert configuration.server.host == "0.0.0.0"


def test_kubernetes_waits_for_the_daemon_to_end(pod: dict[str, Any]) -> None:
    assert daemon.GRACE < ENDS_WITHIN < pod["terminationGracePeriodSeconds"] <= 2 * ENDS_WITHIN


def test_the_cronjob_ticks_as_often_as_the_policy_counts_on(
    cronjob: list[dict[str, Any]], configuration: Configuration
) -> None:
    spec = one(cronjob, "CronJob")["spec"]
    every = re.fullmatch(r"\*/(\d+) \* \* \* \*", spec["schedule"])
    assert every
    assert timedelta(minutes=int(every[1])) == configuration.interval
    assert spec["timeZone"] == "Etc/UTC"
    assert spec["concurrencyPolicy"] == "Forbid"
    deadlines = (spec["startingDeadlineSeconds"], spec["jobTemplate"]["spec"]["activeDeadlineSeconds"])
    # Below ten seconds the controller may never start one; a job must be gone when the next is due.
    assert all(10 < seconds < configuration.interval.total_seconds() for seconds in deadlines)
    (container,) = pod_of(cronjob)["spec"]["containers"]
    assert container["args"] == ["tick"]


def test_both_ways_to_run_have_the_same_pod_but_for_what_a_daemon_alone_needs(
    base: list[dict[str, Any]], cronjob: list[dict[str, Any]]
) -> None:
    long, short = pod_of(base)["spec"], pod_of(cronjob)["spec"]
    assert short.pop("restartPolicy") == "Never"
    (there,), (here,) = long.pop("containers"), short.pop("containers")
    assert there.pop("args") == ["run"]
    assert here.pop("args") == ["tick"]
    for name in ("ports", "livenessProbe", "readinessProbe"):
        assert there.pop(name)
    assert (long, there) == (short, here)
