"""Checks of fields that several sources share."""

from dataset_builders.fields import serving_split


def test_validation_serves_as_the_split_that_is_absent():
    assert serving_split("validation", lambda other: other == "test") == "train"
    assert serving_split("validation", lambda other: other == "train") == "test"
    assert serving_split("validation", lambda other: True) == "validation"
    assert serving_split("validation", lambda other: False) == ""
    assert serving_split("train", lambda other: False) == "train"
