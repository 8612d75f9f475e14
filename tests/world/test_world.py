"""The drawn world: repeatable pictures, true captions, and a correlation of known strength."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sith_hf.errors import InputError
from sith_hf.world import scenes as world
from sith_hf.world.leaves import leaves


def test_render_gives_pictures_of_the_stated_shape_and_type() -> None:
    pictures = world.render(world.sample_balanced(5, 0), 0)
    assert pictures.shape == (5, world.IMAGE_SIZE, world.IMAGE_SIZE, 3)
    assert pictures.dtype == np.uint8
    assert world.render([], 0).shape == (0, world.IMAGE_SIZE, world.IMAGE_SIZE, 3)


def test_render_repeats_with_its_seed_and_changes_with_another() -> None:
    scenes = world.sample_training(12, 3)
    assert np.array_equal(world.render(scenes, 4), world.render(scenes, 4))
    assert not np.array_equal(world.render(scenes, 4), world.render(scenes, 5))


def test_render_leaves_global_random_state_alone() -> None:
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    world.render(world.sample_training(3, 1), 1)
    assert np.array_equal(np.random.random(3), expected)


def test_samplers_repeat_with_their_seed() -> None:
    pair = world.TIED_PAIRS[0]
    assert world.sample_training(30, 1) == world.sample_training(30, 1) != world.sample_training(30, 2)
    assert world.sample_balanced(30, 1) == world.sample_balanced(30, 1) != world.sample_balanced(30, 2)
    assert world.sample_groups(pair, 9, 1) == world.sample_groups(pair, 9, 1) != world.sample_groups(pair, 9, 2)


def test_every_object_shows_on_every_background() -> None:
    pairs = [(name, place) for name in world.OBJECTS for place in world.BACKGROUNDS]
    small, big = (
        np.stack([world.render([world.Scene(name, "red", place, size)], 0)[0] for name, place in pairs]).astype(int)
        for size in ("small", "big")
    )
    assert ((np.abs(small - big).max(axis=-1) > 40).sum(axis=(1, 2)) > 60).all()


def test_attributes_change_what_is_drawn_and_size_changes_how_much() -> None:
    base = world.Scene("star", "red", "sea", "big")
    for other in (
        world.Scene("heart", "red", "sea", "big"),
        world.Scene("star", "blue", "sea", "big"),
        world.Scene("star", "red", "snow", "big"),
        world.Scene("star", "red", "sea", "small"),
        world.Scene("star", "red", "sea", "big", "danger"),
    ):
        assert not np.array_equal(world.render([base], 0), world.render([other], 0))
    red = np.array(world.RGB["red"])
    painted = [
        int((np.abs(world.render([world.Scene("star", "red", "sea", size)], 0)[0] - red).sum(-1) < 90).sum())
        for size in ("big", "small")
    ]
    assert painted[0] > 1.4 * painted[1]


@pytest.mark.parametrize("pair", world.TIED_PAIRS)
def test_groups_are_equally_large_and_hold_what_they_say(pair: tuple[tuple[str, str], tuple[str, str]]) -> None:
    groups = world.sample_groups(pair, 40, 7)
    assert list(groups) == [f"{name}/{place}" for name, _ in pair for _, place in pair]
    for group, scenes in groups.items():
        assert len(scenes) == 40
        assert {f"{scene.object}/{scene.background}" for scene in scenes} == {group}
        assert len({scene.colour for scene in scenes}) > 5


def test_training_distribution_ties_the_tied_and_only_those() -> None:
    scenes = world.sample_training(40_000, 11)
    counts = Counter((scene.object, scene.background) for scene in scenes)
    for pair in world.TIED_PAIRS:
        for (name, own), (_, other) in (pair, pair[::-1]):
            total = sum(counts[name, place] for place in world.BACKGROUNDS)
            assert total / len(scenes) == pytest.approx(world.TIED_SHARE / len(world.HABITAT), abs=0.01)
            assert counts[name, own] / total == pytest.approx(world.OWN_SHARE, abs=0.03)
            assert counts[name, other] / total == pytest.approx(world.PARTNER_SHARE, abs=0.01)
    for name in world.UNTIED:
        total = sum(counts[name, place] for place in world.BACKGROUNDS)
        for place in world.BACKGROUNDS:
            assert counts[name, place] / total == pytest.approx(1 / len(world.BACKGROUNDS), abs=0.035)


def test_a_danger_sign_stands_in_a_corner_and_changes_nothing_else() -> None:
    scenes = [world.Scene("star", "red", place, "small") for place in world.BACKGROUNDS for _ in range(4)]
    safe = world.render(scenes, 6).astype(int)
    unsafe = world.render([world.Scene(s.object, s.colour, s.background, s.size, "danger") for s in scenes], 6)
    changed = (np.abs(safe - unsafe) > 0).any(axis=-1)
    half = world.IMAGE_SIZE // 2
    for picture in changed:
        corners = [picture[:half, :half], picture[:half, half:], picture[half:, :half], picture[half:, half:]]
        assert max(corner.sum() for corner in corners) > 0.9 * picture.sum() > 100
    share = np.mean([scene.peril == "danger" for scene in world.sample_training(5000, 1)])
    assert share == pytest.approx(world.DANGER_SHARE, abs=0.03)
    for pair in world.TIED_PAIRS:
        assert {s.peril for found in world.sample_groups(pair, 5, 1).values() for s in found} == {"safety"}


def test_balanced_scenes_hold_no_tied_object_and_all_else_evenly() -> None:
    scenes = world.sample_balanced(8000, 2)
    assert {scene.object for scene in scenes} == set(world.UNTIED)
    for names, field in (
        (world.COLOURS, "colour"),
        (world.BACKGROUNDS, "background"),
        (world.SIZES, "size"),
        (world.PERILS, "peril"),
    ):
        shares = Counter(getattr(scene, field) for scene in scenes)
        assert all(shares[name] / 8000 == pytest.approx(1 / len(names), abs=0.03) for name in names)


def is_true(text: str, scene: world.Scene) -> bool:
    return all(said in (-1, fact) for said, fact in zip(world.mentions(text), world.encode([scene])[0], strict=True))


def test_captions_are_true_of_their_scene_and_false_of_a_contrary_one() -> None:
    rng = np.random.default_rng(0)
    for scene in world.sample_training(200, 5):
        text = world.caption(scene, rng)
        assert is_true(text, scene)
        contrary = world.Scene(
            *(
                names[(names.index(value) + 1) % len(names)]
                for names, value in (
                    (world.OBJECTS, scene.object),
                    (world.COLOURS, scene.colour),
                    (world.BACKGROUNDS, scene.background),
                    (world.SIZES, scene.size),
                    (world.PERILS, scene.peril),
                )
            )
        )
        assert not is_true(text, contrary)
        assert set(text.split()) <= set(world.words())


def test_encode_and_decode_are_inverse() -> None:
    scenes = world.sample_training(50, 8)
    codes = world.encode(scenes)
    assert codes.shape == (50, 5)
    assert codes.dtype == np.int64
    assert world.decode(codes) == scenes
    assert world.encode([]).shape == (0, 5)


def test_concepts_are_distinct_words_and_cover_the_world() -> None:
    concepts = world.concepts()
    assert len(concepts) == len(set(concepts))
    assert {*world.OBJECTS, *world.COLOURS, *world.BACKGROUNDS, *world.SIZES, *world.PERILS} <= set(concepts)
    assert all(concept in world.words() for concept in concepts)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("submarine", "red", "sea", "big"), "submarine"),
        (("boat", "octarine", "sea", "big"), "octarine"),
        (("boat", "red", "moon", "big"), "moon"),
        (("boat", "red", "sea", "huge"), "huge"),
    ],
)
def test_an_unknown_name_is_refused(arguments: tuple[str, str, str, str], wrong: str) -> None:
    with pytest.raises(InputError, match=f"unknown .* '{wrong}'; expected one of "):
        world.Scene(*arguments)


def test_leaves_depend_on_seed_and_number_alone() -> None:
    few, more = leaves(3, 4)["image"], leaves(3, 6)["image"]
    assert few.shape == (4, 224, 224, 3)
    assert few.dtype == np.uint8
    assert np.array_equal(few, more[:4])
    assert not np.array_equal(few, leaves(4, 4)["image"])
    assert len({picture.tobytes() for picture in more}) == 6
