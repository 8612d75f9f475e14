"""The parts of a change, on matrices built for the purpose and against a literal computation; zeros for no change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sith_hf.adaptation import compare
from sith_hf.adaptation.blocks import blocks
from sith_hf.adaptation.change import principal_angles
from sith_hf.edits import applied, make_spec
from sith_hf.errors import InputError
from sith_hf.gains import Gains
from sith_hf.towers import read_tower
from tests.support import siglip
from tests.support.made import tiny_editor
from tests.support.matrices import orthonormal, tower_of
from tests.support.tiny import clip_model

SIZE, D = 24, 6
VALUES = torch.tensor([9.0, 6.0, 4.0, 2.5, 1.5, 1.0], dtype=torch.float64)
ALL = orthonormal(D + 1, SIZE, 1)
# The last direction is outside of what the base writes.
U, NEW, V = ALL[:D], ALL[D], orthonormal(D, SIZE, 2)


def base_of(values=VALUES, write=U, read=V):
    return write.T @ torch.diag(values) @ read


def head_of(base, tuned, **options):
    """The change of the first of four heads; the other three are zero in both."""
    rest = [torch.zeros_like(base)] * 3
    found = compare(tower_of(base, *rest), tower_of(tuned, *rest), **options)
    assert not any(head.changed for head in found.heads[1:])
    return found.heads[0]


def parts(head):
    return pytest.approx((head.reweighting, head.rotation, head.new), abs=1e-9)


def rotation(size, seed):
    return orthonormal(size, size, seed)


class TestParts:
    def test_other_values_are_reweighting(self):
        head = head_of(base_of(), base_of(VALUES * torch.tensor([1.2, 1, 0, 0.5, 1, -1])))
        assert parts(head) == (1, 0, 0)

    def test_turning_inside_the_span_is_rotation(self):
        core = torch.zeros(D, D).double()
        core[0, 3], core[4, 1] = 0.7, -0.2
        assert parts(head_of(base_of(), base_of() + U.T @ core @ V)) == (0, 1, 0)

    @pytest.mark.parametrize("side", ["write", "read", "both"])
    def test_what_the_base_lacks_is_new(self, side):
        more = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(3)).double()
        write = U[1] if side == "read" else more[0] - U.T @ (U @ more[0])
        read = V[2] if side == "write" else more[1] - V.T @ (V @ more[1])
        # The base leaves room for one more direction in its head.
        base = base_of(VALUES * torch.tensor([1, 1, 1, 1, 1, 0]))
        assert parts(head_of(base, base + 0.3 * torch.outer(write, read))) == (0, 0, 1)

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 10_000))
    def test_the_parts_are_those_of_a_literal_computation(self, seed):
        noise = torch.randn(2, SIZE, D, generator=torch.Generator().manual_seed(seed)).double()
        tuned = (U.T * VALUES + 0.3 * noise[0]) @ (V + 0.1 * noise[1].T)
        base = base_of()
        change = tuned - base
        core = U @ change @ V.T
        energy = float(change.norm()) ** 2
        diagonal = float(core.diagonal().norm()) ** 2 / energy
        inside = float(core.norm()) ** 2 / energy
        head = head_of(base, tuned)
        assert parts(head) == (diagonal, inside - diagonal, 1 - inside)
        assert head.reweighting + head.rotation + head.new == pytest.approx(1, abs=1e-12)
        assert head.relative == pytest.approx(float(change.norm() / base.norm()))
        values = torch.linalg.svdvals(change)[:3] ** 2 / energy
        assert head.directions == pytest.approx(values.tolist())

    def test_a_tiny_part_is_not_lost_beside_a_large_one(self):
        head = head_of(base_of(), base_of(VALUES * 2) + 1e-7 * torch.outer(NEW, V[0]))
        assert head.new == pytest.approx(1e-14 / float((VALUES**2).sum()), rel=1e-3, abs=0)

    def test_one_head_as_wide_as_the_model(self):
        base = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()
        head = compare(tower_of(base), tower_of(1.5 * base)).heads[0]
        assert parts(head) == (1, 0, 0)
        assert head.relative == pytest.approx(0.5)

    def test_a_head_of_zeros_has_no_span(self):
        found = compare(tower_of(*[torch.zeros(SIZE, SIZE)] * 4), tower_of(base_of(), *[torch.zeros(SIZE, SIZE)] * 3))
        head = found.heads[0]
        assert parts(head) == (0, 0, 1)
        assert math.isinf(head.relative)
        assert found.to_json()["change"] is None


class TestBlocks:
    VALUES = torch.tensor([5.0, 5.0, 5.0, 2.0, 1.99, 0.5], dtype=torch.float64)

    def test_no_rotation_of_equal_vectors_matters(self):
        core = torch.randn(D, D, generator=torch.Generator().manual_seed(5)).double()
        turn = torch.block_diag(rotation(3, 6), torch.eye(3).double())
        found = []
        for matrix in (torch.eye(D).double(), turn):
            write, read = matrix @ U, matrix @ V
            base = base_of(self.VALUES, write, read)  # the same matrix
            found.append(head_of(base, base + 0.1 * U.T @ core @ V))
        assert parts(found[0]) == parts(found[1]).expected

    def test_a_reweighting_of_any_basis_of_a_block_is_reweighting(self):
        turn = torch.block_diag(rotation(3, 7), rotation(2, 8), torch.eye(1).double())
        write, read = turn @ U, turn @ V
        change = write.T @ torch.diag(torch.tensor([1.0, -2, 0.5, 1, -0.3, 2]).double()) @ read
        base = base_of(self.VALUES)
        assert parts(head_of(base, base + change)) == (1, 0, 0)
        # The control: the same change of a base whose values are far apart.
        assert head_of(base_of(), base_of() + change).rotation > 0.1

    def test_turning_what_equal_vectors_write_is_rotation(self):
        core = torch.zeros(D, D).double()
        core[0, 1], core[1, 0] = 0.2, -0.2
        base = base_of(self.VALUES)
        assert parts(head_of(base, base + U.T @ core @ V)) == (0, 1, 0)

    def test_values_far_apart_are_no_block(self):
        core = torch.zeros(D, D).double()
        core[0, 1] = core[1, 0] = 0.2
        assert parts(head_of(base_of(), base_of() + U.T @ core @ V)) == (0, 1, 0)
        assert parts(head_of(base_of(), base_of() + U.T @ core @ V, close=0.6)) == (1, 0, 0)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([3.0, 2.0, 1.0], [(0, 1), (1, 2), (2, 3)]),
            ([1.0, 1.0, 1.0], [(0, 3)]),
            ([2.0, 1.0, 0.99, 0.5], [(0, 1), (1, 3), (3, 4)]),
            # A chain does not grow, and equal values stay together wherever it is cut.
            ([1.0, 0.98, 0.96, 0.96, 0.94], [(0, 2), (2, 4), (4, 5)]),
            ([], []),
        ],
    )
    def test_blocks(self, values, expected):
        assert blocks(values) == expected

    @given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.floats(0, 0.3))
    def test_every_block_is_narrow_and_all_are_there(self, values, close):
        values = sorted([*values, *values[:5]], reverse=True)
        found = blocks(values, close)
        assert [i for start, stop in found for i in range(start, stop)] == list(range(len(values)))
        assert all(values[stop - 1] >= (1 - close) * values[start] for start, stop in found)
        edges = {stop for _, stop in found[:-1]}
        assert all(values[edge] < values[edge - 1] for edge in edges)  # equal values are never split


class TestAngles:
    def test_a_turned_plane(self):
        one = torch.eye(6).double()[:2]
        angle = math.radians(30)
        other = torch.stack([one[0], math.cos(angle) * one[1] + math.sin(angle) * torch.eye(6).double()[4]])
        assert principal_angles(one, rotation(2, 3) @ other) == pytest.approx((0, 30), abs=1e-10)

    @pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.5, math.pi / 4, 1.5, math.pi / 2])
    def test_every_size_of_angle(self, angle):
        one = torch.eye(5).double()
        other = math.cos(angle) * one[:1] + math.sin(angle) * one[3:4]
        assert principal_angles(one[:1], other)[0] == pytest.approx(math.degrees(angle), rel=1e-9)

    def test_leading_directions_that_swap_inside_a_block_have_not_moved(self):
        close = torch.tensor([5.0, 4.95, 1.0, 0.8, 0.5, 0.2], dtype=torch.float64)
        swapped = torch.tensor([4.95, 5.0, 1.0, 0.8, 0.5, 0.2], dtype=torch.float64)
        head = head_of(base_of(close), base_of(swapped))
        assert head.leading == 2
        assert max(head.write_angles + head.read_angles) == pytest.approx(0, abs=1e-6)
        # The control: with values far apart, the leading direction is another.
        apart = head_of(base_of(), base_of(VALUES[[2, 1, 0, 3, 4, 5]]), close=0.0)
        assert apart.leading == 1
        assert apart.write_angles == pytest.approx((90,))

    def test_a_turned_leading_direction_is_seen_on_its_side_only(self):
        angle = math.radians(10)
        write = torch.cat([(math.cos(angle) * U[0] + math.sin(angle) * NEW)[None], U[1:]])
        head = head_of(base_of(), base_of(write=write))
        assert head.write_angles == pytest.approx((10,))
        assert head.read_angles == pytest.approx((0,), abs=1e-6)


def rotated(model, seed=0):
    """A copy with rotated heads: V_h becomes Q V_h, and O_h becomes O_h Q^T, in the model's dtype."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for number, layer in enumerate(model.vision_model.encoder.layers):
            attention = layer.self_attn
            d = attention.head_dim
            for head in range(attention.num_heads):
                turn = rotation(d, seed + 100 * number + head)
                rows = slice(head * d, (head + 1) * d)
                for part in (attention.v_proj.weight, attention.v_proj.bias):
                    part[rows] = (turn @ part[rows].double()).to(part.dtype)
                out = attention.out_proj.weight
                out[:, rows] = (out[:, rows].double() @ turn.T).to(out.dtype)
    return model


def zero(found):
    """Check that a comparison is zero everywhere."""
    assert found.changed == ()
    for head in found.heads:
        assert (head.relative, head.reweighting, head.rotation, head.new, head.energy) == (0, 0, 0, 0, 0)
        assert not any(head.write_angles + head.read_angles)
        assert head.directions == ()


class TestNoChange:
    def test_a_copy_is_zero(self):
        model = clip_model()
        zero(compare(read_tower(model), read_tower(copy.deepcopy(model))))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_rotated_heads_are_zero(self, dtype):
        model = clip_model().to(dtype)
        turned = rotated(model)
        old, new = (m.vision_model.encoder.layers[0].self_attn.v_proj.weight for m in (model, turned))
        assert not torch.allclose(old, new, atol=0.1)
        zero(compare(read_tower(model), read_tower(turned)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_small_change_is_not(self, dtype):
        model = clip_model().to(dtype)
        tuned = rotated(model)
        layer = tuned.vision_model.encoder.layers[1]
        size = 20 * torch.finfo(dtype).eps
        with torch.no_grad():
            layer.layer_norm1.weight.mul_(1 + size)
        found = compare(read_tower(model), read_tower(tuned))
        assert {head.layer for head in found.changed} == {1}
        assert found.changed[0].relative == pytest.approx(size, rel=0.2)

    def test_a_norm_counts_and_its_bias_does_not(self):
        model = clip_model()
        tuned = copy.deepcopy(model)
        with torch.no_grad():
            tuned.vision_model.encoder.layers[0].layer_norm1.bias.add_(1)
            tuned.vision_model.encoder.layers[2].layer_norm1.weight.mul_(1.1)
        found = compare(read_tower(model), read_tower(tuned))
        assert len(found.changed) == 4
        assert all(h.layer == 2 and h.relative == pytest.approx(0.1, rel=1e-4) for h in found.changed)
        assert all(h.reweighting == pytest.approx(1, abs=1e-6) for h in found.changed)


class TestTowers:
    def test_an_edit_is_reweighting(self, tmp_path):
        editor = tiny_editor(tmp_path)
        made = editor.decompose(None)
        spec = make_spec(editor.tower, made, Gains({(1, 2, 0): 0.0, (1, 2, 3): 2.0, (2, 0, 1): -1.0}))
        base = read_tower(copy.deepcopy(editor.model))
        with applied(editor.model, spec):
            found = compare(base, read_tower(editor.model))
        assert [(h.layer, h.head) for h in sorted(found.changed, key=lambda h: h.layer)] == [(1, 2), (2, 0)]
        assert all(h.reweighting == pytest.approx(1, abs=1e-9) for h in found.changed)

    @pytest.mark.parametrize("tower", ["vision", "text"])
    def test_both_towers(self, tower):
        model = clip_model()
        found = compare(*(read_tower(m, None, tower) for m in (model, clip_model(seed=1))))
        assert found.tower == tower
        assert len(found.changed) == len(found.heads)
        assert all(head.reweighting + head.rotation + head.new == pytest.approx(1) for head in found.heads)

    def test_a_pooling_head(self):
        one, other = (read_tower(siglip.siglip(seed=seed)) for seed in (0, 1))
        found = compare(one, other, [-1])
        assert len(found.changed) == one.num_heads
        assert str(found.layer_rows()[1][0][0]).endswith("(pool)")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"num_hidden_layers": 2}, "number of layers"),
            ({"num_attention_heads": 2}, "number of heads"),
            ({"hidden_size": 16}, "width"),
        ],
    )
    def test_other_sizes_are_refused(self, changes, named):
        with pytest.raises(InputError, match=named):
            compare(read_tower(clip_model()), read_tower(clip_model(**changes)))

    def test_another_family_is_refused(self):
        with pytest.raises(InputError, match="family clip, the tuned one siglip"):
            compare(read_tower(clip_model()), read_tower(siglip.siglip()))

    @pytest.mark.parametrize("options", [{"close": -0.1}, {"close": 1}, {"directions": 0}, {"layers": [9]}])
    def test_values_out_of_range_are_refused(self, options):
        tower = read_tower(clip_model())
        with pytest.raises(InputError):
            compare(tower, tower, **options)
