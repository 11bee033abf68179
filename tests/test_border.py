"""Borders: folded positions against numpy.pad, and names."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.border import SYNONYMS, Border, map_index, parse_border
from tests import reference


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_map_index_folds_as_the_reference_at_any_distance(border, length):
    places = np.arange(-5 * length - 3, 6 * length + 4)
    expected = [reference.border_index(int(i), length, border.value) for i in places]
    mapped = map_index(places, length, border)
    assert mapped.tolist() == [-1 if e is None else e for e in expected]


@pytest.mark.parametrize("border", [b for b in Border if b is not Border.CONSTANT])
def test_map_index_agrees_with_numpy_pad(border):
    row = np.arange(5)
    places = np.arange(-4, 9)
    assert row[map_index(places, 5, border)].tolist() == np.pad(row, 4, border.value).tolist()


def test_parse_border_knows_every_name_and_synonym():
    for border in Border:
        assert parse_border(border.value) is border
    for synonym, border in SYNONYMS.items():
        assert parse_border(synonym) is border


@pytest.mark.parametrize("bad", ["refl", "", None, 3, "CONSTANT"])
def test_parse_border_names_the_argument_and_the_choices(bad):
    with pytest.raises(ValueError, match=r"^padding_mode must be one of constant, .*, got "):
        parse_border(bad, "padding_mode")
