"""What a server in the background runs first: it writes its own entry, then becomes the server.

Run by path with the standard library only: `python -I -S enrol.py ENTRY FACTS LOCK ARGV…`. To the JSON object
FACTS the process id and the birth of this very process are added, which stay the same through `exec`. The
descriptor LOCK holds the lock of all entries: this process has inherited it, so that nobody looks between the
birth of a server and its entry, even when the command that starts it is killed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> int:
    entry, facts, lock, *argv = sys.argv[1:]
    born = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    partial = Path(entry + ".part")
    partial.write_text(json.dumps({**json.loads(facts), "pid": os.getpid(), "born": born}) + "\n")
    partial.replace(entry)
    os.close(int(lock))
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.stderr.write(f"Cannot run {argv[0]}: {error.strerror}.\n")
    return 127


if __name__ == "__main__":
    sys.exit(main())
