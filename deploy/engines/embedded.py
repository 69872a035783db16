"""The embedded engine: llama.cpp's real server, out of the xllamacpp wheel, as a process of its own.

Run by path (`python -P embedded.py --model FILE.gguf …`) so that nothing of Portside has to be importable.
The flags are llama-server's own; the API key comes in the environment (LLAMA_API_KEY), where `ps` does not
show it. SIGTERM and SIGINT end it with status 0.

Does not know checkpoints, templates or health.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

MISSING_PACKAGE = 3
FAILED = 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options; they are named as llama-server names them."""
    parser = argparse.ArgumentParser(prog="embedded", description="llama.cpp's server in this process.")
    parser.add_argument("-m", "--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-a", "--alias", help="the model's name in the API")
    parser.add_argument("-c", "--ctx-size", type=int, default=0, help="tokens; 0: as trained")
    parser.add_argument("-np", "--parallel", type=int, default=1, help="requests served at the same time")
    parser.add_argument("-t", "--threads", type=int, help="for generation")
    parser.add_argument("-ngl", "--n-gpu-layers", type=int, default=-1, help="-1: as many as fit")
    parser.add_argument("-b", "--batch-size", type=int)
    parser.add_argument("-ub", "--ubatch-size", type=int)
    parser.add_argument(
        "--chat-template-kwargs", type=json.loads, help="a JSON object: variables for every chat template"
    )
    parser.add_argument("--chat-template-file", type=Path, help="a Jinja file; default: the GGUF's own")
    parser.add_argument(
        "--lora", type=Path, action="append", default=[], help="a GGUF file of an adapter (repeatable)"
    )
    parser.add_argument("--metrics", action="store_true", help="serve /metrics")
    return parser.parse_args(arguments)


def configure(options: argparse.Namespace, params: Any) -> Any:
    """Fill xllamacpp's `CommonParams` from the options."""
    params.model.path = str(options.model)
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    # a context that is shared by the slots on demand, so that one long chat may use all of it
    params.kv_unified = options.parallel > 1
    params.n_gpu_layers = options.n_gpu_layers
    params.use_jinja = True
    params.endpoint_metrics = options.metrics
    if options.alias:
        params.model_alias = {options.alias}
    if options.chat_template_file:
        params.chat_template = options.chat_template_file.read_text(encoding="utf-8")
    if options.chat_template_kwargs:
        params.default_template_kwargs = {k: json.dumps(v) for k, v in options.chat_template_kwargs.items()}
    if options.lora:
        params.lora_adapters = [_adapter(path) for path in options.lora]
    if key := os.environ.pop("LLAMA_API_KEY", ""):
        params.api_keys = [key]
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.batch_size:
        params.n_batch = options.batch_size
    if options.ubatch_size:
        params.n_ubatch = options.ubatch_size
    return params


def _adapter(path: Path) -> Any:
    import xllamacpp

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), 1.0
    return adapter


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    options = parse()
    try:
        import xllamacpp
    except ImportError as error:
        sys.stderr.write(f"embedded: {error}: pip install xllamacpp\n")
        return MISSING_PACKAGE
    try:
        # while the model loads, signals keep their default: a handler would only run after the load
        server = xllamacpp.Server(configure(options, xllamacpp.CommonParams()))
    except (RuntimeError, OSError, ValueError) as error:
        sys.stderr.write(f"embedded: the server did not start: {error}\n")
        return FAILED
    sys.stderr.write(f"embedded: listening on {server.listening_address}\n")
    # not by closing the server: it would wait for the answers under way, and never end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
