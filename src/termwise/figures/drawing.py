"""What every paper figure is made with: axes of a column's width, their look, titles, labels, files.

Nothing here, and nothing that a figure does, changes matplotlib's settings: rcParams are set inside a context, and what
matplotlib would look up later, when it draws, is set on the axes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from scipy.optimize import isotonic_regression

from termwise.errors import UsageError
from termwise.records import write_atomically
from termwise.report.palette import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {1: 3.25, 2: 6.75}
"""Inches: one column, and the full width, of ICML's two-column format."""
POINTS, TITLE = 7.0, 7.5  # sizes of text
THIN = 0.6  # of axes, ticks and whiskers, in points
FORMATS = (".svg", ".pdf", ".png")
_EDGE = 0.03  # inches left and right of a title
_FAR = 24.0  # points: lines so far from a label are not taken for its own
_TITLE_ID = "termwise-title"
_DPI = 200  # of a figure in a notebook, and of .png files
_STYLE = {
    "font.size": POINTS,
    "text.usetex": False,  # a per cent sign would begin a comment
    "axes.unicode_minus": True,
    "axes.linewidth": THIN,
    "axes.grid": False,
    "axes.autolimit_mode": "data",
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
_Drawn = TypeVar("_Drawn", bound=Callable[..., Any])


def colour(name: str) -> str:
    """A colour of the light theme; figures are printed on white."""
    return palette("light")[name]


def drawn(function: _Drawn) -> _Drawn:
    """A figure that leaves matplotlib's settings as they are.

    Raises:
        UsageError: when matplotlib cannot be imported.
    """

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        with _settings(_STYLE):
            return function(*args, **named)

    return call  # type: ignore[return-value]


@contextlib.contextmanager
def _settings(values: Any) -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(
            f"figures: matplotlib cannot be imported ({error}). Install it: pip install 'termwise[figures]'"
        ) from error
    with matplotlib.rc_context(values):
        yield


def panels(ax: Any, count: int, height: float, *, columns: Literal[1, 2] = 1, **grid: Any) -> tuple[list[Axes], bool]:
    """The Axes to draw into, and whether they are new.

    Args:
        ax: what the caller was given: None for a new figure, or as many Axes as there are panels.
        count: of the panels.
        height: of a new figure, in inches.
        columns: how wide a new figure is.
        grid: how the panels of a new figure are laid out, for `Figure.subplots`.

    Raises:
        UsageError: when there are more or fewer Axes than panels.
    """
    new = ax is None
    if new:
        given = list(np.ravel(_figure(WIDTHS[columns], height).subplots(**grid)))
    else:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != count:
            raise UsageError(
                f"this figure has {count} panel{'s' if count > 1 else ''}, and ax= {len(given)}: give as many Axes, as "
                f"from matplotlib.pyplot.subplots({count}), or omit it."
            )
    for one in given:
        _style(one)
    if new:
        given[0].figure.align_ylabels(given)
    return given, new


def _figure(width: float, height: float) -> Figure:
    """A figure: in a notebook one of pyplot, which is shown below the cell and then closed; else one that nobody keeps.

    pyplot keeps the figures that it makes until they are closed; a script that draws a hundred would hold them all.
    """
    size: dict[str, Any] = {"figsize": (width, height), "dpi": _DPI, "layout": "constrained", "facecolor": "white"}
    if _in_notebook():
        import matplotlib.pyplot as plt

        return plt.figure(**size)
    from matplotlib.figure import Figure

    return Figure(**size)


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _style(ax: Axes) -> None:
    ax.set_facecolor("white")
    ax.grid(False)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_linewidth(THIN)
        spine.set_edgecolor(colour("faint"))
    ax.tick_params(
        which="major", length=2.5, width=THIN, color=colour("faint"), labelcolor=colour("soft"), labelsize=POINTS
    )
    ax.tick_params(which="minor", length=0)


def name_axes(ax: Axes, x: str = "", y: str = "") -> None:
    """What the axes measure; names are text, never mathematics."""
    from matplotlib.ticker import AutoLocator, MaxNLocator

    if isinstance(ax.yaxis.get_major_locator(), AutoLocator):
        # Ticks that change with the size of the axes would change their size again.
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    for put, words in ((ax.set_xlabel, x), (ax.set_ylabel, y)):
        put(words, color=colour("soft"), fontsize=POINTS, labelpad=3, parse_math=False)


def finish(axes: Sequence[Axes], new: bool, title: bool, words: Callable[[], str]) -> None:
    """The title: above a new figure, from its left edge; above the first of the given Axes, no wider than they are."""
    if not title:
        return
    look: dict[str, Any] = {"fontsize": TITLE, "color": colour("ink"), "fontweight": "bold", "parse_math": False}
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    if new:
        text = figure.suptitle(wrapped(words(), figure.get_figwidth() - 2 * _EDGE), ha="left", **look)
        text.set(x=_EDGE / figure.get_figwidth(), gid=_TITLE_ID)
    else:
        boxes = [one.get_position() for one in axes]
        width = (max(box.x1 for box in boxes) - min(box.x0 for box in boxes)) * figure.get_figwidth()
        axes[0].set_title(wrapped(words(), width), loc="left", **look)


def wrapped(text: str, inches: float) -> str:
    """A title in as few lines as fit that width, by the measures of matplotlib's font, and these of equal length."""
    words = text.replace("\n", " ").split(" ")
    widths = [text_width(f"{word} ", TITLE, "bold") for word in words]
    lines = _lines(words, widths, 72 * inches)
    for narrower in np.arange(0.95, 0.5, -0.05):
        tried = _lines(words, widths, 72 * inches * narrower)
        if len(tried) > len(lines):
            break
        lines = tried
    return "\n".join(lines)


def _lines(words: Sequence[str], widths: Sequence[float], points: float) -> list[str]:
    lines, taken = [words[0]], widths[0]
    for word, width in zip(words[1:], widths[1:], strict=True):
        taken += width
        if taken <= points:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
            taken = width
    return lines


def text_width(text: str, points: float = POINTS, weight: str = "normal") -> float:
    """How wide a text is, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def name_lines(ax: Axes, lines: Sequence[Named], others: Sequence[tuple[Any, Any]] = ()) -> None:
    """Each line's name beside it, where it covers as little as may be of the lines; they are in their final limits.

    Args:
        ax: with linear axes.
        lines: to be named.
        others: further lines, x and y, not to be covered.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_position()
    size = 72 * np.array([box.width * figure.get_figwidth(), box.height * figure.get_figheight()])
    curves = [_dense(ax, x, y) * size for x, y in [*((line.x, line.y) for line in lines), *others]]
    taken: list[np.ndarray] = []
    for i, line in enumerate(lines):
        own, rest = curves[i], [*curves[:i], *curves[i + 1 :], *taken]
        half = np.array([text_width(line.words) / 2 + 1, 0.6 * POINTS])
        shifts = [np.array([sx * (half[0] + 2), sy * (half[1] + 1.5)]) for sx in (-1, 0, 1) for sy in (-1, 1)]
        centres = np.array([point + shift for point in own[:: max(1, len(own) // 60)] for shift in shifts])
        inside = ((centres >= half) & (centres <= size - half)).all(axis=1)
        centres = centres[inside] if inside.any() else centres
        cost = [_cost(centre, half, own, rest) for centre in centres]
        at = centres[int(np.argmin(cost))]
        taken.append(np.array([at + half * corner for corner in np.mgrid[-1:1:9j, -1:1:5j].reshape(2, -1).T]))
        look: dict[str, Any] = {"fontsize": POINTS, "color": line.colour, "ha": "center", "va": "center", "zorder": 6}
        ax.annotate(line.words, tuple(at / size), xycoords="axes fraction", parse_math=False, **look)


class Named(NamedTuple):
    """A line, and what is to be written beside it."""

    words: str
    colour: str
    x: Any
    y: Any


def _dense(ax: Axes, x: Any, y: Any) -> np.ndarray:
    """A line as many points, in fractions of the axes."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    fine = np.linspace(np.min(x), np.max(x), 301)
    return np.column_stack([(fine - left) / (right - left), (np.interp(fine, x, y) - bottom) / (top - bottom)])


def _cost(centre: np.ndarray, half: np.ndarray, own: np.ndarray, rest: Sequence[np.ndarray]) -> float:
    """How many points of lines a label covers; of labels that cover none the best is farthest from other lines."""
    distances = [np.max(np.abs(curve - centre) - half, axis=1) for curve in (own, *rest)]
    free = min((float(distance.min()) for distance in distances[1:]), default=_FAR)
    return sum(int((distance < 0).sum()) for distance in distances) - min(free, _FAR) / (2 * _FAR)


def words(ax: Axes, entries: Sequence[tuple[str, str]], *, right: bool, low: bool = False) -> None:
    """Coloured words, one below the other, in a corner: a key that needs no samples."""
    for i, (text, name) in enumerate(entries):
        look: dict[str, Any] = {"fontsize": POINTS, "color": colour(name), "va": "bottom" if low else "top"}
        look |= {"ha": "right" if right else "left", "xycoords": "axes fraction", "textcoords": "offset points"}
        lines = i - len(entries) + 1 if low else i  # down from the upper edge, or up from the lower one
        shift = (0, (3 if low else -2) - lines * 1.35 * POINTS)
        ax.annotate(text, (0.99 if right else 0.02, 0.0 if low else 1.0), shift, parse_math=False, **look)


def beside(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names of lines right of the plot, at the heights where the lines end but apart: (height, words, colour)."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    points = 72 * ax.get_position().height * figure.get_figheight()
    gap = 1.2 * POINTS / points
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    to_axes = ax.transScale + ax.transLimits
    heights = np.array([to_axes.transform((1.0, ends[i][0]))[1] for i in order])
    steps = gap * np.arange(len(ends))
    places = isotonic_regression(heights - steps).x + steps if len(ends) else heights
    for i, place in zip(order, places, strict=True):
        _, text, shade = ends[i]
        look: dict[str, Any] = {"fontsize": POINTS, "color": shade, "va": "center", "annotation_clip": False}
        ax.annotate(
            text, (1, place), (3, 0), xycoords="axes fraction", textcoords="offset points", parse_math=False, **look
        )


def whiskers(ax: Axes, x: Any, low: Any, high: Any) -> None:
    """95 % intervals as thin lines."""
    ax.vlines(x, low, high, color=colour("ink"), linewidth=THIN, zorder=4)


def depth_axis(axis: Any, depths: Sequence[int], margin: float = 0.7) -> None:
    """Whole depths at round distances."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axis.axes.set(**{f"{axis.axis_name}lim": (min(depths) - margin, max(depths) + margin)})


def save(drawing: Any, path: str | os.PathLike[str], *, columns: Literal[1, 2] = 1) -> Path:
    """Write a figure as .svg, .pdf or .png, as wide as one column of a paper (3.25 in) or two (6.75 in).

    The height stays as it is.  Text stays text: PDF carries TrueType fonts (type 42), SVG names them and leaves the
    letters to the viewer.  The same figure gives the same bytes, for nothing in the file says when it was written.

    Args:
        drawing: a Figure, an Axes, or several; the figure is left as it was.
        path: of the file.
        columns: 1 or 2.

    Returns:
        The path.

    Raises:
        UsageError: for another suffix, another number of columns, or what is no drawing.
    """
    place = Path(path)
    suffix = place.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: figures are saved as {', '.join(FORMATS)}; give the file one of these endings.")
    if columns not in WIDTHS:
        raise UsageError(f"columns={columns}: a figure is 1 column wide ({WIDTHS[1]} in) or 2 ({WIDTHS[2]} in).")
    settings = {"svg.fonttype": "none", "svg.hashsalt": "termwise", "pdf.fonttype": 42, "savefig.bbox": None}
    date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[suffix]
    with _settings(settings):
        figure = _figure_of(drawing)
        with _resized(figure, WIDTHS[columns]):
            options: dict[str, Any] = {"format": suffix[1:], "metadata": date, "dpi": 300, "facecolor": "white"}
            return write_atomically(place, lambda file: figure.savefig(file, **options))


@contextlib.contextmanager
def _resized(figure: Figure, width: float) -> Iterator[None]:
    """A figure of another width, its title in other lines; afterwards as it was.

    The layout that matplotlib finds depends a little on that which was there: axes are put back where they were, too.
    """
    size = figure.get_size_inches()
    titles = [text for text in figure.texts if text.get_gid() == _TITLE_ID]
    before = [(text.get_text(), text.get_position()) for text in titles]
    places = [(ax, ax.get_position(True), ax.get_position(), ax.get_in_layout()) for ax in figure.axes]
    try:
        figure.set_size_inches(width, size[1], forward=False)
        for text in titles if width != size[0] else ():
            text.set(text=wrapped(text.get_text(), width - 2 * _EDGE), x=_EDGE / width)
        yield
    finally:
        figure.set_size_inches(*size, forward=False)
        for text, (words, place) in zip(titles, before, strict=True):
            text.set(text=words, position=place)
        for ax, original, active, in_layout in places:
            ax.set_position(original, which="original")
            ax.set_position(active, which="active")
            ax.set_in_layout(in_layout)


def _figure_of(drawing: Any) -> Figure:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    several = np.ravel(np.asarray(drawing, dtype=object))
    first = drawing if isinstance(drawing, Figure | Axes) else next(iter(several), None)
    if isinstance(first, Figure):
        return first
    figure = first.get_figure(root=True) if isinstance(first, Axes) else None
    if figure is None:
        raise UsageError(f"save takes a Figure or Axes, not a {type(drawing).__name__}.")
    return figure
