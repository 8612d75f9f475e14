"""Edit specs form the algebra that they promise, on actual weights."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.build import make_spec
from sith_hf.edits.provenance import Provenance
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from sith_hf.gains import Gains
from tests.support.made import WORDS, tiny_concepts, tiny_editor

LAYERS, HEADS, SIZE, WIDTH = 3, 4, 8, 32


@pytest.fixture(scope="module")
def made(editor):
    return editor.decompose(tiny_concepts())


def double(tensor):
    return tensor.detach().numpy().astype(np.float64)


# ---------------------------------------------------------------- from gains to a spec


def random_gains(seed, count=20, values=(0.0, -1.0, 3.0, 0.5, 1.75)):
    draw = np.random.default_rng(seed)
    keys = list(product(range(LAYERS), range(HEADS), range(SIZE)))
    picked = draw.choice(len(keys), count, replace=False)
    return Gains({keys[i]: float(draw.choice(values)) for i in picked}, {})


@pytest.fixture(scope="module")
def weights(editor):
    """The out_proj weight and bias of every layer in float64."""
    layers = editor.model.vision_model.encoder.layers
    return {n: tuple(t.detach().double() for t in layers[n].self_attn.out_proj.parameters()) for n in range(LAYERS)}


def edit(spec, weights):
    return {n: spec.apply(n, *pair) for n, pair in weights.items()}


def assert_same(ours, theirs, atol=1e-12):
    for n, pair in ours.items():
        for a, b in zip(pair, theirs[n], strict=True):
            torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("fold", [True, False])
def test_an_edit_gives_every_vector_its_gain_and_keeps_the_constant(fold, editor, weights):
    """The edited head's matrix is sum g s w r^T, up to the all-ones direction, and its constant output what it was."""
    made = editor.decompose(tiny_concepts(), fold=fold)
    gains = random_gains(1)
    edited = edit(make_spec(editor.tower, made, gains), weights)
    for layer in range(LAYERS):
        block = editor.model.vision_model.encoder.layers[layer]
        norm = block.layer_norm1
        value = double(block.self_attn.v_proj.weight)
        constant = double(block.self_attn.v_proj.bias)
        if fold:
            constant = constant + value @ double(norm.bias)
            value = value * double(norm.weight)
            value = value - value.mean(axis=1, keepdims=True)
        new, bias = (t.numpy() for t in edited[layer])
        old, old_bias = (t.numpy() for t in weights[layer])
        np.testing.assert_allclose(new @ constant + bias, old @ constant + old_bias, atol=1e-5)
        for head in range(HEADS):
            columns = slice(head * SIZE, (head + 1) * SIZE)
            literal = np.zeros((WIDTH, WIDTH))
            for i in range(SIZE):
                g = gains.gain.get((layer, head, i), 1.0)
                s, w, r = (t[layer, head, i] for t in (made.singular_values, made.write, made.read))
                literal += g * float(s) * np.outer(double(w), double(r))
            matrix = new[:, columns] @ value[columns]
            if fold:  # centring goes with folding
                matrix = matrix - matrix.mean(axis=0)
            np.testing.assert_allclose(matrix, literal, atol=2e-6)
    assert any((a[0] - b[0]).abs().max() > 0.1 for a, b in zip(edited.values(), weights.values(), strict=True))


def test_a_spec_says_what_it_was_made_of(editor, made):
    gains = random_gains(2)
    spec = make_spec(editor.tower, made, gains)
    assert dict(zip(spec.keys, spec.gain.tolist(), strict=True)) == gains.gain
    assert spec.keys == sorted(spec.keys)
    assert spec.layers == sorted({key[0] for key in gains.gain})
    assert spec.settings == {"fold": True, "centre": True}
    assert {key for key in spec.base.sha256 if "out_proj" in key} == {
        f"vision_model.encoder.layers.{n}.self_attn.out_proj.{p}" for n in spec.layers for p in ("weight", "bias")
    }
    for key, label in zip(spec.keys, spec.labels, strict=True):
        plus, minus = (", ".join(text for text, _ in made.explain(*key, pole).concepts) for pole in "+-")
        assert label == f"+ {plus} | - {minus}"


def test_a_tower_of_other_weights_gets_no_spec(made, tmp_path):
    with pytest.raises(BaseMismatch, match="has other values"):
        make_spec(tiny_editor(tmp_path, seed=1).tower, made, random_gains(1))


def test_vectors_that_are_not_there_get_no_spec(editor, made):
    for key in ((3, 0, 0), (0, 4, 0), (0, 0, 8), (0, -1, 0)):
        with pytest.raises(InputError):
            make_spec(editor.tower, made, Gains({key: 0.0}, {}))


# ---------------------------------------------------------------- the normal form


def spec_of(editor, made, gains):
    return make_spec(editor.tower, made, Gains(gains, {}))


@pytest.fixture(scope="module")
def spec(editor, made):
    return make_spec(editor.tower, made, random_gains(3))


def fields_of(spec, order):
    """The arguments of from_terms, terms in another order."""
    names = ("layer", "head", "vector", "gain", "write", "row", "constant")
    return {name: getattr(spec, name)[order] for name in names} | {
        "labels": [spec.labels[i] for i in order], "base": spec.base, "settings": spec.settings,
    }  # fmt: skip


def test_the_order_of_terms_does_not_matter(spec):
    order = torch.randperm(len(spec), generator=torch.Generator().manual_seed(0)).tolist()
    again = EditSpec.from_terms(**fields_of(spec, order))
    assert again == spec
    assert again.labels == spec.labels
    assert again.rows() == spec.rows()


def test_gains_of_one_are_left_out(editor, made, weights):
    one = spec_of(editor, made, {(0, 0, 0): 1.0, (1, 2, 3): 0.0, (2, 0, 0): 1})
    assert one.keys == [(1, 2, 3)]
    nothing = spec_of(editor, made, {(0, 0, 0): 1.0})
    assert len(nothing) == 0
    assert not nothing
    assert spec_of(editor, made, {}) is not None
    assert one
    for n, pair in edit(nothing, weights).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, weights[n], strict=True))


def test_a_vector_named_twice_is_refused(spec):
    order = [*range(len(spec)), 0]
    with pytest.raises(InputError, match="twice"):
        EditSpec.from_terms(**fields_of(spec, order))


@pytest.mark.parametrize("gain", [math.nan, math.inf])
def test_a_spec_takes_no_gain_that_is_not_finite(gain, spec):
    broken = spec.gain.clone()
    broken[0] = gain
    with pytest.raises(InputError, match="finite"):
        replace(spec, gain=broken)
    with pytest.raises(InputError, match="finite"):
        EditSpec.from_terms(**fields_of(spec, list(range(len(spec)))) | {"gain": broken})


# ---------------------------------------------------------------- applying

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_columns_of_edited_heads_change(dtype, editor, made, weights):
    one = spec_of(editor, made, {(1, 2, 0): 0.0, (1, 2, 5): 3.0})
    weight, bias = (t.to(dtype) for t in weights[1])
    kept = weight.clone(), bias.clone()
    new_weight, new_bias = one.apply(1, weight, bias)
    assert (new_weight.dtype, new_bias.dtype) == (dtype, dtype)
    inside = torch.zeros(WIDTH, dtype=torch.bool)
    inside[2 * SIZE : 3 * SIZE] = True
    as_bytes = [t.contiguous().view(torch.uint8) for t in (new_weight[:, ~inside], weight[:, ~inside])]
    assert torch.equal(*as_bytes)
    assert (new_weight[:, inside] != weight[:, inside]).any(dim=0).all()  # the control: every column inside changed
    assert torch.equal(weight, kept[0])
    assert torch.equal(bias, kept[1])
    exact = one.apply(1, weight.double(), bias.double())  # rounded once, and to the nearest
    assert torch.equal(new_weight, exact[0].to(dtype))
    assert torch.equal(new_bias, exact[1].to(dtype))


def test_a_layer_that_is_not_edited_is_copied(editor, made, weights):
    one = spec_of(editor, made, {(1, 2, 0): 0.0})
    weight, bias = weights[0]
    new_weight, new_bias = one.apply(0, weight, bias)
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)
    assert new_weight.data_ptr() != weight.data_ptr()


def test_apply_by_the_formula(spec, weights):
    """The two lines of EditSpec's docstring, term by term."""
    for layer, (weight, bias) in weights.items():
        weight, bias = weight.clone(), bias.clone()
        for i, (at, head, _) in enumerate(spec.keys):
            if at == layer:
                more = float(spec.gain[i]) - 1
                write, row = spec.write[i].double(), spec.row[i].double()
                weight[:, head * SIZE : (head + 1) * SIZE] += more * torch.outer(write, row)
                bias -= more * float(spec.constant[i]) * write
        ours = spec.apply(layer, *weights[layer])
        torch.testing.assert_close(ours, (weight, bias), atol=1e-12, rtol=0)


def test_tensors_of_another_shape_are_refused(spec):
    layer = spec.layers[0]
    for weight, bias in (((31, 32), (32,)), ((32, 32), (31,)), ((16, 16), (16,)), ((32, 32, 1), (32,))):
        with pytest.raises(BaseMismatch, match="width 32"):
            spec.apply(layer, torch.zeros(weight), torch.zeros(bias))


# ---------------------------------------------------------------- the algebra

# Products of these are exact, so that equality can be asked of gains.
EXACT = st.sampled_from([0.0, -1.0, 0.5, 2.0, 3.0, 4.0])
KEY = st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2))
SPECS = st.dictionaries(KEY, EXACT, min_size=1, max_size=8)


@given(SPECS, SPECS, SPECS)
@settings(deadline=None, max_examples=30)
def test_composing_edits_multiplies_in_any_order(editor_and_made, one, two, three):
    a, b, c = (spec_of(*editor_and_made, gains) for gains in (one, two, three))
    assert a.compose(b) == b.compose(a)
    assert a.compose(b).compose(c) == a.compose(b.compose(c))
    wanted = {key: one.get(key, 1.0) * two.get(key, 1.0) for key in one | two}
    ours = a.compose(b)
    assert dict(zip(ours.keys, ours.gain.tolist(), strict=True)) == {k: g for k, g in wanted.items() if g != 1}
    assert ours.inverse() == a.inverse().compose(b.inverse())


@pytest.fixture(scope="module")
def editor_and_made(editor, made):
    return editor, made


def test_an_edit_and_its_inverse_are_nothing(spec, weights):
    assert len(spec.compose(spec.inverse())) == 0
    assert len(spec.inverse().compose(spec)) == 0
    assert spec.inverse() != spec
    assert spec.inverse().inverse() == spec
    assert_same(edit(spec.inverse(), edit(spec, weights)), weights)
    assert_same(edit(spec, edit(spec.inverse(), weights)), weights)
    moved = edit(spec, weights)  # the control
    assert max(float((moved[n][0] - weights[n][0]).abs().max()) for n in spec.layers) > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_an_edit_with_a_revert_leads_from_the_old_edit_to_the_new(seed, editor, made, weights):
    old, new = (make_spec(editor.tower, made, random_gains(s, count=40)) for s in (10 + seed, 20 + seed))
    assert set(old.keys) & set(new.keys)
    assert set(old.keys) - set(new.keys)
    step = new.compose(old.inverse())
    assert_same(edit(step, edit(old, weights)), edit(new, weights))
    assert not step.reverts
    back = old.inverse().compose(new)
    assert back.reverts
    assert_same(edit(back, edit(old, weights)), edit(new, weights))
    assert_same(edit(step.inverse(), edit(new, weights)), edit(old, weights))
    with pytest.raises(AssertionError):  # the control: it leads there from the old edit only
        assert_same(edit(step, weights), edit(new, weights), atol=1e-3)


@pytest.mark.parametrize("strength", [0, 0.25, 0.5, 1, 1.5, -1, 3])
def test_a_strength_is_linear_in_the_weights(strength, spec, weights):
    scaled = spec * strength
    assert scaled == strength * spec
    for n, (weight, bias) in edit(scaled, weights).items():
        full = spec.apply(n, *weights[n])
        for ours, base, whole in zip((weight, bias), weights[n], full, strict=True):
            torch.testing.assert_close(ours, base + strength * (whole - base), atol=1e-10, rtol=0)


@given(st.lists(st.floats(-1e6, 1e6).filter(lambda g: g != 1), min_size=1, max_size=6))
@settings(deadline=None)
def test_strength_one_is_the_edit_itself_and_zero_nothing(editor_and_made, gains):
    editor, made = editor_and_made
    spec = spec_of(editor, made, {(0, 0, i): gain for i, gain in enumerate(gains)})
    assert spec * 1 == spec
    assert spec * 1.0 == spec
    assert len(spec * 0) == 0


def test_the_opposite_strength_undoes_within_rounding(spec, weights):
    assert_same(edit(spec * -1, edit(spec, weights)), weights, atol=1e-10)
    assert (spec * -1).compose(spec)  # the control: as edits they multiply


def test_a_revert_scales_too(spec, weights):
    half = spec.inverse() * 0.5
    assert half.reverts
    assert half == (spec * 0.5).inverse()


@pytest.mark.parametrize("strength", [math.nan, math.inf, "1", None, 10**400, 1j])
def test_what_is_no_finite_number_is_no_strength(strength, spec):
    with pytest.raises(InputError, match="strength must be a finite number"):
        spec * strength
    with pytest.raises(InputError, match="finite"):
        spec * 1e308 * 1e308


def test_edits_of_other_bases_do_not_compose(spec, editor, tmp_path):
    stranger = tiny_editor(tmp_path, seed=1)
    other = make_spec(stranger.tower, stranger.decompose(tiny_concepts()), random_gains(3))
    for a, b in ((spec, other), (other, spec), (spec, other.inverse())):
        with pytest.raises(BaseMismatch, match="has other values"):
            a.compose(b)


def test_edits_of_other_settings_do_not_compose(spec, editor):
    unfolded = make_spec(editor.tower, editor.decompose(tiny_concepts(), fold=False), random_gains(3))
    with pytest.raises(BaseMismatch, match="different settings"):
        spec.compose(unfolded)


def test_another_direction_under_the_same_name_does_not_compose(spec):
    turned = replace(spec, write=spec.write.flip(0))
    with pytest.raises(BaseMismatch, match="different directions"):
        spec.compose(turned)


def test_edits_of_other_sizes_do_not_compose(spec):
    small = replace(spec, write=spec.write[:, :16])
    with pytest.raises(BaseMismatch, match="different sizes"):
        spec.compose(small)


def test_edits_of_different_layers_compose(editor, made, weights):
    first, last = spec_of(editor, made, {(0, 0, 0): 0.0}), spec_of(editor, made, {(2, 1, 1): -1.0})
    both = first.compose(last)
    assert both.keys == [(0, 0, 0), (2, 1, 1)]
    assert both.labels == (*first.labels, *last.labels)
    assert both.base.sha256 == {**first.base.sha256, **last.base.sha256}
    assert_same(edit(both, weights), edit(last, edit(first, weights)))


# ---------------------------------------------------------------- what it is as an object


def test_a_spec_is_frozen(spec):
    for name in ("gain", "write", "base", "reverts", "something"):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(spec, name, None)
    with pytest.raises(TypeError):
        hash(spec)
    assert spec != 3
    assert (spec == replace(spec, gain=spec.gain + 1e-9)) is False


def test_it_prints_as_a_table(editor, made):
    one = spec_of(editor, made, {(1, 2, 0): 0.0, (0, 3, 7): -1.5})
    lines = str(one).splitlines()
    assert len(lines) == 2 + 2
    assert lines[0] == "Edit of the vision tower of tiny: 2 singular vectors in layers [0, 1]"
    assert lines[1].split()[:4] == ["layer", "head", "vector", "gain"]
    assert [line.split()[:4] for line in lines[2:]] == [["0", "3", "7", "-1.5"], ["1", "2", "0", "0"]]
    word = made.explain(0, 3, 7).concepts[0][0]
    unknown = str(spec_of(editor, replace(made, significance=None), {(0, 3, 7): -1.5})).splitlines()
    assert word in unknown[2]
    # Random weights: every pole is silent.
    assert lines[2].endswith("+ silent | - silent")
    assert str(one.inverse()).startswith("Revert of an edit of the vision tower of tiny")
    assert len(str(one * 0).splitlines()) == 2


HOSTILE = ["\x1b[2J", "\x1b]0;t\x07", "\u202eabc", "a\nb", "a\r\nb", "a\u2028b", "\x9b1m", "\ud800", "\0", "x" * 10**6]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:9]))
def test_hostile_labels_and_names_print_as_harmless_lines(text, spec):
    hostile = replace(spec, labels=(text,) * len(spec), base=replace(spec.base, name=text))
    shown = str(hostile)
    assert len(shown.splitlines()) == 2 + len(spec)
    assert all(line.isprintable() for line in shown.splitlines())
    assert max(map(len, shown.splitlines())) < 250
    assert repr(hostile).isprintable()


# ---------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("which", ["edit", "revert", "written", "empty"])
def test_a_round_trip_is_exact(which, spec, tmp_path):
    edited = {"vision_model.encoder.layers.0.self_attn.out_proj.weight": "ab" * 32}
    saved = {
        "edit": spec,
        "revert": spec.inverse(),
        "written": replace(spec, edited_sha256=edited),
        "empty": spec * 0,
    }[which]
    path = saved.save_pretrained(tmp_path)
    for source in (tmp_path, path, str(path)):
        read = EditSpec.from_pretrained(source)
        assert read == saved
        for name in EditSpec.__dataclass_fields__:
            ours, theirs = getattr(saved, name), getattr(read, name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, name
        assert str(read) == str(saved)


def test_hostile_labels_survive_a_round_trip(spec, tmp_path):
    labels = tuple("a\x1b[2J\n\u202e🙂é"[i % 5 :] for i in range(len(spec)))
    replace(spec, labels=labels).save_pretrained(tmp_path)
    assert EditSpec.from_pretrained(tmp_path).labels == labels


def test_a_base_goes_through_json():
    base = BaseRef("x", None, {"b": "1", "a": "2"})
    assert BaseRef.from_json(json.loads(json.dumps(base.to_json()))) == base
    assert base.only(["a", "c"]).sha256 == {"a": "2"}


def test_provenance_travels_with_the_terms(tmp_path):
    """The explanation of a vector stays with it through normal form, scaling, composing and saving."""
    editor = tiny_editor(tmp_path)
    editor.decompose(tiny_concepts())
    spec = editor.suppress(WORDS[0], threshold=0.2).vectors(2.0, layers=[-1], heads=[0]).spec
    assert spec.provenance is not None
    for key, poles, label in zip(spec.keys, spec.provenance.explanations, spec.labels, strict=True):
        assert {(pole.layer, pole.head, pole.vector) for pole in poles} == {key}
        assert poles == tuple(editor.decomposition.explain(*key, pole) for pole in editor.decomposition.poles)
        assert all(text in label for pole in poles for text, _ in pole.concepts)
    assert (spec * 0.5).provenance == spec.provenance
    spec.save_pretrained(tmp_path)
    assert EditSpec.from_pretrained(tmp_path).provenance == spec.provenance
    first, last = (editor.edit().vectors(0.0, layers=[layer]).spec for layer in (0, -1))
    joined = last.compose(first)
    assert joined.provenance == first.provenance.join(last.provenance)
    assert joined.provenance != last.provenance.join(first.provenance)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("explanations", 0, 0, "pole"), "~"),
        (("explanations", 0, 0, "fidelity"), math.nan),
        (("explanations", 0, 0, "layer"), True),
        (("explanations", 0, 0, "concepts"), [["sea"]]),
        (("explanations", 0, 0, "concepts"), [[1, 0.5]]),
        (("explanations", 0, 0, "more"), 1),
        (("reasons",), []),
        (("reasons", 0), None),
        (("decomposition",), []),
    ],
)
def test_a_damaged_provenance_is_refused(spec, place, value):
    assert spec.provenance is not None
    data = json.loads(json.dumps(spec.provenance.to_json()))
    assert Provenance.from_json(data) == spec.provenance
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ArtifactError, match="the provenance"):
        Provenance.from_json(data)
