"""`miil21k tree build`: label spaces, concepts and nouns from WordNet 3.0, and own hierarchies, checked and written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.custom import from_csv, from_folder, from_list
from miil21k.hierarchy.export import EXPORTS
from miil21k.hierarchy.load import refuse_borrowed_name
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace

if TYPE_CHECKING:
    import argparse

_WORDNET_FILES = {"concepts": ".tsv", "nouns": ".tsv.gz"}  # what `build` makes beside label spaces -> its ending


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `miil21k tree build`."""
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


def _build(args: argparse.Namespace) -> int:
    if args.name in _WORDNET_FILES:
        return _build_from_wordnet(args)
    suffix = args.output.suffix.lower()
    if suffix not in {".tsv", ".json", ".csv"}:
        raise UsageError(f"--output {args.output}: the name must end in .tsv, .json or .csv.")
    space = _built(args)
    refuse_borrowed_name(space, "build")
    write(args.output, space.to_text() if suffix == ".tsv" else EXPORTS[suffix[1:]](space))
    print(f"{args.output}: {space.num_classes} classes, {space.tree.num_nodes} nodes, {space.sha256}", file=sys.stderr)
    if several := len({child for child, _ in space.further_parents}):
        print(
            f"{several} nodes have several parents: in the tree each keeps the one whose line comes first; "
            "concepts keep them all.",
            file=sys.stderr,
        )
    return 0


def _build_from_wordnet(args: argparse.Namespace) -> int:
    """Write the graph of concepts as text, with its arrays beside it, or the index of nouns as gzip without a time."""
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
    if args.name == "nouns":
        import gzip

        write(args.output, gzip.compress(text.encode(), 9, mtime=0))
    else:
        from miil21k.hierarchy.concepts import build_arrays

        arrays = args.output.with_suffix(".bin")
        write(args.output, text)
        write(arrays, build_arrays(text))
        print(f"{args.output} and {arrays}, which follows from it", file=sys.stderr)
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


def write(path: Path, content: str | bytes) -> None:
    """Replace the file, whole or not at all; raises UsageError where that cannot be."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise UsageError(f"Cannot write '{path}': {error.strerror}.") from None
