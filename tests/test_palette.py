"""The colours of page.css against what readers can see: contrast, lightness, and colour vision that lacks a cone.

Every formula is written out here from its source, and shares nothing with the package but the names of the colours.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import termwise.report
from termwise.report.palette import on, palette, ramp, spread, stops

THEMES = ("light", "dark")
TEXT = 4.5  # WCAG 2.2, success criterion 1.4.3: text
MARK = 3.0  # WCAG 2.2, success criterion 1.4.11: graphics without which the content cannot be understood
# A just noticeable difference is about 1 CIEDE2000 for large patches side by side. Marks are thin and stand apart, so
# names, which nothing but their colour and a key tells apart, are to differ by ten times as much; degrees and depths,
# which are ordered (and labelled where they end), by six.
NAMES, ORDERED = 10.0, 6.0

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE Transactions on Visualization and Computer Graphics 15(6), 2009: severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# IEC 61966-2-1, white D65.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #rrggbb."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of relative luminances, the lighter one first."""
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, vision: str = "normal") -> np.ndarray:
    """CIELAB, as an eye of that kind sees it."""
    rgb = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    t = TO_XYZ @ rgb / (TO_XYZ @ np.ones(3))
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one: np.ndarray, other: np.ndarray) -> float:
    """G. Sharma, W. Wu, E. N. Dalal, Color Research and Application 30(1), 2005, equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    dh = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc, dhue = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    ml, mc = (l1 + l2) / 2, (c1 + c2) / 2
    mh = h1 + h2 if c1 * c2 == 0 else (h1 + dh / 2) % 360
    t = 1 - 0.17 * np.cos(np.radians(mh - 30)) + 0.24 * np.cos(np.radians(2 * mh))
    t += 0.32 * np.cos(np.radians(3 * mh + 6)) - 0.20 * np.cos(np.radians(4 * mh - 63))
    turn = -np.sin(np.radians(60 * np.exp(-(((mh - 275) / 25) ** 2)))) * 2 * np.sqrt(mc**7 / (mc**7 + 25.0**7))
    sl = 1 + 0.015 * (ml - 50) ** 2 / np.sqrt(20 + (ml - 50) ** 2)
    x, y, z = dl / sl, dc / (1 + 0.045 * mc), dhue / (1 + 0.015 * mc * t)
    return float(np.sqrt(x * x + y * y + z * z + turn * y * z))


def apart(one: str, other: str) -> float:
    """The least difference of two colours over all kinds of vision."""
    return min(ciede2000(lab(one, kind), lab(other, kind)) for kind in VISION)


def test_the_formulas_agree_with_published_numbers() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the grey that just fails
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    # Sharma, Wu, Dalal 2005, table 1, pairs 1, 7, 17 and 25.
    pairs = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]
    for one, other, published in pairs:
        assert ciede2000(np.array(one), np.array(other)) == pytest.approx(published, abs=1e-4)
        assert ciede2000(np.array(other), np.array(one)) == pytest.approx(published, abs=1e-4)


def test_it_is_what_the_style_sheet_declares() -> None:
    css = (Path(termwise.report.__file__).parent / "page.css").read_text()
    declared = re.findall(r"--([\w-]+): (#\w+);", css)
    assert sorted([*palette("light").items(), *palette("dark").items()]) == sorted(declared)
    assert palette("light").keys() == palette("dark").keys()
    assert [len(stops(name)) for name in ("ramp", "tile", "depth", "degree", "split", "network")] == [5, 5, 6, 7, 5, 6]


def test_a_ramp_passes_through_its_stops() -> None:
    assert ramp("depth", spread(6)) == stops("depth") and ramp("split", [0.5]) == [stops("split")[2]]
    grey, black = ramp("ramp", [0.125])[0], stops("ramp")
    middle = [(int(black[0][i : i + 2], 16) + int(black[1][i : i + 2], 16)) / 2 for i in (1, 3, 5)]
    assert [int(grey[i : i + 2], 16) for i in (1, 3, 5)] == pytest.approx(middle, abs=0.5)
    assert spread(1) == [0.8]


@pytest.mark.parametrize("name", ["ramp", "tile", "split"])
def test_numbers_on_tiles_can_be_read(name) -> None:
    for tile in ramp(name, [i / 100 for i in range(101)]):
        assert contrast(on(tile), tile) >= TEXT, tile


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme) -> None:
    colours = palette(theme)
    text = ["ink", "soft", "faint", "accent", "warn", "good", "bad", *(f"degree-{i}" for i in range(7))]
    behind = {name: ("paper", "panel") for name in text} | {"ink": ("paper", "panel", "paths")}
    for name, backgrounds in behind.items():
        for background in backgrounds:
            assert contrast(colours[name], colours[background]) >= TEXT, (name, background)
    for strong in ("ramp-4", "tile-4", "split-0", "split-4"):
        assert contrast(colours["on-strong"], colours[strong]) >= TEXT, strong
    for weak in ("ramp-0", "ramp-1", "tile-0", "tile-1", "split-1", "split-2", "split-3"):
        assert contrast(colours["ink"], colours[weak]) >= TEXT, weak


@pytest.mark.parametrize("theme", THEMES)
def test_what_carries_meaning_alone_stands_out_from_the_paper(theme) -> None:
    colours = palette(theme)
    lines = [name for name in colours if re.fullmatch(r"(network|depth|degree)-\d", name)]
    for name in [*lines, "accent", "constant", "tail", "alone", "paths-line", "ramp-4", "tile-4", "split-0", "split-4"]:
        assert contrast(colours[name], colours["paper"]) >= MARK, name


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    ("name", "vision"), [*itertools.product(("ramp", "tile", "depth"), VISION), ("degree", "normal")]
)
def test_sequential_ramps_have_monotone_lightness(theme, name, vision) -> None:
    """What there is more of stands out more, between the stops as well: darker on light paper, lighter on dark.

    Degrees have several hues, and those who see red darker than others do see another order; they stay apart for all.
    """
    lightness = np.array([lab(colour, vision)[0] for colour in ramp(name, [i / 30 for i in range(31)], theme)])
    steps = np.diff(lightness) * (1 if theme == "dark" else -1)
    assert steps.min() > 0


@pytest.mark.parametrize("theme", THEMES)
def test_the_diverging_ramp_is_balanced_around_a_neutral_middle(theme) -> None:
    colours = [lab(colour) for colour in stops("split", theme)]
    for one, other in ((colours[0], colours[4]), (colours[1], colours[3])):
        assert one[0] == pytest.approx(other[0], abs=1)
    middle = colours[2]
    assert np.hypot(*middle[1:]) < 4 and all(np.hypot(*colour[1:]) > 20 for i, colour in enumerate(colours) if i != 2)
    below, above = ([abs(colours[i][0] - middle[0]) for i in side] for side in ((1, 0), (3, 4)))
    assert below == sorted(below) and above == sorted(above)
    assert contrast(stops("split", theme)[2], palette(theme)["paper"]) < 1.2  # zero is next to nothing


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stay_apart_for_every_kind_of_vision(theme) -> None:
    for one, other in itertools.combinations(stops("network", theme), 2):
        assert apart(one, other) >= NAMES, (one, other)
    for name in ("degree", "depth"):
        for one, other in itertools.combinations(stops(name, theme), 2):
            assert apart(one, other) >= ORDERED, (one, other)


@pytest.mark.parametrize("theme", THEMES)
def test_no_two_meanings_are_red_against_green(theme) -> None:
    """What stands side by side in one figure, or says yes and no, differs for those who see no red or no green."""
    colours = palette(theme)
    together = [("good", "bad"), ("accent", "tail"), ("accent", "alone"), ("tail", "alone"), ("accent", "constant")]
    together += [("split-0", "split-4"), ("split-1", "split-3"), ("accent", "warn"), ("ink", "bad")]
    for one, other in together:
        assert apart(colours[one], colours[other]) >= NAMES, (one, other)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("name", "strong"), [("ramp", [0.59]), ("split", [(1 - 0.73) / 2, (1 + 0.73) / 2])])
def test_the_page_changes_the_colour_of_numbers_where_both_can_be_read(theme, name, strong) -> None:
    """`layers.py` changes it at one place in both themes: there, where tiles are half strong, MARK must do."""
    colours = palette(theme)
    for tile in ramp(name, strong, theme):
        assert min(contrast(colours["ink"], tile), contrast(colours["on-strong"], tile)) >= MARK, tile
