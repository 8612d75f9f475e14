"""``decomposition[layer, head, vector]``: numbers, slices, iteration, tables, charts and HTML."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, Drivers, Significance, SingularVector, SingularVectors
from sith_hf.errors import InputError, OutOfRange
from tests.core.test_html import TAGS
from tests.core.test_tables import HOSTILE, obeyed
from tests.support.html import Page, unsafe


def made(layers=(4, 5, 8), heads=2, rank=3, words=("sea", "ocean", "<b>road</b>", "car"), **fields) -> Decomposition:
    """A random decomposition; its poles alternate between beyond chance and silent."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    shape = (len(layers), heads, rank)
    p = torch.tensor([1e-9, 0.9], dtype=torch.float64).expand(*shape, 2).contiguous()
    sample = random(1, 100).sort().values
    settings = {
        "layers": layers,
        "singular_values": random(*shape).sort(-1, descending=True).values,
        "energy": 4 + random(*shape[:2]),
        "write": random(1).expand(*shape, 4),
        "read": random(1).expand(*shape, 4),
        "concept": torch.randint(0, len(words), (*shape, 2, 3), generator=generator),
        "weight": random(*shape, 2, 3).sort(-1, descending=True).values,
        "fidelity": random(*shape, 2),
        "coherence": random(*shape, 2),
        "ceiling": torch.ones(shape),
        "texts": tuple(words),
        "embeddings": torch.nn.functional.normalize(torch.randn(len(words), 5, generator=generator), dim=-1),
        "dictionary_mean": torch.zeros(5),
        "image_mean": torch.zeros(5),
        "poles": ("+", "-"),
        "base": BaseRef("tiny", None, {}),
        "settings": {},
        "significance": Significance(p, sample, (0,) * len(layers)),
    }
    return Decomposition(**{**settings, **fields})


@pytest.fixture(scope="module")
def found() -> Decomposition:
    return made()


def wordless() -> Decomposition:
    empty = torch.empty(3, 2, 3, 0)
    none = {"concept": empty.long().unsqueeze(-1), "weight": empty.unsqueeze(-1), "fidelity": empty}
    return made(**none, coherence=empty, texts=(), embeddings=torch.empty(0, 0), poles=(), significance=None)


class TestIndex:
    def test_one_vector_by_number(self, found):
        vector = found[5, 1, 2]
        assert isinstance(vector, SingularVector)
        assert (vector.layer, vector.head, vector.vector) == (5, 1, 2)
        assert vector.explanations == (found.explain(5, 1, 2, "+"), found.explain(5, 1, 2, "-"))
        assert vector.singular_value == float(found.singular_values[1, 1, 2])
        assert torch.equal(vector.write, found.write[1, 1, 2])

    @pytest.mark.parametrize(
        ("index", "keys"),
        [
            ((-1, -1, -1), (8, 1, 2)),
            ((np.int64(4), torch.tensor(0), 0), (4, 0, 0)),
        ],
    )
    def test_negative_numbers_and_those_of_libraries(self, found, index, keys):
        vector = found[index]
        assert (vector.layer, vector.head, vector.vector) == keys

    @pytest.mark.parametrize(
        ("index", "layers", "heads", "vectors"),
        [
            (8, [8], [0, 1], [0, 1, 2]),
            ((-2, 1), [5], [1], [0, 1, 2]),
            (slice(None), [4, 5, 8], [0, 1], [0, 1, 2]),
            (slice(5, 9), [5, 8], [0, 1], [0, 1, 2]),
            (slice(5, 8), [5], [0, 1], [0, 1, 2]),
            (slice(-2, None), [5, 8], [0, 1], [0, 1, 2]),
            (slice(None, -1), [4, 5], [0, 1], [0, 1, 2]),
            (slice(-99, 99), [4, 5, 8], [0, 1], [0, 1, 2]),
            (slice(None, None, -1), [8, 5, 4], [0, 1], [0, 1, 2]),
            ((slice(0, 9, 4), 0, slice(None, 2)), [4, 8], [0], [0, 1]),
        ],
    )
    def test_slices_are_of_layer_numbers(self, found, index, layers, heads, vectors):
        chosen = found[index]
        assert isinstance(chosen, SingularVectors)
        assert list(chosen.keys) == [(a, b, c) for a in layers for b in heads for c in vectors]

    @pytest.mark.parametrize(
        "index",
        [6, 0, -4, (4, 2), (4, -3), (4, 0, 3), slice(6, 8), slice(9, None), (4, slice(2, 9)), (4, 0, slice(1, 1))],
    )
    def test_what_is_not_there_is_out_of_range(self, found, index):
        with pytest.raises(OutOfRange, match="this decomposition has"):
            found[index]
        with pytest.raises(IndexError):  # what Python's own protocols expect
            found[index]

    @pytest.mark.parametrize(
        "index",
        [True, None, "sea", 1.0, ..., [4, 5], (4, 0, 0, "+"), slice("a", None), slice(None, None, 0), slice(True, 2)],
    )
    def test_other_indices_are_refused(self, found, index):
        with pytest.raises(InputError) as error:
            found[index]
        assert not isinstance(error.value, IndexError)

    def test_iterating_goes_over_all_vectors(self, found):
        keys = [(v.layer, v.head, v.vector) for v in found]
        assert len(keys) == 18
        assert keys == list(found[:].keys)
        assert "sea" in found
        assert "SEA" in found
        assert "beach" not in found
        assert (4, 0, 0) not in found

    def test_vectors_are_a_sequence(self, found):
        vectors = found[5]
        assert len(vectors) == 6
        assert [v.vector for v in reversed(vectors)] == [2, 1, 0, 2, 1, 0]
        assert vectors[-1].vector == 2
        assert vectors[1:3].keys == vectors.keys[1:3]
        with pytest.raises(IndexError):
            vectors[6]


class TestTables:
    def test_a_row_for_each_pole(self, found):
        frame = found.to_pandas()
        assert len(frame) == 36
        row = frame.iloc[1]
        item = found.explain(4, 0, 0, "-")
        assert row[["layer", "head", "vector", "pole"]].tolist() == [4, 0, 0, "-"]
        assert row.fidelity == item.fidelity
        assert row.concepts == [text for text, _ in item.concepts]
        assert row.words == "silent"
        assert "sea" in " ".join(frame.words)
        assert frame.beyond_chance.tolist() == [True, False] * 18

    def test_slices_have_rows_too(self, found):
        assert found[8, 1].to_pandas().layer.tolist() == [8] * 6

    def test_what_is_not_known_is_missing(self, found):
        frame = replace(found, significance=None).to_pandas()
        assert frame.beyond_chance.isna().all()
        assert frame[["p_value", "chance"]].isna().all().all()
        assert "silent" not in set(frame.words)

    def test_without_words_it_has_a_row_for_each_vector(self):
        frame = wordless().to_pandas()
        assert list(frame.columns) == ["layer", "head", "vector", "singular_value", "energy_share"]
        assert len(frame) == 18


class TestHtml:
    def shown(self, found):
        yield from (found, found[4, 0, 0], found[5], found[:], found.explain(4, 0, 0), found.explain(4, 0, 0, "-"))
        if found.has("sea"):
            matches = found.find("sea")
            yield from (matches, matches[0])

    def test_nothing_hostile_is_obeyed(self):
        words = ("sea", *HOSTILE.values(), *TAGS, "x" * 10_000)
        bad = made(words=words, base=BaseRef(TAGS[0], None, {}))
        every = torch.arange(len(words)).repeat(len(words))[: bad.concept.numel()].reshape(bad.concept.shape)
        drivers = Drivers(every.clone(), torch.full(every.shape, 0.5), words, {"title": TAGS[1], "count": 3})
        for item in self.shown(replace(bad, concept=every, drivers=drivers)):
            page = Page.of(item._repr_html_())
            assert unsafe(page) == []
            assert obeyed(page.text) == []
            assert obeyed(repr(item)) == []
            assert len(repr(item)) < 3000 + len(words) * 100

    def test_silent_poles_say_so_and_show_no_words(self, found):
        item = found.explain(4, 0, 0, "-")
        assert item.silent
        for shown in (item._repr_html_(), found[4, 0, 0]._repr_html_().partition("<td")[2], repr(found[4, 0, 0])):
            assert "silent" in shown
        assert item.concepts[0][0] not in Page.of(item._repr_html_()).text
        assert "beyond chance" in found._repr_html_()
        rest = found.find("sea")
        assert [m.explanation.silent for m in rest] == ["silent" in repr(m) for m in rest]

    def test_no_long_numbers(self, found):
        for item in self.shown(found):
            assert not re.search(r">[^<]*\d\.\d{5}", item._repr_html_())
            assert not re.search(r"\d\.\d{5}", repr(item))

    def test_without_words_or_p_values(self, found):
        assert "without concepts" in wordless()._repr_html_()
        assert "energy" in wordless()[4]._repr_html_()
        assert "energy" in wordless()[4, 0, 0]._repr_html_()
        assert "not compared with chance" in replace(found, significance=None)._repr_html_()

    def test_a_large_one_reads_few_heads_and_is_bounded(self):
        words = tuple(f"word {number}" for number in range(10_000))
        large = made(layers=tuple(range(24)), heads=16, rank=64, words=words)
        assert len(large._repr_html_()) < 40_000
        assert len(large._explained) <= 8
        assert len(repr(large)) < 300
        assert len(large[:]._repr_html_()) < 60_000
        assert len(large.find("word 1", limit=None)._repr_html_()) < 60_000


class TestCharts:
    def test_the_map_and_a_head_are_figures_that_show_themselves(self, found):
        from matplotlib.figure import Figure

        for figure in (found.plot(), found.plot("sea"), found.plot_head(-1, -1), wordless().plot()):
            assert isinstance(figure, Figure)
            assert figure._repr_png_().startswith(b"\x89PNG")
        assert found.plot()._repr_png_() == found.plot()._repr_png_()
        assert found.plot()._repr_png_() != found.plot("sea")._repr_png_()

    def test_the_map_is_the_energy_beyond_chance(self, found):
        expected = 100 * found.energy_share.sum(dim=-1)  # one of two poles of every vector is
        drawn = found.plot().axes[0].images[0].get_array()
        assert np.allclose(drawn, expected)

    def test_a_head_shows_no_words_of_silent_poles(self, found):
        texts = [text.get_text() for text in found.plot_head(4, 0).axes[1].texts]
        assert sum(text == "- silent" for text in texts) == 3
        assert any(text.startswith("+ ") and text != "+ silent" for text in texts)

    @pytest.mark.parametrize(
        "call",
        [
            lambda found: found.plot_head(6, 0),
            lambda found: found.plot_head(4, 9),
            lambda found: found.plot_head(4, 0, 0),
            lambda found: found.plot("beach"),
            lambda found: wordless().plot("sea"),
        ],
    )
    def test_what_is_not_there_is_refused(self, found, call):
        with pytest.raises(InputError):
            call(found)

    def test_without_matplotlib_it_is_one_line(self):
        code = (
            "import sys; sys.modules['matplotlib'] = None\n"
            "from tests.decomposition.test_vectors import made\n"
            "from sith_hf.errors import MissingExtra\n"
            "try: made().plot()\n"
            "except MissingExtra as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == 'matplotlib is not installed: pip install "sith-hf[plot]"\n'
