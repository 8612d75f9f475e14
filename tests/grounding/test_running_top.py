"""The running top-k and the random sample, against sorting everything at once, in any order and cut into any parts."""

import numpy as np
import pytest
import torch

from sith_hf.grounding.running_top import RunningTop, SeenImage

IMAGES, VECTORS, TOP, SAMPLE = 200, 3, 5, 12


def made(seed):
    """Coefficients with many ties, and keys in an order of their own."""
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.integers(-9, 10, (IMAGES, VECTORS)).astype(np.float32))
    return random.permutation(10 * IMAGES)[:IMAGES].tolist(), values


def passed(keys, values, parts):
    """A running top after the images came in parts; what is not wanted is not added."""
    running = RunningTop(VECTORS, TOP, SAMPLE)
    for part in parts:
        wanted = running.wanted([keys[n] for n in part], values[part])
        running.add({keys[part[n]]: SeenImage(values[part[n]], torch.zeros(0), b"%d" % keys[part[n]]) for n in wanted})
    return running


def brute(keys, values, vector, pole):
    sign = 1 if pole == "+" else -1
    return tuple(sorted(keys, key=lambda key: (-sign * float(values[keys.index(key), vector]), key))[:TOP])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_top_of_everything_whatever_the_parts(seed):
    keys, values = made(seed)
    order = np.random.default_rng(seed + 50).permutation(IMAGES)
    whole = passed(keys, values, [list(range(IMAGES))])
    for parts in (np.split(order, 20), np.split(order, [1, 2, 150]), [[n] for n in order]):
        running = passed(keys, values, [list(part) for part in parts])
        for vector in range(VECTORS):
            for pole in "+-":
                assert running.strongest(vector, pole) == brute(keys, values, vector, pole)
        assert running.random == whole.random
        assert running.images.keys() == whole.images.keys()
    assert brute(keys, values, 0, "+") != brute(keys, values, 0, "-"), "the check tells poles apart"
    assert brute(keys, values, 0, "+") != brute(keys, values, 1, "+"), "and vectors"


def test_it_keeps_no_more_images_than_it_needs():
    keys, values = made(0)
    running = passed(keys, values, np.split(np.arange(IMAGES), 20))
    needed = {key for v in range(VECTORS) for pole in "+-" for key in running.strongest(v, pole)} | {*running.random}
    assert running.images.keys() == needed
    assert len(needed) <= 2 * VECTORS * TOP + SAMPLE < IMAGES
    assert all(image.picture == b"%d" % key for key, image in running.images.items())


def test_processes_that_saw_different_images_agree():
    """Each decides by what it has seen which images the others get; the union of these is enough."""
    keys, values = made(1)
    halves = [list(range(0, IMAGES, 2)), list(range(1, IMAGES, 2))]
    running = passed(keys, values, [list(range(IMAGES))])
    parts = [passed(keys, values, [half]) for half in halves]
    merged = RunningTop(VECTORS, TOP, SAMPLE)
    for part in parts:
        merged.add(part.images)
    assert [merged.strongest(v, pole) for v in range(VECTORS) for pole in "+-"] == [
        running.strongest(v, pole) for v in range(VECTORS) for pole in "+-"
    ]
    assert merged.random == running.random


def test_fewer_images_than_asked_for():
    running = RunningTop(1, TOP, SAMPLE)
    assert running.strongest(0, "+") == ()
    running.add({})
    running.add(
        {4: SeenImage(torch.tensor([-2.0]), torch.zeros(0), b""), 1: SeenImage(torch.ones(1), torch.zeros(0), b"")}
    )
    assert running.strongest(0, "+") == (1, 4)
    assert running.strongest(0, "-") == (4, 1)
    assert sorted(running.random) == [1, 4]


def test_the_sample_is_uniform():
    """Over many runs of keys, each place is chosen equally often (chi-square), and choices do not go by row."""
    counts = np.zeros(20)
    for start in range(0, 40_000, 20):
        running = RunningTop(1, 1, 5)
        running.wanted(range(start, start + 20), torch.zeros(20, 1))
        chosen = running._sampled(range(start, start + 20))
        counts[np.array(chosen) - start] += 1
    expected = counts.sum() / 20
    # The 0.999 quantile of chi-square with 19 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
    assert counts.sum() == 2000 * 5
