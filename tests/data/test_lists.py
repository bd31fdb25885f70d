from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapes import shape_space, write_folders

from miil21k.data.datasets import label_images, open_parts, open_source
from miil21k.data.lists import ListSource
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red/red_0.jpg, red/red_1.jpg, and the same of blue."""
    return write_folders(tmp_path_factory.mktemp("photos"), 2, names=("red", "blue"))


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def source_of(path: str, **options: object) -> ListSource:
    found = open_source(path, **options)  # type: ignore[arg-type]
    assert isinstance(found, ListSource)
    return found


def pairs(source: ListSource) -> list[tuple[str, str]]:
    return [(source.name(i), source.keys[source.key_of[i]]) for i in range(len(source))]


@pytest.mark.parametrize("path", ["path", "image", "filename", "file", "input", " Path "])
@pytest.mark.parametrize("label", ["label", "class", "wnid"])
def test_the_header_decides_by_the_usual_names_and_other_columns_are_ignored(
    photos: Path, path: str, label: str
) -> None:
    listed = write(
        photos / "a.csv", f"note,{label},{path}", "x,red,red/red_0.jpg", "y,blue,blue/blue_1.jpg", "z,red,red/red_1.jpg"
    )
    source = source_of(listed)
    assert source.keys == ("blue", "red")
    assert pairs(source) == [("red/red_0.jpg", "red"), ("blue/blue_1.jpg", "blue"), ("red/red_1.jpg", "red")]
    images = label_images(source, shape_space(), partial=True)
    assert [images.space.wnids[label] for label in images.labels] == ["red", "blue", "red"]
    assert images.load(1).image.size == (32, 32)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_commas_semicolons_and_tabs_separate_and_quotes_hold(photos: Path, mark: str) -> None:
    (photos / "odd, name;\t.jpg").write_bytes((photos / "red/red_0.jpg").read_bytes())
    text = f'\ufeffpath{mark}label\r\n"odd, name;\t.jpg"{mark}"light ""red"""\r\n\r\n'
    (photos / "odd.csv").write_text(text, encoding="utf-8", newline="")
    assert pairs(source_of(str(photos / "odd.csv"))) == [("odd, name;\t.jpg", 'light "red"')]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (("child,parent", "a,b"), r"no column of paths: its first line must name one of path, image.*'child' and 'pa"),
        (("path,note", "a,b"), "no column of labels"),
        (("path,image,label", "a,b,c"), "2 columns for the path, 'path' and 'image': keep one"),
        (("path,label,labels", "a,b,c"), "both 'label' and 'labels': keep one"),
        (("path,label,label", "a,b,c"), "two columns called 'label'"),
        (("path,label", "a,b,c"), "line 2: expected 2 cells, found 3"),
        (("path,label", "a", "b"), "line 2: expected 2 cells, found 1"),
        (("path,label", '"a,b'), "line 2: unexpected end of data"),
        (("path,label", ",b", "a,"), "1 rows have no path: line 2"),
        (("path,label", "a,b", "c, ", "c,", "d,", "e,"), "4 rows have no label: line 3, line 4, line 5, ..."),
        (("path,label,weight", "a,b,x", "a,b,-1", "a,b,nan", "a,b,2"), "3 rows have a weight that.*: line 2, l"),
        (("path,label,weight", "a,b,0"), "every image the weight 0"),
        (("path,label", ), "holds no images"),
        (("path,label,split", ), "holds no images"),
        (("path,label", "red/red_0.jpg,red", "red/red_0.jpg,blue"), r"1 images two labels: red/red_0.jpg \(red, l"),
        (("path,label", "http://x/a.jpg,red"), "names URLs"),
        (("path,labels", "red/red_0.jpg,a;b|c", "red/red_1.jpg,a|b"), "by both ';' and '|'"),
        (("path,labels", 'red/red_0.jpg,"[1.5]"'), "line 2: 'labels' is no list of labels: expected texts or whole"),
    ],
)  # fmt: skip
def test_what_is_missing_or_ambiguous_is_one_sentence(photos: Path, lines: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        open_source(write(photos / "bad.csv", *lines))


def test_missing_images_are_counted_and_the_first_three_named(photos: Path, tmp_path: Path) -> None:
    rows = [f"red/{name}.jpg,red" for name in ("red_0", "a", "b", "c", "d", "\x1b[1m")]
    with pytest.raises(
        UsageError, match=r"5 of 6 images of list '.*' are not below .*: red/a.jpg, red/b.jpg, red/c.jpg"
    ):
        open_source(write(photos / "gone.csv", "path,label", *rows))
    listed = write(tmp_path / "elsewhere.csv", "path,label", "red/red_0.jpg,red", f"{photos}/blue/blue_0.jpg,blue")
    with pytest.raises(UsageError, match="--root names the folder"):
        open_source(listed)
    assert len(open_source(listed, root=photos)) == 2
    with pytest.raises(UsageError, match="--root goes with a list"):
        open_source(str(photos), root=tmp_path)


def test_a_split_is_chosen_by_any_of_its_usual_names(photos: Path) -> None:
    listed = write(
        photos / "split.csv",
        "path,label,split,weight",
        "red/red_0.jpg,red,training,1",
        "red/red_1.jpg,red,validation,2",
        "blue/blue_0.jpg,blue,train,3.5",
    )
    source = source_of(listed, split="train")
    assert pairs(source) == [("red/red_0.jpg", "red"), ("blue/blue_0.jpg", "blue")]
    assert source.weights is not None
    assert source.weights.tolist() == [1, 3.5]
    assert list(open_parts(listed)) == ["train", "val"]
    assert len(open_source(listed, split="valid")) == 1
    assert len(open_source(listed, rather=("test", "val"))) == 1
    with pytest.raises(UsageError, match=r"holds train and val, the parts of a data set: .* such as --split train"):
        open_source(listed)
    with pytest.raises(UsageError, match="no split 'test': it has train, val"):
        open_source(listed, split="test")
    with pytest.raises(UsageError, match="no split 'train': it has no parts"):
        open_source(str(photos), split="train")


def test_folders_are_parts_of_a_data_set_as_splits_are(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 2, names=("red", "blue"))
    write_folders(tmp_path / "validation", 1, names=("red",))
    assert list(open_parts(str(tmp_path))) == ["train", "val"]
    assert len(open_source(str(tmp_path), split="val")) == 1
    assert len(open_source(str(tmp_path), rather=("train",))) == 4


def test_parquet_says_what_csv_says(photos: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "image": ["red/red_0.jpg", "blue/blue_0.jpg"],
            "label": arrow.array(["red", "blue"]).dictionary_encode(),
            "pixels": [b"x", b"y"],
            "weight": [0.5, 2.0],
        }
    )
    parquet.write_table(table, photos / "a.parquet")
    source = source_of(str(photos / "a.parquet"))
    assert pairs(source) == [("red/red_0.jpg", "red"), ("blue/blue_0.jpg", "blue")]
    assert source.weights is not None
    assert source.weights.tolist() == [0.5, 2]
    parquet.write_table(table.drop(["label"]).append_column("labels", [[["red", "warm"], []]]), photos / "b.parquet")
    source = source_of(str(photos / "b.parquet"))
    assert source.label_sets is not None
    assert [[source.keys[k] for k in source.label_sets[i]] for i in range(2)] == [["red", "warm"], []]
    parquet.write_table(arrow.table({"path": [b"x"], "label": ["red"]}), photos / "c.parquet")
    with pytest.raises(UsageError, match=r"'path' of .* holds bytes values"):
        open_source(str(photos / "c.parquet"))
    (photos / "d.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match="no Parquet file"):
        open_source(str(photos / "d.parquet"))


def test_several_labels_are_separated_by_either_mark_or_a_json_list(photos: Path) -> None:
    lines = ["red/red_0.jpg,red; warm;red", 'red/red_1.jpg,"[""warm"", 7]"', "blue/blue_0.jpg,"]
    for listed in (lines, [line.replace(";", "|") for line in lines]):
        source = source_of(write(photos / "many.csv", "path,labels", *listed))
        assert source.keys == ("7", "red", "warm")
        assert source.label_sets is not None
        assert source.label_sets.multi_hot(range(3), 3).tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0]]
        assert source.label_sets.taken(np.array([2, 0])).multi_hot([0, 1], 3).tolist() == [[0, 0, 0], [0, 1, 1]]
        with pytest.raises(UsageError, match="gives several labels to an image, and one is needed here"):
            _ = source.key_of


def test_labels_are_wnids_names_or_numbers_of_a_label_space(photos: Path) -> None:
    space = load_label_space("in1k")
    images = ["red/red_0.jpg", "red/red_1.jpg", "blue/blue_0.jpg"]

    def labelled(words: list[str], **options: bool) -> list[str]:
        rows = [f"{image},{json.dumps(word)}" for image, word in zip(images, words, strict=False)]
        source = source_of(write(photos / "words.csv", "path,label", *rows))
        found = label_images(source, space, partial=True, **options)
        return [space.wnids[label] for label in found.labels]

    assert labelled(["n02123159", "goldfish"]) == ["n02123159", "n01443537"]
    assert labelled(["1", "0", "999"], numbered=True) == ["n01443537", "n01440764", "n15075141"]
    with pytest.raises(LabelSpaceMismatch, match=r"labels are numbers \(0, 1, 999\), .* name it with --label-space"):
        labelled(["1", "0", "999"])
    with pytest.raises(LabelSpaceMismatch, match="the classes 0 to 999: 1000 are none"):
        labelled(["1", "1000"], numbered=True)
    with pytest.raises(LabelSpaceMismatch, match="1 of 2 labels are no classes of label space 'in1k': bird"):
        labelled(["goldfish", "bird"])  # an inner node
    with pytest.raises(LabelSpaceMismatch, match="labels 'goldfish' and 'n01443537' both mean the class 'n01443537'"):
        labelled(["goldfish", "n01443537"])


def test_numbers_are_in_the_order_of_their_values(photos: Path) -> None:
    listed = write(photos / "n.csv", "path,label", "red/red_0.jpg,10", "red/red_1.jpg,9", "blue/blue_0.jpg,2")
    assert source_of(listed).keys == ("2", "9", "10")


def test_members_of_shards_are_images_and_a_ranked_image_may_stand_under_several_labels(photos: Path) -> None:
    with tarfile.open(photos / "pool.tar", "w") as tar:
        tar.add(photos / "red" / "red_0.jpg", "a/x.jpg")
        tar.add(photos / "blue" / "blue_0.jpg", "y.jpg")
    rows = ("pool.tar/y.jpg,blue", "pool.tar/a/x.jpg,red", "red/red_1.jpg,red", "pool.tar/a/x.jpg,blue")
    with pytest.raises(UsageError, match="gives 1 images two labels"):
        source_of(write(photos / "members.csv", "input,wnid", *rows))
    source = source_of(write(photos / "members.csv", "input,wnid,rank", *(f"{row},0" for row in rows)))
    contents = [(photos / name).read_bytes() for name in ("blue/blue_0.jpg", "red/red_0.jpg", "red/red_1.jpg")]
    assert [source.read(row) for row in range(4)] == [*contents, contents[1]]
    assert pairs(source)[3] == ("pool.tar/a/x.jpg", "blue")
    with pytest.raises(UsageError, match=r"1 of 1 images .* are not below .*pool.tar/z.jpg"):
        source_of(write(photos / "members.csv", "input,wnid,rank", "pool.tar/z.jpg,blue,0"))
