"""`miil21k tree`: look at label spaces, search them, write them as files, and build them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.custom import from_csv, from_folder, from_list
from miil21k.hierarchy.export import EXPORTS
from miil21k.hierarchy.load import load_label_space, refuse_borrowed_name
from miil21k.hierarchy.search import find, find_one, near, search
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace

if TYPE_CHECKING:
    import argparse

HELP = "Show, search, export or build label spaces: which class stands where in the hypernym tree."

_SPACE = (
    f"a shipped label space ({', '.join(LABEL_SPACES)}) or the path of your own (.csv .tsv .json .txt .pth, folder)"
)
_WORDNET_FILES = {"concepts": ".tsv", "nouns": ".tsv.gz"}  # what `build` makes beside label spaces -> its ending
_EPILOG = """examples:
  miil21k tree show winter21                       counts, depths, digest
  miil21k tree show winter21 "domestic cat" --depth 2
  miil21k tree search siamese cat                  in the space of the model that predict prefers
  miil21k tree search in1k "siamese cat"
  miil21k tree export winter21 -f csv -o winter21.csv
  miil21k tree export in1k -f dot --under n02084071 | dot -Tsvg > dogs.svg
  miil21k tree build --from-csv mine.csv -o mine.tsv
  miil21k tree build winter21 -o winter21.tsv      again from WordNet 3.0: the same bytes
  miil21k tree build concepts -o concepts.tsv      the nouns around all shipped classes, likewise
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the four verbs of `miil21k tree`."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="tree_verb", metavar="show|search|export|build", required=True)
    _configure_show(verbs.add_parser("show", help="summary of a space, or one node: path, gloss, what is below"))
    _configure_search(verbs.add_parser("search", help="find nodes by words in their names, synonyms and glosses"))
    _configure_export(verbs.add_parser("export", help="write a space as JSON, CSV or Graphviz"))
    _configure_build(verbs.add_parser("build", help="build a space from WordNet 3.0, a CSV, folders or a list"))


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show a label space as a whole, or one of its nodes. A name that nodes share shows them all."
    parser.add_argument("space", metavar="SPACE", help=_SPACE)
    parser.add_argument("node", metavar="WNID|NAME", nargs="?", help="a wnid, a name or a synonym")
    parser.add_argument("--depth", type=_count, default=1, metavar="N", help="levels below the node (default: 1)")
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="default: text")
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


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a label space. JSON and CSV can be read again wherever a SPACE is asked for."
    parser.add_argument("space", metavar="SPACE", help=_SPACE)
    parser.add_argument("-f", "--format", choices=tuple(EXPORTS), default="json", help="default: json")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--under", metavar="WNID|NAME", help="only this node and what is below it")
    parser.set_defaults(work=_export)


def _configure_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Build a label space and write it as .tsv (what ships with the package), .json or .csv. NAME is built from "
        "WordNet 3.0; the three --from options read your own hierarchy."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "name", metavar="NAME", nargs="?", help=f"{', '.join(LABEL_SPACES)}, or any with --classes; concepts; nouns"
    )
    source.add_argument("--from-csv", type=Path, metavar="FILE", help="rows of child,parent[,name[,class]]")
    source.add_argument("--from-folder", type=Path, metavar="DIR", help="nested folders of images")
    source.add_argument("--from-list", type=Path, metavar="FILE", help="one wnid per line")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .tsv, .json or .csv")
    parser.add_argument("--all-nodes", action="store_true", help="--from-...: every node is a class, not just leaves")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="NAME: the wnids in logit order, one per line")
    parser.add_argument("--wordnet", type=Path, metavar="DIR", help="NAME: the folder with WordNet 3.0's data.noun")
    parser.set_defaults(work=_build)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


_count.__name__ = "whole number"  # argparse puts it into its message


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; returns 0."""
    code: int = args.work(args)
    return code


def _show(args: argparse.Namespace) -> int:
    space = load_label_space(args.space)
    if args.node is None:
        summary = _summary(space)
        print(_json(summary) if args.format == "json" else _summary_text(summary))
        return 0
    nodes = find(space, args.node)
    if args.format == "json":
        print(_json([_node(space, node, args.depth) for node in nodes]))
        return 0
    if len(nodes) > 1:
        print(f"{len(nodes)} nodes are named '{args.node}'; a wnid picks one.\n")
    print("\n\n".join(_node_text(space, node, args.depth) for node in nodes))
    return 0


def _summary(space: LabelSpace) -> dict[str, Any]:
    import numpy as np

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
    import numpy as np

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


def _node(space: LabelSpace, node: int, depth: int = 0) -> dict[str, Any]:
    tree = space.tree
    below = tree.descendants(node)
    found: dict[str, Any] = {
        "index": node if node < tree.num_classes else None,
        "wnid": tree.wnids[node],
        "name": tree.names[node],
        "lemmas": list(space.lemmas[node]),
        "gloss": space.gloss_text[node],
        "depth": int(tree.depth[node]),
        "path": [{"wnid": tree.wnids[n], "name": tree.names[n]} for n in tree.path(node)],
        "nodes_below": len(below) - 1,
        "classes_below": int((below < tree.num_classes).sum()) - (node < tree.num_classes),
    }
    if depth:
        found["children"] = _children(space, node, depth)
    return found


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


def _path_text(found: dict[str, Any]) -> str:
    return " > ".join(step["name"] for step in found["path"])


def _node_text(space: LabelSpace, node: int, depth: int) -> str:
    found = _node(space, node, depth)
    logit = "no class, an inner node" if found["index"] is None else f"class {found['index']}"
    lines = [f"{found['wnid']}  {found['name']}  ({logit} of {space.name})", f"path      {_path_text(found)}"]
    if len(found["lemmas"]) > 1:
        lines.append(f"synonyms  {', '.join(found['lemmas'][1:])}")
    if found["gloss"]:
        lines.append(f"gloss     {found['gloss']}")
    lines.append(f"below     {found['nodes_below']} nodes, {found['classes_below']} of them classes")
    return "\n".join(lines + _branch_text(found.get("children", []), "  "))


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
    named = len(args.words) > 1 and (args.words[0] in LABEL_SPACES or Path(args.words[0]).exists())
    space = load_label_space(args.words[0] if named else _usual_space())
    query = " ".join(args.words[named:])
    nodes = search(space, query)
    exact = bool(nodes)
    if not exact:
        nodes = near(space, query)
        print(f"Nothing in '{space.name}' holds '{query}'." + (" Near:" if nodes else ""), file=sys.stderr)
    shown = [_node(space, node) for node in nodes[: args.limit]]
    if args.format == "json":
        print(_json(shown))
    else:
        for found in shown:
            gloss = f"\n           {found['gloss']}" if found["gloss"] else ""
            print(f"{found['wnid']}  {found['name']}\n           {_path_text(found)}{gloss}")
    if len(nodes) > len(shown):
        print(f"{len(nodes) - len(shown)} more; --limit {len(nodes)} shows all.", file=sys.stderr)
    return 0 if exact else 1


def _export(args: argparse.Namespace) -> int:
    space = load_label_space(args.space)
    under = find_one(space, args.under) if args.under else None
    text = EXPORTS[args.format](space, under)
    if args.output is None:
        sys.stdout.write(text)
    else:
        _write(args.output, text)
    return 0


def _build(args: argparse.Namespace) -> int:
    if args.name in _WORDNET_FILES:
        return _build_from_wordnet(args)
    suffix = args.output.suffix.lower()
    if suffix not in {".tsv", ".json", ".csv"}:
        raise UsageError(f"--output {args.output}: the name must end in .tsv, .json or .csv.")
    space = _built(args)
    refuse_borrowed_name(space, "build")
    _write(args.output, space.to_text() if suffix == ".tsv" else EXPORTS[suffix[1:]](space))
    print(f"{args.output}: {space.num_classes} classes, {space.tree.num_nodes} nodes, {space.sha256}", file=sys.stderr)
    if several := len({child for child, _ in space.further_parents}):
        print(
            f"{several} nodes have several parents: in the tree each keeps the one whose line comes first; "
            "concepts keep them all.",
            file=sys.stderr,
        )
    return 0


def _build_from_wordnet(args: argparse.Namespace) -> int:
    """Write the graph of concepts as text, or the index of nouns as gzip without a time."""
    from miil21k.hierarchy.wordnet import build_concepts, build_nouns, open_wordnet

    if args.all_nodes or args.classes:
        raise UsageError(
            f"'{args.name}' is one file for all label spaces: --all-nodes and --classes do not go with it."
        )
    ending = _WORDNET_FILES[args.name]
    if not args.output.name.endswith(ending):
        raise UsageError(f"--output {args.output}: the name must end in {ending}.")
    with open_wordnet(args.wordnet) as wordnet:
        text = build_concepts(wordnet) if args.name == "concepts" else build_nouns(wordnet)
    if ending.endswith(".gz"):
        import gzip

        _write(args.output, gzip.compress(text.encode(), 9, mtime=0))
    else:
        _write(args.output, text)
    return 0


def _built(args: argparse.Namespace) -> LabelSpace:
    if args.all_nodes and args.name is not None:
        raise UsageError("--all-nodes goes with --from-csv, --from-folder and --from-list.")
    if args.name is None and (args.classes or args.wordnet):
        raise UsageError("--classes and --wordnet go with NAME, the build from WordNet.")
    for path in (args.from_csv, args.from_folder, args.from_list, args.classes):
        if path is not None and not path.exists():
            raise UsageError(f"'{path}' does not exist.")
    if args.from_csv:
        return from_csv(args.from_csv, all_nodes=args.all_nodes)
    if args.from_folder:
        return from_folder(args.from_folder, all_nodes=args.all_nodes)
    if args.from_list:
        return from_list(args.from_list, all_nodes=args.all_nodes)
    from miil21k.hierarchy.wordnet import build_label_space, class_list, open_wordnet

    classes = args.classes.read_text(encoding="utf-8").split() if args.classes else class_list(args.name)
    with open_wordnet(args.wordnet) as wordnet:
        return build_label_space(wordnet, args.name, classes)


def _write(path: Path, content: str | bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise UsageError(f"Cannot write '{path}': {error.strerror}.") from None


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)
