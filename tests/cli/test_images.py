"""The options that name images are read by one function, whatever the command."""

import pytest

from sith_hf.cli.images import images_of, named_images
from sith_hf.errors import InputError
from sith_hf.images import DatasetSettings, images_named


def test_leaves_are_drawn_and_any_other_name_is_a_dataset():
    assert named_images({"dataset": "leaves"}) == images_named("leaves")
    assert named_images({"dataset": "leaves", "limit": 40}).limit == 40
    assert images_of({"dataset": "leaves"}) == images_named("leaves")
    assert named_images({"dataset": "leave"}) == DatasetSettings(dataset="leave")


def test_options_have_the_names_of_the_settings():
    given = {"dataset": "photos", "name": "large", "split": "test", "column": "picture", "data_revision": "v1"}
    found = named_images(given)
    assert (found.name, found.split, found.columns.image, found.revision) == ("large", "test", "picture", "v1")


@pytest.mark.parametrize("more", [{"split": "test"}, {"name": "large"}, {"data_revision": "v1"}, {"streaming": True}])
def test_leaves_have_no_options_of_a_dataset(more):
    with pytest.raises(InputError, match="belong to dataset"):
        named_images({"dataset": "leaves", **more})
