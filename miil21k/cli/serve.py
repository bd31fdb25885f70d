"""`miil21k serve`: images over HTTP, answered with the rows of `predict`. Options only."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_model_name, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export, settle, starting
from miil21k.data.options import ReadingOptions
from miil21k.data.resizers import resolve_resizer
from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.serve.options import MAX_PIXELS, ServeOptions

if TYPE_CHECKING:
    import socket

    from miil21k.predict.predictor import Predictor
    from miil21k.serve.clients import Keys

__all__ = ["HELP", "configure", "run"]

HELP = "Answer images over HTTP with the rows of predict; images of concurrent requests are computed together."
_EXAMPLES = """examples:
  miil21k serve -m embedded                                                   http://127.0.0.1:8021, with a page
  curl -s --data-binary @cat.jpg -H 'Content-Type: image/jpeg' localhost:8021/v1/predict
  curl -s -F a=@cat.jpg -F b=@dog.png 'localhost:8021/v1/predict?topk=3&hedge=0.95'
  miil21k serve --index photos.index                                          the gallery of an index, at /gallery/
  miil21k serve -m model.onnx --host 0.0.0.0 --max-batch 32 --allow-origin https://example.org

The answer options say what a request without parameters gets. SIGTERM and Ctrl-C end the server when what is under way
is finished. exit code: 0 ended by SIGTERM, 1 it failed, 2 usage, 130 interrupted. Everything is said on standard error.
All of it: docs/serve.md.
"""
_PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus_client",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k serve`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s [options]"
    parser.epilog = _EXAMPLES
    listening, waiting = {"host", "port", "allow_origin", "api_keys", "index"}, {"max_wait"}
    add_options(parser.add_argument_group("server"), ServeOptions, only=listening)
    limits = parser.add_argument_group("limits")
    add_options(limits, ServeOptions, without=listening | waiting | {"log_format"})
    add_options(limits, ReadingOptions, defaults={"max_pixels": MAX_PIXELS})
    batching = parser.add_argument_group("batching")
    add_options(batching, ServeOptions, only=waiting)
    threads = "threads that read images (default: CPUs, at most 8)"
    of_batches = {"batch_size", "workers"}
    add_options(
        batching,
        ComputeOptions,
        only=of_batches,
        also={"batch_size": "--max-batch"},
        meanings={"workers": threads},
    )
    group = parser.add_argument_group("model")
    add_model_name(group)
    add_options(group, ModelOptions)
    group = parser.add_argument_group("answer")
    add_options(group, AnswerOptions)
    add_options(group, RunOptions, only={"label_type"})
    # The threads of a forward pass are the processors: one batch is computed at a time.
    add_options(parser.add_argument_group("machine"), ComputeOptions, without={*of_batches, "threads"})
    messages = parser.add_argument_group("messages")
    add_options(messages, ServeOptions, only={"log_format"})
    add_loudness(messages)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns 0."""
    for module, package in _PACKAGES.items():
        require(module, "serve", "miil21k serve", package=package)
    server = value_of(args, ServeOptions)
    log_to_stderr(args)
    from miil21k.serve.clients import keys_of
    from miil21k.serve.logs import JsonLog
    from miil21k.serve.server import bound

    if server.log_format == "json":
        for handler in logging.getLogger("miil21k").handlers:
            handler.setFormatter(JsonLog())

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until there is something to finish
    try:
        with bound(server.host, server.port) as listener, starting():
            _serve(args, server, keys_of(server.api_keys), listener)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _serve(args: argparse.Namespace, server: ServeOptions, keys: Keys | None, listener: socket.socket) -> None:
    from miil21k.predict.predictor import Predictor
    from miil21k.runtime.resolve import resolve
    from miil21k.serve.app import create_app
    from miil21k.serve.bodies import Buffer, limits_of
    from miil21k.serve.clients import Limiter
    from miil21k.serve.query import Asked
    from miil21k.serve.server import run_server, url_of
    from miil21k.serve.service import serving

    options = _options(args)
    model, more = args.model, []
    if server.index is not None:
        from miil21k.find.build import model_of
        from miil21k.serve.gallery import LiveGallery

        model = args.model or model_of(server.index, None)
        more = LiveGallery(server.index).routes()
    predictor = Predictor(model, options=options, loaded=resolve(model, options, make=make_export))
    settle()
    for note in predictor.notes:
        logging.getLogger("miil21k.serve").info("%s", note)
    with serving(
        predictor,
        workers=predictor.workers,
        max_wait=server.max_wait / 1000,
        queue=server.queue,
        buffer=Buffer(server.receive_buffer),
    ) as service:
        service.warm_up()
        usual = Asked(predictor.options, value_of(args, RunOptions).label_type)
        json_lines = server.log_format == "json"
        app = create_app(
            service,
            usual,
            limits_of(server),
            allow_origin=server.allow_origin,
            keys=keys,
            limiter=None if server.max_rate is None else Limiter(server.max_rate),
            log_level=logging.INFO if json_lines else logging.DEBUG,
            more=more,
        )
        run_server(
            app,
            listener,
            lambda: _announce(predictor, url_of(listener), json_lines=json_lines),
            service.end,
            drain=server.drain,
            verbose=args.verbose,
        )


def _options(args: argparse.Namespace) -> PredictOptions:
    options = value_of(args, PredictOptions)
    if options.workers == 0:
        raise UsageError("--workers must be at least 1: a server reads images in threads.")
    return replace(options, resizer=resolve_resizer(options.resizer))


def _announce(predictor: Predictor, url: str, *, json_lines: bool) -> None:
    run = predictor.origin
    computed = f"{run.backend} on {run.device}, {run.dtype}"
    line = f"ready: {url} ({run.model}, {run.label_space}; {computed}; Ctrl-C ends it)"
    if json_lines:
        logging.getLogger("miil21k.serve").info(line)
    else:
        print(line, file=sys.stderr, flush=True)
