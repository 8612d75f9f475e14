"""Artifacts: reading a damaged file ends in one clear error, and a failed write leaves no half of a file."""

import builtins
import errno
import io
import itertools
import json
import os
import pickle
import random
import resource
import struct
import tempfile
import zipfile
from dataclasses import replace
from functools import partial
from io import FileIO

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from sith_hf.concepts import dictionary as concepts
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition import decomposition
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.edits import spec as edits
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import ArtifactError, InputError, OutputError, SithError
from sith_hf.files import tensor_file, text_tensors, texts_of, write_whole
from sith_hf.gains.scores import Scores
from sith_hf.hub import download as pull
from sith_hf.images.mean import estimated_mean
from sith_hf.towers.image_mean import ImageMean
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.raw import Raw, read_raw, write_raw

KINDS = {"dictionary": ConceptDictionary, "decomposition": Decomposition, "spec": EditSpec}
LAYOUTS = {
    "dictionary": concepts.DICTIONARY_LAYOUT,
    "decomposition": decomposition.DECOMPOSITION_LAYOUT,
    "spec": edits.EDIT_SPEC_LAYOUT,
}
# Parts that only some decompositions have: tests/decomposition tries them.
APART = {"total_cosine", *(name for name in decomposition.DECOMPOSITION_LAYOUT.tensors if name.startswith("driver"))}
TENSORS = [(kind, name) for kind, layout in LAYOUTS.items() for name in layout.tensors if name not in APART]
FORMATS = {"F32": "f", "F64": "d", "I64": "q"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One result of each kind, as objects."""
    editor = tiny_editor(tmp_path_factory.mktemp("editor"), num_hidden_layers=2)
    words = ConceptDictionary.from_texts(tiny_concepts().texts, template="a {}")
    dictionary = editor.encode(words)
    made = editor.decompose(dictionary, rank=3)
    spec = editor.edit().vectors(0.0, layers=[0], heads=[1]).vectors(2.5, layers=[1], vectors=[0]).spec
    spec = replace(spec, column=spec.write * 2)  # as of a layer with a layer scale
    return {
        "dictionary": dictionary,
        "decomposition": made,
        "spec": spec,
        "scores": spot_scores(made),
        "mean": estimated_mean(editor),
    }


def spot_scores(made):
    """Scores of every pole."""
    value = torch.arange(made.fidelity.numel()).reshape(made.fidelity.shape) % 5 + 1.0
    return Scores(made.layers, made.poles, value, "sea", "sheet", {}, "0" * 64)


@pytest.fixture(scope="module")
def contents(results, tmp_path_factory):
    """The bytes of a file of each kind."""
    return {kind: item.save_pretrained(tmp_path_factory.mktemp(kind)).read_bytes() for kind, item in results.items()}


@pytest.fixture
def damaged(contents, tmp_path):
    """Write a file of a kind with its tensors and metadata changed by a function; return its path.

    It has no checksums, as in earlier releases: it can be refused for its content only.
    """

    def make(kind, change):
        path = tmp_path / LAYOUTS[kind].filename
        path.write_bytes(contents[kind])
        tensors, metadata = read_raw(path)
        del metadata["checksums"]
        change(tensors, metadata)
        return write_raw(path, tensors, metadata)

    return make


def refused(kind, path, fault=""):
    """Assert that reading is refused by one error that names the file; returns its message."""
    with pytest.raises(InputError) as caught:
        KINDS[kind].from_pretrained(path.parent)
    message = str(caught.value)
    assert str(path) in message
    assert fault in message
    assert len(message) < 2000
    return message


def refusal(kind, path):
    """Whether reading is refused."""
    try:
        kind.from_pretrained(path)
    except InputError:
        return True
    return False


def numbers(raw):
    """The numbers of a raw tensor, flat."""
    return list(
        struct.unpack(f"<{len(raw.content) // struct.calcsize(FORMATS[raw.dtype])}{FORMATS[raw.dtype]}", raw.content)
    )


def put(name, values, at=None):
    """A change that writes one number at a flat place, or all of them."""

    def change(tensors, metadata):
        old = tensors[name]
        new = list(values) if at is None else numbers(old)
        if at is not None:
            new[at] = values
        shape = old.shape if len(new) == len(numbers(old)) else (len(new), *old.shape[1:])
        tensors[name] = Raw(old.dtype, shape, struct.pack(f"<{len(new)}{FORMATS[old.dtype]}", *new))

    return change


def say(key, value):
    """A change of one value in the JSON of the metadata."""

    def change(tensors, metadata):
        metadata["sith"] = json.dumps(json.loads(metadata["sith"]) | {key: value})

    return change


# ---------------------------------------------------------------- the control


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_copy_is_read(kind, damaged):
    path = damaged(kind, lambda tensors, metadata: None)
    assert isinstance(KINDS[kind].from_pretrained(path), KINDS[kind])
    assert isinstance(KINDS[kind].from_pretrained(path.parent), KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_only_safetensors_is_written(kind, results, tmp_path):
    path = results[kind].save_pretrained(tmp_path / "deep" / "folder")
    assert [item.name for item in path.parent.iterdir()] == [LAYOUTS[kind].filename]
    assert {n: t.dtype for n, t in load_file(path).items()} == {
        n: d for n, (d, _) in LAYOUTS[kind].tensors.items() if n not in APART
    }


# ---------------------------------------------------------------- nothing there


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_or_file_is_reported(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / LAYOUTS[kind].filename).mkdir(parents=True)
    for name in ("missing", "empty", "odd", "x" * 300, "missing/" + LAYOUTS[kind].filename):
        with pytest.raises(ArtifactError) as caught:
            KINDS[kind].from_pretrained(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("offline\nmore"), OSError(errno.ECONNRESET, "reset"), OSError()]
)
def test_a_hub_that_does_not_answer_is_reported(error, monkeypatch):
    def fetch(*args, **kwargs):
        raise error

    monkeypatch.setattr(pull, "hf_hub_download", fetch)
    with pytest.raises(ArtifactError, match="someone/something") as caught:
        EditSpec.from_pretrained("someone/something")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_answers_is_believed_no_more_than_a_folder(kind, damaged, monkeypatch):
    asked = []

    def fetch(name, filename, *, repo_type, revision, token):
        asked.append((name, filename, repo_type, revision, token))
        return str(path)

    monkeypatch.setattr(pull, "hf_hub_download", fetch)
    path = damaged(kind, lambda tensors, metadata: None)
    assert isinstance(KINDS[kind].from_pretrained("someone/something", revision="abc"), KINDS[kind])
    assert asked == [("someone/something", LAYOUTS[kind].filename, LAYOUTS[kind].repo_type, "abc", None)]
    path = damaged(kind, lambda tensors, metadata: metadata.update(version="3"))
    with pytest.raises(ArtifactError, match="version '3'"):
        KINDS[kind].from_pretrained("someone/something")


def test_a_spec_is_found_in_an_edited_checkpoint(results, tmp_path):
    results["spec"].save_pretrained(tmp_path / "sith")
    assert EditSpec.from_pretrained(tmp_path) == results["spec"]


# ---------------------------------------------------------------- bytes


def archive(content):
    """As ``torch.save`` packs: a zip with a pickle in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("archive/data.pkl", content)
    return packed.getvalue()


class Trap:
    """An object whose unpickling raises: no reader may unpickle."""

    def __reduce__(self):
        return (builtins.exec, ("raise SystemExit('unpickled')",))


BYTES = {
    "empty": lambda content: b"",
    "four bytes": lambda content: content[:4],
    "the length alone": lambda content: content[:8],
    "half of the header": lambda content: content[: int.from_bytes(content[:8], "little") // 2],
    "the header alone": lambda content: content[: 8 + int.from_bytes(content[:8], "little")],
    "half": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "random": lambda content: random.Random(0).randbytes(len(content)),
    "random body of a whole length": lambda content: content[:8] + random.Random(1).randbytes(len(content) - 8),
    "a huge header": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "a larger header than the file": lambda content: struct.pack("<Q", len(content) + 1) + content[8:],
    "a header of nothing": lambda content: struct.pack("<Q", 0) + content[8:],
    "a header of a list": lambda content: struct.pack("<Q", 2) + b"[]",
    "an empty header": lambda content: struct.pack("<Q", 2) + b"{}",
    "nesting": lambda content: struct.pack("<Q", 10**6) + b"[" * 10**6,
    "text": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a pickle": lambda content: pickle.dumps(Trap()),
    "a zip": archive,
    "a zip of a pickle": lambda content: archive(pickle.dumps(Trap())),
}


# All kinds are read by one reader: what does not depend on the kind is tried on one.
@pytest.mark.parametrize("change", BYTES.values(), ids=BYTES)
def test_a_file_of_other_bytes_is_refused(change, contents, tmp_path):
    path = tmp_path / LAYOUTS["spec"].filename
    path.write_bytes(change(contents["spec"]))
    refused("spec", path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_refused(kind, contents, tmp_path):
    path, content = tmp_path / LAYOUTS[kind].filename, contents[kind]
    for length in {*range(0, len(content), len(content) // 60), *range(len(content) - 9, len(content))}:
        path.write_bytes(content[:length])
        refused(kind, path)


def flips(content, number):
    """A file with one bit flipped, at seeded places all over it; and the place."""
    draw = random.Random(2)
    for at in sorted(draw.sample(range(len(content)), min(number, len(content)))):
        yield at, content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


READERS = {
    **{kind: KINDS[kind].from_pretrained for kind in KINDS},
    "dictionary in its file": lambda path: ConceptDictionary.from_pretrained(path, in_memory=False),
    "scores": Scores.from_pretrained,
    "mean": ImageMean.from_pretrained,
}


@pytest.mark.parametrize("kind", READERS)
def test_any_flipped_bit_is_refused(kind, contents, tmp_path):
    content = contents[kind.split(" ")[0]]
    path = tmp_path / "file.safetensors"
    for at, flipped in flips(content, 500):
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=r"file\.safetensors"):
            pytest.fail(f"byte {at} of {len(content)}: {READERS[kind](path)!r}")


def test_without_checksums_flipped_bits_are_accepted(damaged, tmp_path):
    """The control: a spec as earlier releases wrote it is read, and so it is with another gain in it."""
    content, accepted = damaged("spec", lambda tensors, metadata: None).read_bytes(), 0
    for _, flipped in flips(content, 500):
        (tmp_path / "spec.safetensors").write_bytes(flipped)
        accepted += not refusal(EditSpec, tmp_path / "spec.safetensors")
    assert accepted > 50


@pytest.mark.parametrize("kind", READERS)
def test_files_of_earlier_releases_are_read(kind, contents, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(contents[kind.split(" ")[0]])
    tensors, metadata = read_raw(path)
    assert set(json.loads(metadata.pop("checksums"))["tensors"]) == set(tensors)
    assert sorted(metadata) == ["format", "sith", "version"]
    READERS[kind](write_raw(path, tensors, metadata))


def test_another_name_for_the_checksums_is_no_file_of_an_earlier_release(contents, tmp_path):
    path = tmp_path / "edit_spec.safetensors"
    path.write_bytes(contents["spec"])
    tensors, metadata = read_raw(path)
    metadata["checksumz"] = metadata.pop("checksums")
    with pytest.raises(ArtifactError, match="unknown keys"):
        EditSpec.from_pretrained(write_raw(path, tensors, metadata))


def test_writing_twice_gives_the_same_bytes(results, contents, tmp_path):
    for kind, item in results.items():
        assert item.save_pretrained(tmp_path / kind).read_bytes() == contents[kind]


@pytest.mark.parametrize("when", ["beginning", "header", "tensor"])
def test_a_reader_beside_a_writer_gets_one_file_whole(when, results, tmp_path, monkeypatch):
    """The file is replaced at its opening, behind its header, and behind each of its tensors."""
    first, second = results["spec"], results["spec"] * 0.5
    second = replace(second, labels=tuple(f"other {label}" for label in second.labels))
    path = first.save_pretrained(tmp_path)
    reads = []

    class Watched(FileIO):
        def _replaced(self):
            reads.append(when)
            monkeypatch.undo()
            second.save_pretrained(tmp_path)

        def read(self, size=-1):
            if when == "beginning":
                self._replaced()
            return super().read(size)

        def readinto(self, buffer):
            if len(reads) == (when == "tensor"):
                self._replaced()
            elif not reads:
                reads.append("a tensor")
            return super().readinto(buffer)

    monkeypatch.setattr(tensor_file, "open_regular", Watched)
    found = EditSpec.from_pretrained(path)
    assert reads
    assert (found, found.labels) == (first, first.labels)
    found = EditSpec.from_pretrained(path)  # the control: it was replaced
    assert (found, found.labels) == (second, second.labels)


def test_a_file_that_is_written_to_in_place_is_refused(results, tmp_path, monkeypatch):
    path = results["spec"].save_pretrained(tmp_path)
    tensors, metadata = read_raw(path)
    del metadata["checksums"]
    write_raw(path, tensors, metadata)

    class Watched(FileIO):
        def readinto(self, buffer):
            os.utime(path, ns=(1, 1))
            return super().readinto(buffer)

    monkeypatch.setattr(tensor_file, "open_regular", Watched)
    with pytest.raises(InputError, match="changed while it was in use"):
        EditSpec.from_pretrained(path)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_one_kind_are_no_files_of_another(kind, contents, tmp_path):
    for other in set(KINDS) - {kind}:
        path = tmp_path / LAYOUTS[kind].filename
        path.write_bytes(contents[other])
        assert LAYOUTS[other].format in refused(kind, path, f"not a file of format {LAYOUTS[kind].format}")


# ---------------------------------------------------------------- tensors


def test_the_layouts_are_tested_in_full(contents, tmp_path):
    for kind, layout in LAYOUTS.items():
        (tmp_path / "file").write_bytes(contents[kind])
        assert set(read_raw(tmp_path / "file")[0]) == set(layout.tensors) - APART
    assert len(TENSORS) == 3 + 19 + 8


def test_a_tensor_that_is_gone_renamed_or_too_many_is_refused(damaged):
    for kind, name in TENSORS:
        path = damaged(kind, lambda tensors, _, name=name: tensors.pop(name))
        if name == "column":  # a file may lack it
            assert EditSpec.from_pretrained(path).column is None
        else:
            refused(kind, path, f"missing ['{name}']")
    renamed = damaged("spec", lambda tensors, _: tensors.update(writes=tensors.pop("write")))
    refused("spec", renamed, "missing ['write'], unexpected ['writes']")
    refused("spec", damaged("spec", lambda tensors, _: tensors.update(extra=tensors["row"])), "unexpected ['extra']")


def test_a_tensor_of_another_dtype_is_refused(damaged):
    same_size = {"F32": ["I32", "U32"], "F64": ["I64", "U64"], "I64": ["F64", "U64"], "U8": ["I8", "BOOL"]}
    found = {}

    def relabel(name, dtype):
        return lambda tensors, _: tensors.update({name: tensors[name]._replace(dtype=dtype)})

    for kind, name in TENSORS:
        damaged(kind, lambda tensors, _, name=name: found.update({name: tensors[name].dtype}))
        for other in same_size[found[name]]:
            refused(kind, damaged(kind, relabel(name, other)))
    for other in ("C64", "F8_E8M0", "F4", "F128", "", "f32"):
        refused("spec", damaged("spec", relabel("write", other)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_another_shape_is_refused(kind, damaged):
    def reshape(name, make):
        def change(tensors, _):
            raw = tensors[name]
            size = len(raw.content)
            for n in raw.shape:
                size //= n
            shape = make(raw.shape)
            count = size
            for n in shape:
                count *= n
            tensors[name] = Raw(raw.dtype, shape, (raw.content * 2)[:count])

        return change

    makes = {
        "one entry less": lambda shape: (shape[0] - 1, *shape[1:]),
        "one axis more": lambda shape: (*shape, 1),
        "flat": lambda shape: (int(torch.tensor(shape).prod()), *([] if len(shape) > 1 else [1])),
        "no entry": lambda shape: (0, *shape[1:]),
        "a number": lambda shape: (),
    }
    for name in (name for other, name in TENSORS if other == kind):
        for make in makes.values():
            refused(kind, damaged(kind, reshape(name, make)))
        if name != "text_bytes":  # behind the last text there may be more bytes
            refused(kind, damaged(kind, reshape(name, lambda shape: (shape[0] + 1, *shape[1:]))))


def test_numbers_that_are_not_finite_are_refused(damaged):
    floats = [(kind, name) for kind, name in TENSORS if LAYOUTS[kind].tensors[name][0].is_floating_point]
    assert len(floats) > 10
    for kind, name in floats:
        for value, at in ((float("nan"), 0), (float("inf"), -1), (-float("inf"), 0)):
            refused(kind, damaged(kind, put(name, value, at)), f"{name} holds NaN or infinity")


# ---------------------------------------------------------------- metadata


def without_sith(tensors, metadata):
    del metadata["sith"]


METADATA = {
    "another format": (lambda t, m: m.update(format="sith-hf/other"), "not a file of format"),
    "no format": (lambda t, m: m.pop("format"), "but of None"),
    "no metadata": (lambda t, m: m.clear(), "not a file of format"),
    "a later version": (lambda t, m: m.update(version="3"), "version '3'"),
    "a version with a point": (lambda t, m: m.update(version="1.0"), "version '1.0'"),
    "no version": (lambda t, m: m.pop("version"), "version None"),
    "no JSON": (without_sith, "no JSON object"),
    "broken JSON": (lambda t, m: m.update(sith=m["sith"][:-1]), "not JSON"),
    "empty JSON": (lambda t, m: m.update(sith=""), "not JSON"),
    "a list": (lambda t, m: m.update(sith="[]"), "no JSON object"),
    "null": (lambda t, m: m.update(sith="null"), "no JSON object"),
    "a very long number": (lambda t, m: m.update(sith='{"base": ' + "1" * 10_000 + "}"), "not JSON"),
    "not a number": (lambda t, m: m.update(sith=m["sith"][:-1] + ', "x": NaN}'), "not JSON"),
    "infinity": (lambda t, m: m.update(sith=m["sith"][:-1] + ', "x": 1e999}'), "not JSON"),
    "half a surrogate": (lambda t, m: m.update(sith=m["sith"][:-1] + ', "x": "\\ud800"}'), "not JSON"),
    "deep nesting": (lambda t, m: m.update(sith="[" * 200_000), "not JSON"),
    "an empty object": (lambda t, m: m.update(sith="{}"), "has no valid"),
}


@pytest.mark.parametrize(("change", "fault"), METADATA.values(), ids=METADATA)
def test_damaged_metadata_is_refused(change, fault, damaged):
    refused("spec", damaged("spec", change), fault)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_gone_or_of_another_type_is_refused(kind, damaged):
    def remove(tensors, metadata, key):
        data = json.loads(metadata["sith"])
        del data[key]
        metadata["sith"] = json.dumps(data)

    for key, allowed in LAYOUTS[kind].data.items():
        refused(kind, damaged(kind, partial(remove, key=key)), f"no valid '{key}'")
        for value in (3, 1.5, "text", [1], {"a": 1}, True, None):
            if not isinstance(value, allowed):
                refused(kind, damaged(kind, say(key, value)), f"no valid '{key}'")


# ---------------------------------------------------------------- each kind's own invariants

TEXTS = {
    "from one": put("text_offsets", 1, 0),
    "descending": put("text_offsets", 0, 2),
    "negative": put("text_offsets", -1, 1),
    "beyond the end": put("text_offsets", 10**6, -1),
    "beyond any end": put("text_offsets", 2**62, -1),
    "no offset": put("text_offsets", []),
    "one text less": lambda t, m: put("text_offsets", numbers(t["text_offsets"])[:-1])(t, m),
    "not UTF-8": lambda t, m: t.update(
        text_bytes=Raw("U8", t["text_bytes"].shape, b"\xff" + t["text_bytes"].content[1:])
    ),
}
BASES = [{}, {"name": 1, "revision": None, "sha256": {}}, {"name": "x", "revision": 3, "sha256": {}}]
BASES += [{"name": "x", "revision": None, "sha256": {"a": 1}}, {"name": "x", "revision": None, "sha256": ["a"]}]
BASES += [{"revision": None, "sha256": {}}, {"name": "x", "sha256": {}}, {"name": "x", "revision": None}]

INVARIANTS = {
    "dictionary": {
        **TEXTS,
        "other texts": lambda t, m: t.update(
            text_bytes=Raw("U8", t["text_bytes"].shape, b"x" + t["text_bytes"].content[1:])
        ),
        "other sha256": say("texts_sha256", "0" * 64),
        "embeddings not unit": put("embeddings", 3.0, 0),
        "fewer categories": say("categories", ["a"]),
        "categories no texts": say("categories", list(range(35))),
        "template without place": say("template", "a photo"),
        "another template": say("template", "the {}"),
        "template of half a surrogate": say("template", "\ud800 {}"),
    },
    "decomposition": {
        "texts descending": TEXTS["descending"],
        "concept out of range": put("concept", 10**6, 0),
        "concept just out of range": lambda t, m: put("concept", len(numbers(t["text_offsets"])) - 1, 0)(t, m),
        "concept below -1": put("concept", -2, -1),
        "negative weight": put("weight", -0.1, 3),
        "layers descending": put("layers", [1, 0]),
        "a layer twice": put("layers", [1, 1]),
        "a negative layer": put("layers", [-1, 0]),
        "poles swapped": say("poles", ["-", "+"]),
        "one pole of two": say("poles", ["+"]),
        "poles three": say("poles", ["+", "-", "+"]),
        "no poles": say("poles", []),
        "poles no texts": say("poles", [["+"], {"-": 1}]),
        "write not unit": put("write", 5.0, 0),
        "read not unit": put("read", 5.0, -1),
        "negative singular value": put("singular_values", -1.0, 2),
        "ascending singular values": put("singular_values", 1e3, 2),
        "less energy than the values": put("energy", 0.0, 0),
        "negative energy": put("energy", -1.0, 0),
        "fidelity beyond one": put("fidelity", 1.5, 0),
        "ceiling beyond one": put("ceiling", 1.5, 0),
        "p-value of zero": put("p_value", 0.0, 0),
        "p-value beyond one": put("p_value", 1.5, 0),
        "p-value in a head of zero": put("p_head", 0.0, 0),
        "chance in a head beyond one": put("head_chance", 1.5, 0),
        "null beyond one": put("null_fidelity", 1.5, -1),
        "null not ascending": put("null_fidelity", 1.0, 0),
        "significance of another size": say("significance", {"null": "residual", "draws": 3, "seed": 0}),
        "significance of another null": say("significance", {"null": "x", "draws": 4000, "seed": 0}),
        "significance in heads without draws": say("significance", {"null": "residual", "draws": 4000, "seed": 0}),
        "significance without its facts": say("significance", None),
        "no base": say("base", {}),
    },
    "spec": {
        "head out of range": put("head", 4, -1),
        "negative head": put("head", -1, 0),
        "negative layer": put("layer", -1, 0),
        "negative vector": put("vector", -1, 0),
        "terms not sorted": put("layer", 5, 0),
        "a term twice": lambda t, m: put("vector", numbers(t["vector"])[0], 1)(t, m),
        "labels missing": say("labels", []),
        "labels no texts": say("labels", [1] * 7),
        "write not unit": put("write", 7.0, 0),
        "reverts a number": say("reverts", 1),
        "place no object": say("place", 3),
        "another tower": say("place", {"tower": "audio", "family": "clip", "outputs": {}}),
        "outputs no names": say("place", {"tower": "text", "family": "clip", "outputs": {"0": [1, None]}}),
        "outputs of no layer": say("place", {"tower": "text", "family": "clip", "outputs": {"x": ["a", None]}}),
        "outputs without fingerprints": say("place", {"tower": "text", "family": "clip", "outputs": {"0": ["a", "b"]}}),
        "edited sha256 no texts": say("edited_sha256", {"a": 1}),
        **{f"base {i}": say("base", base) for i, base in enumerate(BASES)},
        "base without fingerprints": say("base", {"name": "x", "revision": None, "sha256": {}}),
    },
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, changes in INVARIANTS.items() for name in changes])
def test_what_cannot_be_is_refused(kind, name, damaged):
    refused(kind, damaged(kind, INVARIANTS[kind][name]))


def test_a_head_size_that_does_not_divide_the_width_is_refused(damaged):
    def widen(tensors, _):
        raw = tensors["row"]
        count = raw.shape[0]
        tensors["row"] = Raw("F32", (count, 7), raw.content[: count * 7 * 4])

    refused("spec", damaged("spec", widen), "does not divide")


def test_one_concept_is_no_dictionary(damaged):
    def first_only(tensors, _):
        tensors["embeddings"] = Raw("F32", (1, 24), tensors["embeddings"].content[: 24 * 4])
        put("text_offsets", numbers(tensors["text_offsets"])[:2])(tensors, _)

    refused("dictionary", damaged("dictionary", first_only))


def test_texts_come_back_whatever_they_hold(tmp_path):
    for texts in ([], [""], ["", ""], ["a\0b", "\n", "🙂", ""], ["é" * 1000]):
        assert texts_of(text_tensors(texts), tmp_path) == tuple(texts)


# ---------------------------------------------------------------- writing


FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = {"mkdtemp": tempfile, "fsync": os, "replace": os}


@pytest.mark.parametrize(("step", "error"), itertools.product(STEPS, [FULL, KeyboardInterrupt()]))
@pytest.mark.parametrize("before", [None, b"the old content"], ids=["new", "old"])
def test_a_failure_leaves_the_old_file_or_none(step, error, before, results, tmp_path, monkeypatch):
    path = tmp_path / LAYOUTS["spec"].filename
    if before is not None:
        path.write_bytes(before)
    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, lambda *args, **kwargs: (_ for _ in ()).throw(error))
        with pytest.raises(OutputError if error is FULL else KeyboardInterrupt) as caught:
            results["spec"].save_pretrained(tmp_path)
    if error is FULL:
        assert str(path) in str(caught.value)
        assert "No space left on device" in str(caught.value)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == ([] if before is None else [before])

    results["spec"].save_pretrained(tmp_path)  # the control: without the failure it is written, over the old file too
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert EditSpec.from_pretrained(tmp_path) == results["spec"]


@pytest.mark.parametrize("before", [None, b"the old content"], ids=["new", "old"])
def test_a_limit_of_the_system_leaves_the_old_file_or_none(before, results, tmp_path):
    path = tmp_path / LAYOUTS["spec"].filename
    if before is not None:
        path.write_bytes(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            results["spec"].save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [item.read_bytes() for item in tmp_path.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_made_is_reported(kind, results, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="could not be written"):
            results[kind].save_pretrained(folder)
    (tmp_path / "taken" / LAYOUTS[kind].filename).mkdir(parents=True)
    with pytest.raises(OutputError, match="could not be written"):
        results[kind].save_pretrained(tmp_path / "taken")
    assert not list(tmp_path.rglob("*.partial"))


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_output_errors_are_both_ours_and_the_systems():
    assert issubclass(OutputError, SithError)
    assert issubclass(OutputError, OSError)
    assert issubclass(ArtifactError, ValueError)
