"""What is known of shipped graphs ahead says what is found slowly, and a question parses nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from miil21k.errors import TreeError
from miil21k.hierarchy import concept_files
from miil21k.hierarchy.concept_edges import joined_edges
from miil21k.hierarchy.concept_files import ConceptLines, concept_lines
from miil21k.hierarchy.concepts import Concepts, build_arrays, concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, parse_label_space, shipped_gloss

TEXT = concept_files._TEXT


def both(name: str) -> tuple[Concepts, Concepts]:
    """Return the graph as it is known ahead, and as an own hierarchy's is found."""
    space = load_label_space(name)
    return concepts_of(space), Concepts(space, *joined_edges(space, concept_lines()))


def test_the_arrays_are_rebuilt_byte_for_byte() -> None:
    assert build_arrays(TEXT.read_text(encoding="utf-8")) == TEXT.with_suffix(".bin").read_bytes()
    assert TEXT.with_suffix(".bin").stat().st_size < 700_000


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_what_is_known_ahead_is_what_is_found_slowly(name: str) -> None:
    known, slow = both(name)
    assert known.known is not None
    assert slow.known is None
    assert (known.wnids, known.sha256) == (slow.wnids, slow.sha256)
    chosen = np.arange(known.num_classes) % 3 == 0
    for one, other in (
        (known.child, slow.child), (known.parent, slow.parent), (known.depth, slow.depth),
        *zip(known.cover, slow.cover, strict=True), (known.num_below, slow.num_below),
        (known.count(chosen), slow.count(chosen)), (known.tree.parent, slow.tree.parent),
    ):  # fmt: skip
        assert (one.dtype, other.dtype) == (np.int32, np.int32)
        assert np.array_equal(one, other)
    for concept in range(0, len(known), 97):
        assert np.array_equal(known.classes(concept), slow.classes(concept))


@pytest.mark.parametrize(("name", "step"), [("fall11", 7), ("winter21", 23), ("goog21k", 23), ("in1k", 1)])
def test_a_word_of_the_index_means_what_all_lemmas_say(name: str, step: int) -> None:
    known, slow = both(name)
    words = [*list(slow.named)[::step], "crane", "no such word", "", "zyzzyva", "0"]
    assert {word: known.meanings(word) for word in words} == {word: slow.named.get(word, []) for word in words}


def test_lines_are_found_by_search_as_in_the_dictionary_of_all() -> None:
    content = TEXT.read_bytes()
    whole = ConceptLines(content).all
    wnids = [*list(whole)[::500], next(iter(whole)), list(whole)[-1], "n00000000", "n99999999", "n0208407", "wnid", ""]
    assert len(wnids) <= concept_files._FEW
    lines = ConceptLines(content)
    found = {wnid: lines.field(wnid, 2) for wnid in wnids}
    assert "all" not in vars(lines)
    assert found == {wnid: whole[wnid].split("\t")[2] if wnid in whole else None for wnid in wnids}
    for wnid in list(whole)[: concept_files._FEW]:
        lines.field(wnid, 1)
    assert "all" in vars(lines)  # many are taken apart at once


def test_a_space_of_the_same_name_with_other_words_is_found_slowly() -> None:
    space = load_label_space("in1k")
    again = parse_label_space(space.to_text(), "in1k.tsv")
    assert concepts_of(again).known is None
    assert concepts_of(again).sha256 == concepts_of(space).sha256
    of_export = dataclasses.replace(space, concepts_sha256=concepts_of(space).sha256)
    assert concepts_of(of_export).known is not None


@pytest.mark.parametrize("cut", ["concepts.tsv", "concepts.bin"])
def test_a_file_that_was_cut_off_is_named(cut: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (TEXT, TEXT.with_suffix(".bin")):
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: -1000 if path.name == cut else None])
    monkeypatch.setattr(concept_files, "_TEXT", tmp_path / "concepts.tsv")
    monkeypatch.setattr(concept_files, "_ARRAYS", tmp_path / "concepts.bin")
    concept_files._arrays.cache_clear()
    concept_files.concept_lines.cache_clear()
    try:
        with pytest.raises(TreeError, match=rf"{cut} is damaged or was cut off: install miil21k again"):
            concept_lines()
    finally:
        concept_files._arrays.cache_clear()
        concept_files.concept_lines.cache_clear()


def test_a_gloss_is_found_without_parsing_the_space() -> None:
    space = load_label_space("goog21k")
    for node in range(0, len(space.gloss_text), 1000):
        assert shipped_gloss("goog21k", space.tree.wnids[node]) == space.gloss_text[node]
    with pytest.raises(KeyError):
        shipped_gloss("goog21k", "n00001740")


def test_a_question_takes_no_file_apart() -> None:
    script = (
        "from miil21k.decode.decoded import concept_graph; from miil21k.decode.decoder import Decoder\n"
        "from miil21k.hierarchy import concept_files, nouns; from miil21k.hierarchy.spaces import shipped\n"
        "decoder = Decoder(shipped('in1k'), 'leaf_softmax').asking(['bird', 'instrument', 'canines', 'cat'])\n"
        "graph = concept_graph(decoder.space)\n"
        "print(*(graph.name(one.concept) for one in decoder.asked), sep='|')\n"
        "print(len(decoder.notes), nouns.wordnet_nouns.cache_info().currsize, shipped.cache_info().currsize)\n"
        "print(*vars(graph), *vars(concept_files.concept_lines()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, counts, computed = done.stdout.splitlines()
    assert names == "bird|instrument|canine|cat"
    assert counts == "2 0 1"  # notes with glosses; the index of all nouns is closed, and no other space is parsed
    assert not {"all", "_folded", "named", "tree"} & set(computed.split())
