"""A page that answers in the browser as the command does: its graph, its files, and Chromium itself."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import http.server
import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from miil21k.cli.main import main
from miil21k.data.images import load_image
from miil21k.decode.decoder import Decoder
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.decoding import DECODED
from miil21k.export.onnx.file import own_photographs
from miil21k.export.web.graph import CONCEPTS, web_graph
from miil21k.export.web.runtime import PACKAGE, SCRIPT, VERSION, WASM, runtime_of
from miil21k.export.web.site import Site, export_web, labels_of
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.predictor import Predictor
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

NODE = Path(__file__).parents[3] / "examples" / "node"
PHOTOS = own_photographs()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the unpacked package, for what does not run it."""
    folder = tmp_path_factory.mktemp("runtime")
    (folder / "dist").mkdir()
    (folder / "package.json").write_text('{"version": "0.0.1"}')
    (folder / "dist" / SCRIPT).write_text("export {};")
    (folder / "dist" / WASM).write_bytes(b"\0asm" * 1000)
    return folder


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_the_graph_answers_as_the_export_and_knows_every_concept(concepts_export: Path) -> None:
    card = read_export_card(concepts_export)
    web, export = (
        _session(model)
        for model in (web_graph(concepts_export, card).SerializeToString(), concepts_export.read_bytes())
    )
    assert [value.name for value in web.get_inputs()] == ["images", "hedge"]
    assert not web.get_overridable_initializers()
    images = np.asarray(load_image(PHOTOS[0]).resize((150, 100)))[None]
    logits = export.run(["logits"], {"images": images})[0]
    for hedge in (0.05, 0.9):
        feed = {"images": images, "hedge": np.array(hedge, np.float32)}
        ours = web.run([*DECODED, CONCEPTS], feed)
        for name, one, other in zip(DECODED, ours, export.run(list(DECODED), feed), strict=False):
            assert np.array_equal(one, other), name
        assert ours[-1] == pytest.approx(card.decoder().read(logits).concepts, abs=1e-5)
        columns = [question.concept for question in card.decoder().asked]
        assert ours[-1][:, columns] == pytest.approx(export.run(["asked"], feed)[0], abs=1e-6)


def test_nodes_in_any_order_are_kept(concepts_export: Path, tmp_path: Path) -> None:
    """Those of fp16 files do not stand in the order in which they can run."""
    card = read_export_card(concepts_export)
    model = onnx.load(concepts_export)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    turned = tmp_path / "turned.onnx"
    turned.write_bytes(model.SerializeToString())
    ours, theirs = (web_graph(path, card).graph for path in (turned, concepts_export))
    assert {node.name for node in ours.node} == {node.name for node in theirs.node}
    assert {tensor.name for tensor in ours.initializer} == {tensor.name for tensor in theirs.initializer}
    assert {node.name for node in nodes} - {node.name for node in ours.node}  # of `asked` and what is not shown


def test_the_folder_holds_what_it_says(concepts_export: Path, stand_in: Path, tmp_path: Path) -> None:
    site = export_web(concepts_export, tmp_path / "site", runtime=stand_in)
    files = {path.name for path in site.folder.iterdir()}
    assert files == {*(part.name for part in site.parts), "LICENSES.txt"}
    for part in site.parts:
        sent = (site.folder / part.name).read_bytes()
        assert len(sent) == part.sent
        assert len(gzip.decompress(sent) if part.name.endswith(".gz") else sent) == part.raw
    assert site.sent == sum(len((site.folder / part.name).read_bytes()) for part in site.parts)
    facts = json.loads((site.folder / "site.json").read_text())
    labels = json.loads(gzip.decompress((site.folder / "labels.json.gz").read_bytes()))
    assert [labels["names"][concept] for concept in facts["questions"]] == ["bird", "crane", "musical instrument"]
    assert (facts["reading"], facts["hedge"], facts["precision"]) == ("concepts", 0.3, "fp32")
    assert len({len(column) for column in labels.values()}) == 1
    assert f"miil21k-{facts['version']}" in (site.folder / "service-worker.js").read_text()
    licences = (site.folder / "LICENSES.txt").read_text()
    for words in ("onnxruntime-web 0.0.1", "Copyright (c) Microsoft", "WordNet 3.0", "Their licence is not stated"):
        assert words in licences
    again = export_web(concepts_export, site.folder, runtime=stand_in)
    assert json.loads((again.folder / "site.json").read_text()) == facts


def test_hidden_classes_have_no_words(concepts_export: Path) -> None:
    space = load_label_space("fall11")
    decoding = Decoder(space, "level_softmax").record()
    card = dataclasses.replace(read_export_card(concepts_export), space=space, head="level_softmax", decoding=decoding)
    labels = labels_of(card)
    at = {wnid: concept for concept, wnid in enumerate(labels["wnids"])}
    masked = decoding["masked"]
    assert all(labels["names"][at[wnid]] == labels["words"][at[wnid]] == "" for wnid in masked)
    assert sum(not name for name in labels["names"]) == len(masked) == 771
    assert labels["words"][at["n02084071"]] == "dog|domestic dog|Canis familiaris"


def test_what_cannot_be_is_refused(
    tensor_export: Path, concepts_export: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="of the form tensor, which answers nothing"):
        export_web(tensor_export, tmp_path / "site", runtime=stand_in)
    with pytest.raises(UsageError, match="is no unpacked onnxruntime-web"):
        export_web(concepts_export, tmp_path / "site", runtime=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="is no site of miil21k, so it is not replaced"):
        export_web(concepts_export, tmp_path / "mine", runtime=stand_in)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=f"npm, which brings {PACKAGE} {VERSION}, is not installed"):
        export_web(concepts_export, tmp_path / "site")
    npm = tmp_path / "npm"  # a registry that cannot be reached
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(ExportError, match=r"could not bring .* \(npm error code ENOTFOUND\): give the unpacked"):
        export_web(concepts_export, tmp_path / "site")
    npm.write_text("#!/bin/sh\n: > onnxruntime-web.tgz\n")
    with pytest.raises(ExportError, match="brought another onnxruntime-web"):
        export_web(concepts_export, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_verb(concepts_export: Path, stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "web", str(concepts_export), "-o", str(tmp_path / "site"), "--runtime", str(stand_in)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "site  test_resnet.random, fp32, onnxruntime-web 0.0.1" in printed
    assert "to the first answer: " in printed
    assert main(words) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--precision", "int8"]) == 2
    assert "int8 is set up and judged on pictures: give --images DIR, or --precision fp32" in capsys.readouterr().err
    few = ["--precision", "int8", "--images", str(NODE.parent / "images")]
    assert main([*words, "--overwrite", *few]) == 2
    assert "pictures that judge cannot show that 95.0% of all keep" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--topk", "3"]) == 2
    assert "is an export, whose topk was fixed when it was made" in capsys.readouterr().err
    assert main(["export", "web", "embedded", *words[3:], "--overwrite"]) == 2
    assert "give --images DIR, or --precision fp32" in capsys.readouterr().err


def test_the_example_in_node_has_the_same_runtime() -> None:
    assert json.loads((NODE / "package.json").read_text())["dependencies"] == {PACKAGE: VERSION}


@pytest.mark.slow
def test_npm_brings_the_pinned_package() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    assert runtime_of(None).version == VERSION


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site(concepts_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    runtime = NODE / "node_modules" / PACKAGE
    if not runtime.is_dir():
        pytest.skip("onnxruntime-web is not installed: run 'npm install' in examples/node")
    return export_web(concepts_export, tmp_path_factory.mktemp("web") / "site", runtime=runtime)


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_context()
        browser.close()


LISTEN = """
window.answers = [];
const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value, Number) : value);
document.addEventListener("answer", ({ detail }) =>
  answers.push(Object.fromEntries(Object.entries(detail).map(([name, value]) => [name, plain(value)]))));
"""
MOVE = """(level) => {
  const slider = document.getElementById("hedge");
  slider.value = level;
  slider.dispatchEvent(new Event("change"));
}"""


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = functools.partial(_Quiet, directory=str(site.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def _answer(page: Page, picture: Path | None = None, *, hedge: float | None = None) -> dict[str, Any]:
    """Give the page a picture, or another level, and return its answer."""
    before = page.evaluate("answers.length")
    if picture is not None:
        page.set_input_files("#file", picture)
    if hedge is not None:
        page.evaluate(MOVE, hedge)
    for _ in range(1500):
        if page.evaluate("answers.length") > before:
            return dict(page.evaluate("answers.at(-1)"))
        page.wait_for_timeout(20)
    raise AssertionError(page.inner_text("body"))


def test_chromium_answers_as_the_command_and_goes_on_without_a_network(
    context: BrowserContext, server: http.server.ThreadingHTTPServer, concepts_export: Path, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{server.server_port}/"
    asked: list[str] = []
    wrong: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.add_init_script(LISTEN)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    predictor = Predictor(str(concepts_export), device="cpu", reading="concepts", hedge=0.3, min_bits=0.5)
    graph = read_export_card(concepts_export).space
    for name, picture in _pictures(tmp_path).items():
        found = _answer(page, picture)
        row = predictor.predict(picture)
        assert row.label is not None
        assert [found["topk_index"][0]] == [graph.tree.index(row.topk[0].wnid)], name
        # JPEG decoders differ by a grey level, and a halved picture by a filter.
        bound = 0.02 if name == "large" else 2e-3
        assert found["topk_prob"] == pytest.approx([one.probability for one in row.topk], abs=bound), name
        assert found["hedge_prob"][0] == pytest.approx(row.label.probability, abs=bound), name
    assert page.inner_text("#said") == row.label.name
    assert "bird" in page.inner_text("#asked")

    page.fill("#ask", "is there a crane?")
    page.press("#ask", "Enter")
    shown = page.inner_text("#asked")
    assert shown.index("a kind of wading bird") < shown.index("a kind of lifting device")
    page.fill("#ask", "zyzzyva")
    page.press("#ask", "Enter")
    assert "knows no" in page.inner_text("#unknown")
    assert _answer(page, hedge=0.99)["hedge"] == 0.99
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert "no picture that the browser can open" in _answer(page, broken)["error"]
    assert {url.split("/")[2] for url in asked if not url.startswith("blob:")} == {f"127.0.0.1:{server.server_port}"}
    large = [url for url in asked if url.endswith("model.onnx.gz")]
    assert len(large) == 1

    context.set_offline(True)
    server.shutdown()
    page.reload()
    assert _answer(page, PHOTOS[0])["topk_index"]
    page.goto(f"{address}index.html")
    assert _answer(page, PHOTOS[0])["topk_index"]
    assert not wrong


def _pictures(folder: Path) -> dict[str, Path]:
    """Return the same photograph in the ways that phones and editors store pictures."""
    photo = load_image(PHOTOS[0])
    made = {
        name: folder / f"{name}.{suffix}" for name, suffix in (("plain", "png"), ("turned", "jpg"), ("large", "png"))
    }
    photo.save(made["plain"])
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(made["turned"], exif=exif, quality=95)
    photo.resize((2600, 2001), Image.Resampling.BICUBIC).save(made["large"], compress_level=1)
    made["strip"] = folder / "strip.png"
    photo.resize((1500, 200)).save(made["strip"])
    made["clear"] = folder / "clear.png"
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    clear.save(made["clear"])
    made["jpeg"] = PHOTOS[0]
    return made
