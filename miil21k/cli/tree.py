"""`miil21k tree`: look at label spaces, search them, write them as files, and build them."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.cli import tree_build
from miil21k.cli.tree_build import write
from miil21k.errors import UnknownClass, UsageError
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.export import EXPORTS, neighbourhood_to_dot
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.questions import find_meanings, resolve
from miil21k.hierarchy.search import find_one, near, search_concepts
from miil21k.hierarchy.spaces import LABEL_SPACES, OLDER_SPACES, LabelSpace, withdrawn_classes
from miil21k.text import near_names

if TYPE_CHECKING:
    import argparse

HELP = "Show, search, export or build label spaces: what stands where in the tree of levels and among the concepts."

_SPACE = (
    f"a shipped label space ({', '.join(LABEL_SPACES)}) or the path of your own (.csv .tsv .json .txt .pth, folder)"
)
_MOST_PATHS = 8  # an own graph may have millions
_EPILOG = """examples:
  miil21k tree show winter21                       counts, depths, digest
  miil21k tree show winter21 "domestic cat" --depth 2
  miil21k tree show mammal                         its classes, every path up, in the space that predict prefers
  miil21k tree why cat dog                         where they meet, in the tree and in WordNet
  miil21k tree show dog -f dot | dot -Tsvg > dog.svg
  miil21k tree search siamese cat                  in the space of the model that predict prefers
  miil21k tree search in1k "siamese cat"
  miil21k tree export winter21 -f csv -o winter21.csv
  miil21k tree export in1k -f dot --under n02084071 | dot -Tsvg > dogs.svg
  miil21k tree build --from-csv mine.csv -o mine.tsv
  miil21k tree build winter21 -o winter21.tsv      again from WordNet 3.0: the same bytes
  miil21k tree build concepts -o concepts.tsv      the nouns around all shipped classes, likewise
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the five verbs of `miil21k tree`."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="tree_verb", metavar="show|search|why|export|build", required=True)
    _configure_show(verbs.add_parser("show", help="summary of a space, or one concept: paths, gloss, what is below"))
    _configure_search(verbs.add_parser("search", help="find concepts by words in their names, synonyms and glosses"))
    _configure_why(verbs.add_parser("why", help="where two concepts meet, in the tree and in WordNet"))
    _configure_export(verbs.add_parser("export", help="write a space as JSON, CSV or Graphviz"))
    tree_build.configure(verbs.add_parser("build", help="build a space from WordNet 3.0, a CSV, folders or a list"))


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show a label space as a whole, or one of its concepts: a node of the tree, or any hypernym of one. A name of "
        "several concepts shows them all."
    )
    parser.usage = "%(prog)s [options] [SPACE] [NOUN]"
    parser.add_argument(
        "words",
        metavar="[SPACE] [NOUN]",
        nargs="+",
        help=f"{_SPACE}, else that of the model which predict prefers; a noun, wnid or synset name",
    )
    parser.add_argument("--depth", type=_count, default=1, metavar="N", help="levels below the node (default: 1)")
    parser.add_argument(
        "-f", "--format", choices=("text", "json", "dot"), default="text", help="dot: one concept (default: text)"
    )
    parser.set_defaults(work=_show)


def _configure_search(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print every node whose lemmas and gloss hold all words of QUERY, exact names first. If none does, print near "
        "spellings and return 1."
    )
    parser.usage = "%(prog)s [options] [SPACE] QUERY"
    parser.add_argument(
        "words",
        metavar="[SPACE] QUERY",
        nargs="+",
        help=f"words, each of which matches from the beginning of a word; before them {_SPACE}, else that of the model "
        "which predict prefers",
    )
    parser.add_argument("-n", "--limit", type=_count, default=20, metavar="N", help="at most N nodes (default: 20)")
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="default: text")
    parser.set_defaults(work=_search)


def _configure_why(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say where two concepts meet: in the tree of levels, and in WordNet along all hypernyms."
    parser.usage = "%(prog)s [options] [SPACE] NOUN NOUN"
    parser.add_argument(
        "words",
        metavar="[SPACE] NOUN NOUN",
        nargs="+",
        help=f"two nouns, wnids or synset names; before them {_SPACE}, else that of the model which predict prefers",
    )
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="default: text")
    parser.set_defaults(work=_why)


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a label space. JSON and CSV can be read again wherever a SPACE is asked for."
    parser.add_argument("space", metavar="SPACE", help=_SPACE)
    parser.add_argument("-f", "--format", choices=tuple(EXPORTS), default="json", help="default: json")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--under", metavar="WNID|NAME", help="only this node and what is below it")
    parser.set_defaults(work=_export)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


_count.__name__ = "whole number"  # argparse puts it into its message


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; returns 0."""
    code: int = args.work(args)
    return code


def _space_and_words(words: list[str], alone: bool = False) -> tuple[LabelSpace, list[str]]:
    """Return the space that the first word names, else that of the model which predict prefers, and the other words.

    alone: a space may be all there is; otherwise the last word never is one.
    """
    first = words[0]
    named = first in LABEL_SPACES or first in OLDER_SPACES or Path(first).exists()
    if named and (alone or len(words) > 1):
        return load_label_space(first), words[1:]
    return load_label_space(_usual_space()), words


def _show(args: argparse.Namespace) -> int:
    space, words = _space_and_words(args.words, alone=True)
    noun = " ".join(words)
    if not noun:
        if args.format == "dot":
            raise UsageError(f"'-f dot' draws one concept: 'miil21k tree export {args.words[0]} -f dot' draws a space.")
        summary = _summary(space)
        print(_json(summary) if args.format == "json" else _summary_text(summary))
        return 0
    concepts = concepts_of(space)
    found = [concept for concept, _ in find_meanings(concepts, noun)] or [_one(concepts, noun)]
    if args.format == "dot":
        sys.stdout.write(neighbourhood_to_dot(concepts, resolve(concepts, noun).concept))
        return 0
    if args.format == "json":
        print(_json([_node(concepts, concept, args.depth) for concept in found]))
        return 0
    if len(found) > 1:
        print(f"{len(found)} concepts are named '{noun}'; a wnid picks one.\n")
    print("\n\n".join(_node_text(concepts, concept, args.depth) for concept in found))
    return 0


def _one(concepts: Concepts, noun: str) -> int:
    """Return the concept that `noun` means; for what may be a misspelt label space the message says so."""
    try:
        return resolve(concepts, noun).concept
    except UnknownClass:
        if near_names(noun, LABEL_SPACES):
            load_label_space(noun)  # raises, with the spaces that are near
        raise


def _summary(space: LabelSpace) -> dict[str, Any]:
    tree = space.tree
    return {
        "label_space": space.name,
        "sha256": space.sha256,
        "classes": space.num_classes,
        "nodes": tree.num_nodes,
        "roots": len(tree.roots),
        "leaves": len(tree.leaves),
        "nodes_by_depth": np.bincount(tree.depth).tolist(),
        "largest_roots": [
            {"wnid": tree.wnids[root], "name": tree.names[root], "nodes": count} for count, root in _largest(space)
        ],
    }


def _largest(space: LabelSpace) -> list[tuple[int, int]]:
    sizes = np.bincount(space.tree.level_target[:, 0], minlength=space.tree.num_nodes)
    return [(int(sizes[root]), int(root)) for root in np.argsort(-sizes, kind="stable")[:8] if sizes[root] > 1]


def _summary_text(summary: dict[str, Any]) -> str:
    deepest = len(summary["nodes_by_depth"]) - 1
    counts = f"{summary['classes']} classes, {summary['nodes']} nodes, {summary['roots']} roots"
    lines = [
        f"{summary['label_space']}: {counts}, {summary['leaves']} leaves, depth 0 to {deepest}",
        f"sha256 {summary['sha256']}",
        "",
        "depth  nodes",
        *(f"{depth:5}  {count:5}" for depth, count in enumerate(summary["nodes_by_depth"])),
    ]
    if summary["largest_roots"]:
        lines += ["", "largest roots"]
        lines += [f"{root['nodes']:5}  {root['wnid']}  {root['name']}" for root in summary["largest_roots"]]
    return "\n".join(lines)


def _node(concepts: Concepts, concept: int, depth: int = 0) -> dict[str, Any]:
    space, tree = concepts.space, concepts.space.tree
    found: dict[str, Any] = {
        "index": concept if concept < tree.num_classes else None,
        "wnid": concepts.wnids[concept],
        "name": concepts.name(concept),
        "lemmas": [lemma.word for lemma in concepts.lemmas(concept)],
        "gloss": concepts.gloss(concept),
        "in_tree": concept < tree.num_nodes,
        "path": [],
    }
    if concept < tree.num_nodes:
        below = tree.descendants(concept)
        found |= {
            "depth": int(tree.depth[concept]),
            "path": [_called(concepts, n) for n in tree.path(concept)],
            "nodes_below": len(below) - 1,
            "classes_below": int((below < tree.num_classes).sum()) - (concept < tree.num_classes),
        }
        if depth:
            found["children"] = _children(space, concept, depth)
    if depth:
        found["concept"] = {
            "classes": int(concepts.num_below[concept]),
            "parents": [_called(concepts, p) for p in concepts.parents(concept).tolist()],
            "children": [_called(concepts, c) for c in concepts.children(concept).tolist()],
            "paths": [[_called(concepts, c) for c in path] for path in islice(concepts.paths(concept), _MOST_PATHS)],
        }
    return found


def _called(concepts: Concepts, concept: int) -> dict[str, str]:
    return {"wnid": concepts.wnids[concept], "name": concepts.name(concept)}


def _children(space: LabelSpace, node: int, depth: int) -> list[dict[str, Any]]:
    tree = space.tree
    rows = []
    for child in tree.children(node).tolist():
        row: dict[str, Any] = {"wnid": tree.wnids[child], "name": tree.names[child]}
        row["nodes_below"] = len(tree.descendants(child)) - 1
        if depth > 1:
            row["children"] = _children(space, child, depth - 1)
        rows.append(row)
    return rows


def _path_text(path: list[dict[str, str]]) -> str:
    return " > ".join(step["name"] for step in path)


def _node_text(concepts: Concepts, concept: int, depth: int) -> str:
    found, space = _node(concepts, concept, max(depth, 1)), concepts.space.name
    kind = f"class {found['index']} of {space}"
    if found["index"] is None:
        where = f"an inner node of {space}" if found["in_tree"] else f"a concept outside of the tree of {space}"
        kind = f"no class, {where}"
    lines = [f"{found['wnid']}  {found['name']}  ({kind})"]
    if found["in_tree"]:
        lines.append(f"path      {_path_text(found['path'])}")
    if len(found["lemmas"]) > 1:
        lines.append(f"synonyms  {', '.join(found['lemmas'][1:])}")
    if found["gloss"]:
        lines.append(f"gloss     {found['gloss']}")
    if found["in_tree"]:
        lines.append(f"below     {found['nodes_below']} nodes, {found['classes_below']} of them classes")
    around = found["concept"]
    parents = ", ".join(f"{p['name']} ({p['wnid']})" for p in around["parents"]) or "none"
    lines += [f"concept   {around['classes']} classes at or below it along any edge", f"hypernyms {parents}"]
    lines += [f"up        {_path_text(path)}" for path in around["paths"]]
    if not depth:
        return "\n".join(lines)
    if found["in_tree"]:
        return "\n".join(lines + _branch_text(found["children"], "  "))
    return "\n".join([*lines, *(f"  {child['wnid']}  {child['name']}" for child in around["children"])])


def _branch_text(children: list[dict[str, Any]], indent: str) -> list[str]:
    lines = []
    for child in children:
        count = f"  ({child['nodes_below']} below)" if child["nodes_below"] else ""
        lines.append(f"{indent}{child['wnid']}  {child['name']}{count}")
        lines += _branch_text(child.get("children", []), indent + "  ")
    return lines


def _usual_space() -> str:
    from miil21k.runtime.loading import DEFAULT_MODEL
    from miil21k.zoo.manifest import find_weights

    space = find_weights(DEFAULT_MODEL).label_space
    assert space is not None
    return space


def _search(args: argparse.Namespace) -> int:
    space, words = _space_and_words(args.words)
    query, concepts = " ".join(words), concepts_of(space)
    found = search_concepts(concepts, query)
    exact = bool(found)
    if not exact:
        found = near(space, query)
        print(f"Nothing in '{space.name}' holds '{query}'." + (" Near:" if found else ""), file=sys.stderr)
    shown = [_node(concepts, concept) for concept in found[: args.limit]]
    if args.format == "json":
        print(_json(shown))
    else:
        for one in shown:
            path = _path_text(one["path"]) or f"outside of the tree of '{space.name}'"
            gloss = f"\n           {one['gloss']}" if one["gloss"] else ""
            print(f"{one['wnid']}  {one['name']}\n           {path}{gloss}")
    if len(found) > len(shown):
        print(f"{len(found) - len(shown)} more; --limit {len(found)} shows all.", file=sys.stderr)
    return 0 if exact else 1


def _why(args: argparse.Namespace) -> int:
    space, words = _space_and_words(args.words)
    if len(words) != 2:
        raise UsageError(f"'tree why' compares two concepts, not {len(words)}: quote a name of several words.")
    concepts, tree = concepts_of(space), space.tree
    questions = [resolve(concepts, word, ~withdrawn_classes(space)) for word in words]
    for question in questions:
        if note := question.note(concepts):
            print(note, file=sys.stderr)
    a, b = (question.concept for question in questions)
    top = concepts.meet(a, b)
    in_tree = int(tree.lca(np.array(a), np.array(b))) if max(a, b) < tree.num_nodes else -1
    chains = [] if top < 0 else [concepts.chain(top, concept) for concept in (a, b)]
    if args.format == "json":
        found = {
            "tree": _called(concepts, in_tree) if in_tree >= 0 else None,
            "wordnet": None if top < 0 else {**_called(concepts, top), "classes": int(concepts.num_below[top])},
            "chains": [[_called(concepts, step) for step in chain] for chain in chains],
        }
        print(_json(found))
        return 0
    for concept in (a, b):
        path = _path_text([_called(concepts, n) for n in tree.path(concept)]) if concept < tree.num_nodes else "no node"
        print(f"{concepts.wnids[concept]}  {concepts.name(concept)}\n           tree      {path}")
    print(f"tree       {f'both under {concepts.name(in_tree)}' if in_tree >= 0 else 'they do not meet'}")
    if top < 0:
        print("concepts   they do not meet")
    else:
        print(f"concepts   both are {concepts.name(top)}, {concepts.num_below[top]} classes: {concepts.gloss(top)}")
    for chain in chains:
        print(f"           {_path_text([_called(concepts, step) for step in chain])}")
    return 0


def _export(args: argparse.Namespace) -> int:
    space = load_label_space(args.space)
    under = find_one(space, args.under) if args.under else None
    text = EXPORTS[args.format](space, under)
    if args.output is None:
        sys.stdout.write(text)
    else:
        write(args.output, text)
    return 0


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)
