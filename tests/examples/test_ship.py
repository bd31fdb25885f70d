"""Recipes to ship a model: docs/howto_ship.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from child_processes import started, wait_until
from PIL import Image
from shown import EXAMPLES, ROOT, script, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shown import Kitchen

PAGE = "ship"
KEY = "salt-and-pepper-0123456789"


@pytest.fixture
def shipped(kitchen: Kitchen, embedded_export: Path) -> Kitchen:
    shutil.copy(embedded_export, kitchen.folder / "embedded.onnx")
    return kitchen


def test_onnxruntime_alone_names_a_picture(shipped: Kitchen) -> None:
    shipped.prints_what_the_page_shows(PAGE, "python examples/onnx_only.py")


def _onnxruntime(folder: Path) -> Path:
    """Return a folder with the library of the Python package under the names that a linker and a loader look for."""
    import onnxruntime

    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("the onnxruntime package here has no shared library")
    folder.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[-1])
    return folder


def test_a_program_in_cpp_names_a_picture(shipped: Kitchen) -> None:
    """CMAKE_PREFIX_PATH says where headers are that do not lie in /usr."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("cmake or a C++ compiler is not installed")
    library = _onnxruntime(shipped.folder / "lib")
    command, _ = shown(PAGE, "cmake")
    assert command == "cmake -S examples/cpp -B build && cmake --build build"
    configure, build = command.split(" && ")
    ran = shipped.run(f"{configure} -DONNXRUNTIME_LIBRARY={library}/libonnxruntime.so")
    if "ONNXRUNTIME_INCLUDE" in ran.stderr:
        pytest.skip("the headers of ONNX Runtime are not installed")
    assert ran.code == 0, ran.stderr
    built = shipped.run(build)
    assert built.code == 0, built.stderr
    shipped.prints_what_the_page_shows(PAGE, "python -c")
    shipped.prints_what_the_page_shows(PAGE, "build/name_picture")
    assert shipped.run("build/name_picture embedded.onnx cat.ppm 0.99").stdout.endswith("0.99 sure: (nothing)\n")
    assert shipped.run("build/name_picture embedded.onnx photos/cat.jpg").code == 1
    assert shipped.run("build/name_picture cat.ppm cat.ppm").code == 2


def test_a_client_gets_rows_and_questions(kitchen: Kitchen) -> None:
    pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    log = kitchen.folder / "log"
    words = shown(PAGE, "miil21k serve")[0].removesuffix(" &").split()
    serve = [f"{sysconfig.get_path('scripts')}/{words[0]}", *words[1:], "--port", "0"]
    environment = {**os.environ, "MIIL21K_CACHE": str(kitchen.cache), "MIIL21K_API_KEYS": KEY}
    with log.open("wb") as said, started(serve, stderr=said, env=environment) as process:
        wait_until(lambda: "ready: " in log.read_text(), process)
        (port,) = re.findall(r"ready: http://127\.0\.0\.1:(\d+) ", log.read_text())
        command, below = shown(PAGE, "python examples/client.py")
        command = command.replace("8021", port)
        ran = kitchen.run(command, MIIL21K_API_KEY=KEY)
        assert (ran.code, ran.stdout) == (0, below), ran.stderr

        (kitchen.folder / "broken.jpg").write_bytes(b"no picture")
        broken = kitchen.run(f"python examples/client.py http://127.0.0.1:{port} broken.jpg", MIIL21K_API_KEY=KEY)
        assert (broken.code, broken.stdout.startswith("broken.jpg: 'image' is not an image")) == (1, True), (
            broken.stdout
        )
        nobody = kitchen.run(command)
        assert (nobody.code, nobody.stderr.startswith("401: ")) == (2, True)
    gone = kitchen.run(command)
    assert (gone.code, "cannot be reached" in gone.stderr) == (2, True)


class _Busy(BaseHTTPRequestHandler):
    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        full = len(self.asked) < 3
        body = b'{"error": "full"}' if full else b'{"predictions": [{"status": "ok", "path": [], "error": null}]}'
        self.send_response(503 if full else 200)
        self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _busy() -> Iterator[tuple[int, list[str]]]:
    """A server that is full twice, and answers then."""
    handler = type("Busy", (_Busy,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, handler.asked
        finally:
            server.shutdown()
            thread.join()


def test_a_client_asks_a_server_that_is_full_again(kitchen: Kitchen) -> None:
    with _busy() as (port, asked):
        ran = kitchen.run(f"python examples/client.py http://127.0.0.1:{port} photos/cat.jpg --hedge 0.8")
    assert (ran.code, ran.stdout) == (0, "cat.jpg: (not sure)\n"), ran.stderr
    assert asked == ["/v1/predict?hedge=0.8"] * 3


def test_the_function_behind_the_space_answers(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIIL21K_CACHE", str(kitchen.cache))
    app = script("space/app.py")
    cat = Image.open(kitchen.folder / "photos" / "cat.jpg")
    text, classes = app.answer(cat, 0.9, "")
    assert text.startswith("**domestic cat**\n\nanimal (95%) > domestic animal (92%) > domestic cat (91%)")
    assert next(iter(classes)) == "tiger cat"
    assert app.answer(cat, 0.93, "")[0].startswith("**animal**")
    assert app.answer(cat, 0.99, "")[0] == "Nothing is that sure."
    assert app.answer(cat, 0.9, "mammal, vehicle")[1] == pytest.approx({"mammal": 0.94, "vehicle": 0.0}, abs=0.02)
    assert "'xyzzy'" in app.answer(cat, 0.9, "xyzzy")[0]
    assert app.answer(None, 0.9, "") == ("Drop a picture first.", {})


def test_the_space_says_what_runs_it() -> None:
    folder = EXAMPLES / "space"
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")
    assert (folder / front["app_file"]).exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", front["sdk_version"])
    assert set(front["colorFrom"].split() + front["colorTo"].split()) <= {"red", "yellow", "green", "blue", "indigo"}
    assert "miil21k[embedded]" in (folder / "requirements.txt").read_text().splitlines()


def test_gradio_builds_the_page_and_its_endpoint_answers(kitchen: Kitchen) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    code = (
        "import sys; sys.path.insert(0, 'SPACE'); import app\n"
        "from gradio_client import Client, handle_file\n"
        "page = app.page(); _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, share=False)\n"
        "text, label = Client(address, verbose=False).predict(handle_file('photos/cat.jpg'), 0.9, 'mammal')\n"
        "print(text.splitlines()[0], label['label']); page.close()\n"
    ).replace("SPACE", str(EXAMPLES / "space"))
    (kitchen.folder / "ask.py").write_text(code)
    ran = kitchen.run("python ask.py", GRADIO_ANALYTICS_ENABLED="False")
    assert (ran.code, "**domestic cat** mammal" in ran.stdout.splitlines()) == (0, True), ran.stderr


@pytest.mark.slow
def test_a_machine_without_a_network_installs_and_answers(kitchen: Kitchen) -> None:
    """`download.sh` collects from an index that has this version; here the wheel comes from these sources."""
    environment = {"PYTHON": sys.executable, "MIIL21K_CACHE": str(kitchen.folder / "own"), "PIP_NO_DEPS": "1"}
    wheels = kitchen.folder / "from"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    packed = kitchen.run(
        shown(PAGE, "sh examples/air_gapped.sh pack")[0],
        **environment,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(wheels),
    )
    assert packed.code == 0, packed.stderr
    installed = kitchen.run(
        shown(PAGE, "sh examples/air_gapped.sh install")[0],
        **environment,
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path.endswith("site-packages")),
    )
    assert installed.code == 0, installed.stderr
    assert "photos/cat.jpg,ok,domestic cat" in installed.stdout


def test_an_air_gapped_script_refuses_another_step(kitchen: Kitchen) -> None:
    assert kitchen.run("sh examples/air_gapped.sh carry air").code == 2


def test_the_manifest_is_what_the_page_says() -> None:
    text = (ROOT / "docs" / "howto_ship.md").read_text().partition("## Kubernetes")[2]
    parts: dict[str, Any] = {
        part["kind"]: part for part in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    }
    deployment, scaler = parts["Deployment"]["spec"], parts["HorizontalPodAutoscaler"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    drain = container["args"][container["args"].index("--drain") + 1]
    share = scaler["metrics"][0]["resource"]["target"]["averageUtilization"]
    for sentence in (
        f"in the place of `{container['image']}`",
        f"secret generic {secret['name']} --from-literal={secret['key']}=",
        f"a Deployment of {deployment['replicas']} pods",
        f"a Service on port {parts['Service']['spec']['ports'][0]['port']}",
        f"up to {scaler['maxReplicas']} pods at {share} %",
        f"It has {pod['terminationGracePeriodSeconds']} seconds to end: {drain} in",
        f"deployment/{parts['Deployment']['metadata']['name']}",
        f"port-forward service/{parts['Service']['metadata']['name']} {container['ports'][0]['containerPort']}:80",
        f"as long as `{container['livenessProbe']['httpGet']['path']}` answers",
        f"as long as `{container['readinessProbe']['httpGet']['path']}` does",
    ):
        assert sentence in " ".join(text.split()), sentence
    assert parts["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1

    build, push = shown(PAGE, "podman build")[0].split(), shown(PAGE, "podman push")[0].split()
    assert (ROOT / build[build.index("-f") + 1]).exists()
    assert build[build.index("-t") + 1] == push[-1]
    assert shown(PAGE, "kubectl create secret")[0].endswith('--from-literal=keys="$(openssl rand -hex 24)"')
    assert (ROOT / shown(PAGE, "kubectl apply")[0].split()[-1]).exists()
    assert shown(PAGE, "kubectl rollout")[0].endswith(f"/{parts['Deployment']['metadata']['name']}")
    assert shown(PAGE, "kubectl port-forward")[0].endswith(" 8021:80")
