"""A Triton repository says what its model is, by the published schema, and is never overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve_server import SCHEMA, TritonStandIn, parse_config

from miil21k.cli.main import main
from miil21k.errors import CheckpointError, LabelSpaceMismatch, UsageError
from miil21k.export.onnx.file import export_onnx
from miil21k.export.options import ExportOptions, TritonOptions
from miil21k.export.triton.config import Tensor, config_text
from miil21k.export.triton.repository import export_triton, labels_text, signature
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded


def config_of(repository: Path, name: str) -> Any:
    return parse_config((repository / name / "config.pbtxt").read_text())


def test_the_repository_holds_the_export_byte_for_byte(triton_repository: Path, embedded_export: Path) -> None:
    folder = triton_repository / "embedded"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "1", "1/model.onnx", "1/model.onnx.json", "README.md", "client.py", "config.pbtxt", "labels.txt",
    ]  # fmt: skip
    assert (folder / "1" / "model.onnx").read_bytes() == embedded_export.read_bytes()
    assert sorted(path.name for path in triton_repository.iterdir()) == ["concepts", "embedded", "small", "unbatched"]
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    tree = read_export_card(embedded_export).space.tree
    assert len(labels) == tree.num_nodes > 1000
    assert labels[281] == "n02123045 tabby"


def test_the_config_is_valid_by_the_published_schema_and_says_what_was_asked(triton_repository: Path) -> None:
    config = config_of(triton_repository, "embedded")
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, SCHEMA.ModelInstanceGroup.KIND_AUTO)]
    assert config.version_policy.latest.num_versions == 1
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.parameters["miil21k.label_space"].string_value == "in1k"
    assert config.parameters["miil21k.licence"].string_value == "Apache-2.0"
    assert [(w.batch_size, list(w.inputs["images"].dims)) for w in config.model_warmup] == [
        (1, [224, 224, 3]),
        (8, [224, 224, 3]),
    ]
    assert {tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename} == {
        "logits": "labels.txt"
    }
    other = config_of(triton_repository, "small")
    group = other.instance_group[0]
    assert (group.count, group.kind, list(group.gpus)) == (2, SCHEMA.ModelInstanceGroup.KIND_GPU, [0, 1])
    assert other.version_policy.WhichOneof("policy_choice") == "all"
    assert not other.model_warmup


@pytest.mark.parametrize(
    ("name", "batched"), [("embedded", True), ("unbatched", False), ("small", True), ("concepts", True)]
)
def test_every_tensor_is_declared_as_the_file_has_it(triton_repository: Path, name: str, batched: bool) -> None:
    config = config_of(triton_repository, name)
    inputs, outputs = signature(triton_repository / name / "1" / "model.onnx")
    by_name = {tensor.name: tensor for tensor in (*inputs, *outputs)}
    declared = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    left_out = {tensor.name for tensor in inputs if tensor.optional} if batched else set()
    assert declared.keys() == by_name.keys() - left_out
    for key, tensor in declared.items():
        shape = by_name[key].shape[1:] if batched else by_name[key].shape
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        assert tuple(dims) == shape or (tuple(dims), shape) == ((1,), ())
        assert SCHEMA.DataType.Name(tensor.data_type) == f"TYPE_{by_name[key].datatype}"
    assert {tensor.name for tensor in config.input if tensor.optional} == (set() if batched else {"crop", "hedge"}), (
        "optional inputs are only possible without batching"
    )


def test_versions_are_added_and_never_replaced(embedded_export: Path, tensor_export: Path, tmp_path: Path) -> None:
    first = export_triton(embedded_export, tmp_path, name="m", version=3)
    config = (first.folder / "config.pbtxt").read_text()
    (first.folder / "config.pbtxt").write_text(config + "# mine\n")
    for killed in (tmp_path / ".m.0123abcd.part", first.folder / ".3.0123abcd.part"):
        killed.mkdir()
        (killed / "model.onnx").touch()
    assert export_triton(embedded_export, tmp_path, name="m").version == 4
    assert (first.folder / "config.pbtxt").read_text() == config + "# mine\n"
    assert sorted(path.name for path in tmp_path.rglob("*.part")) == []
    before = sorted(first.folder.rglob("*"))
    with pytest.raises(UsageError, match="never replaced"):
        export_triton(embedded_export, tmp_path, name="m", version=3)
    with pytest.raises(UsageError, match="stays as it is"):
        export_triton(embedded_export, tmp_path, TritonOptions(instances=2), name="m")
    with pytest.raises(UsageError, match=r"tensors of this export.*pixels"):
        export_triton(tensor_export, tmp_path, name="m")
    (tmp_path / "strange").mkdir()
    with pytest.raises(UsageError, match="is no model of a Triton repository"):
        export_triton(embedded_export, tmp_path, name="strange")
    assert sorted(first.folder.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "strange"]
    (tmp_path / "strange").rmdir()
    with TritonStandIn(tmp_path) as server:
        assert list(server.models["m"].sessions) == ["4"]  # the latest one is served


def test_questions_and_concepts_have_names_that_versions_share(
    triton_repository: Path, concepts_export: Path, tmp_path: Path
) -> None:
    folder = triton_repository / "concepts"
    config, graph = config_of(triton_repository, "concepts"), concepts_of(load_label_space("in1k"))
    assert (folder / "asked.txt").read_text() == "n01503061 bird\nn03126707 crane\nn03800933 musical instrument\n"
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert (len(labels), labels[281]) == (len(graph), "n02123045 tabby")
    assert labels[graph.index_of["n01861778"]] == "n01861778 mammal"
    assert {tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename} == {
        "logits": "labels.txt",
        "asked": "asked.txt",
    }
    facts = {key: value.string_value for key, value in config.parameters.items()}
    assert (facts["miil21k.reading"], facts["miil21k.concepts_sha256"]) == ("concepts", graph.sha256)
    assert [one["question"] for one in json.loads(facts["miil21k.asked"])][:2] == ["bird", "crane.n.04"]
    assert config_of(triton_repository, "embedded").parameters["miil21k.reading"].string_value == "published"
    page = (folder / "README.md").read_text()
    assert "`asked.txt`: line i is question i" in page
    assert "`path`, `hedge_node`: concepts" in page
    assert "asked.txt" not in (triton_repository / "embedded" / "README.md").read_text()

    card = read_export_card(concepts_export)
    for words, changes in (
        ("is not read on the same graph", {"reading": "published"}),
        ("is not asked the same questions", {"asked": card.decoding["asked"][::-1]}),
    ):
        other = replace(card, decoding={**card.decoding, **changes})
        path = with_metadata(concepts_export, tmp_path / "other.onnx", other.to_metadata())
        with pytest.raises(UsageError, match=words):
            export_triton(path, triton_repository, name="concepts")


def with_metadata(export: Path, path: Path, changed: dict[str, str] | None) -> Path:
    """Write the export with other metadata; none at all for None."""
    model = onnx.load(export)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    if changed is not None:
        onnx.helper.set_model_props(model, {**metadata, **changed})
    onnx.save(model, path)
    return path


def test_withdrawn_classes_have_no_name_and_spaces_do_not_mix(tmp_path: Path, tensor_export: Path) -> None:
    card = replace(read_export_card(tensor_export), space=load_label_space("fall11"))
    path = with_metadata(tensor_export, tmp_path / "fall.onnx", card.to_metadata())
    masked, whole = labels_text(card), labels_text(card, include_withdrawn=True)
    assert masked.count("(withdrawn by ImageNet)\n") == 771
    assert "withdrawn" not in whole
    assert len(masked.splitlines()) == len(whole.splitlines()) == card.space.tree.num_nodes
    export_triton(path, tmp_path / "models", name="m")
    with pytest.raises(UsageError, match="withdrawn classes"):
        export_triton(path, tmp_path / "models", name="m", include_withdrawn=True)
    with pytest.raises(LabelSpaceMismatch, match=r"'fall11'.*'in1k'"):
        export_triton(tensor_export, tmp_path / "models", name="m")


def test_a_file_of_another_kind_is_refused(tmp_path: Path, tensor_export: Path) -> None:
    bare = with_metadata(tensor_export, tmp_path / "bare.onnx", None)
    with pytest.raises(CheckpointError, match="was not written by miil21k export onnx"):
        export_triton(bare, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_weights_of_a_second_file_come_along(tmp_path: Path, small: Loaded) -> None:
    export_onnx(small, tmp_path / "small.onnx", ExportOptions(form="tensor"), most_bytes=1000)
    for _ in range(2):
        served = export_triton(tmp_path / "small.onnx", tmp_path / "models", name="m")
    version = served.folder / "2"
    assert sorted(path.relative_to(version).as_posix() for path in version.rglob("*")) == [
        "model.onnx", "model.onnx.json", "model.onnx/model.onnx", "model.onnx/small.onnx.data",
    ]  # fmt: skip
    with TritonStandIn(tmp_path / "models") as server:
        assert list(server.models["m"].sessions) == ["2"]


def test_the_command_says_no_in_one_sentence(
    embedded_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    for words, code, sentence in (
        ([str(tmp_path / "no.onnx")], 1, "damaged or no ONNX model"),
        ([str(tmp_path / "gone.onnx")], 1, "No such file"),
        ([str(embedded_export), "--name", "a/b"], 2, "is no name for a model"),
        ([str(embedded_export), "--version", "0"], 2, "counts versions from 1"),
        ([str(embedded_export), "--preferred-batch-sizes", "64"], 2, "lies in 1 to 32"),
        ([str(embedded_export), "--max-batch-size", "0", "--queue-delay", "5"], 2, "turns batching off"),
        ([str(embedded_export), "--include-removed-labels"], 2, "was fixed when it was made"),
    ):
        assert main(["export", "triton", words[0], str(tmp_path / "models"), *words[1:]]) == code
        error = capsys.readouterr().err
        assert sentence in error
        assert "Traceback" not in error
    assert not (tmp_path / "models").exists()
    assert (
        main(["export", "triton", str(embedded_export), str(tmp_path / "models"), "--gpus", "1,0", "--keep", "2"]) == 0
    )
    assert "version 1 of 'embedded'" in capsys.readouterr().out
    config = config_of(tmp_path / "models", "embedded")
    assert list(config.instance_group[0].gpus) == [1, 0]
    assert config.version_policy.latest.num_versions == 2


@given(
    facts=st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
    sizes=st.lists(st.integers(1, 8), max_size=3).map(tuple),
    instances=st.integers(1, 99),
    batch=st.sampled_from((0, 8)),
)
def test_any_text_survives_the_config(
    facts: dict[str, str], sizes: tuple[int, ...], instances: int, batch: int
) -> None:
    options = TritonOptions(max_batch_size=batch, preferred_batch_sizes=sizes if batch else (), instances=instances)
    inputs = [Tensor("x", "tensor(float)", (-1, 3)), Tensor("hedge", "tensor(float)", (), optional=True)]
    outputs = [Tensor("y", "tensor(int32)", (-1,))]
    config = parse_config(config_text("a-b.c", inputs, outputs, options, sample=(3,), facts=facts))
    assert {key: value.string_value for key, value in config.parameters.items()} == facts
    assert list(config.dynamic_batching.preferred_batch_size) == list(options.preferred_batch_sizes)
    assert config.instance_group[0].count == instances
    assert [tensor.name for tensor in config.input] == (["x"] if batch else ["x", "hedge"])
