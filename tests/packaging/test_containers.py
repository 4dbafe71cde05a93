"""The container file and the compose file agree with each other and with the package; nothing is built here."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.core
import yaml

from nemotron_rag import cli
from nemotron_rag.cli import _serve
from nemotron_rag.serve.limits import OPEN_PATHS
from nemotron_rag.serve.served import API_KEY_VARIABLE

ROOT = Path(__file__).parents[2]
CONTAINER = (ROOT / "cookbook" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "")
TEXT = (ROOT / "cookbook" / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVERS = {name: service for name, service in COMPOSE["services"].items() if name != "qdrant"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", CONTAINER, re.MULTILINE)


def without_variables(text: str) -> str:
    """A compose text with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture
def understood(monkeypatch):
    """Runs a command line up to its command: returns its name and what it was given."""
    ran = []
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda self, ctx: ran.append((self.name, ctx.params)))

    def run(arguments: list[str]):
        assert cli.main(arguments) == 0, arguments
        return ran[-1]

    return run


def test_every_command_is_one_of_ours(understood):
    (entry,), (command,) = map(json.loads, instructions("ENTRYPOINT")), map(json.loads, instructions("CMD"))
    assert entry == ["nemotron-rag"]
    assert entry[0] in PROJECT["scripts"]
    name, given = understood(command)
    assert (name, given["host"], given["embedder"]) == ("serve", "0.0.0.0", ["llama-nemotron-embed-vl-1b-v2"])
    for service in SERVERS.values():
        name, given = understood(shlex.split(without_variables(service["command"])))
        assert (name, given["location"], given["host"]) == ("serve", "http://qdrant:6333", "0.0.0.0")
        assert given["images"] in [volume.split(":")[1] for volume in service["volumes"]]
    for service, line in re.findall(r"run --rm (\S+) (.*)$", TEXT, re.MULTILINE):
        assert service in SERVERS
        name, given = understood(shlex.split(line))
        assert (name, given["to"]) == ("index", "http://qdrant:6333")
    for line in re.findall(r"&?nemotron-rag (index .*)$", TEXT, re.MULTILINE):
        understood(shlex.split(line))


def test_ports_are_those_that_are_listened_at(understood):
    (port,) = instructions("EXPOSE")
    _, given = understood(["serve"])
    assert given["port"] == int(port)
    for service in SERVERS.values():
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    (health,) = re.findall(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'\)", CONTAINER)
    assert health[0] == port
    assert health[1] in OPEN_PATHS
    assert "qdrant" in COMPOSE["services"]
    assert any(":6333:6333" in mapping for mapping in COMPOSE["services"]["qdrant"]["ports"])


def test_what_is_installed_exists():
    (extras,) = re.findall(r'"nemotron-rag\[([\w,-]+)\]"', CONTAINER)
    missing = set(extras.split(",")) - PROJECT["optional-dependencies"].keys()
    assert missing == set()
    assert {"serve", "local", "qdrant"} <= set(extras.split(","))
    (version,) = set(re.findall(r"FROM python:(\d+\.\d+)-slim", CONTAINER))
    assert tuple(map(int, version.split("."))) >= tuple(map(int, PROJECT["requires-python"].lstrip(">=").split(".")))
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINER, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_there_is_a_stage_for_each_build():
    stages = set(re.findall(r"AS torch-(\w+)", CONTAINER))
    assert {service["build"]["args"]["TORCH"] for service in SERVERS.values()} == stages == {"cpu", "cuda"}
    for service in SERVERS.values():
        build = service["build"]
        context = ROOT / "cookbook" / build["context"]
        assert context.resolve() == ROOT
        assert (context / build["dockerfile"]).is_file()
        assert service["image"] == f"nemotron-rag:{build['args']['TORCH']}"
    assert "deploy" in SERVERS["nemotron-rag-cuda"]
    assert "deploy" not in SERVERS["nemotron-rag-cpu"]


def test_keys_are_named_as_the_package_reads_them_and_are_nowhere_written_down():
    for service in SERVERS.values():
        assert set(service["environment"]) == {API_KEY_VARIABLE, "QDRANT_API_KEY"}
        assert all(value.startswith("${") for value in service["environment"].values())
    assert COMPOSE["services"]["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"].startswith("${QDRANT_API_KEY:?")


def test_a_stop_waits_for_what_is_under_way():
    for service in SERVERS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > _serve._STOPPING
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_volumes_are_declared_and_writable_for_a_user_who_is_not_root():
    named = {volume.split(":")[0] for each in COMPOSE["services"].values() for volume in each.get("volumes", ())}
    assert {name for name in named if re.fullmatch(r"\w+", name)} == set(COMPOSE["volumes"])
    (user,) = instructions("USER")
    assert user != "root"
    (volumes,) = map(json.loads, instructions("VOLUME"))
    assert f"chown {user} {' '.join(volumes)}" in CONTAINER


def test_the_job_on_kuberay_is_a_command_of_ours(understood):
    job = yaml.safe_load((ROOT / "cookbook" / "kuberay.yaml").read_text(encoding="utf-8"))["spec"]
    entry, *arguments = shlex.split(job["entrypoint"])
    assert entry in PROJECT["scripts"]
    name, given = understood(arguments)
    assert (name, given["engine"], given["address"]) == ("index", "ray", "auto")
    cluster = job["rayClusterSpec"]
    (embed,) = cluster["workerGroupSpecs"]
    (worker,) = embed["template"]["spec"]["containers"]
    assert embed["minReplicas"] >= 1  # a plan that nothing can run is refused before a cluster grows
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["envFrom"] == worker["envFrom"] == [{"secretRef": {"name": "nemotron-rag"}}]
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert cluster["rayVersion"] == pinned
