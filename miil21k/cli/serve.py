"""`miil21k serve`: images over HTTP, answered with the rows of `predict`. Options only."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_model_name, add_options, value_of, whole
from miil21k.cli.start import log_to_stderr, make_export, settle, starting
from miil21k.data.options import ReadingOptions
from miil21k.data.resizers import resolve_resizer
from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions

if TYPE_CHECKING:
    import socket

    from miil21k.predict.predictor import Predictor

__all__ = ["HELP", "configure", "run"]

HELP = "Answer images over HTTP with the rows of predict; images of concurrent requests are computed together."
_EXAMPLES = """examples:
  miil21k serve -m embedded                                                   http://127.0.0.1:8021, with a page
  curl -s --data-binary @cat.jpg -H 'Content-Type: image/jpeg' localhost:8021/v1/predict
  curl -s -F a=@cat.jpg -F b=@dog.png 'localhost:8021/v1/predict?topk=3&hedge=0.95'
  miil21k serve -m model.onnx --host 0.0.0.0 --max-batch 32 --allow-origin https://example.org

The answer options say what a request without parameters gets. SIGTERM and Ctrl-C end the server when what is under way
is finished. exit code: 0 ended by SIGTERM, 1 it failed, 2 usage, 130 interrupted. Everything is said on standard error.
All of it: docs/serve.md.
"""
_MAX_PIXELS = 50_000_000  # each thread that reads may hold one such picture: 0.25 GB
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
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s: this machine)")
    server.add_argument("--port", type=_port, default=8021, help="default: %(default)s; 0: any free one")
    server.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages from there read answers, https://example.org or *, repeatable (default: none)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-bytes", type=whole(1), default=20 << 20, metavar="N", help="of one image (default: 20 MiB)"
    )
    limits.add_argument(
        "--max-images", type=whole(1), default=32, metavar="N", help="in one request (default: %(default)s)"
    )
    limits.add_argument(
        "--max-body", type=whole(1), default=64 << 20, metavar="N", help="bytes of one request (default: 64 MiB)"
    )
    limits.add_argument(
        "--receive-buffer",
        type=whole(1),
        default=512 << 20,
        metavar="N",
        help="bytes of all bodies that are not yet answered; more are refused (503) (default: 512 MiB)",
    )
    limits.add_argument(
        "--queue",
        type=whole(1),
        default=256,
        metavar="N",
        help="images that are read or wait for the network; more are refused (503) (default: %(default)s)",
    )
    limits.add_argument(
        "--receive-timeout",
        type=whole(1),
        default=120,
        metavar="S",
        help="seconds for the body of a request (default: %(default)s)",
    )
    limits.add_argument(
        "--idle-timeout",
        type=whole(1),
        default=10,
        metavar="S",
        help="seconds in which nothing comes of a body (default: %(default)s)",
    )
    limits.add_argument(
        "--answer-timeout",
        type=whole(1),
        default=60,
        metavar="S",
        help="seconds from the last byte to the answer, else 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--drain",
        type=whole(0),
        default=3,
        metavar="S",
        help="seconds after SIGTERM in which /ready says 503 and requests are still taken (default: %(default)s)",
    )
    add_options(limits, ReadingOptions, defaults={"max_pixels": _MAX_PIXELS})
    batching = parser.add_argument_group("batching")
    batching.add_argument(
        "--max-wait",
        type=_milliseconds,
        default=5.0,
        metavar="MS",
        help="milliseconds that an image waits for others that are on their way (default: 5)",
    )
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
    add_loudness(parser.add_argument_group("messages"))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"lies between 0 and 65535, not {text}")
    return port


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 60_000:
        raise argparse.ArgumentTypeError(f"lies between 0 and 60000, not {text}")
    return value


_port.__name__ = "number"
_milliseconds.__name__ = "number"


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns 0."""
    for module, package in _PACKAGES.items():
        require(module, "serve", "miil21k serve", package=package)
    if args.queue < args.max_images:
        raise UsageError(f"--queue {args.queue} has no room for a request of --max-images {args.max_images}: raise it.")
    for name, least in (("max_body", "max_bytes"), ("receive_buffer", "max_body")):
        if getattr(args, name) < getattr(args, least):
            words = (f"--{word.replace('_', '-')}" for word in (name, least))
            raise UsageError("{} must be at least as large as {}.".format(*words))
    log_to_stderr(args)
    from miil21k.serve.server import bound

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until there is something to finish
    try:
        with bound(args.host, args.port) as listener, starting():
            _serve(args, listener)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _serve(args: argparse.Namespace, listener: socket.socket) -> None:
    from miil21k.predict.predictor import Predictor
    from miil21k.runtime.resolve import resolve
    from miil21k.serve.app import create_app
    from miil21k.serve.bodies import Buffer, Limits
    from miil21k.serve.query import Asked
    from miil21k.serve.server import run_server, url_of
    from miil21k.serve.service import serving

    options = _options(args)
    predictor = Predictor(args.model, options=options, loaded=resolve(args.model, options, make=make_export))
    settle()
    limits = Limits(
        args.max_bytes, args.max_images, args.receive_timeout, args.max_body, args.idle_timeout, args.answer_timeout
    )
    sizes = {"max_wait": args.max_wait / 1000, "queue": args.queue, "buffer": Buffer(args.receive_buffer)}
    with serving(predictor, workers=predictor.workers, **sizes) as service:
        service.warm_up()
        usual = Asked(predictor.options, value_of(args, RunOptions).label_type)
        app = create_app(service, usual, limits, allow_origin=args.allow_origin)
        run_server(
            app,
            listener,
            lambda: _announce(predictor, url_of(listener)),
            service.end,
            drain=args.drain,
            verbose=args.verbose,
        )


def _options(args: argparse.Namespace) -> PredictOptions:
    options = value_of(args, PredictOptions)
    if options.workers == 0:
        raise UsageError("--workers must be at least 1: a server reads images in threads.")
    return replace(options, resizer=resolve_resizer(options.resizer))


def _announce(predictor: Predictor, url: str) -> None:
    run = predictor.origin
    computed = f"{run.backend} on {run.device}, {run.dtype}"
    print(f"ready: {url} ({run.model}, {run.label_space}; {computed}; Ctrl-C ends it)", file=sys.stderr, flush=True)
