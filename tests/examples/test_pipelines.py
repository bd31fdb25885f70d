"""Recipes for pipelines: docs/howto_pipelines.md."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sysconfig
from typing import TYPE_CHECKING

import pytest
from shown import EXAMPLES, PHOTOS, ROOT, script, shown

if TYPE_CHECKING:
    from pathlib import Path

    from shown import Kitchen

PAGE = "pipelines"
PREDICT = f"{sysconfig.get_path('scripts')}/miil21k-predict"


def test_a_batch_ends_with_the_code_that_says_what_to_do(kitchen: Kitchen) -> None:
    kitchen.prints_what_the_page_shows(PAGE, "python examples/airflow/batch.py")
    (kitchen.folder / "photos" / "broken.jpg").write_bytes(b"no picture")
    some = kitchen.run("python examples/airflow/batch.py photos some.jsonl")
    assert (some.code, "some pictures could not be read" in some.stdout) == (1, True)
    assert len((kitchen.folder / "some.jsonl").read_text().splitlines()) == 4
    absent = kitchen.run("python examples/airflow/batch.py absent/ none.jsonl")
    assert (absent.code, "try 1" in absent.stderr) == (1, False)
    senseless = kitchen.run("python examples/airflow/batch.py photos rows.unknown")
    assert (senseless.code, "refused" in senseless.stdout, "try 1" in senseless.stderr) == (2, True, False)


def _killed_first(kitchen: Kitchen, times: int) -> str:
    """Return a PATH whose `miil21k-predict` is the real one, killed as soon as it has written a row, so many times."""
    folder = kitchen.folder / "bin"
    folder.mkdir()
    command = folder / "miil21k-predict"
    command.write_text(
        "#!/bin/bash\n"
        f'tries=$(cat tries 2>/dev/null || echo 0); echo $((tries + 1)) > tries; [ "$tries" -ge {times} ] && '
        f'exec {PREDICT} "$@"\n'
        f'{PREDICT} "$@" -b 1 -j 0 & child=$!\n'
        "while kill -0 $child && [ ! -s rows.jsonl ]; do sleep 0.01; done\n"
        "kill -9 $child; wait $child; kill -9 $$\n"
    )
    command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_batch_that_is_killed_is_gone_on_with_until_all_tries_are_used(kitchen: Kitchen) -> None:
    path = _killed_first(kitchen, times=99)
    given_up = kitchen.run("python examples/airflow/batch.py photos rows.jsonl --tries 2", PATH=path)
    assert given_up.code == 75
    assert given_up.stderr.count("killed by signal 9") == 2
    assert "goes on where it stopped" in given_up.stdout

    done = kitchen.run("python examples/airflow/batch.py photos rows.jsonl --tries 2")
    assert done.code in (0, 2), done.stderr
    if done.code == 0:
        rows = [json.loads(line) for line in (kitchen.folder / "rows.jsonl").read_text().splitlines()]
        assert [row["input"] for row in rows] == [f"photos/{photo.name}" for photo in PHOTOS]


def test_the_dag_takes_from_the_batch_what_is_there() -> None:
    """Airflow is not needed: its file is parsed, and held against the script that it starts."""
    tree = ast.parse((EXAMPLES / "airflow" / "dag.py").read_text())
    batch = ast.parse((EXAMPLES / "airflow" / "batch.py").read_text())
    made = {node.name for node in batch.body if isinstance(node, ast.FunctionDef)}
    made |= {
        name.id
        for node in batch.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        for name in node.targets[0].elts
        if isinstance(name, ast.Name)
    }
    (taken,) = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "batch"]
    assert {alias.name for alias in taken.names} <= made
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_batch"]
    (function,) = [node for node in batch.body if isinstance(node, ast.FunctionDef) and node.name == "run_batch"]
    keywords = {argument.arg for argument in function.args.kwonlyargs}
    assert len(call.args) == len(function.args.args)
    assert {keyword.arg for keyword in call.keywords} <= keywords


def test_rows_and_pictures_may_lie_in_folders(kitchen: Kitchen) -> None:
    pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
    kitchen.prints_what_the_page_shows(PAGE, "python examples/s3_in_and_out.py")
    assert not list((kitchen.folder / "unfinished").glob("*.csv"))
    ran = kitchen.run("python examples/s3_in_and_out.py photos/ nowhere://bucket/answers.csv")
    assert (ran.code, "nowhere" in ran.stderr) == (2, True)


def test_rows_and_pictures_may_lie_in_memory(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
    monkeypatch.chdir(kitchen.folder)
    monkeypatch.setenv("MIIL21K_CACHE", str(kitchen.cache))
    store = fsspec.filesystem("memory")
    for photo in PHOTOS:
        store.pipe(f"/recipes/photos/{photo.name}", photo.read_bytes())
    store.pipe("/recipes/photos/sub/broken.jpg", b"no picture")
    code = script("s3_in_and_out.py").main(["memory://recipes/photos/", "memory://recipes/answers.jsonl"])
    assert (code, capsys.readouterr().out) == (
        1,
        "memory://recipes/answers.jsonl: 4 rows, 1 of pictures that could not be read\n",
    )
    rows = [json.loads(line) for line in store.cat("/recipes/answers.jsonl").decode().splitlines()]
    assert [row["input"].rpartition("/")[2] for row in rows] == ["cat.jpg", "coffee.jpg", "rocket.jpg", "broken.jpg"]
    assert rows[0]["path"][-1]["name"] == "domestic cat"
    store.rm("/recipes", recursive=True)


def test_rows_and_pictures_may_lie_in_a_bucket(kitchen: Kitchen) -> None:
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="the extra 'cloud' is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="recipes")
        for photo in PHOTOS:
            client.upload_file(str(photo), "recipes", f"photos/{photo.name}")
        command = "python examples/s3_in_and_out.py s3://recipes/photos/ s3://recipes/answers.jsonl"
        ran = kitchen.run(command, AWS_ENDPOINT_URL=f"http://{host}:{port}", HF_HUB_OFFLINE="0", **keys)
        assert ran.code == 0, ran.stderr
        text = client.get_object(Bucket="recipes", Key="answers.jsonl")["Body"].read().decode()
    finally:
        server.stop()
    assert [json.loads(line)["input"] for line in text.splitlines()] == [
        f"s3://recipes/photos/{photo.name}" for photo in PHOTOS
    ]


@pytest.mark.slow
def test_an_export_is_a_model_of_mlflow(kitchen: Kitchen, embedded_export: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    pytest.importorskip("pandas", reason="the extra 'pandas' is not installed")
    shutil.copy(embedded_export, kitchen.folder / "embedded.onnx")
    kitchen.prints_what_the_page_shows(PAGE, "python examples/mlflow_pyfunc.py")
    ran = kitchen.run("python examples/mlflow_pyfunc.py embedded.onnx photos/absent.jpg")
    assert (ran.code, "error" in ran.stdout) == (1, True)


def test_every_cell_of_the_notebook_runs(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("pandas", reason="the extra 'pandas' is not installed")
    monkeypatch.setenv("MIIL21K_CACHE", str(kitchen.cache))
    path = shown(PAGE, "jupyter nbconvert")[0].split()[-1]
    notebook = nbformat.read(ROOT / path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is checked in without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    answer, table = outputs[1]["data"], outputs[2]["data"]["text/plain"]
    assert "domestic cat" in answer["text/html"]
    assert "images/rocket.jpg" in table
    (said,) = [output["text"] for output in notebook.cells[-1].outputs if output["output_type"] == "stream"]
    assert said.splitlines()[0] == "images/cat.jpg 0.94 0.00"
