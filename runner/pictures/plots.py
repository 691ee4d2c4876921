"""Plots, with matplotlib, which is imported when the first one is drawn.

Names of classes are texts of the user's: nothing in them is taken for mathematics, and where no font has their letters
the number of the class stands in their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner import metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

POINTS = 2000
"""To which a line is thinned out: more than a plot has pixels across."""


def schedule(rates: Mapping[str, np.ndarray[Any, Any]], steps_per_epoch: int) -> Figure:
    """Learning rates over the steps of a run, by the name of the group, with the epochs on top."""
    figure, axes = _axes("step", "learning rate")
    names: dict[bytes, list[str]] = {}
    for name, values in rates.items():
        names.setdefault(values.tobytes(), []).append(name)
    for same in names.values():  # one line for groups that have one rate
        values = rates[same[0]]
        steps = np.arange(0, len(values), max(1, len(values) // POINTS))
        axes.plot(steps, values[steps], label="; ".join(same), drawstyle="steps-post")
    if 1 < len(names) <= 12:
        axes.legend(fontsize="small")
    axes.set_ylim(bottom=0)
    axes.secondary_xaxis("top", (lambda s: s / steps_per_epoch, lambda e: e * steps_per_epoch)).set_xlabel("epoch")
    return figure


def rate_search(rates: np.ndarray[Any, Any], losses: np.ndarray[Any, Any], smooth: np.ndarray[Any, Any],
                suggestion: float | None) -> Figure:  # fmt: skip
    """The training loss over learning rates that grow from step to step."""
    figure, axes = _axes("learning rate", "training loss")
    axes.plot(rates, losses, color="0.75", linewidth=1, label="loss of the step")
    axes.plot(rates, smooth, label="smoothed")
    axes.set_xscale("log")
    if np.isfinite(smooth[0]):  # else no loss was finite
        lowest, first = float(np.nanmin(smooth)), float(smooth[0])
        span = max(first - lowest, 0.1 * abs(first), 1e-12)
        axes.set_ylim(lowest - 0.2 * span, first + 0.5 * span)
    if suggestion is not None:
        axes.axvline(suggestion, color="C1", linestyle="--", label=f"suggested: {suggestion:.2g}")
    axes.legend(fontsize="small")
    return figure


def confusion(matrix: Array, classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix, (C, C), in counts and as shares of each true class. Few classes have numbers and names, many
    have colours alone."""
    count, names = len(matrix), labels(classes)
    side = min(max(3.0, 0.36 * count), 7.0)  # inches
    left, below = 0.75 + 0.07 * max(map(len, names)), 0.6 + 0.07 * max(map(len, names))
    width, height = 2 * (left + side + (1.1 if count > 20 else 0.4)), below + side + 0.4
    figure = _figure(width, height, layout=None)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    shown, size = range(0, count, -(-count // 50)), 8 if count <= 20 else 5
    for number, (values, name) in enumerate([(matrix, "samples"), (shares, "fraction of the true class")]):
        axes = figure.add_axes(((left + number * width / 2) / width, below / height, side / width, side / height))
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1 if values is shares else None)
        axes.set_title(f"{title}: {name}", fontsize=9)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(shown, [names[n] for n in shown], rotation=90, fontsize=size)
        axes.set_yticks(shown, [names[n] for n in shown], fontsize=size)
        if count > 20:
            figure.colorbar(image, ax=axes, fraction=0.04)
            continue
        for row, column in np.argwhere(values):
            value = values[row, column]
            text = f"{value:.2f}" if values is shares else f"{value:,}"
            colour = "w" if value > values.max() / 2 else "k"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    return _plain(figure)


def ranking(truth: Array, probabilities: Array, classes: Sequence[str], title: str) -> Figure:
    """ROC and precision–recall, one class against the rest, and the reliability diagram.

    Args:
        truth: (N,) class indices, or (N, C) of 0 and 1.
        probabilities: (N, C)
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    flags = metric.one_hot(truth, probabilities)
    both = metric.with_both(flags)
    few = both[1:] if flags.shape[1] == 2 and truth.ndim == 1 else both if len(both) <= 10 else []
    names = labels(classes)
    figure = _figure(13.0, 4.2, layout=None)
    roc, recall, reliable = figure.subplots(1, 3)
    figure.subplots_adjust(0.05, 0.12, 0.99, 0.92, 0.18)
    lines = [(flags[:, c], probabilities[:, c], names[c], 1.0) for c in few]
    lines += [(flags[:, both].ravel(), probabilities[:, both].ravel(), "all classes", 2.5)] if len(few) != 1 else []
    for right, chance, name, width in lines if both else []:
        style = {"label": name, "linewidth": width, "color": "k" if width > 1 else None}
        false, true, _ = roc_curve(right, chance)
        roc.plot(*_thinned(false, true), **style)
        precision, found, _ = precision_recall_curve(right, chance)
        recall.plot(*_thinned(found, precision), **style)
    roc.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    roc.set(title=f"{title}: ROC", xlabel="false positive rate", ylabel="true positive rate")
    recall.set(title="precision–recall", xlabel="recall", ylabel="precision")
    recall.legend(fontsize=7)
    _reliability(reliable, truth, probabilities)
    for axes in (roc, recall, reliable):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    return _plain(figure)


def _reliability(axes: Any, truth: Array, probabilities: Array, bins: int = 10) -> None:
    """Accuracy over confidence, in bins of equal width (Guo et al., "On Calibration of Modern Neural Networks", 2017,
    figure 1); of several classes per sample, the share that is right over what was said of each."""
    several = truth.ndim > 1
    confidence = probabilities.ravel() if several else probabilities.max(1)
    right = truth.ravel() if several else probabilities.argmax(1) == truth
    where = metric.bin_of(confidence, bins)
    counts = np.bincount(where, minlength=bins)
    accuracy = np.bincount(where, right, bins) / np.maximum(counts, 1)
    middle = (np.arange(bins) + 0.5) / bins
    label = "fraction of positives" if several else "accuracy"
    axes.bar(middle, accuracy, 0.9 / bins, color="C0", alpha=0.8, label=label)
    axes.step(np.arange(bins + 1) / bins, np.append(counts, counts[-1]) / max(counts.sum(), 1), where="post",
              color="C1", label="fraction of samples")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--")
    axes.set(title="reliability diagram", xlabel="confidence")
    axes.legend(fontsize=7, loc="upper left")


def residuals(truth: Array, said: Array, title: str) -> Figure:
    """What was said over what is true, and how far it is off, for the first four values of a sample: (N,) or (N, K)."""
    truth, said = truth.reshape(len(truth), -1), said.reshape(len(said), -1)
    shown = min(truth.shape[1], 4)
    figure = _figure(9.0, 3.4 * shown)
    for row, (over, off) in enumerate(figure.subplots(shown, 2, squeeze=False)):
        true, found = truth[:POINTS, row], said[:POINTS, row]
        over.scatter(true, found, s=8, alpha=0.5)
        ends = [min(true.min(), found.min()), max(true.max(), found.max())]
        over.plot(ends, ends, color="0.5", linestyle="--")
        name = title if shown == 1 else f"{title}, target {row}"
        over.set(title=name, xlabel="true", ylabel="predicted")
        off.hist(said[:, row] - truth[:, row], bins=30)
        off.set(title="residuals", xlabel="predicted − true", ylabel="samples")
    return _plain(figure)


TILE, GAP, CAPTION = 96, 10, 34
"""Pixels of a picture's side, between pictures, and for what stands under one."""


def pictures(rows: Sequence[Sequence[Array]], captions: Sequence[str], names: Sequence[str], title: str) -> Figure:
    """Pictures in rows, with a caption under each column.

    Args:
        rows: each of n pictures, (H, W) or (H, W, 3), 0 … 1. Those of one row need not be as large as those of another.
        captions: n of them.
        names: one for each row.
    """
    per_line = min(len(captions), 8)
    block = len(rows) * (TILE + GAP) + CAPTION
    margin = 24 if any(names) else 4
    width = margin + per_line * (TILE + GAP)
    height = 28 + -(-len(captions) // per_line) * block
    # On one canvas: axes for each would take many times as long.
    canvas = np.ones((height, width, 3))
    figure = _figure(width / DPI, height / DPI, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, caption in enumerate(captions):
        line, column = divmod(number, per_line)
        left, top = margin + column * (TILE + GAP), 28 + line * block
        for row, held in enumerate(rows):
            above = top + row * (TILE + GAP)
            canvas[above : above + TILE, left : left + TILE] = _tile(held[number])
            if column == 0:
                axes.text(margin / 2, above + TILE / 2, names[row], rotation=90, ha="center", va="center", fontsize=7)
        axes.text(left + TILE / 2, top + block - CAPTION - 6, caption, ha="center", va="top", fontsize=7)
    axes.text(width / 2, 14, title, ha="center", va="center", fontsize=9)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    return _plain(figure)


def _tile(picture: Array) -> Array:
    """A picture, (H, W) or (H, W, 3), as large as its place and in its middle: (TILE, TILE, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(picture))).permute(2, 0, 1)[None].float()
    height, width = pixels.shape[2:]
    scale = TILE / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    mode = "nearest" if scale >= 1 else "area"
    drawn = torch.nn.functional.interpolate(pixels, size, mode=mode)[0].expand(3, -1, -1)
    tile = torch.ones(3, TILE, TILE)
    above, left = (TILE - size[0]) // 2, (TILE - size[1]) // 2
    tile[:, above : above + size[0], left : left + size[1]] = drawn
    return np.asarray(tile.permute(1, 2, 0))


def labels(classes: Sequence[str]) -> list[str]:
    """Names that fit on an axis, in letters that there are."""
    shown = [_drawable(name) or f"class {number}" for number, name in enumerate(classes)]
    return [name if len(name) <= 18 else name[:17] + "…" for name in shown]


def file_label(path: str, number: int) -> str:
    """The end of a path, as far as it fits under a picture; the number of the sample where no font has its letters."""
    line = _drawable(path) or str(number)
    return line if len(line) <= 20 else "…" + line[-19:]


def _drawable(text: str) -> str:
    """A text on one line; nothing where no font has its letters."""
    line = " ".join(text.split())
    return line if all(map(_has_letter, set(line))) else ""


@cache
def _has_letter(letter: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return letter == " " or any(get_font(findfont(font)).get_char_index(ord(letter)) for font in _fonts())


@cache
def _fonts() -> tuple[str, ...]:
    """matplotlib's own font, and those of this machine that have many letters."""
    from matplotlib.font_manager import fontManager

    wide = re.compile(r"CJK|WenQuanYi|Unifont|Arial Unicode|IPAGothic|Noto Sans( |$)")
    return ("DejaVu Sans", *sorted({font.name for font in fontManager.ttflist if wide.search(font.name)}))


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    step = max(1, len(x) // POINTS)
    keep = np.unique(np.append(np.arange(0, len(x), step), len(x) - 1))
    return x[keep], y[keep]


def _plain(figure: Figure) -> Figure:
    """With every text taken as it is."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(_fonts())
    return figure


DPI = 110


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure, in inches. With a layout it finds its margins itself, by drawing itself twice."""
    from matplotlib.figure import Figure  # without pyplot, which keeps figures alive and looks for a screen

    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def to_image(figure: Figure) -> Tensor:
    """A figure as an image: (3, height, width) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba()).copy())  # (height, width, 4)
    return pixels[..., :3].permute(2, 0, 1)
