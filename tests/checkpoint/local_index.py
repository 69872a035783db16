"""A wheel of nothing, so that pip itself can be run without a network."""

from __future__ import annotations

import zipfile
from pathlib import Path

__all__ = ["write_wheel"]


def write_wheel(
    directory: Path, name: str, version: str, modules: tuple[str, ...] = (), script: str | None = None
) -> Path:
    """Write a valid wheel of empty `modules`, and a `script` that prints its version, to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = directory / f"{stem}-py3-none-any.whl"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    if script:
        files["entry_points.txt"] = f"[console_scripts]\n{script} = {modules[0]}:main\n"
    with zipfile.ZipFile(path, "w") as archive:
        for module in modules:
            archive.writestr(f"{module}.py", f"def main() -> None:\n    print({version!r})\n")
        for file, text in files.items():
            archive.writestr(f"{stem}.dist-info/{file}", text)
    return path
