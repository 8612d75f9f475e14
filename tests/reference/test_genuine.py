"""Files computed as the authors compute them, in float64 and without our package, come back as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.pursuit import Pursuit
from sith_hf.reference.fit import FITS
from sith_hf.reference.import_reference import Imported, import_reference
from tests.support import published
from tests.support.made import WORDS, tiny_editor


class Authors(NamedTuple):
    """A model, the authors' list of concepts and their image mean."""

    editor: SithEditor
    concepts: Path
    mean: np.ndarray
    lines: tuple[str, ...] = WORDS

    def publish(self, folder: Path, **options: Any) -> list[Path]:
        """Files of layers 1 and 2, with the authors' image mean unless another is given."""
        loaded = self.editor.loaded
        options = {"layers": [1, 2], "mean": self.mean, **options}
        return published.publish(folder, loaded.model, loaded.tokenizer, self.lines, **options)

    def read(self, files: list[Path], **options: Any) -> Imported:
        """Import with the authors' image mean unless another is given."""
        options = {"image_mean": torch.tensor(self.mean), **options}
        return import_reference(files, self.editor.tower, self.concepts, self.editor.encode, **options)


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authors")
    editor = tiny_editor(folder)
    (folder / "concepts.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    images = published.unit(np.random.default_rng(0).normal(size=(50, 24)) + 0.4)
    return Authors(editor, folder / "concepts.txt", images.mean(axis=0))


def said(imported: Imported) -> list[list[tuple[str, float]]]:
    return [[*explanation.concepts] for explanation in imported.decomposition.explanations()]


def written(files: list[Path], lines: tuple[str, ...]) -> list[list[tuple[str, float]]]:
    """The concepts in the files, read by torch alone."""
    content = [torch.load(path, weights_only=True) for path in files]
    return [
        [(lines[i], pytest.approx(w)) for i, w in zip(index, score, strict=True) if w > 0]
        for item in content
        for index, score in zip(item["indices"].tolist(), item["scores"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("sparsity", [4, 12])
@pytest.mark.parametrize("method", sorted(published.METHODS))
def test_every_method_fits_and_comes_back(authors, tmp_path, method, sparsity):
    sparsity = 24 if method.startswith("lasso") else sparsity
    files = authors.publish(tmp_path, method=method, sparsity=sparsity)
    found = authors.read(files)
    assert [fit.agreeing for fit in found.fits] == [1.0, 1.0]
    assert max(fit.difference for fit in found.fits) < 1e-3
    assert said(found) == written(files, authors.lines)
    # The control: the same scores of other concepts.
    content = torch.load(files[0], weights_only=True)
    torch.save({**content, "indices": (content["indices"] + 1) % len(WORDS)}, files[0])
    with pytest.raises(InputError, match="does not fit"):
        authors.read(files)


def test_matching_pursuit_that_takes_a_concept_twice_fits_too(authors, tmp_path):
    """Ours does, so our own decompositions in the authors' format fit as well."""
    made = authors.editor.decompose(
        ConceptDictionary.from_texts(WORDS),
        layers=[1],
        poles="+",
        pursuit=Pursuit(method="mp", sparsity=12),
        image_mean=torch.tensor(authors.mean),
    )
    number = torch.tensor([*(WORDS.index(text) for text in made.texts), 0])
    path = tmp_path / "layer-1_right_foldln_words_mp_sparsity-12.pt"
    torch.save({"scores": made.weight[0, :, :, 0], "indices": number[made.concept[0, :, :, 0]]}, path)
    assert int((made.concept < 0).sum()) > 0  # some concept was taken twice
    assert authors.read([path]).fits[0].agreeing == 1.0


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_directions_are_the_literal_ones(authors, tmp_path, side, fold):
    files = authors.publish(tmp_path, side=side, fold=fold)
    found = authors.read(files).decomposition
    assert found.side == {"right": "write", "left": "read"}[side]
    assert [fit.turned for fit in authors.read(files).fits] == [0, 0]
    for at, layer in enumerate(found.layers):
        for head in range(found.num_heads):
            literal = published.triples(authors.editor.model, layer, head, fold)
            for ours, theirs in ((found.read, literal.left), (found.write, literal.right)):
                np.testing.assert_allclose(ours[at, head].double().numpy(), theirs, atol=1e-5)
            np.testing.assert_allclose(found.singular_values[at, head].numpy(), literal.values, atol=1e-5)
            own = literal.left if side == "left" else literal.right
            rows = np.linalg.svd(published.array(authors.editor.model.visual_projection.weight))[2][:24]
            np.testing.assert_allclose(found.ceiling[at, head].numpy(), np.linalg.norm(own @ rows.T, axis=1), atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_folded_file_named_unfolded_is_refused_unless_told(authors, tmp_path, side):
    for fold, named, option in ((True, "nofoldln", "--fold"), (False, "foldln", "--no-fold")):
        files = authors.publish(tmp_path / named, fold=fold, named=named, side=side)
        with pytest.raises(InputError, match=f"{option} ") as refused:
            authors.read(files)
        assert "\n" not in str(refused.value)
        found = authors.read(files, fold=fold)
        assert found.decomposition.settings["fold"] is fold
        assert max(fit.difference for fit in found.fits) < 1e-3


def test_files_of_the_other_side_are_refused_by_their_weights(authors, tmp_path):
    for side, other in (("left", "right"), ("right", "left")):
        path = authors.publish(tmp_path / side, side=side, layers=[1])[0]
        wrong = path.rename(path.with_name(path.name.replace(side, other)))
        with pytest.raises(InputError, match=f"fit {side} singular vectors.*_{side}_"):
            authors.read([wrong])


def test_a_missing_mean_is_refused_unless_told(authors, tmp_path):
    files = authors.publish(tmp_path)
    with pytest.raises(InputError, match="--without-mean"):
        authors.read(files, image_mean=None)
    found = authors.read(files, image_mean=None, without_mean=True)
    assert min(fit.difference for fit in found.fits) > FITS
    assert said(found) == written(files, authors.lines)
    assert found.decomposition.settings["image_mean"] is False
    # Files made without a mean need no option, and are refused with one.
    bare = authors.publish(tmp_path / "bare", mean=0.0)
    assert max(fit.difference for fit in authors.read(bare, image_mean=None).fits) < 1e-3
    with pytest.raises(InputError, match="leave the image mean out"):
        authors.read(bare)
    with pytest.raises(InputError, match="exclude each other"):
        authors.read(files, without_mean=True)


def test_another_mean_is_refused(authors, tmp_path):
    files = authors.publish(tmp_path)
    with pytest.raises(InputError, match="their image mean"):
        authors.read(files, image_mean=torch.tensor(authors.mean).roll(5) * 0.9)


class TestLines:
    """The authors count lines with str.splitlines and keep them all."""

    LINES = (*WORDS[:6], "", "a\ttab", WORDS[0].upper(), " ".join(["ice", "", "cream"]), *WORDS[6:], WORDS[3], "")

    @pytest.fixture
    def theirs(self, authors, tmp_path):
        breaks = ["\n", "\r\n", "\x0b", "\x0c", "\x1c", "\u2028", "\x85", "\x1d", "\x1e", "\u2029", "\r"]
        text = "".join(line + breaks[i % len(breaks)] for i, line in enumerate(self.LINES))
        (tmp_path / "lines.txt").write_bytes(text.encode())
        assert text.splitlines() == [*self.LINES]
        return authors._replace(concepts=tmp_path / "lines.txt", lines=self.LINES)

    def test_an_index_is_a_line(self, theirs, tmp_path):
        files = theirs.publish(tmp_path, sparsity=12)
        found = theirs.read(files)
        shown = tuple(" ".join(line.split()) for line in self.LINES)
        assert said(found) == written(files, shown)
        assert max(fit.difference for fit in found.fits) < 1e-3
        assert any(text == "" for explanation in said(found) for text, _ in explanation)  # the control
        assert found.dictionary.texts == shown

    def test_the_mean_is_over_all_lines(self, theirs, authors, tmp_path):
        found = theirs.read(theirs.publish(tmp_path))
        model, tokenizer = authors.editor.model, authors.editor.loaded.tokenizer
        literal = published.embedded(model, tokenizer, self.LINES).mean(axis=0)
        np.testing.assert_allclose(found.decomposition.dictionary_mean.double().numpy(), literal, atol=1e-6)
        fewer = published.embedded(model, tokenizer, WORDS).mean(axis=0)
        assert np.abs(fewer - literal).max() > 1e-3  # the control

    def test_our_own_decomposition_over_their_lines_is_theirs(self, theirs, tmp_path):
        """The saved dictionary keeps every line, so that it repeats their choice of concepts."""
        files = theirs.publish(tmp_path, sparsity=8)
        theirs.read(files).dictionary.save_pretrained(tmp_path / "kept")
        kept = ConceptDictionary.from_pretrained(tmp_path / "kept")
        options: dict[str, Any] = {"layers": [1, 2], "poles": "+", "image_mean": torch.tensor(theirs.mean)}
        made = theirs.editor.decompose(kept, pursuit=Pursuit(sparsity=8), **options)
        ours = [[(text, round(w, 3)) for text, w in item.concepts] for item in made.explanations()]
        shown = tuple(" ".join(line.split()) for line in self.LINES)
        content = [torch.load(path, weights_only=True) for path in files]
        literal = [
            [(shown[i], round(w, 3)) for i, w in zip(index, score, strict=True) if w > 0]
            for item in content
            for index, score in zip(item["indices"].tolist(), item["scores"].tolist(), strict=True)
        ]
        same = sum(sorted(one) == sorted(two) for one, two in zip(ours, literal, strict=True))
        assert same >= 0.9 * len(literal)  # atoms of repeated lines are equal: their ties may fall either way
        fewer = theirs.editor.decompose(
            ConceptDictionary.from_file(theirs.concepts), pursuit=Pursuit(sparsity=8), **options
        )
        assert [item.concepts for item in fewer.explanations()] != [item.concepts for item in made.explanations()]
