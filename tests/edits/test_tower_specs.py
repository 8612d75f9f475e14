"""The edits of both towers of a model as one edit: its algebra, its file, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sith_hf.edits.spec import EditSpec, TowerSpecs, combined
from sith_hf.edits.storage import EDIT_SPEC_LAYOUT, TOWER_SPECS_LAYOUT
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from sith_hf.towers import TOWERS
from tests.support.both import make_both


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_both(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def vision(made):
    return made.of_vision


@pytest.fixture(scope="module")
def text(made):
    return made.of_text


@pytest.fixture(scope="module")
def both(vision, text):
    found = vision.compose(text)
    assert isinstance(found, TowerSpecs)
    return found


class TestAlgebra:
    def test_the_order_does_not_matter(self, vision, text, both):
        assert text.compose(vision) == both
        assert both.parts == (vision, text)
        assert [part.tower for part in both.parts] == ["vision", "text"]
        assert (vision.parts, text.parts) == ((vision,), (text,))
        assert both != vision
        assert both != vision.compose(text * 0.5)

    def test_edits_of_one_tower_compose_as_before(self, vision, text, both):
        alone = vision.compose(vision)
        assert isinstance(alone, EditSpec)
        assert both.compose(vision) == alone.compose(text)
        assert both.compose(both) == alone.compose(text.compose(text))
        assert combined(vision, text, vision, text) == both.compose(both)
        assert combined(text) == text

    def test_it_and_its_inverse_are_nothing(self, vision, text, both):
        for nothing in (both.compose(both.inverse()), both.inverse().compose(both)):
            assert len(nothing) == 0
            assert not nothing
        assert both.inverse().reverts
        assert both.inverse().inverse() == both
        assert both.inverse() != both
        # A tower whose edit is undone is left out.
        assert both.compose(vision.inverse()) == text
        assert both.compose(text.inverse()) == vision

    def test_an_edit_of_one_tower_and_a_revert_of_the_other(self, vision, text):
        mixed = vision.compose(text.inverse())
        assert isinstance(mixed, TowerSpecs)
        assert not mixed.reverts
        weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        layer, bias = text.layers[0], torch.zeros(16, dtype=torch.float64)
        torch.testing.assert_close(
            mixed.parts[1].apply(layer, weight, bias), text.inverse().apply(layer, weight, bias), atol=1e-12, rtol=0
        )

    def test_a_strength_scales_both(self, vision, text, both):
        assert both * 0.5 == 0.5 * both == (vision * 0.5).compose(text * 0.5)
        assert both * 1 == both
        assert not both * 0
        with pytest.raises(InputError, match="strength"):
            both * float("nan")

    def test_what_it_says(self, vision, text, both):
        assert len(both) == len(vision) + len(text)
        assert both
        assert both.keys == [("vision", *key) for key in vision.keys] + [("text", *key) for key in text.keys]
        assert both.rows() == [*vision.rows(), *text.rows()]
        assert {row["tower"] for row in both.rows()} == {"vision", "text"}
        assert both.touched_keys == vision.touched_keys | text.touched_keys
        assert both.base.sha256 == {**vision.base.sha256, **text.base.sha256}
        lines = str(both).splitlines()
        assert [line for line in lines if line.startswith("Edit")] == [
            f"Edit of the {part.tower} tower of base: {len(part)} singular vectors in layers {part.layers}"
            for part in (vision, text)
        ]
        assert "vision" in repr(both)
        assert "text" in repr(both)
        with pytest.raises(TypeError):
            hash(both)


class TestFile:
    @pytest.mark.parametrize("which", ["edit", "revert", "written"])
    def test_a_round_trip_is_exact(self, which, both, tmp_path):
        prints = dict.fromkeys(both.touched_keys, "ab" * 32)
        saved = {"edit": both, "revert": both.inverse(), "written": both.with_edited_sha256(prints)}[which]
        path = saved.save_pretrained(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["edit_spec.safetensors"]
        for source in (tmp_path, path):
            read = EditSpec.from_pretrained(source)
            assert isinstance(read, TowerSpecs)
            assert read == saved
            assert read.edited_sha256 == saved.edited_sha256
            for one, other in zip(read.parts, saved.parts, strict=True):
                for name in EditSpec.__dataclass_fields__:
                    ours, theirs = getattr(one, name), getattr(other, name)
                    assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, name
            assert read.save_pretrained(tmp_path / "again").read_bytes() == path.read_bytes()

    def test_one_tower_keeps_its_version(self, vision, text, both, tmp_path):
        for spec, version in ((vision, "1"), (text, "1"), (both, "2")):
            path = spec.save_pretrained(tmp_path / str(len(spec)))
            with safe_open(path, "pt") as file:
                assert file.metadata()["version"] == version
                assert file.metadata()["format"] == EDIT_SPEC_LAYOUT.format

    def test_a_tower_with_a_layer_scale_beside_one_without(self, vision, text, tmp_path):
        scaled = replace(vision, column=2 * vision.write)
        found = scaled.compose(text)
        found.save_pretrained(tmp_path)
        read = EditSpec.from_pretrained(tmp_path)
        assert read == found
        assert torch.equal(read.parts[0].columns, 2 * vision.write)
        assert torch.equal(read.parts[1].columns, text.write)
        assert read != vision.compose(text)

    @pytest.mark.parametrize(
        ("damage", "complaint"),
        [
            ("nothing", None),
            ("no text", "no edit of the text tower"),
            ("swapped", "is of another tower"),
            ("other family", "only edits of one model combine"),
            ("mixed", "is a revert"),
            ("empty", "is empty"),
            ("no data", "no valid 'base'"),
            ("labels", "differ in number"),
            ("no towers", "no valid 'towers'"),
            ("widths", "axis D_text"),
            ("version", "version '3'"),
        ],
    )
    def test_a_damaged_file_is_refused(self, damage, complaint, both, tmp_path):
        path = both.save_pretrained(tmp_path)
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata())
        data = json.loads(metadata["sith"])
        towers = data["towers"]
        match damage:
            case "no text":
                del towers["text"]
            case "swapped":
                towers["text"]["place"]["tower"] = "vision"
            case "other family":
                towers["text"]["place"]["family"] = "siglip"
            case "mixed":
                towers["text"]["reverts"] = True
            case "empty":
                tensors |= {name: tensor[:0].clone() for name, tensor in tensors.items() if name.startswith("text.")}
                towers["text"]["labels"], towers["text"]["origin"] = [], None
            case "no data":
                del towers["vision"]["base"]
            case "labels":
                towers["vision"]["labels"].append("one more")
            case "no towers":
                data["towers"] = []
            case "widths":
                tensors["text.write"] = torch.nn.functional.normalize(
                    tensors["vision.write"][: len(tensors["text.row"])]
                )
                tensors["text.column"] = tensors["text.write"][:, :16].clone()
                tensors["vision.column"] = tensors["vision.write"].clone()
            case "version":
                metadata["version"] = "3"
        known = {name: metadata[name] for name in ("format", "version")}
        save_file(tensors, path, {**known, "sith": json.dumps(data)})  # without checksums, which a damage would break
        if complaint is None:
            assert EditSpec.from_pretrained(tmp_path) == both
            return
        with pytest.raises(ArtifactError, match=complaint) as caught:
            EditSpec.from_pretrained(tmp_path)
        assert str(path) in str(caught.value)

    def test_the_axes_of_the_towers_are_their_own(self):
        assert {name.partition(".")[0] for name in TOWER_SPECS_LAYOUT.tensors} == set(TOWERS)
        sizes = {tower: {axes for name, (_, axes) in TOWER_SPECS_LAYOUT.tensors.items() if name.startswith(tower)}
                 for tower in TOWERS}  # fmt: skip
        assert not sizes["vision"] & sizes["text"]


class TestRefused:
    def test_edits_of_two_families(self, vision, text):
        other = replace(text, place=replace(text.place, family="siglip"))
        for one, two in ((vision, other), (other, vision)):
            with pytest.raises(BaseMismatch, match="only edits of one model combine"):
                one.compose(two)

    def test_edits_of_other_weights(self, both, text, tmp_path):
        stranger = make_both(tmp_path, seed=1).of_text
        with pytest.raises(BaseMismatch, match="has other values"):
            both.compose(stranger)
        assert both.compose(text)  # the control

    def test_parts_that_are_none(self, vision, text):
        for parts in ((vision,), (vision, vision), (text, vision), (vision, text * 0), (vision, text.inverse())):
            with pytest.raises(InputError, match="use compose"):
                TowerSpecs(parts)
        assert TowerSpecs((vision, text)) == vision.compose(text)  # the control


def test_columns_of_an_edit_with_layer_scale_survive_composing(vision):
    """An edit of scaled layers and one of others, such as those of a pooling head, keep what each writes."""
    layers = vision.layers
    scaled = replace(vision, column=3 * vision.write)
    first = EditSpec.from_terms(**{**vars(vision), **_only(vision, layers[0])})
    last = EditSpec.from_terms(**{**vars(scaled), **_only(scaled, layers[-1])})
    for found in (first.compose(last), last.compose(first)):
        assert torch.equal(found.columns[: len(first)], first.write)
        assert torch.equal(found.columns[len(first) :], 3 * last.write)


def _only(spec, layer):
    index = (spec.layer == layer).nonzero().flatten()
    tensors = {name: tensor[index] for name, tensor in spec.tensors.items()}
    return {**tensors, "labels": tuple(spec.labels[i] for i in index.tolist()), "provenance": None}
