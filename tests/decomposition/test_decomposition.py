"""A decomposition against literal float64 algebra: factors, explanations, and their fidelity."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition import NEAR, DecomposeSettings, Decomposition, Explanation, decompose, quality_of
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from sith_hf.pursuit import Pursuit, SparseCode
from sith_hf.towers import read_tower
from tests.support.made import WORDS, tiny_concepts, tiny_editor
from tests.support.tiny import clip_model, vision_model

LAYERS, HEADS, SIZE, WIDTH, JOINT = 3, 4, 8, 32, 24


@pytest.fixture(scope="module")
def concepts(editor):
    return editor.encode(tiny_concepts())


@pytest.fixture(scope="module")
def mean(concepts):
    """Some vector of the joint space that is shorter than 1."""
    return torch.randn(JOINT, generator=torch.Generator().manual_seed(5)) * 0.1


@pytest.fixture(scope="module")
def made(editor, concepts):
    return editor.decompose(concepts)


@pytest.fixture(scope="module")
def shifted(editor, concepts, mean):
    """The same with an image mean."""
    return editor.decompose(concepts, image_mean=mean)


def double(tensor):
    return tensor.detach().numpy().astype(np.float64)


def unit(x):
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def literal_matrix(model, layer, head, fold=True, centre=True):
    """The explicit D x D value-output matrix of one head, from Method, sec. 1."""
    block = model.vision_model.encoder.layers[layer]
    columns = slice(head * SIZE, (head + 1) * SIZE)
    read = double(block.self_attn.v_proj.weight)[columns]
    write = double(block.self_attn.out_proj.weight)[:, columns]
    if fold:
        read = read @ np.diag(double(block.layer_norm1.weight))
    if fold and centre:
        read = read - read.mean(axis=1, keepdims=True)
    if centre:
        write = write - write.mean(axis=0, keepdims=True)
    return write @ read


def literal_joint(model, x, mean=None):
    """A direction of the residual stream in the joint space, from Method, sec. 3."""
    norm = model.vision_model.post_layernorm
    normed = (x - x.mean()) / np.sqrt(x.var() + norm.eps) * double(norm.weight) + double(norm.bias)
    joint = unit(double(model.visual_projection.weight) @ normed)
    return joint if mean is None else unit(joint - double(mean))


def literal_atoms(concepts):
    rows = double(concepts.embeddings)
    return unit(rows - rows.mean(axis=0))


def literal_comp(x, atoms, sparsity=5, coherence=0.3):
    """COMP by the four steps of Method, sec. 4; also the smallest lead of a chosen atom over the next best."""
    chosen, residual, lead = [], x, math.inf
    for _ in range(sparsity):
        score = atoms @ residual
        if chosen:
            score = score + coherence * (atoms @ atoms[chosen].T).mean(axis=1)
        score[chosen] = -np.inf
        best = int(score.argmax())
        lead = min(lead, score[best] - np.delete(score, best).max())
        chosen.append(best)
        weight, _ = nnls(atoms[chosen].T, x)
        residual = x - atoms[chosen].T @ weight
    return dict(zip(chosen, weight, strict=True)), lead


def literal_fidelity(model, x, code, atoms, mean=None):
    """Rebuild a direction from its explanation, from Method, sec. 5."""
    y = unit(sum(weight * atoms[index] for index, weight in code.items()))
    if mean is not None:
        y = unit(y + double(mean))
    projection = double(model.visual_projection.weight)
    return float(unit(np.linalg.pinv(projection) @ y) @ unit(x))


def poles_of(decomposition):
    """Every (layer, head, vector, pole) of a decomposition, and its signed direction in float64."""
    for at, layer in enumerate(decomposition.layers):
        for head in range(decomposition.num_heads):
            for vector in range(decomposition.rank):
                for pole in decomposition.poles:
                    direction = double(decomposition.write[at, head, vector])
                    yield (layer, head, vector, pole), direction * (1 if pole == "+" else -1)


# ---------------------------------------------------------------- what is factored


@pytest.mark.parametrize(("fold", "centre"), [(True, None), (True, False), (False, None), (False, True)])
def test_the_vectors_are_those_of_the_explicit_matrix(fold, centre, editor, concepts):
    found = editor.decompose(concepts, fold=fold, centre=centre, layers=[1])
    assert (found.settings["fold"], found.settings["centre"]) == (fold, fold if centre is None else centre)
    assert found.singular_values.shape == (1, HEADS, SIZE)
    for head in range(HEADS):
        matrix = literal_matrix(editor.model, 1, head, fold, found.settings["centre"])
        write, values, read = (double(t[0, head]) for t in (found.write, found.singular_values, found.read))
        np.testing.assert_allclose(write.T @ np.diag(values) @ read, matrix, atol=1e-5)
        np.testing.assert_allclose(write @ write.T, np.eye(SIZE), atol=1e-5)
        np.testing.assert_allclose(read @ read.T, np.eye(SIZE), atol=1e-5)
        np.testing.assert_allclose(values, np.linalg.svd(matrix)[1][:SIZE], rtol=1e-5)
        assert (np.take_along_axis(read, np.abs(read).argmax(axis=1)[:, None], 1) > 0).all()
        np.testing.assert_allclose(found.energy[0, head], (matrix**2).sum(), rtol=1e-5)
        other = literal_matrix(editor.model, 1, head, not fold)  # the control
        assert np.abs(write.T @ np.diag(values) @ read - other).max() > 1e-2


def test_energy_shares_sum_to_one_at_full_rank(made):
    torch.testing.assert_close(made.energy_share.sum(dim=-1), torch.ones(LAYERS, HEADS))
    assert (made.energy_share[..., 1:] <= made.energy_share[..., :-1]).all()


def of_one_pole(explanation):
    """An explanation without what depends on the other poles: rates over all, and the pooled shape of the head null."""
    return replace(explanation, p_head=None, beyond_chance=None)


def test_a_rank_keeps_the_first_vectors_and_the_energy(editor, concepts, made):
    few = editor.decompose(concepts, rank=3)
    assert few.rank == 3
    for name in ("singular_values", "write", "read", "fidelity", "ceiling", "coherence", "weight"):
        assert torch.equal(getattr(few, name), getattr(made, name)[:, :, :3]), name
    assert torch.equal(few.energy, made.energy)
    torch.testing.assert_close(few.energy_share, made.energy_share[:, :, :3])
    assert (few.energy_share.sum(dim=-1) < 0.999).all()  # the control: a part of the energy is gone
    for where, _ in poles_of(few):
        assert of_one_pole(few.explain(*where)) == of_one_pole(made.explain(*where))


@pytest.mark.parametrize("rank", [0, -1, SIZE + 1])
def test_a_rank_out_of_range_is_refused(rank, editor, concepts):
    with pytest.raises(InputError, match=r"rank must be (at least 1|between 1 and the head size 8)"):
        editor.decompose(concepts, rank=rank)


@pytest.mark.parametrize(
    ("layers", "meant"), [([-1], (2,)), ([2, 0], (0, 2)), ([-3, 1], (0, 1)), (range(2), (0, 1)), ("-2:", (1, 2))]
)
def test_layers_may_count_from_the_last_and_come_sorted(layers, meant, editor, concepts, made):
    some = editor.decompose(concepts, layers=layers)
    assert some.layers == meant
    assert torch.equal(some.singular_values, made.singular_values[list(meant)])
    those = [of_one_pole(e) for e in made.explanations() if e.layer in meant]
    assert those == [of_one_pole(e) for e in some.explanations()]
    assert not any(f"layers.{n}." in key for key in some.base.sha256 for n in {0, 1, 2} - set(meant))


@pytest.mark.parametrize("layers", [[3], [-4], [0, 0], [2, -1], [], [1.0], ["x"], [True], "3:", "2-0"])
def test_layers_out_of_range_are_refused(layers, editor, concepts):
    with pytest.raises(InputError, match="layer"):
        editor.decompose(concepts, layers=layers)


def test_settings_may_be_an_object_and_single_fields_override_it(editor, concepts):
    settings = DecomposeSettings(layers=range(1, 3), rank=2, pursuit=Pursuit(sparsity=2))
    found = editor.decompose(concepts, settings, poles="+")
    by_name = editor.decompose(concepts, layers=[1, 2], rank=2, pursuit=Pursuit(sparsity=2), poles="+")
    assert found.explanations() == by_name.explanations()
    assert found.settings == by_name.settings
    assert settings.poles == "+-"  # unchanged
    assert settings.layers == (1, 2)  # an iterator can be read twice
    for other in ({"rank": 3}, {"poles": "+-"}, {"layers": [1]}, {"pursuit": Pursuit()}):
        assert editor.decompose(concepts, settings, **other).weight.shape != found.weight.shape  # the control


def test_a_misspelt_setting_is_refused(editor, concepts):
    with pytest.raises(InputError, match=r"'layer' of decompose \(did you mean layers\?\); the settings are layers"):
        editor.decompose(concepts, layer=[1])
    with pytest.raises(InputError, match="pursuit must be a Pursuit; got 'omp'"):
        editor.decompose(concepts, pursuit="omp")


# ---------------------------------------------------------------- the poles


def test_one_pole_is_the_first_of_two(editor, concepts, made):
    one = editor.decompose(concepts, poles="+")
    assert one.poles == ("+",)
    assert one.concept.shape == (LAYERS, HEADS, SIZE, 1, 5)
    for where, _ in poles_of(one):
        assert of_one_pole(one.explain(*where)) == of_one_pole(made.explain(*where))
    with pytest.raises(InputError, match="pole '-' was not explained"):
        one.explain(0, 0, 0, "-")


def test_the_poles_are_explained_each_by_itself(made):
    different = [made.explain(*where[:3], "+").concepts != made.explain(*where[:3], "-").concepts
                 for where, _ in poles_of(made)]  # fmt: skip
    assert all(different)


@pytest.mark.parametrize("poles", ["", "-", "-+", None, ["+"]])
def test_other_poles_are_refused(poles, editor, concepts):
    with pytest.raises(InputError, match="poles must be"):
        editor.decompose(concepts, poles=poles)


# ---------------------------------------------------------------- the explanations


@pytest.mark.parametrize("with_mean", [False, True])
def test_explanations_are_those_of_literal_comp(with_mean, editor, concepts, made, shifted, mean):
    found, mu = (shifted, mean) if with_mean else (made, None)
    atoms, compared = literal_atoms(concepts), 0
    for where, direction in poles_of(found):
        code, lead = literal_comp(literal_joint(editor.model, direction, mu), atoms)
        if lead < 1e-5:
            continue
        compared += 1
        ours = dict(found.explain(*where).concepts)
        wanted = {concepts.texts[i]: w for i, w in code.items() if w > 1e-5}
        assert {text for text, weight in ours.items() if weight > 1e-5} == set(wanted)
        for text, weight in wanted.items():
            assert ours[text] == pytest.approx(weight, abs=1e-4)
    assert compared > 100


def test_explanations_hold_the_stored_tensors(made):
    """Each field of an explanation is one element of a tensor, read here element by element."""
    made = replace(made, weight=made.weight * (made.weight > made.weight.mean()))  # some weights of zero
    listed = made.explanations()
    assert [(e.layer, e.head, e.vector, e.pole) for e in listed] == [where for where, _ in poles_of(made)]
    for item in listed:
        at = (made.layers.index(item.layer), item.head, item.vector)
        side = (*at, made.poles.index(item.pole))
        assert item.singular_value == made.singular_values[at].item()
        assert item.energy_share == made.energy_share[at].item()
        assert item.ceiling == made.ceiling[at].item()
        assert (item.fidelity, item.coherence) == (made.fidelity[side].item(), made.coherence[side].item())
        pairs = [(made.texts[i], w) for i, w in zip(made.concept[side], made.weight[side].tolist(), strict=True)]
        assert list(item.concepts) == [pair for pair in pairs if pair[1] > 0]
    assert any(len(item.concepts) < 5 for item in listed)  # the control
    listed.clear()
    assert made.explanations()  # the caller's list is its own


def test_explanations_are_sorted_and_positive(made):
    assert (made.weight[..., 1:] <= made.weight[..., :-1]).all()
    for explanation in made.explanations():
        weights = [weight for _, weight in explanation.concepts]
        assert weights == sorted(weights, reverse=True)
        assert min(weights, default=1) > 0
        assert len({text for text, _ in explanation.concepts}) == len(weights) <= 5


def test_a_pursuit_of_ones_own(editor, concepts, made):
    single = editor.decompose(concepts, pursuit=Pursuit("omp", sparsity=1), layers=[0])
    assert single.concept.shape[-1] == 1
    assert (single.settings["method"], single.settings["sparsity"]) == ("omp", 1)
    atoms = literal_atoms(concepts)
    for where, direction in poles_of(single):
        score = atoms @ literal_joint(editor.model, direction)
        assert single.explain(*where).concepts[0][0] == concepts.texts[int(score.argmax())]
        assert single.explain(*where).coherence == 1
    assert made.settings["sparsity"] == 5


def test_methods_that_find_fewer_than_k_leave_gaps(editor, concepts, tmp_path):
    found = editor.decompose(concepts, pursuit=Pursuit("mp", sparsity=12), layers=[0])
    assert (found.concept == -1).any()
    assert ((found.weight > 0) | (found.concept == -1)).all()
    found.save_pretrained(tmp_path)
    assert Decomposition.from_pretrained(tmp_path).explanations() == found.explanations()


def test_only_the_concepts_in_use_are_kept_sorted(concepts, made):
    used = {text for e in made.explanations() for text, _ in e.concepts}
    assert used <= set(made.texts) <= set(concepts.texts)
    assert list(made.texts) == sorted(made.texts)
    for text, embedding in zip(made.texts, made.embeddings, strict=True):
        assert torch.equal(embedding, concepts.embeddings[concepts.texts.index(text)])
    torch.testing.assert_close(made.dictionary_mean, concepts.embeddings.mean(dim=0))


# ---------------------------------------------------------------- how good they are


@pytest.mark.parametrize("with_mean", [False, True])
def test_fidelity_by_the_letter(with_mean, editor, concepts, made, shifted, mean):
    found, mu = (shifted, mean) if with_mean else (made, None)
    atoms = literal_atoms(concepts)
    for where, direction in poles_of(found):
        explanation = found.explain(*where)
        code = {concepts.texts.index(text): weight for text, weight in explanation.concepts}
        assert explanation.fidelity == pytest.approx(
            literal_fidelity(editor.model, direction, code, atoms, mu), abs=1e-5
        )
        wrong = dict(
            zip(code, reversed(list(code.values())), strict=True)
        )  # the control: the same concepts, other weights
        if len(code) > 1 and max(code.values()) > 1.5 * min(code.values()):
            assert abs(explanation.fidelity - literal_fidelity(editor.model, direction, wrong, atoms, mu)) > 1e-5


def test_no_fidelity_is_above_its_ceiling(made, shifted):
    """A theorem for every mean: what is rebuilt lies in the row space of the projection, and sees nothing else."""
    for found in (made, shifted):
        assert (found.fidelity <= found.ceiling.unsqueeze(-1) + 1e-5).all()
        assert (found.ceiling < 0.999).any()  # the control: the ceiling is not simply one


def test_ceiling_by_least_squares(editor, made):
    rows = double(editor.model.visual_projection.weight)  # P < D, so that some of a direction is lost
    assert rows.shape == (JOINT, WIDTH)
    for where, direction in poles_of(made):
        inside = rows.T @ np.linalg.lstsq(rows.T, direction, rcond=None)[0]
        assert made.explain(*where).ceiling == pytest.approx(np.linalg.norm(inside), abs=1e-5)


def test_the_best_point_of_the_row_space_reaches_the_ceiling(editor, made):
    projection = editor.model.visual_projection.weight.detach().double()
    direction = made.write[0, 0, 0].double()
    rebuilt = editor.tower.from_joint((projection @ direction).unsqueeze(0))[0]
    assert float(rebuilt @ direction) == pytest.approx(float(made.ceiling[0, 0, 0]), abs=1e-5)


def test_a_projection_onto_more_dimensions_loses_nothing(tmp_path):
    editor = tiny_editor(tmp_path, projection_dim=40, num_hidden_layers=1)
    found = editor.decompose(tiny_concepts())
    torch.testing.assert_close(found.ceiling, torch.ones_like(found.ceiling))


def test_coherence_by_the_letter(concepts, made):
    atoms = literal_atoms(concepts)
    for explanation in made.explanations():
        chosen = [atoms[concepts.texts.index(text)] for text, _ in explanation.concepts]
        pairs = [a @ b for i, a in enumerate(chosen) for b in chosen[:i]]
        assert explanation.coherence == pytest.approx(np.mean(pairs) if pairs else 1.0, abs=1e-5)


def test_coherence_of_known_atoms(tmp_path):
    tower = tiny_editor(tmp_path, projection_dim=3, num_hidden_layers=1).tower
    atoms = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [-1, 0, 0]])
    index = torch.tensor([[0, 1, -1], [0, 2, 1], [0, 3, -1], [2, -1, -1], [-1, -1, -1], [0, 2, 1]])
    weight = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    expected = torch.tensor([0.0, (0.6 + 0.8 + 0) / 3, -1, 1, 1, 0.6])
    found = quality_of(tower, atoms, torch.eye(6, WIDTH).double(), SparseCode(index, weight))
    torch.testing.assert_close(found.coherence, expected)


# ---------------------------------------------------------------- the image mean


def test_an_image_mean_is_stored_and_changes_the_result(editor, concepts, made, shifted, mean, tmp_path):
    assert torch.equal(shifted.image_mean, mean)
    assert torch.equal(made.image_mean, torch.zeros(JOINT))
    assert (shifted.settings["image_mean"], made.settings["image_mean"]) == (True, False)
    assert torch.equal(shifted.write, made.write)
    assert torch.equal(shifted.ceiling, made.ceiling)
    assert not torch.allclose(shifted.weight, made.weight, atol=1e-3)
    shifted.save_pretrained(tmp_path)
    assert torch.equal(Decomposition.from_pretrained(tmp_path).image_mean, mean)
    zero = editor.decompose(concepts, image_mean=torch.zeros(JOINT))
    torch.testing.assert_close(zero.weight, made.weight, atol=1e-5, rtol=0)


def test_an_image_mean_is_copied(editor, concepts, tmp_path):
    own = concepts.mean.clone()
    found = editor.decompose(concepts, layers=[0], image_mean=own)
    own.zero_()
    assert found.image_mean.norm() > 0
    same = editor.decompose(concepts, layers=[0], image_mean=concepts.mean)
    same.save_pretrained(tmp_path)  # two tensors of one memory are no safetensors
    assert torch.equal(Decomposition.from_pretrained(tmp_path).image_mean, concepts.mean)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(JOINT + 1),
        torch.zeros(1, JOINT),
        torch.full((JOINT,), math.nan),
        torch.ones(JOINT),
        torch.tensor(0.0),
    ],
    ids=["size", "axes", "nan", "longer than one", "a number"],
)
def test_an_image_mean_that_is_none_is_refused(bad, editor, concepts):
    with pytest.raises(InputError, match="image_mean"):
        editor.decompose(concepts, image_mean=bad)


# ---------------------------------------------------------------- dictionaries that do not fit


def test_a_dictionary_of_another_size_is_refused(editor):
    other = replace(tiny_concepts(), embeddings=torch.nn.functional.normalize(torch.randn(len(WORDS), 20), dim=-1))
    with pytest.raises(InputError, match="embeddings of size 20, this model's joint space has size 24"):
        decompose(editor.tower, other)


def test_a_dictionary_of_another_model_is_refused_by_the_editor(editor, tmp_path):
    stranger = tiny_editor(tmp_path, seed=1).encode(tiny_concepts())
    with pytest.raises(InputError, match="was encoded by tiny, not by"):
        editor.decompose(stranger)
    stranger.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="make it again from its texts"):
        editor.decompose(ConceptDictionary.from_pretrained(tmp_path))


def test_a_saved_dictionary_of_this_model_is_taken(editor, concepts, made, tmp_path):
    concepts.save_pretrained(tmp_path)
    again = editor.decompose(ConceptDictionary.from_pretrained(tmp_path))
    assert again.explanations() == made.explanations()


def test_a_dictionary_without_embeddings_is_refused_without_an_editor(editor):
    with pytest.raises(InputError, match="encode it first"):
        decompose(editor.tower, tiny_concepts())


def test_fewer_concepts_than_an_explanation_has_are_refused(editor):
    few = ConceptDictionary.from_texts(WORDS[:4])
    with pytest.raises(InputError, match="needs at least 5"):
        editor.decompose(few, layers=[0])
    assert editor.decompose(few, layers=[0], pursuit=Pursuit(sparsity=4)).concept.shape[-1] == 4


def test_a_tower_without_projection_is_refused(concepts):
    with pytest.raises(InputError, match="text_model="):
        decompose(read_tower(vision_model()), concepts)


# ---------------------------------------------------------------- repeatability and odd towers


def test_results_repeat(editor, concepts, made):
    again = editor.decompose(concepts)
    for name in ("singular_values", "write", "read", "concept", "weight", "fidelity"):
        assert torch.equal(getattr(again, name), getattr(made, name)), name
    assert again.base == made.base


def test_half_precision_decomposes_as_its_float32_cast(concepts):
    half = clip_model().bfloat16()
    wide = clip_model().bfloat16().float()
    a, b = decompose(read_tower(half), concepts), decompose(read_tower(wide), concepts)
    assert a.base == b.base
    assert torch.equal(a.concept, b.concept)
    for name in ("singular_values", "write", "weight", "fidelity", "ceiling"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-6, rtol=1e-6)
    assert a.base != decompose(read_tower(clip_model()), concepts).base  # the control


@pytest.mark.parametrize("part", ["out_proj", "v_proj"])
def test_a_head_of_zeros_has_no_energy_and_harms_nobody(part, editor, concepts, made, tmp_path):
    model = clip_model()
    attention = model.vision_model.encoder.layers[1].self_attn
    with torch.no_grad():
        if part == "out_proj":
            attention.out_proj.weight[:, SIZE : 2 * SIZE] = 0
        else:
            attention.v_proj.weight[SIZE : 2 * SIZE] = 0
    found = decompose(read_tower(model), concepts)
    assert (found.singular_values[1, 1] == 0).all()
    assert (found.energy_share[1, 1] == 0).all()
    before, after = (
        [of_one_pole(e) for e in each.explanations() if (e.layer, e.head) != (1, 1)] for each in (made, found)
    )
    assert after == before
    found.save_pretrained(tmp_path)
    assert Decomposition.from_pretrained(tmp_path).explanations() == found.explanations()


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "where", [(3, 0, 0), (-1, 0, 0), (0, 4, 0), (0, -1, 0), (0, 0, 8), (0, 0, -1), (0, 0, 0, "*"), (0, 0, 0, "")]
)
def test_what_is_out_of_range_is_refused(where, made):
    with pytest.raises(InputError):
        made.explain(*where)


def test_layers_not_decomposed_are_refused(editor, concepts):
    some = editor.decompose(concepts, layers=[1, 2], rank=1)
    with pytest.raises(InputError, match=r"layer 0 was not decomposed: this decomposition has layers \[1, 2\]"):
        some.explain(0, 0, 0)
    assert some.resolve_layers([-1, -2, 1]) == (2, 1, 1)
    with pytest.raises(InputError):
        some.resolve_layers([-3])


def test_theme_is_the_strongest_vectors_of_a_head(made):
    theme = made.theme(1, 2, vectors=2)
    assert [(e.layer, e.head, e.vector, e.pole) for e in theme] == [
        (1, 2, 0, "+"), (1, 2, 0, "-"), (1, 2, 1, "+"), (1, 2, 1, "-"),
    ]  # fmt: skip
    assert len(made.theme(0, 0, vectors=99)) == SIZE * 2
    with pytest.raises(InputError):
        made.theme(0, 9)


def literal_find(found, concepts, query, near):
    """(layer, head, vector, pole) to (strength, share), by loops over everything."""
    mean = double(concepts.embeddings).mean(axis=0)
    asked = unit(double(query) - mean)
    result = {}
    for where, _ in poles_of(found):
        strength = total = 0.0
        for text, weight in found.explain(*where).concepts:
            cosine = float(asked @ unit(double(concepts.embeddings[concepts.texts.index(text)]) - mean))
            total += weight
            if cosine >= near:
                strength += weight * cosine
        if strength > 0:
            result[where] = (strength, strength / total)
    return result


@pytest.mark.parametrize("near", [0.2, NEAR, 1.0])
@pytest.mark.parametrize("concept", ["boat", "red", "ice cream"])
def test_find_by_literal_loops(concept, near, concepts, made):
    wanted = literal_find(made, concepts, made.embedding_of(concept), near)
    if near == 1.0:
        wanted = {w: v for w, v in wanted.items() if concept in dict(made.explain(*w).concepts)}
        own = {e for e in made.explanations() if concept in dict(e.concepts)}
        wanted = {(e.layer, e.head, e.vector, e.pole): (dict(e.concepts)[concept],) * 2 for e in own}
        wanted = {w: (s, s / sum(x for _, x in made.explain(*w).concepts)) for w, (s, _) in wanted.items()}
    matches = made.find(concept, near=near, limit=None)
    places = [(m.explanation.layer, m.explanation.head, m.explanation.vector, m.explanation.pole) for m in matches]
    assert len(places) == len(wanted) > 0
    assert set(places) == set(wanted)
    for match, where in zip(matches, places, strict=True):
        assert match.explanation == made.explain(*where)
        assert (match.strength, match.share) == pytest.approx(wanted[where], abs=1e-5)
        assert 0 < match.share <= 1 + 1e-6
    strengths = [match.strength for match in matches]
    assert strengths == sorted(strengths, reverse=True)
    assert made.find(concept, near=near, limit=3) == matches[:3]


def test_find_ranks_equal_strengths_by_place(made):
    even = replace(made, concept=torch.zeros_like(made.concept), weight=torch.ones_like(made.weight))
    found = [m.explanation for m in even.find(even.texts[0], limit=None)]
    assert found == even.explanations()


def test_nearness_has_a_threshold(concepts, made):
    atoms = made.atoms
    cosine = atoms @ atoms.T
    first, second = divmod(int((cosine - 2 * torch.eye(len(atoms))).argmax()), len(atoms))
    value = float(cosine[first, second])
    assert 0 < value < 0.999
    query = made.embeddings[first : first + 1]
    assert made.nearness(query, value - 0.01)[second] == pytest.approx(value, abs=1e-5)
    assert made.nearness(query, value + 0.01)[second] == 0
    assert made.nearness(query, 1.0)[first] == pytest.approx(1, abs=1e-5)
    both = made.nearness(torch.cat([query, made.embeddings[second : second + 1]]), 0.1)
    each = [made.nearness(made.embeddings[i : i + 1], 0.1) for i in (first, second)]
    torch.testing.assert_close(both, torch.maximum(*each))


@pytest.mark.parametrize("near", [0.0, 1.01, math.nan, math.inf])
def test_a_nearness_out_of_range_is_refused(near, made):
    with pytest.raises(InputError, match=r"near must be a"):
        made.find(made.texts[0], near=near)


def test_find_by_embedding(concepts, made):
    stranger = torch.nn.functional.normalize(torch.randn(JOINT, generator=torch.Generator().manual_seed(2)), dim=0)
    places = {
        (m.explanation.layer, m.explanation.head, m.explanation.vector, m.explanation.pole): (m.strength, m.share)
        for m in made.find("no such concept", embedding=stranger, near=0.1, limit=None)
    }
    wanted = literal_find(made, concepts, stranger, 0.1)
    assert set(places) == set(wanted) != set()
    for where, value in places.items():
        assert value == pytest.approx(wanted[where], abs=1e-5)
    assert made.find("anything", embedding=made.embedding_of("boat")) == made.find("boat")
    with pytest.raises(InputError, match=r"queries must have shape \[Q, 24\]"):
        made.find("x", embedding=torch.zeros(JOINT + 1))


def test_find_reads_a_concept_as_a_dictionary_does(made):
    assert "café" in made.texts
    assert made.find("  CAFE\u0301 ") == made.find("café") != []
    assert made.find("ice   CREAM") == made.find("ice cream")


def test_find_refuses_what_it_cannot_answer(made):
    with pytest.raises(InputError, match=r"no explanation has the concept 'volcano'.*SithEditor\.find"):
        made.find("volcano")
    for limit in (0, -1):
        with pytest.raises(InputError, match="limit must be at least 1"):
            made.find("boat", limit=limit)


# ---------------------------------------------------------------- rows and files


def test_to_dataset_has_a_row_for_each_pole(made):
    rows = made.to_dataset()
    assert len(rows) == LAYERS * HEADS * SIZE * 2
    assert set(rows.column_names) == {*Explanation.__dataclass_fields__, "weights"}
    for row, explanation in zip(rows, made.explanations(), strict=True):
        assert row.pop("concepts") == [text for text, _ in explanation.concepts]
        assert row.pop("weights") == [weight for _, weight in explanation.concepts]
        assert all(getattr(explanation, name) == value for name, value in row.items())
    assert len({(r["layer"], r["head"], r["vector"], r["pole"]) for r in rows}) == len(rows)


@pytest.mark.parametrize("poles", ["+", "+-"])
def test_a_round_trip_is_exact(poles, editor, concepts, tmp_path):
    saved = editor.decompose(concepts, poles=poles, layers=[0, 2], rank=4)
    saved.save_pretrained(tmp_path / "a")
    read = Decomposition.from_pretrained(tmp_path / "a")
    for name in Decomposition.__dataclass_fields__:
        ours, theirs = getattr(saved, name), getattr(read, name)
        if name == "significance":
            assert torch.equal(ours.p, theirs.p)
            assert torch.equal(ours.sample, theirs.sample)
            assert (ours.null, ours.seed) == (theirs.null, theirs.seed)
            continue
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, name
    assert read.explanations() == saved.explanations()
    assert read.find("boat") == saved.find("boat")
    read.save_pretrained(tmp_path / "b")
    assert Decomposition.from_pretrained(tmp_path / "b").explanations() == saved.explanations()


def test_repr_is_one_safe_line(made):
    hostile = replace(made, base=replace(made.base, name="x\x1b[2J\u202e\n"))
    assert repr(hostile).isprintable()
    assert "layers 0-2, 4 heads, 8 vectors each, poles +-" in repr(made)


def test_the_base_distinguishes_weights(made):
    made.base.check(dict(made.base.sha256), "here")
    for key in made.base.sha256:
        changed = {**made.base.sha256, key: "0" * 64}
        with pytest.raises(BaseMismatch, match=key):
            made.base.check(changed, "there")
        with pytest.raises(BaseMismatch, match="is not there"):
            made.base.check({k: v for k, v in made.base.sha256.items() if k != key}, "there")
    with pytest.raises(ArtifactError):
        type(made.base).from_json({})
