"""deploy/: what it starts is a command that exists, what it probes an endpoint, and its fields those of Kubernetes."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from miil21k.cli import serve
from miil21k.cli.options import value_of
from miil21k.predict.options import PredictOptions
from miil21k.serve.clients import KEYS_VARIABLE
from miil21k.serve.options import ServeOptions

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
CONTAINERFILES = ("Containerfile", "Containerfile.cuda")
GRACE = 60  # seconds that the server gives to what is under way, behind --drain
MANIFEST = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def one(kind: str) -> Any:
    (found,) = [part for part in MANIFEST if part["kind"] == kind]
    return found


CONTAINER = one("Deployment")["spec"]["template"]["spec"]["containers"][0]


def served(words: list[str]) -> tuple[argparse.Namespace, ServeOptions]:
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    args = parser.parse_args(words)
    return args, value_of(args, ServeOptions)


def instruction(name: str, word: str) -> list[str]:
    """Return the words of the last instruction of this kind, which is written as JSON."""
    text = (DEPLOY / name).read_text()
    found: list[str] = json.loads(re.findall(rf"^{word} (\[.*\])$", text, re.MULTILINE)[-1])
    return found


@pytest.mark.parametrize("name", CONTAINERFILES)
def test_a_container_starts_a_server_that_others_reach(name: str) -> None:
    program, verb, *words = instruction(name, "ENTRYPOINT")
    assert (program, verb) == ("/opt/miil21k/bin/miil21k", "serve")
    args, options = served([*words, *instruction(name, "CMD")])
    assert (options.host, options.port, options.log_format) == ("0.0.0.0", 8021, "json")
    assert args.model == "/model/model.onnx"
    assert value_of(args, PredictOptions).device == ("cuda" if name.endswith("cuda") else "auto")


@pytest.mark.parametrize("name", CONTAINERFILES)
def test_a_container_is_not_root_and_copies_what_there_is(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    for verb in ("bundle install", "export onnx"):
        assert f"/opt/full/bin/miil21k {verb} " in text
    assert "/health" in text


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@pytest.mark.parametrize("name", CONTAINERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    command = ["hadolint", "--config", str(DEPLOY / ".hadolint.yaml"), str(DEPLOY / name)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_pod_asks_for_what_the_server_takes() -> None:
    words = instruction("Containerfile", "ENTRYPOINT")[2:]
    _, options = served([*words, *CONTAINER["args"]])
    pod = one("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > options.drain + GRACE
    readiness = CONTAINER["readinessProbe"]
    assert options.drain >= readiness["periodSeconds"] * readiness["failureThreshold"]
    assert options.max_rate is not None
    assert CONTAINER["ports"][0]["containerPort"] == options.port
    assert CONTAINER["env"][0]["name"] == KEYS_VARIABLE
    assert not CONTAINER["env"][0]["valueFrom"]["secretKeyRef"].get("optional", False)


def test_probes_ask_open_endpoints_of_the_server() -> None:
    pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
    from miil21k.predict.options import PredictOptions
    from miil21k.serve.bodies import limits_of
    from miil21k.serve.endpoints import endpoints
    from miil21k.serve.query import Asked

    table = endpoints(limits_of(ServeOptions()), Asked(PredictOptions(), None))
    unguarded = {end.path for end in table if end.open and end.method == "GET"}
    probes = [CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["path"] for probe in probes] == ["/health", "/health", "/ready"]
    assert {probe["path"] for probe in probes} <= unguarded
    assert {probe["port"] for probe in probes} == {CONTAINER["ports"][0]["name"]}


def test_nothing_in_the_pod_is_writable_but_what_is_mounted_and_nobody_is_root() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert CONTAINER["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert set(CONTAINER["resources"]["limits"]) == {"cpu", "memory"}


def test_the_parts_name_each_other() -> None:
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]


MODELS = {
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_field_is_one_of_kubernetes(kind: str) -> None:
    """Against its client's models, which are generated from the API: names, types, what is required."""
    client = pytest.importorskip("kubernetes.client", reason="the package kubernetes is not installed")
    _fits(client, MODELS[kind], one(kind), kind)


def _fits(client: Any, wanted: str, value: Any, where: str) -> None:
    listed, mapped = re.fullmatch(r"[Ll]ist\[(.*)\]", wanted), re.fullmatch(r"[Dd]ict[\[(]str, (.*)[\])]", wanted)
    if listed:
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            _fits(client, listed[1], item, f"{where}[{number}]")
    elif mapped:
        for name, item in value.items():
            _fits(client, mapped[1], item, f"{where}.{name}")
    elif wanted in ("str", "int", "bool", "object"):
        assert wanted == "object" or type(value).__name__ == wanted, f"{where}: {value!r} is no {wanted}"
    else:
        model = getattr(client, wanted)
        attributes = {spelt: name for name, spelt in model.attribute_map.items()}
        assert set(value) <= set(attributes), f"{where}: {set(value) - set(attributes)}"
        for name, item in value.items():
            _fits(client, model.openapi_types[attributes[name]], item, f"{where}.{name}")
        model(**{attributes[name]: item for name, item in value.items()})  # raises for what is missing
