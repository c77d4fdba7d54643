"""Plots of a run as PNG files: history, confusion matrix, training batch. Equal input gives equal files.

Figures are drawn without pyplot, so they need no display and change no global state. Matplotlib is
imported inside the functions that draw, so that a run starts without it.
"""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np

from cifar_jax.data import masks
from cifar_jax.reporting import reports
from cifar_jax.system import files

# Okabe and Ito's palette, which works for every kind of colour vision.
COLOURS = {"train": "#0072B2", "validation": "#009E73", "test": "#D55E00"}
DPI = 100


def plot_history(path: str | os.PathLike, history: Sequence[dict], title: str) -> None:
    """Writes a PNG of loss, accuracy and learning rate over the epochs; `history` as in `reports`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Segmentation has a panel more.
    quantities = [("loss", 1), ("accuracy", 100)]
    quantities += [("mean_iou", 100)] if "test_mean_iou" in history[0] else []
    height = 3 * len(quantities)
    figure = Figure(figsize=(8, 3 + height), layout="constrained")
    ratios = (3,) * len(quantities) + (1.3,)
    *panels, rate = figure.subplots(len(ratios), sharex=True, height_ratios=ratios)
    loss = panels[0]
    epochs = [entry["epoch"] for entry in history]
    style = {"marker": "o", "markersize": 4} if len(history) <= 20 else {}
    for key, split in reports.SPLITS.items():
        if f"{key}_loss" not in history[0]:
            continue
        for axes, (quantity, scale) in zip(panels, quantities, strict=True):
            if f"{key}_{quantity}" not in history[0]:
                continue  # the mean IoU of training
            values = [scale * entry[f"{key}_{quantity}"] for entry in history]
            axes.plot(epochs, values, color=COLOURS[split], label=split, linewidth=1.5, **style)
    rates = [entry["learning_rate"] for entry in history]
    rate.plot(epochs, rates, color="#444444", drawstyle="steps-mid", linewidth=1.5, **style)

    figure.suptitle(title, parse_math=False, fontsize=12)
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)
    # Above the axes, where it hides no curve.
    loss.legend(
        frameon=False, ncols=len(reports.SPLITS), loc="lower right", bbox_to_anchor=(1, 0.99)
    )
    for axes, (quantity, _) in zip(panels[1:], quantities[1:], strict=True):
        axes.set_ylabel(quantity.replace("_iou", " IoU").replace("_", " "))
        axes.yaxis.set_major_formatter("{x:g} %")
    rate.set_ylabel("learning rate")
    # Step decay reads best on a logarithmic axis; a smooth decay to nearly 0 does not.
    if min(rates) > 0 and max(rates) >= 5 * min(rates) and 4 * len(set(rates)) <= len(rates):
        rate.set_yscale("log")
    else:
        rate.set_ylim(0, 1.15 * max(rates) or 1)
        rate.yaxis.set_major_formatter("{x:g}")
        rate.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(history) == 1:
        rate.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    for axes in (*panels, rate):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    save(path, figure)


def plot_confusion(
    path: str | os.PathLike, confusion: np.ndarray, class_names: Sequence[str]
) -> None:
    """Writes a PNG of a confusion matrix: counts [true class, predicted class].

    Colours show shares of the true class, so that classes of different sizes compare. Counts that do not fit
    their cells (of pixels) are written as these shares, in per cent.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    confusion = np.asarray(confusion)
    count = len(class_names)
    with_numbers = count <= 20
    side = 4 + 0.55 * count if with_numbers else 14
    figure = Figure(figsize=(side, 0.9 * side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # A square-root scale makes the errors visible beside the much larger diagonal.
    image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.ax.yaxis.set_major_formatter("{x:g} %")
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    # More than a hundred names would not be readable: the axes then show class numbers.
    if count <= 100:
        font_size = 10 if with_numbers else max(5.5, 9 - count / 30)
        axes.set_xticks(
            range(count), class_names, rotation=90, fontsize=font_size, parse_math=False
        )
        axes.set_yticks(range(count), class_names, fontsize=font_size, parse_math=False)
    axes.tick_params(length=2)
    if with_numbers:
        for (row, column), number in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 0.35 else "black"
            text = str(number) if confusion.max() < 100_000 else f"{100 * shares[row, column]:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    save(path, figure, DPI if with_numbers else 1.5 * DPI)


def plot_batch(
    path: str | os.PathLike,
    images: np.ndarray,
    labels: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Writes a PNG of up to 64 images of a batch: float [batch, height, width, channel], normalised.

    Normalisation is undone, and each pixel is drawn as a square, so that augmentation is visible.
    """
    plot_images(path, _pixels(images[:64], mean, std), labels)


def plot_masked_batch(
    path: str | os.PathLike,
    images: np.ndarray,
    batch_masks: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    colours: Sequence[tuple],
) -> None:
    """`plot_batch` for segmentation: masks uint8 [batch, height, width] over their images, and a legend."""
    images = _pixels(images[:64], mean, std)
    images = masks.overlay(images, np.asarray(batch_masks[:64]), colours)
    plot_images(path, images, (), list(zip(class_names, colours, strict=True)))


def _pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    images = np.asarray(images, np.float32) * np.float32(std) + np.float32(mean)
    return np.rint(255 * images.clip(0, 1)).astype(np.uint8)


def plot_images(
    path: str | os.PathLike,
    images: np.ndarray,
    labels: Sequence[str],
    legend: Sequence[tuple[str, tuple]] = (),
) -> None:
    """Writes a PNG of images uint8 [number, height, width, 3] side by side.

    Args:
      path: the file.
      images: small ones are enlarged by a whole number.
      labels: a text below each image, or none at all.
      legend: (name, (red, green, blue)) of classes, drawn below all images.
    """
    from matplotlib.figure import Figure

    legend = Legend(list(legend))
    number, height, width, _ = images.shape
    zoom = max(1, 128 // max(height, width))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    columns = min(8, int(np.ceil(np.sqrt(number))))
    rows = -(-number // columns)
    # Pixels between images, and for the label below each.
    gap, strip = 10, 20 if len(labels) else 10
    cell_height, cell_width = images.shape[1] + strip, images.shape[2] + gap
    total_width, bottom = columns * cell_width + gap, rows * cell_height + gap
    sheet = np.full((bottom + legend.height(total_width - 2 * gap), total_width, 3), 255, np.uint8)
    figure = Figure(figsize=(sheet.shape[1] / DPI, sheet.shape[0] / DPI))
    # Axes over the whole figure, in units of the file's pixels: nothing is resampled.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # A letter is about 0.6 times its font size wide; 72 points are an inch.
    longest = max((len(label) for label in labels[:number]), default=0)
    font_size = min(9, images.shape[2] / DPI * 72 / 0.6 / max(longest, 1))
    for index, image in enumerate(images):
        top, left = index // columns * cell_height + gap, index % columns * cell_width + gap
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    for index, label in enumerate(labels[:number]):
        top, left = index // columns * cell_height + gap, index % columns * cell_width + gap
        axes.text(
            left + images.shape[2] / 2,
            top + images.shape[1] + 13,
            label,
            ha="center",
            va="baseline",
            fontsize=font_size,
            parse_math=False,
        )
    legend.draw(axes, gap, bottom, total_width - 2 * gap)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    save(path, figure)


@dataclasses.dataclass(frozen=True)
class Legend:
    """The colours of classes with their names, in rows; in units of the file's pixels.

    `entries` are (name, (red, green, blue)).
    """

    entries: list[tuple[str, tuple[int, int, int]]]
    line: int = 22

    def _places(self, width: float) -> list[tuple[float, int]]:
        """(left, row) of each entry."""
        places, left, row = [], 0.0, 0
        for name, _ in self.entries:
            needed = 36 + 7.5 * min(len(name), 30)
            if left and left + needed > width:
                left, row = 0.0, row + 1
            places.append((left, row))
            left += needed
        return places

    def height(self, width: float) -> int:
        """The height of all rows; 0 without entries."""
        places = self._places(width)
        return self.line * (places[-1][1] + 1) + 8 if places else 0

    def draw(self, axes, left: float, top: float, width: float) -> None:
        """Draws the rows into axes over a whole figure."""
        from matplotlib.patches import Rectangle

        places = self._places(width)
        for (name, colour), (x, row) in zip(self.entries, places, strict=True):
            y = top + self.line * row
            box = Rectangle((left + x, y), 14, 14, color=np.divide(colour, 255), linewidth=0)
            axes.add_patch(box)
            shown = name if len(name) <= 30 else f"{name[:29]}…"
            axes.text(left + x + 20, y + 11.5, shown, fontsize=9, va="baseline", parse_math=False)


def save(path: str | os.PathLike, figure, dpi: float = DPI) -> None:
    """Writes a Matplotlib figure as a PNG, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the "Software" entry, the file depends on the data alone.
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    files.write_bytes(path, buffer.getvalue())
