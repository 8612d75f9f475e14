"""The whole path against independent implementations: explicit D x D matrices, a literal COMP."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn
from transformers import CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection

from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec, make_spec
from sith_hf.errors import InputError
from sith_hf.gains import Gains
from sith_hf.pursuit import Pursuit
from sith_hf.towers import text_tower_sha256
from tests.support import tiny

CLOSE = 1e-4
WORDS = ["red", "blue", "sand", "boat", "night", "forest", "snow", "wheel", "dog", "a cat", "sky", "grass", "brick"]
WORDS += ["fish", "bird", "car", "stone", "light", "dark", "gold", "round", "the sea", "wood", "hill", "rain", "fog"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.byte_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("exact") / "clip", seed=11)


def pixels(size=16, seed=0):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tower_of(model):
    return getattr(model, "vision_model", model)


def hidden(model, images):
    """The whole tower's output, every token, after the final layer norm."""
    tower = tower_of(model)
    with torch.no_grad():
        output = tower(images.to(next(tower.parameters()).dtype))
        return tower.post_layernorm(output.last_hidden_state).double()


# --- an edit, as explicit matrices inside the attention layer


class ExplicitAttention(nn.Module):
    """Attention in which every head has its D x D matrix M' = sum_i g_i s_i w_i r_i^T, and keeps its constant output.

    Its input is the standardised residual stream, without gain and offset of the layer norm.
    """

    def __init__(self, attention, norm, gains, fold, centre):
        super().__init__()
        self.attention, self.heads, self.fold = attention, attention.num_heads, fold
        self.gamma, self.beta = norm.weight.detach().clone(), norm.bias.detach().clone()
        size = len(self.gamma)
        width = size // self.heads
        ones = torch.ones(size, 1, dtype=torch.float64)
        drop = torch.eye(size, dtype=torch.float64) - ones @ ones.T / size
        self.matrices, self.constant = [], attention.out_proj.bias.detach().clone()
        for head in range(self.heads):
            rows = slice(head * width, (head + 1) * width)
            reads = attention.v_proj.weight.detach()[rows]
            writes = attention.out_proj.weight.detach()[:, rows]
            offset = attention.v_proj.bias.detach()[rows]
            matrix = writes @ reads
            if fold:
                offset = offset + reads @ self.beta
                matrix = matrix @ torch.diag(self.gamma)
            self.constant = self.constant + writes @ offset
            if centre:
                matrix = drop @ matrix @ drop if fold else drop @ matrix
            left, values, right = torch.linalg.svd(matrix)
            edited = torch.zeros_like(matrix)
            for i in range(width):
                gain = gains.get((head, i), 1.0)
                edited += gain * values[i] * torch.outer(left[:, i], right[i])
            self.matrices.append(edited)

    def forward(self, hidden_states, **_ignored):
        normed = hidden_states * self.gamma + self.beta
        width = normed.shape[-1] // self.heads
        queries, keys = self.attention.q_proj(normed), self.attention.k_proj(normed)
        total = self.constant.expand_as(normed)
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            scores = queries[..., part] @ keys[..., part].transpose(1, 2) / width**0.5
            read_from = hidden_states if self.fold else normed
            total = total + scores.softmax(-1) @ read_from @ self.matrices[head].T
        return total, None


def explicit(model, gains, fold, centre):
    """A float64 copy of ``model`` with gains {(layer, head, vector): g}, by explicit matrices."""
    model = copy.deepcopy(model).double().eval()
    for number, layer in enumerate(tower_of(model).encoder.layers):
        here = {(h, v): g for (n, h, v), g in gains.items() if n == number}
        layer.self_attn = ExplicitAttention(layer.self_attn, layer.layer_norm1, here, fold, centre)
        with torch.no_grad():
            layer.layer_norm1.weight.fill_(1)
            layer.layer_norm1.bias.fill_(0)
    return model


def distance(model, reference, images):
    return float((hidden(model, images) - hidden(reference, images)).abs().max())


def decomposed(model, tokenizer, name=None, **options):
    companion = None if isinstance(model, CLIPModel) else tiny.clip_model(seed=3)
    editor = SithEditor.from_model(model, tokenizer, text_model=companion, name=name)
    editor.decompose(ConceptDictionary.from_texts(WORDS), pursuit=Pursuit(sparsity=2), **options)
    return editor


def spec_of(editor, gains):
    return make_spec(editor.tower, editor.decomposition, Gains(gains))


def random_gains(layers, heads, vectors, share, seed):
    """Gains for a random part of all vectors: 0, -1, 3, or anything between -2 and 3."""
    chance = random.Random(seed)
    keys = [(n, h, v) for n in range(layers) for h in range(heads) for v in range(vectors)]
    chosen = [key for key in keys if chance.random() < share]
    return {key: chance.choice([0.0, -1.0, 3.0, chance.uniform(-2, 3)]) for key in chosen}


FORMS = pytest.mark.parametrize(
    ("fold", "centre"), [(True, True), (True, False), (False, False), (False, True)],
    ids=["folded-centred", "folded", "plain", "centred"],
)  # fmt: skip


@FORMS
def test_without_an_edit_the_explicit_form_is_the_model(folder, fold, centre):
    model = CLIPModel.from_pretrained(folder)
    assert distance(model, explicit(model, {}, fold, centre), pixels()) < CLOSE


@FORMS
def test_edited_model_in_memory_equals_explicit_matrices(folder, tokenizer, fold, centre):
    model = CLIPModel.from_pretrained(folder)
    editor = decomposed(model, tokenizer, fold=fold, centre=centre)
    for seed, share in enumerate((0.1, 0.5, 1.0)):
        gains = random_gains(3, 4, 8, share, seed)
        reference = explicit(model, gains, fold, centre)
        with editor.applied(spec_of(editor, gains)) as edited:
            assert distance(edited, reference, pixels(seed=seed)) < CLOSE
        assert distance(model, reference, pixels(seed=seed)) > 0.05  # control: the edit is no small thing


@FORMS
def test_one_gain_for_every_vector_of_all_layers(folder, tokenizer, fold, centre):
    model = CLIPModel.from_pretrained(folder)
    editor = decomposed(model, tokenizer, fold=fold, centre=centre)
    for gain in (0.0, -1.0, 3.0):
        spec = editor.edit().vectors(gain, layers=range(3)).spec
        assert len(spec) == 3 * 4 * 8
        reference = explicit(model, dict.fromkeys(spec.keys, gain), fold, centre)
        with editor.applied(spec) as edited:
            assert distance(edited, reference, pixels()) < CLOSE
        assert distance(model, reference, pixels()) > 0.05


@pytest.mark.parametrize(("fold", "centre"), [(True, True), (False, False)], ids=["folded-centred", "plain"])
@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_saved_checkpoint_equals_explicit_matrices(folder, tmp_path, fold, centre, shards):
    base = CLIPModel.from_pretrained(folder)
    if shards:
        folder = tiny.save_clip(tmp_path / "shards", seed=11, max_shard_size="60KB")
    editor = SithEditor.from_pretrained(folder)
    editor.decompose(ConceptDictionary.from_texts(WORDS), fold=fold, centre=centre)
    gains = random_gains(3, 4, 8, 0.5, seed=5)
    editor.save_pretrained(tmp_path / "edited", spec_of(editor, gains))
    reference = explicit(base, gains, fold, centre)
    for kind in (CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection):
        assert distance(kind.from_pretrained(tmp_path / "edited"), reference, pixels()) < CLOSE
        assert distance(kind.from_pretrained(folder), reference, pixels()) > 0.05
    # What follows the tower sees the edit too.
    images = pixels()
    with torch.no_grad():
        edited = CLIPModel.from_pretrained(tmp_path / "edited").get_image_features(pixel_values=images).pooler_output
        pooled = tower_of(reference)(images.double()).pooler_output
        wanted = reference.visual_projection(pooled)
    assert (edited.double() - wanted).abs().max() < CLOSE


@pytest.mark.parametrize("kind", ["vision", "projected"])
def test_saved_vision_towers_equal_explicit_matrices(kind, tokenizer, tmp_path):
    """Checkpoints that transformers 5 saves with unprefixed keys are tested too."""
    make = {"vision": tiny.vision_model, "projected": tiny.projected_vision_model}[kind]
    base = make(seed=12)
    base.save_pretrained(tmp_path / "base")
    editor = decomposed(base, tokenizer, name=str(tmp_path / "base"))
    gains = random_gains(3, 4, 8, 0.4, seed=6)
    editor.save_pretrained(tmp_path / "edited", spec_of(editor, gains))
    loaded, report = CLIPVisionModel.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    assert distance(loaded, explicit(base, gains, True, True), pixels()) < CLOSE
    assert distance(loaded, base, pixels()) > 0.05


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 24, "num_attention_heads": 1, "num_hidden_layers": 1},
        {"hidden_size": 40, "num_attention_heads": 10, "num_hidden_layers": 2},
        {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "projection_dim": 64},
    ],
    ids=["one-head", "many-heads", "wide-projection"],
)
def test_other_sizes_equal_explicit_matrices(tokenizer, sizes):
    # With a single head the centred matrix has lost a rank: its last vector is an arbitrary completion.
    model = tiny.clip_model(seed=13, **sizes)
    editor = decomposed(model, tokenizer)
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"] // sizes["num_attention_heads"]
    gains = random_gains(sizes["num_hidden_layers"], heads, width, 0.6, seed=7)
    reference = explicit(model, gains, True, True)
    with editor.applied(spec_of(editor, gains)) as edited:
        assert distance(edited, reference, pixels()) < CLOSE
    assert distance(model, reference, pixels()) > 0.05


@FORMS
def test_rank_deficient_and_dead_heads_equal_explicit_matrices(tokenizer, fold, centre):
    """Vectors of singular value zero may get any gain: nothing passes through them, and the constant stays."""
    model = tiny.clip_model(seed=14)
    with torch.no_grad():
        for number, layer in enumerate(model.vision_model.encoder.layers):
            attention = layer.self_attn
            attention.v_proj.weight[4:8] = attention.v_proj.weight[:1]  # head 0 reads one direction five times
            attention.out_proj.weight[:, 8:16] = 0  # head 1 writes nothing
            attention.v_proj.weight[16:24] = 0  # head 2 reads nothing, and writes its constant
            if number == 1:
                layer.layer_norm1.weight[:20] = 0
    editor = decomposed(model, tokenizer, fold=fold, centre=centre)
    gains = {(n, h, v): (0.0, -1.0, 3.0)[(n + h + v) % 3] for n in range(3) for h in range(4) for v in range(8)}
    reference = explicit(model, gains, fold, centre)
    with editor.applied(spec_of(editor, gains)) as edited:
        assert distance(edited, reference, pixels()) < CLOSE
    assert distance(model, reference, pixels()) > 0.05


def test_controls_a_wrong_edit_is_seen(folder, tokenizer):
    model = CLIPModel.from_pretrained(folder)
    editor = decomposed(model, tokenizer)
    gains = random_gains(3, 4, 8, 0.5, seed=8)
    spec, reference = spec_of(editor, gains), explicit(model, gains, True, True)

    def miss(wrong):
        with editor.applied(wrong) as edited:
            return distance(edited, reference, pixels())

    assert miss(spec) < CLOSE
    assert miss(replace(spec, constant=torch.zeros_like(spec.constant))) > 100 * CLOSE  # no bias correction
    assert miss(replace(spec, constant=-spec.constant)) > 100 * CLOSE
    assert miss(replace(spec, row=spec.row.roll(1, dims=1))) > 100 * CLOSE
    for key in random.Random(0).sample(sorted(gains), 5):
        assert miss(spec_of(editor, {**gains, key: gains[key] + 1})) > 10 * CLOSE
        assert miss(spec_of(editor, {k: g for k, g in gains.items() if k != key})) > CLOSE
    # The forms are four different edits, not one.
    for fold, centre in ((True, False), (False, False), (False, True)):
        assert distance(explicit(model, gains, fold, centre), reference, pixels()) > 10 * CLOSE


def test_the_written_form_differs_from_the_centred_one_along_all_ones_only(folder, tokenizer):
    """Inside the residual stream the two differ, by a multiple of all-ones in every token, and nowhere else."""
    model = CLIPModel.from_pretrained(folder)
    editor = decomposed(model, tokenizer)
    gains = random_gains(3, 4, 8, 0.5, seed=9)
    reference = explicit(model, gains, True, True)
    with editor.applied(spec_of(editor, gains)) as edited, torch.no_grad():
        ours = tower_of(edited)(pixels()).last_hidden_state.double()
        theirs = tower_of(reference)(pixels().double()).last_hidden_state
    difference = ours - theirs
    assert (difference - difference.mean(-1, keepdim=True)).abs().max() < 10 * CLOSE
    assert difference.mean(-1).abs().max() > 0.01


def test_bfloat16_checkpoint_gets_the_edit_rounded_once(tokenizer, tmp_path):
    folder = tiny.save_clip(tmp_path / "base", seed=15, dtype=torch.bfloat16)
    editor = SithEditor.from_pretrained(folder)
    editor.decompose(ConceptDictionary.from_texts(WORDS))
    gains = random_gains(3, 4, 8, 0.5, seed=10)
    editor.save_pretrained(tmp_path / "edited", spec_of(editor, gains))
    wide = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    with SithEditor.from_model(wide, tokenizer).applied(spec_of(editor, gains)):
        exact = {k: v.detach().clone() for k, v in wide.state_dict().items()}
    saved = CLIPModel.from_pretrained(tmp_path / "edited", dtype="auto").state_dict()
    for key, tensor in saved.items():
        assert tensor.dtype == torch.bfloat16
        assert ((tensor.float() - exact[key]).abs() <= exact[key].abs() * 2**-8).all(), key


# --- the algebra of edits


@pytest.fixture(scope="module")
def editor(folder):
    editor = SithEditor.from_pretrained(folder)
    editor.decompose(ConceptDictionary.from_texts(WORDS))
    return editor


def test_gains_of_one_are_no_edit(editor, tmp_path):
    everything = {(n, h, v): 1.0 for n in range(3) for h in range(4) for v in range(8)}
    for spec in (spec_of(editor, everything), editor.edit().vectors(1.0, layers=range(3)).spec, editor.edit().spec):
        assert len(spec) == 0
        assert not spec
        assert not any(spec.change(layer).heads for layer in range(9))
        before = copy.deepcopy(editor.model.state_dict())
        with editor.applied(spec) as model:
            assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        with pytest.raises(InputError, match="changes nothing"):
            editor.save_pretrained(tmp_path / "none", spec)
        assert list(tmp_path.iterdir()) == []
    # Control: one gain that is not quite 1 is an edit.
    assert len(spec_of(editor, {**everything, (1, 2, 3): 1.001})) == 1


def test_an_edit_lost_in_rounding_is_no_edit(editor, tmp_path):
    with pytest.raises(InputError, match="lost in the rounding"):
        editor.save_pretrained(tmp_path / "none", spec_of(editor, {(1, 2, 3): 1 + 1e-12}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_inverse_and_strength(editor, seed):
    spec = spec_of(editor, random_gains(3, 4, 8, 0.4, seed))
    assert not spec.compose(spec.inverse())
    assert not spec.inverse().compose(spec)
    assert spec.inverse().inverse() == spec
    assert not spec * 0
    assert not 0.0 * spec
    assert spec * 1 == spec
    assert 1.0 * spec == spec
    # Controls.
    assert spec * 0.999 != spec
    assert spec.compose(spec_of(editor, random_gains(3, 4, 8, 0.4, seed + 50)).inverse())
    assert spec.inverse() != spec


def test_strength_moves_the_weights_in_a_straight_line(folder, editor):
    gains = random_gains(3, 4, 8, 0.5, seed=20)
    spec, model = spec_of(editor, gains), editor.model
    for strength in (0.5, -1, 2.5):
        halfway = {key: 1 + strength * (gain - 1) for key, gain in gains.items()}
        with editor.applied(spec * strength) as edited:
            assert distance(edited, explicit_of(folder, halfway), pixels()) < CLOSE
            assert distance(edited, explicit_of(folder, gains), pixels()) > 10 * CLOSE
    assert distance(model, explicit_of(folder, {}), pixels()) < CLOSE


def explicit_of(folder, gains):
    return explicit(CLIPModel.from_pretrained(folder), gains, True, True)


def test_composition_multiplies_gains(folder, editor):
    one, other = random_gains(3, 4, 8, 0.5, seed=21), random_gains(3, 4, 8, 0.5, seed=22)
    both = {key: one.get(key, 1.0) * other.get(key, 1.0) for key in one | other}
    composed = spec_of(editor, one).compose(spec_of(editor, other))
    assert composed.keys == sorted(key for key, gain in both.items() if gain != 1)
    with editor.applied(composed) as edited:
        assert distance(edited, explicit_of(folder, both), pixels()) < CLOSE
        assert distance(edited, explicit_of(folder, one | other), pixels()) > 10 * CLOSE


def test_a_saved_spec_is_the_same_edit(editor, tmp_path):
    spec = spec_of(editor, random_gains(3, 4, 8, 0.5, seed=23))
    spec.save_pretrained(tmp_path)
    again = EditSpec.from_pretrained(tmp_path)
    assert again == spec
    assert again.labels == spec.labels
    assert not again.compose(spec.inverse())


# --- explanations, against a literal COMP (Method, sec. 4)


def literal_comp(x, atoms, sparsity, coherence):
    """One vector: chosen atoms, weights, and the least margin by which a step's winner won."""
    chosen, weights, residual, margin = [], np.zeros(0), x, np.inf
    for _ in range(sparsity):
        score = atoms @ residual
        if chosen:
            score += coherence * (atoms @ atoms[chosen].T).mean(axis=1)
        score[chosen] = -np.inf
        ranked = np.sort(score)
        margin = min(margin, ranked[-1] - ranked[-2])
        chosen.append(int(score.argmax()))
        weights, _ = nnls(atoms[chosen].T, x)
        residual = x - weights @ atoms[chosen]
    return chosen, weights, margin


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def as_array(tensor):
    return tensor.detach().double().numpy()


def literal_write_directions(model, layer, head, fold, centre):
    """w_i of one head from its explicit matrix, the sign fixed by the largest entry of r_i; and the singular values."""
    block = tower_of(model).encoder.layers[layer]
    size = block.self_attn.embed_dim
    width = size // block.self_attn.num_heads
    part = slice(head * width, (head + 1) * width)
    matrix = as_array(block.self_attn.out_proj.weight)[:, part] @ as_array(block.self_attn.v_proj.weight)[part]
    if fold:
        matrix = matrix * as_array(block.layer_norm1.weight)
    drop = np.eye(size) - 1 / size
    if centre:
        matrix = drop @ matrix @ drop if fold else drop @ matrix
    left, values, right = np.linalg.svd(matrix)
    signs = np.sign([row[np.abs(row).argmax()] for row in right[:width]])
    return (left[:, :width] * signs).T, values[:width]


def literal_explanations(model, projection, embeddings, sparsity, coherence, fold, centre, mean, layers=None):
    """{(layer, head, vector, pole): (chosen, weights, margin)}, in float64 and one by one."""
    tower = tower_of(model)
    gamma, beta = as_array(tower.post_layernorm.weight), as_array(tower.post_layernorm.bias)
    projection = as_array(projection)
    embeddings = as_array(embeddings)
    atoms = unit(embeddings - embeddings.mean(axis=0))
    found = {}
    for layer in range(len(tower.encoder.layers)) if layers is None else layers:
        for head in range(tower.encoder.layers[layer].self_attn.num_heads):
            writes, _ = literal_write_directions(model, layer, head, fold, centre)
            for vector, write in enumerate(writes):
                for pole, sign in (("+", 1), ("-", -1)):
                    w = sign * write
                    normed = (w - w.mean()) / np.sqrt(w.var() + tower.post_layernorm.eps) * gamma + beta
                    x = unit(unit(projection @ normed) - mean)
                    found[layer, head, vector, pole] = literal_comp(x, atoms, sparsity, coherence)
    return found


def disagreements(decomposition, literal, texts):
    """Poles explained otherwise than by the literal COMP, and how many were compared: those with margins above 1e-6."""
    clear = {key: value for key, value in literal.items() if value[2] > 1e-6}
    wrong = []
    for (layer, head, vector, pole), (chosen, weights, _) in clear.items():
        where = (decomposition.position(layer), head, vector, decomposition.poles.index(pole))
        ours = {
            decomposition.texts[i]: w
            for i, w in zip(decomposition.concept[where].tolist(), decomposition.weight[where].tolist(), strict=True)
        }
        theirs = {texts[i]: w for i, w in zip(chosen, weights.tolist(), strict=True)}
        if ours.keys() != theirs.keys() or any(abs(ours[t] - theirs[t]) > 2e-5 for t in ours):
            wrong.append((layer, head, vector, pole))
    return wrong, len(clear)


def encoded(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, size, generator=generator) + torch.randn(size, generator=generator)
    texts = tuple(f"concept {i:03d}" for i in range(count))
    return ConceptDictionary(texts, embeddings=nn.functional.normalize(embeddings, dim=1), encoder_sha256="0")


def decompose_with(editor, dictionary, **options):
    """The decomposition over embeddings that the editor takes for those of its own text tower."""
    own = text_tower_sha256(editor.model)
    return editor.decompose(replace(dictionary, encoder_sha256=own), **options)


CASES = {
    "default": ({"num_hidden_layers": 2}, {}, 60),
    "paper": ({"hidden_size": 20, "num_attention_heads": 4, "num_hidden_layers": 2}, {}, 200),
    "one head, wide joint space": (
        {"hidden_size": 16, "num_attention_heads": 1, "num_hidden_layers": 2, "projection_dim": 40}, {}, 90
    ),
    "plain, lambda 0": (
        {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2},
        {"fold": False, "coherence_weight": 0.0, "sparsity": 4}, 50,
    ),
    "plain but centred, lambda 1": (
        {"hidden_size": 18, "num_attention_heads": 3, "num_hidden_layers": 1},
        {"fold": False, "centre": True, "coherence_weight": 1.0, "sparsity": 8}, 40,
    ),
    "image mean": ({"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1}, {"mean": 0.6}, 80),
    "nearly all": ({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}, {"sparsity": 7}, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_explanations_equal_a_literal_comp(name):
    sizes, options, atoms = CASES[name]
    model = tiny.clip_model(seed=30, **sizes)
    options = dict(options)
    size = model.visual_projection.weight.shape[0]
    mean = nn.functional.normalize(torch.linspace(-1, 1, size), dim=0) * options.pop("mean", 0.0)
    pursuit = Pursuit(sparsity=options.pop("sparsity", 5), coherence_weight=options.pop("coherence_weight", 0.3))
    fold, centre = options.get("fold", True), options.get("centre")
    dictionary = encoded(atoms, size)
    editor = SithEditor.from_model(model)
    decomposition = decompose_with(editor, dictionary, pursuit=pursuit, image_mean=mean, **options)
    literal = literal_explanations(
        model, model.visual_projection.weight, dictionary.embeddings, pursuit.sparsity, pursuit.coherence_weight,
        fold, fold if centre is None else centre, as_array(mean),
    )  # fmt: skip
    if name == "one head, wide joint space":  # its centred matrix has lost a rank: the last vector is arbitrary
        literal = {key: value for key, value in literal.items() if key[2] < 15}
    wrong, clear = disagreements(decomposition, literal, dictionary.texts)
    assert wrong == []
    assert clear >= 0.95 * len(literal)
    # Control: another lambda gives other explanations.
    other = replace(pursuit, coherence_weight=pursuit.coherence_weight + 0.5)
    changed = decompose_with(editor, dictionary, pursuit=other, image_mean=mean, **options)
    assert disagreements(changed, literal, dictionary.texts)[0]


def test_with_every_concept_taken_the_point_is_the_literal_one(folder):
    """All centred atoms together depend on one another: weights are then not unique, what they add up to is."""
    model, dictionary = CLIPModel.from_pretrained(folder), encoded(6, 24)
    found = decompose_with(SithEditor.from_model(model), dictionary, pursuit=Pursuit(sparsity=6), layers=[0])
    literal = literal_explanations(
        model, model.visual_projection.weight, dictionary.embeddings, 6, 0.3, True, True, 0, layers=[0]
    )
    embeddings = as_array(dictionary.embeddings)
    atoms = unit(embeddings - embeddings.mean(axis=0))
    for (layer, head, vector, pole), (chosen, weights, _) in literal.items():
        ours = dict(found.explain(layer, head, vector, pole).concepts)
        point = sum(weight * atoms[dictionary.texts.index(text)] for text, weight in ours.items())
        assert np.allclose(point, weights @ atoms[chosen], atol=1e-5)
        # The rounding of atoms to float32 hides their dependence, and must not be fitted with huge weights.
        assert max(ours.values()) < 3


def test_explanations_with_the_models_own_text_tower(tokenizer):
    model = tiny.clip_model(seed=31, num_hidden_layers=2)
    editor = SithEditor.from_model(model, tokenizer)
    decomposition = editor.decompose(ConceptDictionary.from_texts(WORDS))
    ids = tokenizer(WORDS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"]
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        embeddings = nn.functional.normalize(exact.get_text_features(input_ids=ids).pooler_output, dim=1)
    literal = literal_explanations(model, model.visual_projection.weight, embeddings, 5, 0.3, True, True, 0)
    # The text tower itself runs in float32, so a step must be decided by more than its rounding.
    literal = {key: value for key, value in literal.items() if value[2] > 1e-4}
    wrong, clear = disagreements(decomposition, literal, WORDS)
    assert wrong == []
    assert clear > 0.9 * 2 * 4 * 8 * 2


def test_singular_vectors_are_those_of_the_explicit_matrices(folder):
    model = CLIPModel.from_pretrained(folder)
    editor = SithEditor.from_model(model)
    for fold, centre in ((True, True), (True, False), (False, False), (False, True)):
        found = decompose_with(editor, encoded(20, 24), fold=fold, centre=centre)
        for layer in range(3):
            for head in range(4):
                writes, values = literal_write_directions(model, layer, head, fold, centre)
                assert np.allclose(as_array(found.singular_values[layer, head]), values, atol=1e-6)
                assert np.allclose(as_array(found.write[layer, head]), writes, atol=1e-6)
                assert np.isclose(float(found.energy[layer, head]), (values**2).sum())


def test_fidelity_and_coherence_literally(folder):
    model = CLIPModel.from_pretrained(folder)
    dictionary = encoded(40, 24)
    found = decompose_with(SithEditor.from_model(model), dictionary)
    embeddings = as_array(dictionary.embeddings)
    atoms = unit(embeddings - embeddings.mean(axis=0))
    inverse = np.linalg.pinv(as_array(model.visual_projection.weight))
    for item in found.explanations():
        sign = 1 if item.pole == "+" else -1
        direction = sign * as_array(found.write[found.position(item.layer), item.head, item.vector])
        chosen = [dictionary.texts.index(text) for text, _ in item.concepts]
        rebuilt = inverse @ unit(np.array([weight for _, weight in item.concepts]) @ atoms[chosen])
        assert np.isclose(item.fidelity, unit(rebuilt) @ direction, atol=1e-5)
        assert item.fidelity <= item.ceiling + 1e-5
        pairs = [atoms[a] @ atoms[b] for a in chosen for b in chosen if a != b]
        assert np.isclose(item.coherence, np.mean(pairs) if pairs else 1.0, atol=1e-5)


# --- half precision, and the order of the dictionary

TENSORS = ("singular_values", "energy", "write", "read", "concept", "weight", "fidelity", "coherence", "ceiling")
TENSORS += ("embeddings", "dictionary_mean", "image_mean")


def unequal(one, other):
    return [name for name in TENSORS if not torch.equal(getattr(one, name), getattr(other, name))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_decomposes_like_its_float32_cast(dtype):
    half = tiny.clip_model(seed=40).to(dtype)
    cast = copy.deepcopy(half).float()
    for options in ({"fold": False}, {"image_mean": torch.full((24,), 0.1)}):
        one = decompose_with(SithEditor.from_model(half), encoded(40, 24), **options)
        other = decompose_with(SithEditor.from_model(cast), encoded(40, 24), **options)
        assert unequal(one, other) == []
        assert one.texts == other.texts
        assert one.base.sha256 == other.base.sha256
    # Control: the float32 weights before they were rounded give something else.
    unrounded = decompose_with(SithEditor.from_model(tiny.clip_model(seed=40)), encoded(40, 24), **options)
    assert {"singular_values", "write", "read", "weight"} <= set(unequal(one, unrounded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_checkpoint_decomposes_like_its_float32_cast(dtype, tmp_path):
    """The text tower included: its dictionary has no half-precision noise in it either."""
    folder = tiny.save_clip(tmp_path / "half", seed=41, dtype=dtype)
    cast = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    half = SithEditor.from_pretrained(folder)
    assert next(half.model.parameters()).dtype == dtype
    concepts = ConceptDictionary.from_texts(WORDS)
    one = half.decompose(concepts)
    other = SithEditor.from_model(cast, half.loaded.tokenizer).decompose(concepts)
    assert unequal(one, other) == []
    assert one.texts == other.texts
    assert next(half.model.parameters()).dtype == dtype


def explained(decomposition):
    """{pole: {concept: weight}} of a decomposition."""
    return {(e.layer, e.head, e.vector, e.pole): dict(e.concepts) for e in decomposition.explanations()}


def unlike(one, other):
    """The poles that two decompositions explain differently."""
    a, b = explained(one), explained(other)
    assert a.keys() == b.keys()
    return [k for k in a if a[k].keys() != b[k].keys() or any(abs(a[k][t] - b[k][t]) > 1e-5 for t in a[k])]


def test_the_order_of_the_dictionary_does_not_matter(folder, tokenizer):
    model, shuffled = CLIPModel.from_pretrained(folder), list(WORDS)
    random.Random(0).shuffle(shuffled)
    assert shuffled != WORDS
    editor = SithEditor.from_model(model, tokenizer)
    one = editor.decompose(ConceptDictionary.from_texts(WORDS))
    assert unlike(one, editor.decompose(ConceptDictionary.from_texts(shuffled))) == []
    # Controls: another concept in the dictionary, and one left out, change explanations.
    assert unlike(one, editor.decompose(ConceptDictionary.from_texts([*WORDS[:-1], "an otter"])))
    assert unlike(one, editor.decompose(ConceptDictionary.from_texts(WORDS[:-1])))
