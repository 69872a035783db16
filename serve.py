"""The runtime's front door: `python serve.py ENGINE MODEL` is `portside serve ENGINE MODEL`."""

from __future__ import annotations

import sys

from cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
