from collections import Counter
from itertools import islice, pairwise

import pytest

from deploykit.benchmark.schedule import orders


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_every_round_holds_every_subject_once(count):
    for order in islice(orders(count, 0), 40):
        assert sorted(order) == list(range(count))


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_places_are_balanced_after_any_number_of_rounds(count):
    rounds = list(islice(orders(count, 3), 5 * count))
    for stop in range(1, len(rounds) + 1):
        for place in range(count):
            seen = Counter(order[place] for order in rounds[:stop])
            assert max(seen.values()) - min(seen[subject] for subject in range(count)) <= 1


@pytest.mark.parametrize("count", [2, 4, 6])
def test_in_a_square_each_follows_each_other_once(count):
    square = islice(orders(count, 1), count)
    follows = Counter(pair for order in square for pair in pairwise(order))
    assert set(follows.values()) == {1}
    assert len(follows) == count * (count - 1)


@pytest.mark.parametrize("count", [3, 5, 7])
def test_an_odd_number_needs_two_squares_for_that(count):
    squares = islice(orders(count, 1), 2 * count)
    follows = Counter(pair for order in squares for pair in pairwise(order))
    assert set(follows.values()) == {2}
    assert len(follows) == count * (count - 1)


def test_the_seed_decides():
    first = list(islice(orders(5, 7, 1), 30))
    assert first == list(islice(orders(5, 7, 1), 30))
    assert first != list(islice(orders(5, 7, 8), 30))
    assert first != list(islice(orders(5, 8, 1), 30))
