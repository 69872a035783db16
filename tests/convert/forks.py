"""Scripts run by another Python that has imported what they need: each in a fork, so that none sees another.

torch and transformers take ten seconds of a processor to import, most scripts take less than one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["run_forked"]

# Standard input: a JSON object a line, {script, arguments, output}. Standard output: the exit code of each.
_SERVER = """
import importlib, json, os, sys, traceback
paths, modules = json.loads(sys.argv[1])
sys.path[:0] = paths
for name in modules:
    importlib.import_module(name)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["-c", *job["arguments"]]
            exec(compile(job["script"], "<script>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_forked(
    python: Path,
    paths: Sequence[str],
    modules: Sequence[str],
    script: str,
    arguments: Sequence[str],
    output: Path,
    timeout: float = 600.0,
) -> int:
    """Run `script` in a fork of `python` that has imported `modules`; return its exit code.

    What it prints goes to the file `output`. Raises `TimeoutError`.
    """
    server = _server(python, tuple(paths), tuple(modules))
    assert server.stdin is not None
    assert server.stdout is not None
    job = {"script": script, "arguments": list(arguments), "output": str(output)}
    server.stdin.write(json.dumps(job).encode() + b"\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        raise TimeoutError(f"the script runs longer than {timeout:.0f} s")
    line = server.stdout.readline()
    assert line, f"{python} ended: it cannot import {', '.join(modules)}"
    return int(line)


@functools.cache
def _server(python: Path, paths: tuple[str, ...], modules: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [str(python), "-c", _SERVER, json.dumps([paths, modules])]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        server.kill()
    server.communicate()
