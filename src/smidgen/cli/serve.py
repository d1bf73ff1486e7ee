"""Serve a model over HTTP: the interface that OpenAI's clients speak, and a chat page at /.

Example: smidgen serve runs/assistant
         smidgen serve runs/assistant --engine edge --threads 4
         SMIDGEN_API_KEY=… smidgen serve runs/assistant --host 0.0.0.0 --allowed-host models.example.org

It listens on 127.0.0.1 only, unless told otherwise; other addresses need an API key, from the variable SMIDGEN_API_KEY
or the file that --api-key-file names. Ctrl-C (or SIGTERM) lets open answers finish, then ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from smidgen.cli.engines import add_engine_flags, open_engine


def configure(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: 8000)")
    parser.add_argument("--name", metavar="TEXT", help="what clients call the model (default: its folder's name)")
    parser.add_argument("--max-batch-size", type=int, default=8, metavar="N", help="answers at once (default: 8)")
    parser.add_argument(
        "--max-seq-len", type=int, metavar="N", help="tokens of prompt and answer (default: the model's)"
    )
    group = parser.add_argument_group("limits")
    group.add_argument("--max-waiting", type=int, default=64, metavar="N", help="answers that may wait (default: 64)")
    group.add_argument(
        "--request-timeout", type=float, default=300, metavar="S", help="seconds a request (default: 300)"
    )
    group.add_argument("--drain-timeout", type=float, default=30, metavar="S", help="seconds to finish (default: 30)")
    group = parser.add_argument_group("access")
    group.add_argument("--api-key-file", metavar="FILE", help="file with the key that requests must carry")
    group.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="name of this server; repeatable"
    )
    group.add_argument(
        "--cors-origin", action="append", default=[], metavar="URL", help="origin whose pages may call; repeatable"
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.serving import ServerSettings, serve

    settings = ServerSettings(
        host=args.host,
        port=args.port,
        api_key=_api_key(args.api_key_file),
        allowed_hosts=tuple(args.allowed_host),
        cors_origins=tuple(args.cors_origin),
        max_waiting=args.max_waiting,
        request_timeout=args.request_timeout,
        drain_timeout=args.drain_timeout,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    engine, tokenizer = open_engine(
        args.model,
        args.engine,
        device=args.device,
        precision=args.precision,
        max_batch_size=args.max_batch_size,
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        speculate=args.speculate,
        cache=args.cache,
    )
    name = args.name or Path(args.model).resolve().name

    def ready(url: str) -> None:
        info = engine.info
        print(
            f"{name}: {info.num_parameters:,} parameters, {info.engine} engine, context of {info.max_seq_len} tokens, "
            f"{info.max_batch_size} answers at once",
            file=sys.stderr,
        )
        print(f"chat at {url}   API at {url}/v1   (Ctrl-C ends)", flush=True)

    serve(engine, tokenizer, name, settings, ready)
    return 0


def _api_key(file: str | None) -> str | None:
    """From the file, else from the environment: a flag's value would show in the list of processes."""
    from smidgen.serving import ServerError

    if file is None:
        return os.environ.get("SMIDGEN_API_KEY") or None
    key = Path(file).read_text(encoding="utf-8").strip()
    if not key:
        raise ServerError(f"{file}: empty; write the key into it")
    return key
