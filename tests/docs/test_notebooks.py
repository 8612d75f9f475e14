"""The notebooks of the documentation run, and their stored outputs are those of a run; so are their pages."""

import copy
from tempfile import gettempdir

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.support.html import Page
from tests.support.notebooks import NOTEBOOKS, differences, run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_outputs_are_the_stored_ones(path):
    assert differences(nbformat.read(path, as_version=4), run(path)) == []


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["edit", "explain", "measure"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_value_is_stored_without_errors_paths_or_bars(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type in ("execute_result", "stream")
            assert output.get("name") != "stderr"
            assert str(NOTEBOOKS[0].parents[2]) not in str(output)
            assert gettempdir() not in str(output)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_other_outputs_are_seen():
    stored = nbformat.read(NOTEBOOKS[0], as_version=4)
    assert differences(stored, stored) == []
    number, cell = next((n, c) for n, c in enumerate(stored.cells) if c.get("outputs") and "text" in c.outputs[0])
    for old, new in (("%", " percent"), ("4", "5"), ("recognised", "seen")):
        fresh = copy.deepcopy(stored)
        text = str(cell.outputs[0].text)
        assert old in text
        fresh.cells[number].outputs[0].text = text.replace(old, new)
        assert len(differences(stored, fresh)) == 1
    fresh = copy.deepcopy(stored)
    fresh.cells[number].outputs = []
    assert len(differences(stored, fresh)) == 1


def test_a_cell_that_raises_is_seen(tmp_path):
    path = tmp_path / "bad.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(path)


def test_pages_of_the_site(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(NOTEBOOKS[0].parents[1] / "mkdocs")
    from notebooks import on_page_markdown, page

    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        {
            "cell_type": "code",
            "source": ["x = 1\n", "x"],
            "outputs": [
                {"output_type": "stream", "text": "<b>1</b>\n"},
                {"data": {"text/html": "<p>a\n\nb</p>", "text/plain": "a"}},
                {"data": {"image/png": "aGk=", "text/plain": "<Figure>"}},
            ],
        },
    ]
    text, pictures = page({"cells": cells}, "name")
    assert text.startswith("# Title\n")
    assert "```python\nx = 1\nx\n```" in text
    assert "&lt;b&gt;1&lt;/b&gt;" in text
    assert "<p>a\nb</p>" in text
    assert pictures == {"name-1-2.png": b"hi"}
    assert 'src="name-1-2.png"' in text
    assert Page.of(text).open == []
    assert on_page_markdown("[a](notebooks/edit.ipynb) [b](edit.ipynb#x) [c](edit.ipynb){ download }") == (
        "[a](notebooks/edit.md) [b](edit.md#x) [c](edit.ipynb){ download }"
    )
