"""Every error that miil21k raises on purpose.

A message says what was asked, what was found and what to do, in one sentence or two.

```
Miil21kError
├── UsageError            the request makes no sense as it stands (CLI exit code 2)
│   ├── UnknownModel      no such model name
│   ├── UnknownClass      no such wnid or class name
│   └── LabelSpaceMismatch  a head, a checkpoint or a data set of another label space
├── TreeError             a hierarchy is not a forest, or a label-space file is damaged
├── LogitsError           logits that cannot be decoded: wrong shape, NaN or infinite
├── ImageError            an input that is not a readable image
├── StrictJsonError       a JSON file is damaged, or not what it should be (in `records`)
├── ManifestError         weights_manifest.json breaks its schema
├── BundleError           a bundle is damaged, or holds what no bundle may hold
├── DownloadError         no source gave the checkpoint
├── UploadError           the Hub did not take what was pushed to it
├── ExportError           an export does not compute what the model computes, or cannot be run
├── ChecksumMismatch      the bytes are not the ones that were published or pinned
├── CheckpointError       a checkpoint file is damaged or unsafe to load
│   └── CheckpointMismatch  its tensors do not fit the model
├── EngineError           workers died, or compute different things
│   └── ClusterError      a cluster cannot be joined, or was lost (CLI exit code 3: no input is to blame)
├── PrepareError          a data set cannot be prepared: the disk is full, the source is cut off
└── MissingExtra          an optional dependency is not installed
```
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckpointError",
    "CheckpointMismatch",
    "ChecksumMismatch",
    "ClusterError",
    "DownloadError",
    "EngineError",
    "ExportError",
    "ImageError",
    "LabelSpaceMismatch",
    "LogitsError",
    "ManifestError",
    "Miil21kError",
    "MissingExtra",
    "PrepareError",
    "TreeError",
    "UnknownClass",
    "UnknownModel",
    "UploadError",
    "UsageError",
]


class Miil21kError(Exception):
    """Base of every error in this package; `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(Miil21kError, ValueError):
    """The request makes no sense as it stands."""

    exit_code = 2


class UnknownModel(UsageError):
    """No weight or architecture has the name that was asked for."""


class UnknownClass(UsageError):
    """A wnid or a class name is not part of the label space."""


class LabelSpaceMismatch(UsageError):
    """Two things that belong to different label spaces were brought together."""


class TreeError(Miil21kError, ValueError):
    """A hierarchy is not a forest, or the file that holds it is damaged."""


class LogitsError(Miil21kError, ValueError):
    """Logits cannot be decoded: wrong shape, NaN or infinite."""


class ImageError(Miil21kError):
    """An input is not an image that can be read.

    reason: the kind of failure, one word for a table: `not_an_image`, `too_large`, `damaged`, `empty` or `unreadable`.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class ManifestError(Miil21kError, ValueError):
    """The weights manifest breaks its schema."""


class BundleError(Miil21kError):
    """A bundle is damaged, or holds what no bundle may hold."""


class DownloadError(Miil21kError):
    """No source of a checkpoint could be reached or gave the right file."""


class UploadError(Miil21kError):
    """The Hub did not take what was pushed to it."""


class EngineError(Miil21kError):
    """The processes or machines that should do the work died, or differ."""


class ClusterError(EngineError):
    """A cluster cannot be joined, or was lost on the way; what is finished is kept."""

    exit_code = 3


class ExportError(Miil21kError):
    """An export does not compute what the model computes, or its file cannot be run."""


class ChecksumMismatch(Miil21kError):
    """A file is not the one that was published or pinned."""


class CheckpointError(Miil21kError):
    """A checkpoint file is damaged, or unsafe to load."""


class CheckpointMismatch(CheckpointError):
    """The tensors of a checkpoint do not fit the model."""


class PrepareError(Miil21kError):
    """A data set cannot be prepared further: the disk is full, the source is cut off, a check failed."""


class MissingExtra(Miil21kError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'miil21k[{extra}]'"
        )
        self.package = package
        self.extra = extra
