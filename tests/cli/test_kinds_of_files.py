"""HEIC, AVIF, raw files, PDF, TIFF and video: what each verb reads of them. The table is in docs/inputs.md."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from camera_raw import dng
from PIL import Image, features

from miil21k.cli.main import main
from miil21k.data.datasets import label_images, open_source
from miil21k.errors import UsageError
from miil21k.predict.predictor import Predictor
from miil21k.prepare.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")

from colour_export import write_colour_export  # noqa: E402 - needs onnx
from shapes import shape_space  # noqa: E402

RED = Image.new("RGB", (64, 48), "red")


def _avif(path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    RED.save(path)


def _heic(path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra 'heic' is not installed")
    heif.from_pillow(RED).save(path)


def _raw(path: Path) -> None:
    pytest.importorskip("rawpy", reason="the extra 'raw' is not installed")
    dng(path)


def _pages(path: Path) -> None:
    if path.suffix == ".pdf":
        pytest.importorskip("pypdfium2", reason="the extra 'pdf' is not installed")
    RED.save(path, save_all=True, append_images=[RED])


def _video(path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra 'video' is not installed")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_image(RED)))
        container.mux(stream.encode(None))


class Kind(NamedTuple):
    """inputs: how many pictures `predict` and `index` take. labelled: how many a class folder has."""

    write: Callable[[Path], None]
    inputs: int
    labelled: int


KINDS = {
    "x.avif": Kind(_avif, 1, 1),
    "x.heic": Kind(_heic, 1, 1),
    "x.dng": Kind(_raw, 1, 1),
    "x.tif": Kind(_pages, 2, 1),
    "x.pdf": Kind(_pages, 2, 0),
    "x.mp4": Kind(_video, 2, 0),
}


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / "photos" / "red" / request.param
    path.parent.mkdir(parents=True)
    KINDS[request.param].write(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    write_colour_export(path)
    return str(path)


def _rows(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["predict", str(file.parent), "-m", model, "-f", "jsonl", "-q", "-j", "0"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_takes_every_page_and_frame(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(file, model, capsys)
    assert len(rows) == KINDS[file.name].inputs
    assert {row["path"][-1]["name"].partition("_")[0] for row in rows} == {"red"}


def test_index_takes_what_predict_takes(
    file: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("lancedb", "imagehash"):
        pytest.importorskip(module, reason="the extra 'find' is not installed")
    asked = [row["input"] for row in _rows(file, model, capsys)]
    index = importlib.import_module("miil21k.find.store").Index
    assert main(["index", str(file.parent), "-o", str(tmp_path / "i"), "-m", model, "-q", "-j", "0"]) == 0
    assert list(index.open(str(tmp_path / "i")).names) == asked


def test_a_class_folder_has_the_files_that_are_one_picture(file: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(file.with_name("z.png"))
    source = open_source(str(file.parent.parent))
    images = label_images(source, shape_space(), partial=True)
    kind = KINDS[file.name]
    assert len(images) == 1 + kind.labelled
    assert [images.load(place).image.getpixel((4, 4))[0] > 240 for place in range(len(images))] == [True] * len(images)
    word = {".pdf": "pages", ".mp4": "frames"}.get(file.suffix)
    assert source.passed.sentence() == (f"1 passed over: 1 {file.suffix} (give their {word} as images)" if word else "")


def test_a_list_names_pages_and_frames_as_rows_do(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(file, model, capsys)
    listed = file.with_name("labels.csv")
    names = [row["input"].removeprefix(f"{file.parent}/") for row in rows]
    listed.write_text("path,label\n" + "".join(f"{name},red\n" for name in names))
    images = label_images(open_source(str(listed)), shape_space(), partial=True)
    assert [images.name(place) for place in range(len(images))] == names
    assert [images.load(place).image.getpixel((4, 4))[0] > 240 for place in range(len(images))] == [True] * len(rows)
    listed.write_text(f"path,label\ngone.{names[-1]},red\n")
    with pytest.raises(UsageError, match=r"1 of 1 images .* are not below"):
        open_source(str(listed))


def test_prepare_makes_jpegs_of_the_files_that_are_one_picture(file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(file.with_name("z.png"))
    target = tmp_path / "prepared"
    words = ["--min-images", "1", "--val-per-class", "0", "--workers", "1", "--size", "24"]
    assert main(["prepare", str(file.parent.parent), str(target), *words]) == 0
    row, _ = read_manifest(target / "manifest.csv")
    if not KINDS[file.name].labelled:
        assert row.outcome == "not_an_image_name"
        return
    assert row.outcome == "resized"
    with Image.open(target / row.file) as image:
        assert (image.format, image.size) == ("JPEG", (24, 24))
        assert image.getpixel((4, 4))[0] > 240


def test_serve_takes_one_picture_of_a_file_that_is_sent_with_its_name(file: Path, model: str) -> None:
    pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
    from miil21k.serve.app import create_app
    from miil21k.serve.bodies import Limits
    from miil21k.serve.query import Asked
    from miil21k.serve.service import serving

    head = f'--X\r\nContent-Disposition: form-data; name="f"; filename="{file.name}"\r\n\r\n'.encode()
    headers = [(b"content-type", b"multipart/form-data; boundary=X")]
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": headers}
    sent: list[Any] = []

    bodies = [head + file.read_bytes() + b"\r\n--X--\r\n"]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client waits for its answer
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    predictor = Predictor(model)
    with serving(predictor, workers=1, max_wait=0.01, queue=4) as service:
        service.warm_up()
        app = create_app(service, Asked(predictor.options, None), Limits(1 << 22, 4, 60))
        asyncio.run(app(scope, receive, send))
    body = json.loads(b"".join(part.get("body", b"") for part in sent))
    (row,) = body["predictions"]
    assert row["path"][-1]["name"].partition("_")[0] == "red"
