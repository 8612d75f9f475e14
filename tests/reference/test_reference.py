"""Published decompositions: the same explanations come back, and files that do not fit are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.pursuit.pursuit import Pursuit
from sith_hf.reference.files import ReferenceSettings, read_reference
from sith_hf.reference.fit import FITS, MISFIT
from sith_hf.reference.import_reference import Imported, import_reference
from sith_hf.towers.image_mean import read_image_mean
from tests.support.made import WORDS, tiny_editor

NAME = "layer-{}_right_foldln_words_comp-0.3_sparsity-4.pt"


class Published(NamedTuple):
    """Our own decomposition in the authors' format."""

    editor: SithEditor
    decomposition: Decomposition
    concepts: Path
    files: tuple[Path, ...]


def publish(path: Path, scores: torch.Tensor, indices: torch.Tensor) -> Path:
    """Write one file in the authors' format."""
    torch.save({"scores": scores, "indices": indices}, path)
    return path


def lines(folder: Path, texts: tuple[str, ...]) -> Path:
    """Write a file of concepts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "concepts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder / "concepts.txt"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    editor = tiny_editor(folder)
    decomposition = editor.decompose(
        ConceptDictionary.from_texts(WORDS), layers=[1, 2], poles="+", pursuit=Pursuit(sparsity=4)
    )
    number = torch.tensor([WORDS.index(text) for text in decomposition.texts])
    files = tuple(
        publish(
            folder / NAME.format(layer), decomposition.weight[at, :, :, 0], number[decomposition.concept[at, :, :, 0]]
        )
        for at, layer in enumerate(decomposition.layers)
    )
    return Published(editor, decomposition, lines(folder, WORDS), files)


def read(published: Published, *files: Path, concepts: Path | None = None, **options: object) -> Imported:
    """Import with the model that the files were made from."""
    editor = published.editor
    return import_reference(
        files or published.files, editor.tower, concepts or published.concepts, editor.encode, **options
    )


class TestRoundTrip:
    def test_the_explanations_come_back(self, published):
        found, ours = read(published).decomposition, published.decomposition
        assert (found.layers, found.poles) == (ours.layers, ("+",))
        for mine, theirs in zip(ours.explanations(), found.explanations(), strict=True):
            assert mine.concepts == theirs.concepts
        for name in ("singular_values", "energy", "write", "read", "fidelity", "coherence", "ceiling"):
            torch.testing.assert_close(getattr(found, name), getattr(ours, name), atol=1e-5, rtol=1e-5)

    def test_it_fits_its_own_model(self, published):
        for fit in read(published).fits:
            assert fit.difference < 1e-4
            assert (fit.agreeing, fit.turned) == (1.0, 0)

    def test_the_order_of_files_does_not_matter(self, published):
        assert read(published, *reversed(published.files)).decomposition.layers == (1, 2)

    def test_it_is_an_artifact_like_any_other(self, published, tmp_path):
        found = read(published)
        found.decomposition.save_pretrained(tmp_path)
        again = Decomposition.from_pretrained(tmp_path)
        assert again.explanations() == found.decomposition.explanations()
        assert again.settings == found.decomposition.settings
        # It edits the model that it is about.
        published.editor.with_decomposition(again)
        assert again.settings["dictionary_sha256"] == found.dictionary.sha256

    def test_rows_of_all_heads_end_to_end_are_the_same(self, published, tmp_path):
        # The authors' script leaves them so.
        content = torch.load(published.files[0], weights_only=True)
        flat = publish(tmp_path / NAME.format(1), content["scores"].flatten(0, 1), content["indices"].flatten(0, 1))
        one, two = (read(published, path).decomposition for path in (published.files[0], flat))
        assert one.explanations() == two.explanations()

    def test_what_only_fills_a_row_up_is_no_concept(self, published, tmp_path):
        content = torch.load(published.files[0], weights_only=True)
        pads = [
            torch.cat([content["scores"], torch.zeros(4, 8, 2)], -1),
            torch.cat([content["indices"], torch.ones(4, 8, 2).long()], -1),
        ]
        padded = publish(tmp_path / NAME.format(1).replace("sparsity-4", "sparsity-6"), *pads)
        one, two = (read(published, path).decomposition for path in (published.files[0], padded))
        assert one.explanations() == two.explanations()

    def test_the_image_mean_matters(self, published, tmp_path):
        editor, mean = published.editor, torch.full((24,), 0.15)
        made = editor.decompose(
            ConceptDictionary.from_texts(WORDS), layers=[1], poles="+", pursuit=Pursuit(sparsity=4), image_mean=mean
        )
        number = torch.tensor([WORDS.index(text) for text in made.texts])
        path = publish(tmp_path / NAME.format(1), made.weight[0, :, :, 0], number[made.concept[0, :, :, 0]])
        torch.save(mean, tmp_path / "image_mean.pt")
        found = read(published, path, image_mean=read_image_mean(tmp_path / "image_mean.pt"))
        assert found.fits[0].difference < 1e-4
        torch.testing.assert_close(found.decomposition.fidelity[0], made.fidelity[0], atol=1e-5, rtol=0)
        assert read(published, path, check=False).fits[0].difference > FITS

    def test_half_precision_is_near_enough(self, published, tmp_path):
        scores = torch.load(published.files[0], weights_only=True)
        path = publish(tmp_path / NAME.format(1), scores["scores"].half(), scores["indices"].int())
        assert read(published, path).fits[0].difference < FITS

    def test_repeated_and_blank_lines_do_not_shift_the_concepts(self, published, tmp_path):
        texts = (WORDS[0], "", WORDS[0].upper(), *WORDS[1:], "  ")
        concepts = lines(tmp_path, texts)
        data = torch.load(published.files[0], weights_only=True)
        moved = torch.where(data["indices"] == 0, 0, data["indices"] + 2)
        path = publish(tmp_path / NAME.format(1), data["scores"], moved)
        found = read(published, path, concepts=concepts, check=False)
        assert found.dictionary.texts == (*texts[:-1], "")
        for mine, theirs in zip(
            published.decomposition.theme(1, 0, 8), found.decomposition.theme(1, 0, 8), strict=True
        ):
            assert mine.concepts == theirs.concepts

    def test_one_text_on_two_lines_stays_two_concepts(self, published, tmp_path):
        concepts = lines(tmp_path, (*WORDS, WORDS[3].upper(), f" {WORDS[3]} "))
        data = torch.load(published.files[0], weights_only=True)
        scores, indices = torch.zeros_like(data["scores"]), data["indices"].clone()
        scores[..., :3] = torch.tensor([0.4, 0.3, 0.2])
        indices[..., :3] = torch.tensor([3, len(WORDS), len(WORDS) + 1])
        indices[..., 3:] = -1
        path = publish(tmp_path / NAME.format(1), scores, indices)
        found = read(published, path, concepts=concepts, check=False).decomposition
        found.save_pretrained(tmp_path / "saved")
        for item in (found, Decomposition.from_pretrained(tmp_path / "saved")):
            assert item.texts == (WORDS[3].upper(), WORDS[3], WORDS[3])
            for explanation in item.explanations():
                assert [text for text, _ in explanation.concepts] == [WORDS[3], WORDS[3].upper(), WORDS[3]]
                assert [w for _, w in explanation.concepts] == pytest.approx([0.4, 0.3, 0.2])
            # A search counts all of them.
            assert item.find(WORDS[3], limit=1)[0].strength == pytest.approx(0.9)

    def test_a_vector_of_the_other_sign_is_turned_round(self, published, tmp_path):
        editor, ours = published.editor, published.decomposition
        both = editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[1], pursuit=Pursuit(sparsity=4))
        number = torch.tensor([WORDS.index(text) for text in both.texts])
        path = publish(tmp_path / NAME.format(1), both.weight[0, :, :, 1], number[both.concept[0, :, :, 1]])
        found = read(published, path)
        assert found.fits[0].turned == 32
        assert found.fits[0].difference < 1e-4
        torch.testing.assert_close(found.decomposition.write[0], -ours.write[0])
        torch.testing.assert_close(found.decomposition.read[0], -ours.read[0])


class TestMisfits:
    def test_concepts_in_another_order_are_refused(self, published, tmp_path):
        shuffled = [WORDS[i] for i in torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(0))]
        concepts = lines(tmp_path, tuple(shuffled))
        with pytest.raises(InputError, match="does not fit"):
            read(published, concepts=concepts)
        found = read(published, concepts=concepts, check=False)
        assert min(fit.difference for fit in found.fits) > MISFIT
        assert max(fit.agreeing for fit in found.fits) < 0.2

    def test_an_unfinished_file_is_refused(self, published, tmp_path):
        content = torch.load(published.files[0], weights_only=True)
        for value in content.values():
            value[2:] = 0
        path = publish(tmp_path / NAME.format(1), **content)
        with pytest.raises(InputError, match="no scores for 16 vectors"):
            read(published, path)
        assert read(published, path, check=False).fits[0].silent == 16

    def test_another_model_is_refused(self, published, tmp_path):
        other = tiny_editor(tmp_path, seed=1)
        with pytest.raises(InputError, match="does not fit"):
            import_reference(published.files, other.tower, published.concepts, other.encode)

    def test_another_layer_is_refused(self, published, tmp_path):
        data = torch.load(published.files[0], weights_only=True)
        with pytest.raises(InputError, match="does not fit"):
            read(published, publish(tmp_path / NAME.format(0), **data))


class TestNames:
    def test_the_paper_s(self):
        found = ReferenceSettings.from_name("x/layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt")
        assert found == ReferenceSettings(20, True, "conceptnet", "comp", 5, 0.3)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("layer-0_right_laion_words_omp_sparsity-10.pt", (0, False, "laion_words", "omp", 10, 0.0)),
            ("layer-3_right_foldln_my-list.v2_top-k_sparsity-1.pt", (3, True, "my-list.v2", "top-k", 1, 0.0)),
            ("layer-3_right_foldln_wordnet_lasso-0.01_sparsity-5.pt", (3, True, "wordnet", "lasso", 5, 0.0)),
            ("layer-03_right-foldln_wordnet_topk_sparsity-5.pt", (3, True, "wordnet", "top-k", 5, 0.0)),
            ("layer-3_right_nofoldln_wordnet_mp_sparsity-5.pt", (3, False, "wordnet", "mp", 5, 0.0)),
            ("layer-20_right_foldln_conceptnet_nnomp_sparsity-50.pt", (20, True, "conceptnet", "omp", 50, 0.0)),
            (
                "layer-20_left-foldln_conceptnet_comp-0.3_sparsity-5.pt",
                (20, True, "conceptnet", "comp", 5, 0.3, "read"),
            ),
        ],
    )
    def test_others(self, name, expected):
        assert ReferenceSettings.from_name(name) == ReferenceSettings(*expected)

    @pytest.mark.parametrize(
        "name",
        [
            "decomposition.pt",
            "layer-x_right_foldln_words_comp-0.3_sparsity-5.pt",
            "layer--1_right_foldln_words_comp-0.3_sparsity-5.pt",
            "layer-1_up_foldln_words_comp-0.3_sparsity-5.pt",
            "layer-1_right_foldln_words_comp_sparsity-5.pt",
            "layer-1_right_foldln_words_magic-0.3_sparsity-5.pt",
            "layer-1_right_foldln_words_comp-nan_sparsity-5.pt",
            "layer-1_right_foldln_words_comp-0.3_sparsity-0.pt",
            "layer-1_right_foldln_words_comp-0.3.pt",
            "layer-1_right_foldln_words_comp-0.3_sparsity-5.pkl",
            "layer-1_right_foldln_words_comp-0.3_sparsity-5.pt\n",
        ],
    )
    def test_a_name_out_of_the_grammar_is_refused(self, name):
        with pytest.raises(InputError, match=r"layer-N_right|sparsity must be at least 1"):
            ReferenceSettings.from_name(name)


class Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def data(**changes: object) -> dict[str, object]:
    """What a good file of the tiny model holds, changed."""
    good = {"scores": torch.rand(4, 8, 4), "indices": torch.arange(4).expand(4, 8, 4).clone()}
    return {**good, **changes}


def spoilt(index: tuple[int, ...], value: float, name: str = "scores") -> dict[str, object]:
    """One number changed."""
    found = data()
    found[name][index] = value
    return found


class TestBadFiles:
    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ({"scores": torch.rand(4, 8, 4)}, "dictionary of scores and indices"),
            ([torch.rand(4, 8, 4)], "dictionary of scores and indices"),
            (torch.rand(4, 8, 4), "dictionary of scores and indices"),
            (data(scores=torch.rand(4, 8)), "heads x rank x K"),
            (data(scores=torch.rand(4), indices=torch.arange(4)), "heads x rank x K"),
            (data(scores=torch.rand(4, 8, 5)), "heads x rank x K"),
            (data(scores=torch.rand(4, 8, 5), indices=torch.arange(5).expand(4, 8, 5).clone()), "sparsity 4"),
            (data(scores=[[0.5]]), "must be a plain tensor"),
            (data(scores=torch.rand(4, 8, 4).to_sparse()), "must be a plain tensor"),
            (data(scores=torch.ones(4, 8, 4, dtype=torch.int64)), "floating-point"),
            (data(scores=torch.ones(4, 8, 4, dtype=torch.complex64)), "floating-point"),
            (data(indices=torch.rand(4, 8, 4)), "whole numbers"),
            (data(indices=torch.ones(4, 8, 4, dtype=torch.bool)), "whole numbers"),
            (spoilt((1, 2, 3), float("nan")), "NaN"),
            (spoilt((1, 2, 3), float("inf")), "NaN or infinity"),
            (spoilt((1, 2, 3), -0.1), "must not be negative"),
            (spoilt((1, 2, 3), -2, "indices"), "must be line numbers"),
            (spoilt((1, 2, 3), -1, "indices"), "has a score above 0"),
            (spoilt((1, 2, 3), 0, "indices"), "twice"),
            (data(scores=torch.zeros(1).expand(4, 8, 4)), "more than the file holds"),
            (data(scores=torch.zeros(1).expand(10**6, 10**6, 4)), "more than the file holds"),
            (data(scores=torch.rand(0, 8, 4), indices=torch.zeros(0, 8, 4).long()), "heads x rank x K"),
        ],
    )
    def test_what_is_no_reference_file_is_refused(self, tmp_path, content, complaint):
        path = tmp_path / NAME.format(1)
        torch.save(content, path)
        with pytest.raises(InputError, match=complaint):
            read_reference(path)

    def test_the_good_one_is_read(self, tmp_path):
        path = tmp_path / NAME.format(1)
        torch.save(data(), path)
        assert read_reference(path).scores.shape == (4, 8, 4)

    def test_code_is_not_run(self, tmp_path):
        path, mark = tmp_path / NAME.format(1), tmp_path / "mark"
        torch.save(data(extra=Payload(mark)), path)
        with pytest.raises(InputError, match="would run code"):
            read_reference(path)
        assert not mark.exists()
        # The control: the payload works.
        torch.load(path, weights_only=False)
        assert mark.exists()

    @pytest.mark.parametrize("keep", [0, 10, 400, -1])
    def test_a_part_of_a_file_is_refused(self, tmp_path, keep):
        path = tmp_path / NAME.format(1)
        torch.save(data(), path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match="download it again"):
            read_reference(path)

    def test_the_old_format_is_refused(self, tmp_path):
        # There a file of a few bytes can ask for any amount of memory.
        path = tmp_path / NAME.format(1)
        torch.save(data(), path, _use_new_zipfile_serialization=False)
        with pytest.raises(InputError, match="zip archive"):
            read_reference(path)

    def test_a_compressed_archive_is_refused(self, tmp_path):
        path, packed = tmp_path / NAME.format(1), tmp_path / NAME.format(2)
        torch.save(data(scores=torch.zeros(4, 8, 4)), path)
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.namelist():
                target.writestr(entry, source.read(entry))
        with pytest.raises(InputError, match="compressed"):
            read_reference(packed)

    def test_a_damaged_pickle_is_refused(self, tmp_path):
        path = tmp_path / NAME.format(1)
        torch.save(data(), path)
        content = bytearray(path.read_bytes())
        start = content.index(b"scores")
        content[start - 8 : start + 40] = b"\xff" * 48
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_reference(path)

    def test_no_file_and_a_folder_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_reference(tmp_path / NAME.format(1))
        (tmp_path / NAME.format(2)).mkdir()
        with pytest.raises(InputError, match="is a folder"):
            read_reference(tmp_path / NAME.format(2))


class TestFilesTogether:
    def test_an_index_beyond_the_concepts_is_refused(self, published, tmp_path):
        with pytest.raises(InputError, match=r"has 10 lines"):
            read(published, concepts=lines(tmp_path, WORDS[:10]))

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (("layer-1", "layer-3"), "does not exist: this model has layers 0-2"),
            (("layer-1", "layer-2"), "both explain layer 2"),
            (("words", "others"), "different settings"),
            (("comp-0.3", "comp-0.4"), "different settings"),
            (("_foldln", "_nofoldln"), "different settings"),
            (("_right", "_left"), "different settings"),
        ],
    )
    def test_files_that_do_not_go_together_are_refused(self, published, tmp_path, change, complaint):
        other = tmp_path / published.files[0].name.replace(*change)
        other.write_bytes(published.files[0].read_bytes())
        with pytest.raises(InputError, match=complaint):
            read(published, other, published.files[1])

    def test_other_shapes_are_refused(self, published, tmp_path):
        content = torch.load(published.files[0], weights_only=True)
        fewer = publish(tmp_path / NAME.format(1), *(content[key][:, :5].clone() for key in ("scores", "indices")))
        with pytest.raises(InputError, match="has shape"):
            read(published, fewer, published.files[1])
        assert read(published, fewer).decomposition.rank == 5
        heads = publish(tmp_path / NAME.format(1), *(content[key][:3].clone() for key in ("scores", "indices")))
        with pytest.raises(InputError, match="another model"):
            read(published, heads)

    def test_no_file_is_refused(self, published):
        with pytest.raises(InputError, match="no reference file"):
            import_reference([], published.editor.tower, published.concepts, published.editor.encode)
