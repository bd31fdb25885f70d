"""`miil21k push RUN OWNER/REPOSITORY`: a trained model onto the Hub, with all that using it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Put a trained model onto the Hub: weights, timm's config.json, label space, calibration and a model card."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k push`."""
    parser.add_argument("run", metavar="RUN", help="output folder of train or transfer, or a checkpoint of it")
    parser.add_argument("repository", metavar="OWNER/REPOSITORY", help="where it goes; made where there is none")
    parser.add_argument(
        "--licence", "--license", default="", metavar="ID", help="such as apache-2.0, mit, cc-by-nc-4.0"
    )
    parser.add_argument("--intended-use", default="", metavar="TEXT", help="what it is meant for, for the model card")
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="of miil21k calibrate, or hf-hub:OWNER/REPOSITORY (default: calibration.json of the folder)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository a private one")
    parser.add_argument(
        "--token", metavar="TOKEN", help="default: that of 'hf auth login' or HF_TOKEN, which ps does not show"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="the branch, made where there is none (default: main)")
    parser.add_argument("-m", "--message", default="Add a model of miil21k", help="of the commit")
    parser.add_argument("--dry-run", action="store_true", help="write the folder and show it, and send nothing")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="keep it here (with --dry-run: RUN/hub)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Write the folder, and push it unless told not to; prints the name to load it by."""
    from miil21k.files import temporary_folder
    from miil21k.store.hub_push import repository
    from miil21k.zoo.hub_folder import find_checkpoint

    repo = repository(args.repository)
    checkpoint = find_checkpoint(Path(args.run))
    folder = args.output or (checkpoint.parent / "hub" if args.dry_run else None)
    if folder is not None:
        return _push(args, repo, checkpoint, folder)
    with temporary_folder("push") as folder:
        return _push(args, repo, checkpoint, folder)


def _push(args: argparse.Namespace, repo: str, checkpoint: Path, folder: Path) -> int:
    from miil21k.store.hub_push import push_folder
    from miil21k.zoo.hub_folder import Facts, write_folder
    from miil21k.zoo.names import named_calibration

    if folder.resolve() == checkpoint.parent.resolve():
        raise UsageError(f"'{folder}' holds the run itself, whose files would be replaced: choose another -o.")
    calibration = named_calibration(args.calibration) if args.calibration else None
    names = write_folder(checkpoint, folder, repo, Facts(args.licence, args.intended_use, calibration))
    if args.dry_run:
        for name in names:
            print(printable(f"{folder / name}  {(folder / name).stat().st_size:,} bytes"))
        print(f"\n{(folder / 'README.md').read_text(encoding='utf-8')}")
        print("Nothing was sent. To push it: the same command without --dry-run.", file=sys.stderr)
        return 0
    where = push_folder(
        folder,
        names,
        repo,
        private=args.private,
        token=args.token,
        revision=args.revision,
        message=args.message,
        progress=sys.stderr.isatty() and not args.quiet,
    )
    print(where)
    print(f"hf-hub:{repo}" + (f"@{args.revision}" if args.revision else ""))
    return 0
