"""Every chart: a title, named axes, no legend, texts in the colours of the style, none outside the picture."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

from sith_hf import charts
from sith_hf.adaptation import heat_map
from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.head_change import HeadChange
from sith_hf.charts import FAINT, FRAME, INK, SERIES
from sith_hf.decomposition import Quality
from sith_hf.demo.picture import draw as draw_groups
from sith_hf.evaluation.charts import Series, line_chart
from sith_hf.fidelity import fidelity_chart
from sith_hf.fidelity.table import FidelityTable, MethodQuality
from sith_hf.pursuit import Pursuit
from sith_hf.tuning.chart import draw_front
from sith_hf.world import TIED_PAIRS, sample_groups

METHODS = [Pursuit(method="comp", coherence_weight=weight) for weight in (0.1, 0.2, 0.3)]
METHODS += [Pursuit(method=name) for name in ("omp", "mp", "top-k", "lasso")]
LONG = "a very long name \x1b[31m of $\\frac{ a thing " * 12


def changes(layers: int, heads: int, relative: float) -> Adaptation:
    """Changes of every second head."""
    rng = np.random.default_rng(0)
    parts = [(float(x), float(y * (1 - x)), float((1 - x) * (1 - y))) for x, y in rng.random((layers * heads, 2))]
    made = [
        HeadChange(n // heads, n % heads, 1.0, relative * (n % 2), 0.0, *part, 1, (1.0,), (1.0,), (1.0,))
        for n, part in enumerate(parts)
    ]
    return Adaptation(tuple(made), "vision", "clip")


def table(methods: int, sparsities: tuple[int, ...], null: bool = True, coherence: float = 0.5) -> FidelityTable:
    results = []
    for number, method in enumerate(METHODS[:methods]):
        for k in sparsities:
            found = torch.full((2, 4, 8, 2), 0.3 + 0.04 * number + 0.1 * math.log10(k))
            both = found, torch.full_like(found, coherence)
            chance = Quality(*(each[0, 0, :, 0] - 0.15 for each in both)) if null else None
            p = torch.rand(found.shape, dtype=torch.float64) if null else None
            pursuit = Pursuit(method=method.method, coherence_weight=method.coherence_weight, sparsity=k)
            results.append(MethodQuality(pursuit, *both, chance, p, p))
    ceiling, share = torch.full((2, 4, 8), 0.9), torch.full((2, 4, 8), 1 / 8)
    named = {"null": "residual", "null_ceiling": ceiling[0, 0], "draws": 8} if null else {}
    settings = {"null": None, "null_ceiling": None, "draws": 0} | named
    return FidelityTable(
        tuple(results), (2, 3), ("+", "-"), ceiling, share, "equal", seed=0, level=0.05, concepts=9, **settings
    )


def lines(count: int) -> list[Series]:
    return [Series(LONG[n:], [1, 2, 3 + n % 2], [n, n + 1, n + 2.5], notes=["0.5", "", LONG]) for n in range(count)]


AXES = {"title": LONG, "x_label": f"{LONG}, %", "y_label": f"{LONG}, %"}
CHARTS = {
    "sweep": lambda path: line_chart(lines(4), path, **AXES, mark=(1, 1, "base")),
    "sweep of one point": lambda path: line_chart([Series("a", [1], [1])], path, title="t", x_label="x", y_label="y"),
    "sweep without numbers": lambda path: line_chart(
        [Series("a", [1, 2], [math.nan, math.inf])], path, title="t", x_label="x", y_label="y", mark=(math.nan, 1, "b")
    ),
    "front": lambda path: draw_front(
        [(0.1 * n, 0.9 - 0.1 * n) for n in range(9)], [(0.3, 0.9, "4"), (0.7, 0.5, "1")], (0.8, 0.2), (0.3, 0.9), path,
        labels=(LONG, LONG),
    ),
    "front of one trial": lambda path: draw_front([(1, 0)], [], (1, 0), (1, 0), path, labels=("x", "y")),
    "fidelity": lambda path: fidelity_chart(table(7, (1, 5, 10, 50)), path),
    "fidelity of one method": lambda path: fidelity_chart(table(1, (5, 10)), path),
    "fidelity of one sparsity": lambda path: fidelity_chart(table(7, (5,)), path),
    "incoherent words": lambda path: fidelity_chart(table(7, (5,), coherence=-0.04), path),
    "fidelity of one number": lambda path: fidelity_chart(table(1, (1,), coherence=math.nan), path),
    "without null of one": lambda path: fidelity_chart(table(1, (1,), null=False), path),
    "fidelity without null": lambda path: fidelity_chart(table(3, (5, 10), null=False), path),
    "heat map": lambda path: heat_map(changes(24, 16, 0.5), path),
    "heat map of 1 layer": lambda path: heat_map(changes(1, 2, 0.5), path),
    "heat map of 7 layers": lambda path: heat_map(changes(7, 12, math.nan), path),
    "heat map of no change": lambda path: heat_map(changes(4, 8, 0.0), path),
}  # fmt: skip


@cache
def drawn(name: str):
    """The figure of a chart, laid out, and its file; each is drawn once."""
    figures, real = [], charts.figure.figure_bytes

    def kept(figure):
        figures.append(figure)
        return real(figure)

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts.figure, "figure_bytes", kept)
        content = CHARTS[name](Path(folder) / "a.png").read_bytes()
    (figure,) = figures
    return figure, content


def words(figure) -> list[Text]:
    """Its visible texts that are not empty, apart from ticks."""
    ticks = {id(label) for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    hidden = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if id(text) not in ticks | hidden]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_the_style(name):
    figure, content = drawn(name)
    assert content.startswith(b"\x89PNG")
    panels = [axes for axes in figure.axes if axes.get_visible() and not hasattr(axes, "_colorbar")]
    assert figure.get_suptitle() or all(axes.get_title(loc="left") for axes in panels)
    grid = [axes.get_subplotspec() for axes in panels]
    for axes, place in zip(panels, grid, strict=True):
        assert axes.get_legend() is None
        if place.is_first_col():
            assert axes.get_ylabel() or axes.get_yticklabels()[0].get_text(), "the vertical axis has no name"
        if place.is_last_row():
            assert axes.get_xlabel(), "the horizontal axis has no name"
    assert not figure.legends
    page = figure.bbox.padded(1)
    for text in words(figure):
        box = Text.get_window_extent(text)
        assert to_hex(text.get_color()) in {INK, FAINT, *SERIES}, text.get_text()
        assert page.x0 <= box.x0, text.get_text()
        assert box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0, text.get_text()
        assert box.y1 <= page.y1, text.get_text()
        assert "\x1b" not in text.get_text()


@pytest.mark.parametrize(
    "name", ["fidelity", "fidelity of one method", "fidelity of one sparsity", "incoherent words", "heat map"]
)
def test_texts_of_a_chart_do_not_cover_each_other(name):
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-2)) for text in words(drawn(name)[0])]
    assert [(one, two) for (one, a), (two, b) in combinations(boxes, 2) if a.overlaps(b)] == []


def test_a_panel_of_fidelity_has_few_lines_and_chance_beside_them():
    figure, _ = drawn("fidelity")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 14
    for axes in panels:
        coloured = [line for line in axes.get_lines() if to_hex(line.get_color()) in SERIES]
        assert [line.get_linestyle() for line in coloured] == ["-", "--"]
        assert all(to_hex(line.get_color()) in (FRAME, FAINT) for line in axes.get_lines() if line not in coloured)
    assert "Highest: lasso with 50 concepts" in figure.get_suptitle()
    assert "random directions 0.56" in figure.get_suptitle()


@pytest.mark.parametrize("name", ["fidelity", "fidelity of one sparsity", "incoherent words"])
def test_every_mark_of_fidelity_is_inside_its_panel(name):
    lines = [line for axes in drawn(name)[0].axes for line in axes.get_lines() if to_hex(line.get_color()) in SERIES]
    assert lines
    for line in lines:
        points, view = line.get_xydata(), line.axes.viewLim
        assert len(points)
        assert (points >= view.min).all()
        assert (points <= view.max).all()


def test_one_sparsity_shows_chance_as_marks():
    names = ("fidelity of one number", "without null of one")
    with_null, without = ([text.get_text() for text in words(drawn(name)[0])] for name in names)
    assert {"fidelity 0.30", "random 0.15"} <= set(with_null)
    assert "fidelity 0.30" in without
    assert not any("random" in text for text in without)


@pytest.mark.parametrize("name", ["sweep", "front", "fidelity of one sparsity", "heat map of 1 layer"])
def test_equal_data_give_equal_bytes(name, tmp_path):
    assert CHARTS[name](tmp_path / "a.png").read_bytes() == drawn(name)[1]


def test_the_picture_of_the_demo_says_the_finding():
    names = [name for pair in TIED_PAIRS for name in sample_groups(pair, 1, 0)]
    worst = {name: 0.0 if n == 1 else 0.9 for n, name in enumerate(names)}
    best = SimpleNamespace(groups=dict.fromkeys(names, 1.0))
    results = [SimpleNamespace(base=base, edited=best) for base in (SimpleNamespace(groups=worst), best)]
    one, two = (np.asarray(draw_groups(result, 0)) for result in results)
    assert (one[:50] != two[:50]).any(), "the title has the figures"
    assert not (one[60:] == two[60:]).all()
