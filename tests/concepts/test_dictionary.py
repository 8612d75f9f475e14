"""A dictionary keeps each concept once, counts what it left out, and names the fault of a refused source."""

import json
import os
import unicodedata

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from sith_hf.concepts import ConceptDictionary, storage, tidy
from sith_hf.concepts import dictionary as concepts
from sith_hf.concepts.texts import MAX_CHARACTERS
from sith_hf.errors import ArtifactError, InputError, TemporaryError
from sith_hf.pursuit import atoms as stored
from sith_hf.pursuit import centred
from sith_hf.pursuit.pursuit import Pursuit
from sith_hf.towers.text_encoder import encode_texts
from tests.support.made import WORDS, tiny_concepts
from tests.support.raw import read_raw, write_raw
from tests.support.tiny import byte_tokenizer, clip_model


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return clip_model(), byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def encoded(tower):
    return tiny_concepts().encode(*tower, "tiny")


# ---------------------------------------------------------------- from texts


@pytest.mark.parametrize(
    ("texts", "kept", "blank", "duplicates"),
    [
        (["sea", "sky"], ("sea", "sky"), 0, 0),
        (["Beach", "beach", "BEACH", "sky"], ("Beach", "sky"), 0, 2),
        (["Straße", "STRASSE", "sky"], ("Straße", "sky"), 0, 1),
        (["café", "cafe\u0301", "sky"], ("café", "sky"), 0, 1),
        (["cafe\u0301", "sky"], ("café", "sky"), 0, 0),
        (["  ice   cream\t", "ice cream", "ice\u00a0cream", "sky"], ("ice cream", "sky"), 0, 2),
        (["", " ", "\t\n", "\u3000", "sea", "sky", ""], ("sea", "sky"), 5, 0),
        (["icecream", "ice cream"], ("icecream", "ice cream"), 0, 0),
        (["cafe", "café"], ("cafe", "café"), 0, 0),
    ],
)
def test_blank_and_repeated_texts_are_left_out_and_counted(texts, kept, blank, duplicates):
    made = ConceptDictionary.from_texts(texts)
    assert (made.texts, made.blank, made.duplicates) == (kept, blank, duplicates)
    assert f"{len(kept)} concepts, {blank} blank and {duplicates} repeated left out" in repr(made)


def distinct(texts):
    """An independent count of the different concepts in a list."""
    return len({unicodedata.normalize("NFC", " ".join(t.split())).casefold() for t in texts if t.split()})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["a", "A ", "é", "É"])))
@settings(deadline=None)
def test_counts_add_up_and_a_second_pass_changes_nothing(texts):
    if distinct(texts) < 2:
        with pytest.raises(InputError, match="at least two"):
            ConceptDictionary.from_texts(texts)
        return
    made = ConceptDictionary.from_texts(iter(texts))
    assert len(made) == distinct(texts)
    assert len(made) + made.blank + made.duplicates == len(texts)
    assert all(text and text == tidy(text) for text in made.texts)
    again = ConceptDictionary.from_texts(made.texts)
    assert (again.texts, again.blank, again.duplicates) == (made.texts, 0, 0)
    order = [tidy(text) for text in texts]
    assert [order.index(text) for text in made.texts] == sorted(order.index(text) for text in made.texts)


@pytest.mark.parametrize("texts", [[], ["sea"], ["sea", "SEA", " sea "], ["", " "], iter([])])
def test_fewer_than_two_concepts_are_refused(texts):
    with pytest.raises(InputError, match="at least two different concepts"):
        ConceptDictionary.from_texts(texts)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [(7, "int"), (None, "NoneType"), (b"sea", "bytes")],
)
def test_what_is_no_text_is_refused_by_its_place(bad, fault):
    with pytest.raises(InputError, match=rf"concept 3 must be a text; got {fault}"):
        ConceptDictionary.from_texts(["a", "b", bad])


def test_one_text_is_not_a_list_of_letters():
    with pytest.raises(InputError, match="got one text"):
        ConceptDictionary.from_texts("beach")


@pytest.mark.parametrize("bad", ["\ud800", "sea \udfff"])
def test_half_of_a_surrogate_pair_is_refused(bad):
    with pytest.raises(InputError, match="concept 2 cannot be written as UTF-8"):
        ConceptDictionary.from_texts(["a", bad, "b"])
    assert len(ConceptDictionary.from_texts(["a", "🙂", "b"])) == 3  # the control: a whole pair


def test_a_concept_has_a_length_that_it_may_not_exceed():
    assert ConceptDictionary.from_texts(["a", "x" * MAX_CHARACTERS]).texts[1] == "x" * MAX_CHARACTERS
    with pytest.raises(InputError, match="concept 2 has 1001 characters"):
        ConceptDictionary.from_texts(["a", "x" * (MAX_CHARACTERS + 1)])


def test_control_characters_survive_and_are_never_shown_raw(tower, tmp_path):
    texts = ("a\x00b", "\x1b[31mred", "\u202etxt", "\x07", "a", "b")
    made = ConceptDictionary.from_texts(texts).encode(*tower, "name\x1b[2J")
    assert made.texts == texts
    made.save_pretrained(tmp_path)
    assert ConceptDictionary.from_pretrained(tmp_path).texts == texts
    assert repr(made).isprintable()


def test_categories_follow_their_texts():
    texts, names = ["sea", "", "Red", "red", "sky"], ["place", "none", "colour", "again", "place"]
    made = ConceptDictionary.from_texts(texts, categories=names)
    assert dict(zip(made.texts, made.categories, strict=True)) == {"sea": "place", "Red": "colour", "sky": "place"}
    with pytest.raises(InputError, match="5 texts but 4 categories"):
        ConceptDictionary.from_texts(texts, categories=names[:4])


@pytest.mark.parametrize("template", ["a photo", "{} {}"])
def test_a_bad_template_is_refused_before_anything_is_encoded(template, tmp_path):
    (tmp_path / "concepts.txt").write_text("a\nb\n")
    for make in (
        lambda: ConceptDictionary.from_texts(["a", "b"], template=template),
        lambda: ConceptDictionary.from_file(tmp_path / "concepts.txt", template=template),
        lambda: ConceptDictionary.from_dataset(Dataset.from_dict({"t": ["a", "b"]}), "t", template=template),
        lambda: ConceptDictionary.builtin(template=template),
    ):
        with pytest.raises(InputError, match="exactly one"):
            make()


# ---------------------------------------------------------------- from a file


def concepts_file(folder, content):
    path = folder / "concepts.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "kept", "blank"),
    [
        (b"sea\nsky\n", ("sea", "sky"), 0),
        (b"sea\nsky", ("sea", "sky"), 0),
        (b"sea\r\nsky\r\n", ("sea", "sky"), 0),
        (b"\xef\xbb\xbfsea\nsky\n", ("sea", "sky"), 0),
        (b"\n\nsea\n \nsky\n\n", ("sea", "sky"), 4),
        ("mer\nforêt\n海\n".encode(), ("mer", "forêt", "海"), 0),
        ("a\u2028b\nc\x0bd\x0ce\x1cf\x85g\rh\n".encode(), tuple("abcdefgh"), 0),  # as str.splitlines counts
    ],
    ids=["plain", "no last newline", "crlf", "bom", "blank lines", "utf-8", "other separators"],
)
def test_a_file_is_one_concept_a_line(content, kept, blank, tmp_path):
    for path in (concepts_file(tmp_path, content), str(concepts_file(tmp_path, content))):
        made = ConceptDictionary.from_file(path)
        assert (made.texts, made.blank, made.duplicates) == (kept, blank, 0)


def test_every_line_can_be_kept(tmp_path, editor):
    """As the paper's authors keep them: concept i is line i, and the mean is over all lines."""
    path = concepts_file(tmp_path, b"sea\n\nSea\n ice \t cream\x0bsea\n\n")
    made = ConceptDictionary.from_file(path, every_line=True)
    assert (made.texts, made.blank, made.duplicates) == (("sea", "", "Sea", "ice cream", "sea", ""), 0, 0)
    encoded = editor.encode(made)
    literal = encoded.embeddings.double().mean(dim=0)
    torch.testing.assert_close(encoded.mean.double(), literal, atol=1e-6, rtol=0)
    encoded.save_pretrained(tmp_path)
    again = ConceptDictionary.from_pretrained(tmp_path)
    assert again.texts == made.texts
    assert torch.equal(again.embeddings, encoded.embeddings)
    assert again.sha256 != ConceptDictionary.from_file(path).sha256
    with pytest.raises(InputError, match="at least two different concepts"):
        ConceptDictionary.from_file(concepts_file(tmp_path, b"sea\nSea\n\n"), every_line=True)


def test_a_git_lfs_pointer_is_no_list_of_concepts(tmp_path):
    path = tmp_path / "concepts.txt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(InputError, match=r"concepts\.txt: it is a git-lfs pointer.*git lfs pull"):
        ConceptDictionary.from_file(path)
    path.write_text("version\nhttps\ngit-lfs\n")  # the control
    assert len(ConceptDictionary.from_file(path)) == 3


def test_bytes_that_are_not_utf8_are_reported_by_line(tmp_path):
    bom = b"\xef\xbb\xbf"
    for start, bad, line in ((b"", b"caf\xe9", 1), (b"", b"\xed\xa0\x80", 5), (bom, b"caf\xe9", 1), (bom, b"\xff", 5)):
        lines = [b"a", b"b", "é".encode(), b"d", b"e"]
        lines[line - 1] += bad
        path = concepts_file(tmp_path, start + b"\n".join(lines) + b"\n")
        with pytest.raises(InputError, match=rf"concepts\.txt, line {line}: not UTF-8"):
            ConceptDictionary.from_file(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "at least two"),
        (b"\xef\xbb\xbf", "at least two"),
        (b"\n\n\n", "at least two"),
        (b"sea\n", "got 1"),
        (b"sea\nSEA\n", "got 1"),
        (b"sea\nsky\n" + b"x" * 1_000_000 + b"\n", "concept 3 has 1000000 characters"),
        ("a\nb\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "line 1: not UTF-8"),
    ],
    ids=["empty", "bom alone", "blank", "one", "one twice", "million characters", "utf-16", "a picture"],
)
def test_a_file_that_is_no_dictionary_is_refused(content, fault, tmp_path):
    path = concepts_file(tmp_path, content)
    with pytest.raises(InputError, match=fault) as caught:
        ConceptDictionary.from_file(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["missing.txt", ".", "nul\0.txt"])
def test_a_file_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="could not be read"):
        ConceptDictionary.from_file(tmp_path / name)


# ---------------------------------------------------------------- from a dataset


@pytest.fixture
def _quiet_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


ROWS = {"concept": ["sea", "Sea", "", "sky", "forêt"], "number": [1, 2, 3, 4, 5]}


def test_a_dataset_object():
    made = ConceptDictionary.from_dataset(Dataset.from_dict(ROWS), "concept", template="a {}")
    assert made.texts == ("sea", "sky", "forêt")
    assert (made.blank, made.duplicates, made.template) == (1, 1, "a {}")


def test_a_streamed_dataset():
    streamed = Dataset.from_dict(ROWS).to_iterable_dataset()
    assert ConceptDictionary.from_dataset(streamed, "concept").texts == ("sea", "sky", "forêt")


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
@pytest.mark.usefixtures("_quiet_datasets")
def test_a_local_folder(kind, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = Dataset.from_dict({"concept": [text or "river" for text in ROWS["concept"]]})
    getattr(rows, f"to_{kind}")(folder / f"train.{kind}")
    assert ConceptDictionary.from_dataset(str(folder), "concept").texts == ("sea", "river", "sky", "forêt")
    assert ConceptDictionary.from_dataset(folder, "concept", split="train[1:4]").texts == ("Sea", "river", "sky")
    with pytest.raises(InputError, match="data has no split test; its splits are train"):
        ConceptDictionary.from_dataset(folder, "concept", split="test")


@pytest.mark.usefixtures("_quiet_datasets")
def test_folders_that_hold_no_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 not really")
    for name, fault in (("empty", "no dataset there"), ("broken", "magic bytes"), ("missing", "no file or folder")):
        with pytest.raises(InputError, match=f"{name}: .*{fault}"):
            ConceptDictionary.from_dataset(str(tmp_path / name), "concept")


def test_a_dataset_dict_asks_for_a_split():
    parts = DatasetDict(train=Dataset.from_dict(ROWS))
    with pytest.raises(InputError, match="Choose one split of a DatasetDict"):
        ConceptDictionary.from_dataset(parts, "concept")
    assert len(ConceptDictionary.from_dataset(parts["train"], "concept")) == 3  # the control


@pytest.mark.parametrize("thing", [None, ["sea", "sky"]])
def test_what_is_no_dataset_is_refused(thing):
    with pytest.raises(InputError, match=r"datasets\.Dataset"):
        ConceptDictionary.from_dataset(thing, "concept")


def test_columns_that_will_not_do():
    rows = Dataset.from_dict({**ROWS, "maybe": ["a", None, "b", "c", "d"], "list": [["a"]] * 5})
    with pytest.raises(InputError, match="no column text; it has concept, number, maybe, list"):
        ConceptDictionary.from_dataset(rows, "text")
    for column, fault in (
        ("number", "1 must be a text; got int"),
        ("list", "1 .* got list"),
    ):
        with pytest.raises(InputError, match=fault):
            ConceptDictionary.from_dataset(rows, column)


@pytest.mark.parametrize("form", ["numpy", "arrow", "pandas"])
def test_the_format_of_a_dataset_does_not_matter(form):
    made = ConceptDictionary.from_dataset(Dataset.from_dict(ROWS).with_format(form), "concept")
    assert made.texts == ("sea", "sky", "forêt")
    assert {type(text) for text in made.texts} == {str}


def test_rows_without_a_text_are_blank():
    from datasets import ClassLabel, Features

    rows = Dataset.from_dict({"maybe": ["a", None, "", "b"], "kind": [0, 1, -1, 0]})
    made = ConceptDictionary.from_dataset(rows, "maybe")
    assert (made.texts, made.blank) == (("a", "b"), 2)
    kinds = rows.cast(Features({"maybe": rows.features["maybe"], "kind": ClassLabel(names=["sea", "sky"])}))
    made = ConceptDictionary.from_dataset(kinds, "kind")
    assert (made.texts, made.blank, made.duplicates) == (("sea", "sky"), 1, 1)
    numbers = Dataset.from_dict({"n": [1.0, float("nan"), 2.0]})
    with pytest.raises(InputError, match="1 must be a text; got float"):
        ConceptDictionary.from_dataset(numbers, "n")


# ---------------------------------------------------------------- the built-in list


def test_builtin_loses_nothing():
    made = ConceptDictionary.builtin()
    assert len(made) >= 2000
    assert (made.blank, made.duplicates) == (0, 0)
    assert len(made.categories) == len(made)
    assert len(set(made.categories)) > 10
    assert made.texts == ConceptDictionary.builtin(template="a {}").texts
    assert made.sha256 != ConceptDictionary.builtin(template="a {}").sha256


# ---------------------------------------------------------------- encoding and centring


def test_encode_gives_the_embeddings_of_the_texts(tower, encoded):
    plain = tiny_concepts()
    assert plain.embeddings is None
    torch.testing.assert_close(encoded.embeddings, encode_texts(*tower, plain.texts))
    assert encoded.encoder == "tiny"
    assert encoded.texts == plain.texts
    assert plain.embeddings is None  # a new object, the old one as it was
    prompted = ConceptDictionary.from_texts(WORDS, template="a photo of a {}").encode(*tower, "tiny")
    torch.testing.assert_close(prompted.embeddings, encode_texts(*tower, [f"a photo of a {w}" for w in WORDS]))


def test_what_needs_embeddings_says_so(tmp_path):
    bare = tiny_concepts()
    for ask in (lambda: bare.atoms, lambda: bare.mean, lambda: bare.save_pretrained(tmp_path)):
        with pytest.raises(InputError, match="encode it first"):
            ask()
    assert not list(tmp_path.iterdir())


def test_centring_by_literal_loops(encoded):
    rows = encoded.embeddings.numpy().astype(np.float64)
    mean = sum(rows) / len(rows)
    expected = np.stack([(row - mean) / np.sqrt(((row - mean) ** 2).sum()) for row in rows])
    np.testing.assert_allclose(encoded.atoms.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(encoded.mean.numpy(), mean, atol=1e-7)
    np.testing.assert_allclose(encoded.atoms.norm(dim=-1).numpy(), 1, atol=1e-6)
    assert np.abs(rows - expected).max() > 0.1  # the control: centring does something


def test_centred_rows_have_no_common_direction(encoded):
    lengths = (encoded.embeddings - encoded.mean).norm(dim=-1, keepdim=True)
    assert (encoded.atoms * lengths).mean(dim=0).norm() < 1e-6
    assert encoded.embeddings.mean(dim=0).norm() > 0.1  # the control


def test_atoms_follow_a_permutation_of_the_texts(tower, encoded):
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = ConceptDictionary.from_texts([WORDS[i] for i in order]).encode(*tower, "tiny")
    torch.testing.assert_close(shuffled.atoms, encoded.atoms[order], atol=1e-5, rtol=0)
    assert not torch.allclose(shuffled.atoms, encoded.atoms, atol=1e-2)
    assert shuffled.sha256 != encoded.sha256


def test_two_concepts_are_each_others_opposite(tower):
    atoms = ConceptDictionary.from_texts(["sea", "sky"]).encode(*tower, "tiny").atoms
    torch.testing.assert_close(atoms[0], -atoms[1], atol=1e-5, rtol=0)


def test_concepts_that_the_tower_cannot_distinguish_are_refused():
    same = torch.nn.functional.normalize(torch.ones(3, 4), dim=-1)
    with pytest.raises(InputError, match="all concepts have the same embedding"):
        centred(same, same.mean(dim=0))
    with pytest.raises(InputError, match="equals the mean"):
        centred(torch.cat([same, -same[:1]]), same[0])


# ---------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("template", [None, "照片 {}"])
@pytest.mark.parametrize("categories", [None, [f"kind {i % 3} é" for i in range(len(WORDS))]])
def test_a_round_trip_is_exact(template, categories, tower, tmp_path):
    made = ConceptDictionary.from_texts(WORDS, template=template, categories=categories).encode(*tower, "tiny/é")
    path = made.save_pretrained(tmp_path / "new" / "folder")
    assert [p.name for p in path.parent.iterdir()] == ["dictionary.safetensors"]
    for source in (path, path.parent, str(path.parent)):
        read = ConceptDictionary.from_pretrained(source)
        assert torch.equal(read.embeddings, made.embeddings)
        for name in ("texts", "categories", "template", "encoder", "encoder_sha256", "sha256"):
            assert getattr(read, name) == getattr(made, name), name
    torch.testing.assert_close(read.embeddings.norm(dim=-1), torch.ones(len(made)))


def test_fingerprints_distinguish_dictionaries():
    made = {
        ConceptDictionary.from_texts(texts, template=template).sha256
        for texts, template in ((["a", "b"], None), (["b", "a"], None), (["ab", "b"], None), (["a", "b"], "x {}"))
    }
    assert len(made) == 4
    assert ConceptDictionary.from_texts(["a", "b"]).sha256 == ConceptDictionary.from_texts([" a", "b", "A"]).sha256


def test_the_file_says_what_it_is(encoded, tmp_path):
    content = encoded.save_pretrained(tmp_path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.pop("__metadata__")
    assert (metadata["format"], metadata["version"]) == ("sith-hf/dictionary", "1")
    provenance = json.loads(metadata["sith"])
    assert provenance["encoder"] == "tiny"
    assert set(provenance["libraries"]) >= {"sith-hf", "torch", "transformers"}
    assert header["embeddings"]["shape"] == [len(WORDS), 24]


# ---------------------------------------------------------------- embeddings that stay in their file


def made(count: int = 300, width: int = 40, seed: int = 0) -> ConceptDictionary:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(count, width, generator=generator) + 0.5, dim=1)
    texts = tuple(f"concept {number} é" for number in range(count))
    return ConceptDictionary(texts, embeddings=rows, encoder="none", encoder_sha256="0")


def test_a_large_dictionary_stays_in_its_file(tmp_path, monkeypatch):
    path = made().save_pretrained(tmp_path)
    monkeypatch.setattr("sith_hf.concepts.storage.IN_MEMORY", path.stat().st_size)
    assert ConceptDictionary.from_pretrained(path).stored is None  # the control
    monkeypatch.setattr("sith_hf.concepts.storage.IN_MEMORY", path.stat().st_size - 1)
    assert ConceptDictionary.from_pretrained(path).stored.file.path == path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_stored_dictionary_is_the_same_dictionary(dtype, tmp_path):
    path = made().save_pretrained(tmp_path, dtype)
    inside, outside = (ConceptDictionary.from_pretrained(path, in_memory=whole) for whole in (True, False))
    assert inside.stored is None
    assert outside.stored.file.path == path
    assert (inside.embeddings.dtype, outside.embeddings.dtype) == (torch.float32, dtype)
    assert torch.equal(inside.embeddings, made().embeddings.to(dtype).float())
    assert (dtype == torch.float32) == torch.equal(inside.embeddings, made().embeddings)
    assert torch.equal(outside.embeddings.float(), inside.embeddings)
    assert torch.equal(outside.embeddings_of([7, 299, 7]), inside.embeddings[[7, 299, 7]])
    assert torch.equal(outside.embedding_of("Concept 12 É"), inside.embeddings[12])
    for name in ("texts", "sha256", "encoder"):
        assert getattr(outside, name) == getattr(inside, name)
    assert torch.equal(outside.mean, inside.mean)
    assert torch.equal(outside.atoms, inside.atoms)
    index = torch.tensor([[3, 299], [0, 3]])
    assert torch.equal(outside.streamed_atoms.rows(index), inside.atoms[index])
    torch.testing.assert_close(outside.streamed_atoms.block(10, 290), inside.atoms[10:290], atol=1e-5, rtol=0)
    x = torch.nn.functional.normalize(torch.randn(30, 40, generator=torch.Generator().manual_seed(5)), dim=1)
    for method in ("comp", "mp", "top-k"):
        left, right = (Pursuit(method)(x, atoms) for atoms in (outside.streamed_atoms, inside.atoms))
        assert torch.equal(left.index, right.index)
        assert torch.equal(left.weight, right.weight)
    again = outside.save_pretrained(tmp_path / "again", dtype)
    assert again.read_bytes() == path.read_bytes()


def test_large_dictionaries_stay_in_their_file_and_are_written_from_it(tmp_path, monkeypatch):
    path = made().save_pretrained(tmp_path / "whole")
    assert ConceptDictionary.from_pretrained(path).stored is None
    for place in (concepts, storage):
        monkeypatch.setattr(place, "IN_MEMORY", 1000)
    monkeypatch.setattr(stored, "READ", 1000)
    outside = ConceptDictionary.from_pretrained(path)
    assert outside.stored is not None
    for dictionary in (outside, made()):
        pieces = dictionary.save_pretrained(tmp_path / "pieces")
        assert pieces.read_bytes() == path.read_bytes()
        assert [item.name for item in pieces.parent.iterdir()] == [path.name]
    halves = outside.save_pretrained(tmp_path / "halves", torch.float16)
    monkeypatch.undo()
    assert halves.read_bytes() == made().save_pretrained(tmp_path / "other", torch.float16).read_bytes()
    with pytest.raises(InputError, match="float64"):
        made().save_pretrained(tmp_path / "double", torch.float64)


def test_encoding_again_leaves_the_file(tower, tmp_path):
    bare = ConceptDictionary.from_texts(WORDS)
    path = bare.encode(*tower, "tiny").save_pretrained(tmp_path)
    outside = ConceptDictionary.from_pretrained(path, in_memory=False)
    inside = outside.encode(*tower, "tiny")
    assert inside.stored is None
    path.unlink()
    assert len(inside.atoms) == len(WORDS)
    with pytest.raises(TemporaryError, match="could not be read"):
        outside.embeddings_of([0])


CHANGES = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 8),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 8),
    "written again": lambda path: os.utime(path, ns=(1, 1)),
    "replaced": lambda path: (
        path.with_name("new").write_bytes(path.read_bytes()),
        os.replace(path.with_name("new"), path),
    ),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_under_a_run_is_refused(change, tmp_path):
    path = made().save_pretrained(tmp_path)
    atoms = ConceptDictionary.from_pretrained(path, in_memory=False).streamed_atoms
    x = made(20, seed=9).embeddings
    finished = []

    def last(count):
        finished.append(count)
        change(path)

    Pursuit()(x, atoms)  # the control
    with pytest.raises((TemporaryError, ArtifactError), match=r"changed while it was in use|could not be read"):
        Pursuit()(x, atoms, progress=last)
    assert finished == [20]  # noticed at the end, when nothing was read any more
    with pytest.raises((TemporaryError, ArtifactError), match=r"changed while it was in use|could not be read"):
        atoms.rows(torch.tensor([0]))
    with pytest.raises((TemporaryError, ArtifactError), match=r"changed while it was in use|could not be read"):
        atoms.block(0, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("value", "says"), [(torch.nan, "NaN"), (torch.inf, "NaN"), (3.0, "unit length")])
def test_stored_numbers_that_will_not_do_are_refused(value, says, dtype, tmp_path):
    dictionary = made()
    dictionary.embeddings[299, 39] = value
    path = dictionary.save_pretrained(tmp_path, dtype)
    for whole in (True, False):
        with pytest.raises(ArtifactError, match=says):
            ConceptDictionary.from_pretrained(path, in_memory=whole)


@pytest.mark.parametrize("cut", [3, 50, 400, 40000])
def test_a_damaged_file_is_refused_wherever_it_stays(cut, tmp_path):
    path = made().save_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    for whole in (True, False):
        with pytest.raises(ArtifactError, match=r"dictionary\.safetensors"):
            ConceptDictionary.from_pretrained(path, in_memory=whole)


@pytest.mark.parametrize("key", ["format", "version", "sith"])
def test_a_foreign_file_is_refused_wherever_it_stays(key, tmp_path):
    path = made().save_pretrained(tmp_path)
    tensors, metadata = read_raw(path)
    write_raw(path, tensors, {**metadata, key: "[]"})
    for whole in (True, False):
        with pytest.raises(ArtifactError):
            ConceptDictionary.from_pretrained(path, in_memory=whole)
