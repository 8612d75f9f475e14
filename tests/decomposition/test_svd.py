"""``factored_svd`` against ``torch.linalg.svd`` of the explicit product, and against what defines an SVD."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sith_hf.decomposition.svd import HeadSVD, factored_svd
from sith_hf.errors import InputError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def factors(heads, size, head_size, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    write = torch.randn(heads, size, head_size, generator=generator, dtype=torch.float64)
    read = torch.randn(heads, head_size, size, generator=generator, dtype=torch.float64)
    return write.to(dtype), read.to(dtype)


def orthonormal(size, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))[0]


def planted(values, size, seed, dtype=torch.float64):
    """Factors of U diag(values) V^T, mixed by an arbitrary change of basis between them; with U and V."""
    count = len(values)
    left, right = orthonormal(size, count, seed), orthonormal(size, count, seed + 1)
    mix = orthonormal(count, count, seed + 2) @ torch.diag(torch.linspace(0.5, 2, count, dtype=torch.float64))
    write = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ mix
    read = torch.linalg.inv(mix) @ right.T
    return write.unsqueeze(0).to(dtype), read.unsqueeze(0).to(dtype), left, right


def projector(rows):
    return rows.double().mT @ rows.double()


def violations(svd: HeadSVD, write, read):
    """What ``svd`` gets wrong as the full SVD of ``write @ read``: an empty list for a right one."""
    product = write.double() @ read.double()
    count = write.shape[2]
    tolerance = TOLERANCE[svd.values.dtype]
    scale = torch.linalg.matrix_norm(product, 2).clamp(min=1e-300).view(-1, 1, 1)
    wrong = []
    explicit = torch.linalg.svdvals(product)[:, :count]
    if ((svd.values.double() - explicit).abs() > tolerance * scale.squeeze(-1)).any():
        wrong.append("values")
    if (svd.values < 0).any() or (svd.values.diff(dim=-1) > 0).any():
        wrong.append("order")
    rebuilt = sum(
        s.double().view(-1, 1, 1) * w.double().unsqueeze(-1) * r.double().unsqueeze(-2)
        for s, w, r in zip(svd.values.unbind(1), svd.write.unbind(1), svd.read.unbind(1), strict=True)
    )
    if ((rebuilt - product).abs() > 4 * tolerance * scale).any():
        wrong.append("product")
    identity = torch.eye(count, dtype=torch.float64)
    for name in ("write", "read"):
        rows = getattr(svd, name).double()
        if ((rows @ rows.mT - identity).abs() > 4 * tolerance).any():
            wrong.append(f"{name} not orthonormal")
    peak = torch.take_along_dim(svd.read, svd.read.abs().argmax(-1, keepdim=True), -1)
    if (peak <= 0).any():
        wrong.append("sign")
    return wrong


@DTYPES
@pytest.mark.parametrize(("heads", "size", "head_size"), [(4, 32, 8), (1, 5, 5), (3, 40, 1), (2, 96, 24)])
def test_is_the_svd_of_the_explicit_product(dtype, heads, size, head_size):
    write, read = factors(heads, size, head_size, seed=size, dtype=dtype)
    svd = factored_svd(write, read)
    assert violations(svd, write, read) == []
    assert svd.values.dtype == svd.write.dtype == svd.read.dtype == dtype
    assert svd.write.shape == svd.read.shape == (heads, head_size, size)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    heads=st.integers(1, 3),
    head_size=st.integers(1, 5),
    extra=st.integers(0, 6),
    lost=st.integers(0, 5),
    exponent=st.integers(-6, 6),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_is_an_svd_for_every_shape_rank_and_scale(heads, head_size, extra, lost, exponent, seed, dtype):
    write, read = factors(heads, head_size + extra, head_size, seed, dtype)
    write = write * 10.0**exponent
    write[:, :, : min(lost, head_size)] = 0  # the product loses that much of its rank
    assert violations(factored_svd(write, read), write, read) == []


@DTYPES
def test_the_identity_stated_beside_the_definition(dtype):
    write, read = factors(3, 20, 4, dtype=dtype)
    svd = factored_svd(write, read)
    product = write @ read
    eye = torch.eye(4, dtype=dtype)
    tolerance = {"atol": 30 * TOLERANCE[dtype], "rtol": 0}
    for h in range(3):
        literal = svd.write[h].T @ torch.diag(svd.values[h]) @ svd.read[h]
        torch.testing.assert_close(product[h], literal, **tolerance)
        torch.testing.assert_close(svd.write[h] @ svd.write[h].T, eye, **tolerance)
        torch.testing.assert_close(svd.read[h] @ svd.read[h].T, eye, **tolerance)
        torch.testing.assert_close(svd.matrix()[h], literal, **tolerance)


def test_singular_vectors_are_those_of_the_explicit_product():
    write, read = factors(2, 24, 6)
    svd = factored_svd(write, read)
    for h in range(2):
        left, _, right = torch.linalg.svd(write[h] @ read[h])
        for i in range(6):  # the values are distinct, so every single direction is determined up to its sign
            torch.testing.assert_close(projector(svd.write[h, i : i + 1]), projector(left[:, i : i + 1].T))
            torch.testing.assert_close(projector(svd.read[h, i : i + 1]), projector(right[i : i + 1]))


@DTYPES
def test_subspaces_of_repeated_values(dtype):
    values = [3.0, 3.0, 3.0, 1.0, 1.0, 0.25]
    write, read, left, right = planted(values, 20, seed=5, dtype=dtype)
    svd = factored_svd(write, read)
    tolerance = {"atol": 30 * TOLERANCE[dtype], "rtol": 0}
    torch.testing.assert_close(svd.values[0].double(), torch.tensor(values, dtype=torch.float64), **tolerance)
    for group in (slice(0, 3), slice(3, 5), slice(5, 6)):
        torch.testing.assert_close(projector(svd.write[0, group]), projector(left[:, group].T), **tolerance)
        torch.testing.assert_close(projector(svd.read[0, group]), projector(right[:, group].T), **tolerance)
    # Whatever basis of a repeated value was taken, write and read are paired in it.
    paired = svd.write[0, :3].double().T @ svd.read[0, :3].double()
    torch.testing.assert_close(paired, left[:, :3] @ right[:, :3].T, **tolerance)
    # Control: a group that cuts through a repeated value is not determined, and is another one here.
    assert (projector(svd.write[0, :2]) - projector(left[:, :2].T)).abs().max() > 0.01


@DTYPES
def test_rank_deficient_and_zero_heads(dtype):
    write, read = factors(5, 18, 4, dtype=dtype)
    read[1, 3] = read[1, 2]  # one direction read twice
    write[1, :, 3] = -write[1, :, 2]
    write[2, :, 1:] = write[2, :, :1]  # rank one
    write[3] = 0
    read[4] = 0
    svd = factored_svd(write, read)
    assert violations(svd, write, read) == []
    floor = 1e-5 * svd.values[0, 0]
    assert [(v > floor).sum().item() for v in svd.values] == [4, 2, 1, 0, 0]


@DTYPES
def test_controls_a_wrong_svd_is_seen(dtype):
    write, read = factors(2, 16, 4, dtype=dtype)
    right = factored_svd(write, read)
    swapped = right.write[:, [1, 0, 2, 3]]
    assert "product" in violations(replace(right, write=swapped), write, read)
    assert violations(replace(right, write=-right.write, read=-right.read), write, read) == ["sign"]
    assert "product" in violations(replace(right, read=-right.read), write, read)
    assert "values" in violations(replace(right, values=right.values * 1.001), write, read)
    assert "order" in violations(replace(right, values=right.values.flip(1)), write, read)
    tilted = right.write + 0.01 * right.write.roll(1, dims=1)
    assert "write not orthonormal" in violations(replace(right, write=tilted), write, read)
    other = factored_svd(*factors(2, 16, 4, seed=1, dtype=dtype))
    assert {"values", "product"} <= set(violations(other, write, read))


def test_sign_makes_the_largest_read_entry_positive():
    write, read = factors(4, 20, 5)
    for signs in ((1, 1), (-1, 1), (1, -1)):
        svd = factored_svd(signs[0] * write, signs[1] * read)
        for h in range(4):
            for row in svd.read[h]:
                assert row[row.abs().argmax()] > 0
    positive, negative = factored_svd(write, read), factored_svd(-write, read)
    torch.testing.assert_close(negative.read, positive.read)
    torch.testing.assert_close(negative.write, -positive.write)  # the sign of the product goes to the write side


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), head_size=st.integers(1, 5), extra=st.integers(1, 8))
def test_depends_on_the_product_alone(seed, head_size, extra):
    """B G and G^-1 A have the product of B and A, hence its SVD, signs included."""
    write, read = factors(2, head_size + extra, head_size, seed)
    mix = orthonormal(head_size, head_size, seed + 1) * torch.linspace(0.5, 2, head_size, dtype=torch.float64)
    one, other = factored_svd(write, read), factored_svd(write @ mix, torch.linalg.inv(mix) @ read)
    torch.testing.assert_close(one.values, other.values, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(one.matrix(), other.matrix(), atol=1e-10, rtol=1e-8)
    assert violations(other, write, read) == []


def test_transposed_factors_swap_reading_and_writing():
    write, read = factors(3, 14, 4)
    one, other = factored_svd(write, read), factored_svd(read.mT, write.mT)
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.matrix(), other.matrix().mT)
    for h in range(3):
        for i in range(4):
            torch.testing.assert_close(projector(one.write[h, i : i + 1]), projector(other.read[h, i : i + 1]))


@pytest.mark.parametrize("rank", [1, 3])
def test_the_leading_triples_are_the_best_approximation(rank):
    """Eckart and Young: the error is exactly the norm of the values left out, and no smaller one is possible."""
    write, read = factors(2, 16, 6)
    full = factored_svd(write, read)
    cut = HeadSVD(full.write[:, :rank], full.values[:, :rank], full.read[:, :rank])
    error = torch.linalg.matrix_norm(write @ read - cut.matrix())
    torch.testing.assert_close(error, full.values[:, rank:].square().sum(-1).sqrt(), atol=1e-10, rtol=1e-8)
    other = orthonormal(16, rank, seed=9)
    worse = write @ read - other @ other.T @ write @ read
    assert (torch.linalg.matrix_norm(worse) > error + 1e-3).all()


@DTYPES
def test_repeats_to_the_byte_and_leaves_its_input_alone(dtype):
    write, read = factors(3, 24, 6, dtype=dtype)
    before = write.clone(), read.clone()
    one, other = factored_svd(write, read), factored_svd(write.clone(), read.clone())
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("write", "values", "read"))
    assert torch.equal(write, before[0])
    assert torch.equal(read, before[1])


def test_heads_do_not_see_each_other():
    write, read = factors(4, 20, 5)
    together = factored_svd(write, read)
    for h in range(4):
        alone = factored_svd(write[h : h + 1], read[h : h + 1])
        for name in ("write", "values", "read"):
            torch.testing.assert_close(getattr(together, name)[h], getattr(alone, name)[0], atol=1e-10, rtol=0)


def test_strided_input():
    write, read = factors(3, 20, 5)
    svd = factored_svd(write.mT.contiguous().mT, read.mT.contiguous().mT)
    assert violations(svd, write, read) == []


def with_entry(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[3] = value
    return tensor


B, A = factors(2, 8, 3)


@pytest.mark.parametrize(
    ("write", "read", "said"),
    [
        (B.float(), A, r"float32 and torch\.float64"),
        (B.half(), A.half(), "float16"),
        (B[0], A[0], r"\[8, 3\]"),
        (B, A[:1], "shapes"),
        (B[:, :, :2], A, "shapes"),
        (A, B, "head of size 8 is wider"),
        (with_entry(B, float("nan")), A, "NaN or infinity"),
        (B, with_entry(A, -float("inf")), "NaN or infinity"),
    ],
)
def test_refused_factors(write, read, said):
    with pytest.raises(InputError, match=said):
        factored_svd(write, read)
