"""Two scripts beside a bundle: one makes a single file of it and its packages where there is a network, the other
installs all of that where there is none."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from miil21k import __version__
from miil21k.errors import UsageError
from miil21k.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["write_installer"]

_DOWNLOAD = """\
#!/bin/sh
# Run this where there is a network, on the same system, processor and Python as the other machine.
# It makes one file to carry, {carried}: the bundle, its packages, their digests and install.sh.
set -eu
cd "$(dirname "$0")"
mkdir -p wheels
# For PyTorch without CUDA, set PIP_EXTRA_INDEX_URL to PyTorch's own index of CPU wheels first.
"${{PYTHON:-python3}}" -m pip download --only-binary :all: --dest wheels {requirement}
(cd wheels && sha256sum -- *.whl) > SHA256SUMS
tar -cf {carried}.part {bundle} install.sh SHA256SUMS wheels
mv {carried}.part {carried}
echo "$(wc -l < SHA256SUMS) packages. From $PWD carry "{carried}" to the other machine, and there:"
echo "  mkdir air && tar -xf "{carried}" -C air && sh air/install.sh"
"""

_INSTALL = """\
#!/bin/sh
# Run this where there is no network: install.sh [ENVIRONMENT]
# It checks every package, makes the environment (default: ./env) and installs packages and weights into it.
set -eu
cd "$(dirname "$0")"
environment=${{1:-env}}
(cd wheels && sha256sum --check --quiet ../SHA256SUMS) || {{ echo "A package was changed on its way." >&2; exit 1; }}
"${{PYTHON:-python3}}" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --no-index --find-links wheels {requirement}
"$environment/bin/miil21k" bundle install {bundle}
echo "Done. Try: $environment/bin/miil21k-predict -m {first} --offline photo.jpg"
"""


def write_installer(bundle: Path, names: Sequence[str], extras: Sequence[str] = ()) -> tuple[Path, Path]:
    """Write `download.sh` and `install.sh` beside `bundle`, and return their paths.

    names: canonical names of its weights. extras: of miil21k, to be installed with it. Raises UsageError for what is no
    name of an extra.
    """
    for extra in extras:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", extra):
            raise UsageError(f"'{extra}' is no extra of miil21k: write them as in 'embedded,serve'.")
    listed = f"[{','.join(extras)}]" if extras else ""
    words = {
        "requirement": shlex.quote(f"miil21k{listed}=={__version__}"),
        "bundle": shlex.quote(f"./{bundle.name}"),
        "carried": shlex.quote(f"./{bundle.stem}-carry.tar"),
        "first": shlex.quote(names[0]),
    }
    written = []
    for name, text in (("download.sh", _DOWNLOAD), ("install.sh", _INSTALL)):
        path = bundle.parent / name
        replace_file(path, text.format(**words))
        path.chmod(0o755)
        written.append(path)
    return written[0], written[1]
