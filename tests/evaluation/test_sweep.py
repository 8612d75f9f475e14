"""Sweeps measure every spec once; charts repeat byte for byte and leave matplotlib's settings alone."""

import builtins
import io
import math

import pytest
from PIL import Image

from sith_hf.edits.build import make_spec
from sith_hf.errors import InputError, MissingExtra, OutputError
from sith_hf.evaluation.charts import Series, line_chart, worst_against_average
from sith_hf.evaluation.sweep import Point, Sweep, strengths, sweep
from sith_hf.gains.baselines import with_baselines
from sith_hf.gains.gains import Gains
from tests.support.made import tiny_concepts

EDIT = Gains({(0, 0, 0): 0.0, (2, 3, 5): 0.5})


@pytest.fixture(scope="module")
def editor(editor):
    """The tiny editor, with a decomposition."""
    editor.decompose(tiny_concepts())
    return editor


@pytest.fixture(scope="module")
def specs(editor):
    chosen = with_baselines(editor.decomposition, EDIT, seeds=(0,))
    return {name: make_spec(editor.tower, editor.decomposition, gains) for name, gains in chosen.items()}


def measured(asked):
    """Figures that identify a spec: the sum of its gains and the number of its terms."""
    return {n: (0.0, 1.0) if s is None else (float(s.gain.sum()) / 100, len(s) / 100) for n, s in asked.items()}


@pytest.fixture(scope="module")
def result(specs):
    return sweep(strengths(specs, (0, 0.5, 1.0, 2)), measured)


def test_every_variant_at_every_strength(specs, result):
    assert result.variants == ("edited", "random 0", "whole heads")
    assert result.base == (0.0, 1.0)
    for name, spec in specs.items():
        points = result.of(name)
        assert [p.setting for p in points] == [0, 0.5, 1, 2]
        assert points[0] == Point(name, 0, 0, *result.base)
        for point in points[1:]:
            assert point.vectors == len(spec)
            assert point.worst == pytest.approx(float((spec * point.setting).gain.sum()) / 100)
    with pytest.raises(InputError, match="not in this sweep"):
        result.of("nobody")


def test_equal_specs_are_measured_once(specs):
    asked = []

    def count(wanted):
        asked.append(dict(wanted))
        return measured(wanted)

    sweep(strengths({**specs, "again": specs["edited"]}, (0, 1.0)), count)
    assert len(asked) == 1
    assert sorted(asked[0]) == ["base", "edited at 1.0", "random 0 at 1.0", "whole heads at 1.0"]
    assert asked[0]["base"] is None


def test_what_does_not_fit_is_refused(specs):
    for use in (
        lambda: strengths(specs, ()),
        lambda: strengths(specs, (1, 1.0)),
        lambda: strengths(specs, (math.nan,)),
        lambda: sweep({}, measured),
        lambda: sweep({("base", 1.0): specs["edited"]}, measured),
        lambda: sweep(strengths(specs, (1.0,)), lambda asked: {"base": (0.0, 0.0)}),
        lambda: sweep(strengths(specs, (1.0,)), lambda asked: dict.fromkeys(asked, (math.nan, 0.0))),
    ):
        with pytest.raises(InputError):
            use()


def test_a_sweep_as_data_and_as_text(result):
    data, text = result.to_json(), result.table()
    assert (data["over"], data["base"]) == ("strength", {"worst": 0.0, "average": 1.0})
    assert [point["worst"] for point in data["points"]] == [point.worst for point in result.points]
    assert all(name in text for name in (*result.variants, "base", "strength"))


# ---------------------------------------------------------------- charts


def test_a_chart_is_a_picture_and_repeats(result, tmp_path):
    one, two = (worst_against_average(result, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert one == two
    image = Image.open(io.BytesIO(one))
    assert image.format == "PNG"
    assert min(image.size) > 400
    assert "Software" not in image.info
    other = Sweep(result.over, result.base, result.points[:-1])
    assert worst_against_average(other, tmp_path / "c.png").read_bytes() != one  # the control


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    series = [Series(name, [1, 2], [1, 2]) for name in ("$\\frac{", "_hidden", "a\x1b[31m\nb", "x" * 500)]
    path = line_chart(series, tmp_path / "a.png", title="$\\undefined$", x_label="%s", y_label="_", mark=(1, 1, "$"))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_gaps_and_notes(tmp_path):
    texts = {"title": "t", "x_label": "K", "y_label": "f"}
    plain = line_chart([Series("COMP", [5, 10, 20], [0.5, 0.6, 0.7])], tmp_path / "p.png", **texts)
    for noted in (
        Series("COMP", [5, 10, 20], [0.5, math.nan, 0.7]),
        Series("COMP", [5, 10, 20], [0.5, 0.6, 0.7], notes="abc"),
    ):
        assert line_chart([noted], tmp_path / "n.png", **texts).read_bytes() != plain.read_bytes()


@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("a", [1, 2], [1])],
        [Series("a", [1], [1], notes=["x", "y"])],
    ],
)
def test_lines_that_do_not_fit_are_refused(series, tmp_path):
    with pytest.raises(InputError):
        line_chart(series, tmp_path / "a.png", title="", x_label="", y_label="")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(result, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"sith-hf\[plot\]"):
        worst_against_average(result, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_chart_that_cannot_be_written_leaves_nothing(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        worst_against_average(result, tmp_path / "file" / "a.png")
