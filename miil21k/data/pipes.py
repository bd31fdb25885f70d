"""What a command writes, `pipe:COMMAND`: one image, or the images of a tar stream, as WebDataset has it."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, cast

from miil21k.data.images import ImageInput, failing
from miil21k.suffixes import is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_pipe", "piped_images"]

MAX_PIPED = 2**30  # bytes of one image
_SCHEME = "pipe:"


def is_pipe(name: str) -> bool:
    """Return whether `name` is a command whose output is meant."""
    return name.startswith(_SCHEME)


def piped_images(name: str) -> Iterator[ImageInput]:
    """Run the command, by the shell, and yield the image that it writes, or the images in its tar stream.

    A stream that breaks off, and a command that fails, are one more input, which fails and says so. The command is
    ended when nothing is read from it any more. Members are read one after another: none can be named by itself.
    """
    import subprocess
    import tarfile

    command = name.removeprefix(_SCHEME)
    count, fault = 0, ""
    with subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # noqa: S602
        assert process.stdout is not None
        try:
            head = process.stdout.read(tarfile.BLOCKSIZE)
            stream = _Behind(head, process.stdout)
            if head[257:262] == b"ustar":
                try:
                    for image in _members(name, stream):
                        count += 1
                        yield image
                except (tarfile.TarError, EOFError, OSError) as error:
                    fault = f"breaks off after {count:,} images: {error}"
            elif head:
                count = 1
                yield ImageInput(name, stream.read(MAX_PIPED))
            process.stdout.close()
            code = process.wait()
            fault = fault or (f"failed with exit code {code}" if code else "" if count else "wrote no image")
        finally:
            process.kill()
    if fault:
        yield ImageInput(name, failing(f"'{name}' {fault}."))


class _Behind:
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        taken, self._head = self._head[:size], self._head[size:]
        return taken + self._rest.read(size - len(taken))


def _members(name: str, stream: _Behind) -> Iterator[ImageInput]:
    import tarfile

    with tarfile.open(
        fileobj=cast("IO[bytes]", stream), mode="r|", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for info in archive:
            archive.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all, we need each once
            if not is_image_name(info.name):
                continue
            called = f"{name}/{info.name}"
            content = archive.extractfile(info) if info.isreg() and not info.issparse() else None
            if content is None:
                yield ImageInput(called, failing(f"'{called}' is a link or no plain file: pack the image itself."))
            elif info.size > MAX_PIPED:
                yield ImageInput(called, failing(f"'{called}' has {info.size:,} bytes, more than any image."))
            else:
                yield ImageInput(called, content.read())
