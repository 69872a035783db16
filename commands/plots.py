"""Figures: PNG (or whatever matplotlib writes) with the extra `plot`, and bars on a terminal without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import EngineMissing, OutputError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bars", "new_figure", "require_plot", "save_figure"]

_WIDTH = 40
"""Characters of the longest bar."""


def require_plot(path: Path | None) -> None:
    """Raise at once what would keep a figure from being written when all is measured."""
    if path is None:
        return
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise EngineMissing(
            "A figure needs matplotlib, which is not installed.", hint="pip install 'portside[plot]'"
        ) from error
    from matplotlib.backend_bases import FigureCanvasBase

    mpl.use("Agg")  # no display is needed
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise UsageError(f"{path} is no kind of figure.", hint=f"Kinds: {', '.join(sorted(known))}.")


def new_figure(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Any]]:
    """Return a figure of `width` by `height` inches with axes side by side."""
    from matplotlib import figure

    drawn = figure.Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(1, columns, squeeze=False)
    return drawn, list(axes[0])


def save_figure(drawn: Figure, path: Path) -> None:
    """Write the figure in one step. Raises `OutputError`."""
    from files import replacing

    try:
        with replacing(path) as stream:
            drawn.savefig(stream, format=path.suffix.lower().removeprefix("."), dpi=150)
    except ValueError as error:
        raise OutputError(f"Cannot write {path}: {error}.") from error


def bars(values: Mapping[str, float], unit: str) -> list[str]:
    """Return one line a value: its name, a bar as long as it is large, and the number."""
    longest = max(values.values(), default=0.0)
    names = max(map(len, values), default=0)
    lines = []
    for name, value in values.items():
        eighths = round(value / longest * _WIDTH * 8) if longest > 0 else 0
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        lines.append(f"{name:<{names}}  {bar} {value:.4g} {unit}".rstrip())
    return lines
