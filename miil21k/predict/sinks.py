"""Where the predictions of a run go: rows in a file that can be resumed, or rows on a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from miil21k.writers.labels import add_labels
from miil21k.writers.output import RowStream

if TYPE_CHECKING:
    from typing import IO

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.prediction import Origin, Prediction
    from miil21k.writers.layouts import Layout
    from miil21k.writers.output import Output

__all__ = ["FileSink", "Sink", "StreamSink"]


class Sink(Protocol):
    """What takes predictions, in order."""

    def begin(self, origin: Origin, space: LabelSpace, /) -> None:
        """Prepare for the first prediction; `space` holds the names of what `origin` answers."""
        ...

    def write(self, prediction: Prediction) -> None:
        """Take one prediction; it is on its way when this returns."""
        ...

    def finish(self) -> None:
        """End after the last prediction."""
        ...


class _RowSink:
    def __init__(self, label_type: str | None) -> None:
        self._label_type = label_type
        self._space: LabelSpace | None = None

    def _row(self, prediction: Prediction) -> dict[str, Any]:
        row = replace(prediction, embedding=None).to_dict()
        if self._label_type is None:
            return row
        assert self._space is not None
        return add_labels(row, self._space, self._label_type)


class StreamSink(_RowSink):
    """Rows on an open binary stream, standard output say."""

    def __init__(self, stream: IO[bytes], layout: Layout, label_type: str | None) -> None:
        super().__init__(label_type)
        self._to, self._layout = stream, layout
        self._stream: RowStream | None = None

    def begin(self, _origin: Origin, space: LabelSpace) -> None:
        """Write what stands before the first row."""
        self._space = space
        self._stream = RowStream(self._to, self._layout)

    def write(self, prediction: Prediction) -> None:
        """Write one row and flush."""
        assert self._stream is not None
        self._stream.write(self._row(prediction))

    def finish(self) -> None:
        """Write what follows the last row."""
        assert self._stream is not None
        self._stream.finish()


class FileSink(_RowSink):
    """Rows in a file that can be resumed; the run takes its mark away."""

    def __init__(self, file: Output, label_type: str | None) -> None:
        super().__init__(label_type)
        self.file = file

    def begin(self, origin: Origin, space: LabelSpace) -> None:
        """Open the file; raises UsageError when the rows that it keeps came from another model or device."""
        self._space = space
        self.file.begin(origin._asdict())

    def write(self, prediction: Prediction) -> None:
        """Write one row."""
        self.file.write(self._row(prediction))

    def finish(self) -> None:
        """Complete the file, which stays marked as unfinished."""
        self.file.finish()
