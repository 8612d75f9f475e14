"""Labels beside lines neither overlap nor leave the picture; titles are wrapped and cut; grids have axes and gaps."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from sith_hf import charts
from sith_hf.charts import End

HOSTILE = ("$\\frac{", "_hidden", "a\x1b[31m\nb", "x" * 500, "left\u202eright", "a long name, draw 3", "\u6d77 sea")
HEIGHTS = ([1] * 7, [1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 10, 10, 10], [-1e9, 0, 1e9, 3, 4, 5, 6])


def texts(axes):
    """The labels of the axes, and their boxes in pixels."""
    axes.figure.draw_without_rendering()
    return [(text.get_text(), Text.get_window_extent(text)) for text in axes.texts if text.get_text()]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("heights", HEIGHTS, ids=str)
def test_labels_do_not_overlap_and_stay_in_the_picture(heights):
    with charts.blank_figure() as figure:
        axes = figure.subplots()
        for height in heights:
            axes.plot([0, 1], [0, height])
        charts.dress(axes, title="Title " * 60, x="x" * 300, y="y, % " * 100)
        charts.label_ends((axes, [End(1, y, name, "#000000") for y, name in zip(heights, HOSTILE, strict=True)]))
        found = texts(axes)
        assert len(found) == len(HOSTILE)
        for (one, a), (two, b) in combinations(found, 2):
            assert not a.padded(-1).overlaps(b.padded(-1)), (one, two)
        page = figure.bbox
        around = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for name, box in [*found, *((text.get_text(), text.get_window_extent()) for text in around)]:
            assert page.x0 <= box.x0, name
            assert box.x1 <= page.x1, name
            assert page.y0 <= box.y0, name
            assert box.y1 <= page.y1, name
            assert not set(name) & {"\x1b", "\u202e"}


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (7, 12), (24, 16), (48, 25)])
def test_a_grid_names_its_axes_and_leaves_gaps_grey(layers, heads):
    values = np.arange(layers * heads, dtype=float).reshape(layers, heads)
    values[0, 0] = math.nan
    values[-1, -1] = math.inf
    with charts.blank_figure(4, 2.4) as figure:
        axes = figure.subplots()
        charts.head_grid(axes, values, [str(n) for n in range(layers)], label="share of the energy of a head, %")
        figure.draw_without_rendering()
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")
        bar = figure.axes[1].yaxis.label
        assert bar.get_text().split() == ["share", "of", "the", "energy", "of", "a", "head,", "%"]
        assert bar.get_window_extent().y1 <= figure.bbox.y1
        (image,) = axes.get_images()
        assert image.get_array().mask.sum() == len({(0, 0), (layers - 1, heads - 1)})
        boxes = [tick.label1.get_window_extent() for tick in axes.yaxis.get_major_ticks()]
        assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))
        assert image.get_clim()[0] < image.get_clim()[1]
