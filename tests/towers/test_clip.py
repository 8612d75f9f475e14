"""Reading towers: the same tower from every class, an algebra that the model itself confirms, weights never touched."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from transformers import (
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTModel,
)

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers import AttentionLayer, config_settings, family_of_config, read_tower
from tests.support import tiny

TEXTS = ["red", "a blue sky", "dog", "sand", "boat", "night", "forest", "snow", "wheel"]
PARTS = [f.name for f in fields(AttentionLayer) if f.type in ("Tensor", "Tensor | None") and f.name != "scale"]
EXACT = {"atol": 1e-10, "rtol": 0}


@pytest.fixture(scope="module")
def clip():
    return tiny.clip_model(seed=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.byte_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("towers") / "clip", seed=1)


def snapshot(model):
    """Every parameter and buffer, byte for byte."""
    return {k: v.detach().contiguous().reshape(-1).view(torch.uint8).clone() for k, v in model.state_dict().items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return sorted(key for key in before if not torch.equal(before[key], after[key]))


def differences(one, other):
    """The names of tensors in which two towers differ."""
    ways = [tower.readout() if tower.has_joint else None for tower in (one, other)]
    if None in ways:
        found = [] if ways[0] is ways[1] else ["readout"]
    else:
        norms = [way.norm for way in ways]
        found = [f"norm.{n}" for n in ("weight", "bias") if not same(*norms, n)]
        found += [] if norms[0].eps == norms[1].eps else ["eps"]
        found += [] if same(*ways, "matrix") else ["projection"]
    for i, (a, b) in enumerate(zip(one.layers, other.layers, strict=True)):
        found += [f"{i}.{part}" for part in PARTS if not same(a, b, part)]
    return found


def same(one, other, name):
    a, b = getattr(one, name), getattr(other, name)
    return a is b if a is None or b is None else torch.equal(a, b)


# --- the same tower from every class, as an object and as a folder


def as_object(kind, folder):
    loaded = kind.from_pretrained(folder)
    return SithEditor.from_model(loaded).tower


def as_folder(kind, folder, tmp_path):
    kind.from_pretrained(folder).save_pretrained(tmp_path / "again")
    return SithEditor.from_pretrained(tmp_path / "again").tower


@pytest.mark.parametrize("kind", [CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection])
def test_every_class_holds_the_same_tower(kind, clip, folder, tmp_path):
    reference = read_tower(clip)
    expected = ["readout"] if kind is CLIPVisionModel else []
    for tower in (as_object(kind, folder), as_folder(kind, folder, tmp_path)):
        assert (tower.num_heads, len(tower.layers), tower.hidden_size) == (4, 3, 32)
        assert differences(reference, tower) == expected
        assert (not tower.has_joint) == (kind is CLIPVisionModel)


def test_control_another_model_has_another_tower(clip):
    assert len(differences(read_tower(clip), read_tower(tiny.clip_model(seed=2)))) == 3 * len(PARTS) + 3


def test_tower_holds_the_tensors_of_the_checkpoint(clip):
    tower, state = read_tower(clip), clip.state_dict()
    for number, layer in enumerate(tower.layers):
        prefix = f"vision_model.encoder.layers.{number}."
        assert torch.equal(layer.norm_weight, state[prefix + "layer_norm1.weight"])
        assert torch.equal(layer.norm_bias, state[prefix + "layer_norm1.bias"])
        assert torch.equal(layer.value_weight, state[prefix + "self_attn.v_proj.weight"])
        assert torch.equal(layer.value_bias, state[prefix + "self_attn.v_proj.bias"])
        assert torch.equal(layer.out_weight, state[prefix + "self_attn.out_proj.weight"])
        assert torch.equal(layer.out_bias, state[prefix + "self_attn.out_proj.bias"])
        assert set(layer.sha256()) <= set(state)
    assert torch.equal(tower.readout().matrix, state["visual_projection.weight"])
    assert set(tower.sha256(range(3))) <= set(state)


# --- the factors, verified through the model itself


@pytest.fixture(scope="module")
def watched():
    """For one float64 model: per layer the residual stream, the layer norm's output, attention weights and output."""
    model = tiny.clip_model(seed=3).double()
    model.set_attn_implementation("eager")
    seen = []

    def norm_hook(_module, args, output):
        seen.append({"stream": args[0], "normed": output})

    def attention_hook(_module, _args, output):
        seen[-1] |= {"output": output[0], "weights": output[1]}

    for layer in model.vision_model.encoder.layers:
        layer.layer_norm1.register_forward_hook(norm_hook)
        layer.self_attn.register_forward_hook(attention_hook)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.vision_model(torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64))
    return read_tower(model), seen


def rebuilt(factors, weights, read_from, bias):
    """The attention output, literally: what every head reads, attends to and writes, one head at a time."""
    total = bias
    for h in range(factors.read.shape[0]):
        values = read_from @ factors.read[h].T + factors.constant[h]
        total = total + weights[:, h] @ values @ factors.write[h].T
    return total


def standardised(stream, eps=1e-5):
    centred = stream - stream.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def less_ones(x):
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("layer", range(3))
def test_factors_give_the_attention_output(watched, layer):
    tower, seen = watched
    at, here = tower.layers[layer], seen[layer]
    plain = at.factors(4, fold=False, centre=False)
    folded = at.factors(4, fold=True, centre=False)
    bare = standardised(here["stream"])
    torch.testing.assert_close(rebuilt(plain, here["weights"], here["normed"], at.out_bias), here["output"], **EXACT)
    torch.testing.assert_close(rebuilt(folded, here["weights"], bare, at.out_bias), here["output"], **EXACT)
    # Controls: each form reads its own input and no other.
    for factors, wrong in ((plain, bare), (folded, here["normed"])):
        assert (rebuilt(factors, here["weights"], wrong, at.out_bias) - here["output"]).abs().max() > 0.1


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("fold", [True, False])
def test_centred_factors_differ_in_the_all_ones_direction_alone(watched, layer, fold):
    tower, seen = watched
    at, here = tower.layers[layer], seen[layer]
    read_from = standardised(here["stream"]) if fold else here["normed"]
    factors = at.factors(4, fold=fold, centre=True)
    output = rebuilt(factors, here["weights"], read_from, torch.zeros(32, dtype=torch.float64))
    wanted = here["output"] - at.out_bias
    torch.testing.assert_close(output, less_ones(wanted), **EXACT)
    torch.testing.assert_close(output.mean(-1), torch.zeros(3, 5, dtype=torch.float64), **EXACT)
    assert (output - wanted).abs().max() > 0.01  # control: the all-ones part is there to be dropped


def test_centring_takes_the_read_side_only_when_folded(clip):
    at = read_tower(clip).layers[0]
    folded, plain = at.factors(4, fold=True, centre=True), at.factors(4, fold=False, centre=True)
    assert folded.write.mean(1).abs().max() < 1e-15
    assert plain.write.mean(1).abs().max() < 1e-15
    assert folded.read.mean(2).abs().max() < 1e-15
    assert torch.equal(plain.read, at.factors(4, fold=False, centre=False).read)


def test_factors_are_fresh_tensors(clip):
    before = snapshot(clip)
    for fold in (True, False):
        for centre in (True, False):
            factors = read_tower(clip).layers[1].factors(4, fold=fold, centre=centre, dtype=torch.float32)
            if fold and centre:
                factors.write.fill_(7)
                factors.read.fill_(7)
                factors.constant.fill_(7)
    assert changed(before, snapshot(clip)) == []


# --- nothing changes a weight


def test_weights_are_never_changed(clip, tokenizer, folder, tmp_path):
    editor = SithEditor.from_model(clip, tokenizer, name=str(folder))
    before = snapshot(clip)
    for fold in (True, False):
        editor.decompose(ConceptDictionary.from_texts(TEXTS), fold=fold)
        assert changed(before, snapshot(clip)) == []
    edit = editor.edit().vectors(-1.0, layers=[0, 2], heads=[1], vectors=[0, 3])
    spec = edit.spec
    str(spec), editor.find("dog"), editor.suppress("dog", threshold=0.01, near=0.01)
    assert changed(before, snapshot(clip)) == []
    with editor.applied(spec) as model:
        assert model is clip
        inside = changed(before, snapshot(clip))
    assert changed(before, snapshot(clip)) == []
    # Control: the comparison sees the edit while it is there, and the edit is where it belongs.
    assert inside == [
        f"vision_model.encoder.layers.{n}.self_attn.out_proj.{part}" for n in (0, 2) for part in ("bias", "weight")
    ]
    editor.save_pretrained(tmp_path / "edited", spec)
    assert changed(before, snapshot(clip)) == []


# --- the joint space, against Method, sec. 3 and 5 written out in float64


def literal_to_joint(model, directions, mean):
    norm = model.vision_model.post_layernorm
    centred = directions - directions.mean(-1, keepdim=True)
    normed = centred / (directions.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    joint = (normed * norm.weight.double() + norm.bias.double()) @ model.visual_projection.weight.double().T
    joint = joint / joint.norm(dim=-1, keepdim=True)
    joint = joint - mean
    return joint / joint.norm(dim=-1, keepdim=True)


def literal_from_joint(model, joint, mean):
    projection = model.visual_projection.weight.double()
    inverse = projection.T @ torch.linalg.inv(projection @ projection.T)  # of full row rank: P < D
    y = joint / joint.norm(dim=-1, keepdim=True)
    y = y + mean
    y = y / y.norm(dim=-1, keepdim=True) @ inverse.T
    return y / y.norm(dim=-1, keepdim=True)


def directions(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("length", [0, 0.3, 0.95])
def test_joint_space_follows_the_formulas(clip, length):
    with torch.no_grad():
        tower, mean = read_tower(clip), length * directions(24, seed=9)
        given = None if length == 0 else mean
        w, y = directions(5, 2, 32), directions(4, 24, seed=2) * 3
        torch.testing.assert_close(tower.to_joint(w, given), literal_to_joint(clip, w, mean), **EXACT)
        torch.testing.assert_close(tower.from_joint(y, given), literal_from_joint(clip, y, mean), **EXACT)
        torch.testing.assert_close(
            tower.to_joint(w.float(), given), literal_to_joint(clip, w, mean).float(), atol=1e-5, rtol=0
        )
        if given is not None:  # control: the image mean matters, both ways
            assert (tower.to_joint(w) - tower.to_joint(w, given)).abs().max() > 0.01
            assert (tower.from_joint(y) - tower.from_joint(y, given)).abs().max() > 0.01


def test_a_zero_image_mean_is_no_image_mean(clip):
    tower, w = read_tower(clip), directions(5, 32)
    torch.testing.assert_close(tower.to_joint(w, torch.zeros(24)), tower.to_joint(w), **EXACT)


def test_joint_space_agrees_with_the_model(clip):
    """A direction projected is what the model makes of a residual stream of it."""
    tower, w = read_tower(clip), directions(4, 32).float()
    with torch.no_grad():
        embedding = clip.visual_projection(clip.vision_model.post_layernorm(w))
    wanted = embedding / embedding.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(tower.to_joint(w), wanted, atol=1e-5, rtol=0)
    # The two poles are explained each on its own: the bias of the layer norm makes them no opposites.
    assert (tower.to_joint(w) + tower.to_joint(-w)).abs().max() > 0.01


@pytest.mark.parametrize("projection_dim", [24, 48])
@pytest.mark.parametrize("deficient", [False, True])
def test_projected_norm_is_the_part_inside_the_row_space(projection_dim, deficient):
    model = tiny.clip_model(seed=5, projection_dim=projection_dim)
    if deficient:
        with torch.no_grad():
            model.visual_projection.weight[10:] = model.visual_projection.weight[:1]
    tower, w = read_tower(model), directions(6, 3, 32)
    rank = 10 if deficient else min(32, projection_dim)
    basis, _ = torch.linalg.qr(model.visual_projection.weight.detach().double()[:rank].T)
    ceiling = tower.readout().projected_norm(w)
    torch.testing.assert_close(ceiling, (w @ basis).norm(dim=-1), **EXACT)
    assert (ceiling <= 1 + 1e-12).all()
    assert (ceiling < 0.999).all() == (rank < 32)
    # Nothing in the joint space rebuilds a direction better, and the best that there is reaches it.
    for seed in range(20):
        tried = tower.from_joint(directions(6, 3, projection_dim, seed=seed))
        torch.testing.assert_close((tried @ basis).norm(dim=-1), torch.ones(6, 3, dtype=torch.float64), **EXACT)
        assert ((tried * w).sum(-1) <= ceiling + 1e-9).all()
    best = tower.from_joint(w @ model.visual_projection.weight.detach().double().T)
    torch.testing.assert_close((best * w).sum(-1), ceiling, **EXACT)


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        (directions(24) * 1.0001, "shorter than 1"),
        (torch.full((24,), float("nan")), "finite"),
        (torch.zeros(32), "length 24"),
        (torch.zeros(1, 24), "length 24"),
        (torch.zeros(24, dtype=torch.long), "floating-point"),
    ],
)
def test_refused_image_mean(clip, mean, said):
    tower = read_tower(clip)
    for call in (lambda: tower.to_joint(directions(2, 32), mean), lambda: tower.from_joint(directions(2, 24), mean)):
        with pytest.raises(InputError, match=said):
            call()


# --- companions


def test_vision_only_model_asks_for_its_companion(folder, tmp_path):
    CLIPVisionModel.from_pretrained(folder).save_pretrained(tmp_path / "vision")
    editor = SithEditor.from_pretrained(tmp_path / "vision")
    for call in (
        lambda: editor.decompose(ConceptDictionary.from_texts(TEXTS)),
        lambda: editor.tower.to_joint(directions(2, 32)),
        lambda: editor.tower.from_joint(directions(2, 24)),
        lambda: editor.tower.readout().projected_norm(directions(2, 32)),
        lambda: editor.text,
    ):
        with pytest.raises(InputError, match=r'text_model="openai/.*--text-model') as caught:
            call()
        assert caught.value.__cause__ is None
        assert len(str(caught.value)) < 400
    # What needs no joint space works without.
    factors = editor.tower.layers[0].factors(4)
    assert factors.write.shape == (4, 32, 8)


def test_projected_model_asks_for_a_text_tower_only(folder, tmp_path):
    CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path / "projected")
    editor = SithEditor.from_pretrained(tmp_path / "projected")
    assert editor.tower.to_joint(directions(2, 32)).shape == (2, 24)
    with pytest.raises(InputError, match=r"has no text tower.*text_model="):
        editor.decompose(ConceptDictionary.from_texts(TEXTS))


@pytest.mark.parametrize("kind", [CLIPVisionModel, CLIPVisionModelWithProjection])
@pytest.mark.parametrize("how", ["folder", "object"])
def test_with_its_companion_it_decomposes_like_the_whole_model(kind, how, clip, tokenizer, folder, tmp_path):
    vision = kind.from_pretrained(folder)
    if how == "folder":
        vision.save_pretrained(tmp_path / "vision")
        editor = SithEditor.from_pretrained(tmp_path / "vision", text_model=folder)
    else:
        editor = SithEditor.from_model(vision, tokenizer, text_model=clip)
    texts = ConceptDictionary.from_texts(TEXTS)
    found = editor.decompose(texts)
    wanted = SithEditor.from_model(clip, tokenizer).decompose(texts)
    for name in ("singular_values", "write", "read", "concept", "weight", "fidelity", "ceiling"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.texts == wanted.texts


def test_projection_of_the_model_itself_wins_over_the_companions(clip):
    projected = tiny.projected_vision_model(seed=6)
    tower = read_tower(projected, clip)
    assert torch.equal(tower.readout().matrix, projected.visual_projection.weight)
    assert not torch.equal(tower.readout().matrix, clip.visual_projection.weight)
    # For its text tower alone a companion of another width will do.
    wide = tiny.clip_model(seed=7, hidden_size=64)
    assert torch.equal(read_tower(projected, wide).readout().matrix, projected.visual_projection.weight)


def test_refused_companions(clip, folder, tokenizer, tmp_path):
    vision = tiny.vision_model(seed=1)
    wide = tiny.clip_model(seed=7, hidden_size=64)
    with pytest.raises(InputError, match=r"width 64, this tower has width 32.*text_model"):
        SithEditor.from_model(vision, text_model=wide)
    CLIPVisionModel.from_pretrained(folder).save_pretrained(tmp_path / "vision")
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match="width 64, this tower has width 32"):
        SithEditor.from_pretrained(tmp_path / "vision", text_model=tmp_path / "wide")
    with pytest.raises(UnsupportedModel, match="without a text tower"):
        SithEditor.from_pretrained(tmp_path / "vision", text_model=tmp_path / "vision")
    # A joint space of another size is found when the dictionary is used.
    other = tiny.clip_model(seed=8, projection_dim=20)
    editor = SithEditor.from_model(tiny.projected_vision_model(), tokenizer, text_model=other)
    with pytest.raises(InputError, match="size 20, this model's joint space has size 24"):
        editor.decompose(ConceptDictionary.from_texts(TEXTS))


# --- bad models and numbers


def test_refused_models():
    text = CLIPTextModel(CLIPTextConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=10))
    with pytest.raises(InputError, match="a CLIPTextModel has no vision tower that can be edited; it has: text"):
        read_tower(text, tower="vision")
    assert read_tower(text).kind == "text"  # the control
    other = ViTModel(ViTConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(UnsupportedModel, match=r"'vit' is not supported; supported: clip \(CLIPModel\)"):
        read_tower(other)


NAN_PLACES = [
    "vision_model.encoder.layers.1.self_attn.v_proj.weight",
    "vision_model.encoder.layers.2.self_attn.out_proj.bias",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "vision_model.post_layernorm.bias",
    "visual_projection.weight",
]


@pytest.mark.parametrize("key", NAN_PLACES)
def test_refused_weights(key):
    model = tiny.clip_model(seed=1)
    with torch.no_grad():
        model.get_parameter(key).view(-1)[5] = float("nan") if "bias" in key else float("inf")
    with pytest.raises(InputError, match=key.removeprefix("vision_model.").replace(".", r"\.") + " holds NaN"):
        SithEditor.from_model(model)


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ("vision_model.encoder.layers.1.self_attn.out_proj.weight", "vision_model.encoder.layers.0.self_attn.out_proj"),
        ("vision_model.encoder.layers.1.self_attn.out_proj.bias", "vision_model.encoder.layers.0.self_attn.out_proj"),
        ("vision_model.encoder.layers.1.self_attn.out_proj.weight", "vision_model.encoder.layers.2.self_attn.q_proj"),
        ("text_model.encoder.layers.1.self_attn.out_proj.bias", "text_model.encoder.layers.1.self_attn.v_proj"),
    ],
)
def test_a_tensor_that_an_edit_changes_is_no_other_one(changed, other):
    model, kind = tiny.clip_model(), changed.partition("_")[0]
    path, _, name = changed.rpartition(".")
    assert read_tower(model, tower=kind)
    shared = getattr(model.get_submodule(other), name)
    setattr(model.get_submodule(path), name, shared)
    with pytest.raises(UnsupportedModel, match="are one tensor") as error:
        read_tower(model, tower=kind)
    assert changed in str(error.value)
    assert f"{other}.{name}" in str(error.value)


def test_values_may_be_tied_as_an_edit_leaves_them():
    model = tiny.clip_model()
    layers = model.vision_model.encoder.layers
    layers[1].self_attn.v_proj.weight = layers[0].self_attn.v_proj.weight
    assert read_tower(model)


@pytest.mark.parametrize(
    ("layers", "resolved"),
    [(None, (0, 1, 2)), ([2, 0], (0, 2)), ([-1], (2,)), ([-3, 1], (0, 1)), (range(3), (0, 1, 2)), (iter([1]), (1,))],
)
def test_layers_resolve(clip, layers, resolved):
    assert read_tower(clip).resolve_layers(layers) == resolved


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([3], "layer 3 does not exist: this tower has layers 0-2. Use -1"),
        ([-4], "layer -4 does not exist"),
        ([True], "integer; got True"),
        ([1.0], r"integer; got 1\.0"),
        (["one"], "'one' is not a list of layers: write numbers such as"),
        ([None], "integer; got None"),
        (3, "ranges such as -4:, :4, 8-11 or last4; got 3"),
        ([1, 1], "contain a layer twice"),
        ([2, -1], "contain a layer twice"),
        ([], "layers is empty"),
    ],
)
def test_refused_layers(clip, layers, said):
    with pytest.raises(InputError, match=said):
        read_tower(clip).resolve_layers(layers)


# --- settings without a model


@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_a_config_has_the_settings_of_the_tower_that_it_makes(checkpoints, kind):
    folder = checkpoints.base(kind)
    settings = config_settings(json.loads((folder / "config.json").read_text()), "vision")
    assert family_of_config(json.loads((folder / "config.json").read_text()))[1] == kind
    assert settings == SithEditor.from_pretrained(folder).tower.settings
    assert settings["num_hidden_layers"] == 3


@pytest.mark.slow
def test_saving_an_edit_imports_no_model_class(checkpoints, tmp_path):
    made = checkpoints.edited()
    code = """
import sys
from sith_hf.checkpoint import save_edited
from sith_hf.edits import EditSpec
save_edited(sys.argv[1], EditSpec.from_pretrained(sys.argv[2]), sys.argv[3])
assert "transformers.models.clip.modeling_clip" not in sys.modules
"""
    words = [sys.executable, "-c", code, made.base, made.edited / "sith", tmp_path / "edited"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert CLIPModel.__module__ == "transformers.models.clip.modeling_clip" in sys.modules  # the control
