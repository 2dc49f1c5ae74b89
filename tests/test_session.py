"""Settings of a session as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.errors import UsageError
from deploykit.session import CUDA, GRAPH_LEVELS, MAX_THREADS, SessionSettings

SETTINGS = st.builds(
    SessionSettings,
    provider=st.just(CUDA),
    threads=st.none() | st.integers(1, MAX_THREADS),
    graph_level=st.sampled_from(GRAPH_LEVELS),
    spinning=st.booleans(),
    arena=st.booleans(),
    binding=st.booleans(),
    tf32=st.booleans(),
    device_graph=st.booleans(),
)


@given(SETTINGS)
def test_words_say_what_differs_and_are_read_back(settings):
    assert SessionSettings(CUDA).with_words(settings.words) == settings


def test_words_of_the_defaults_are_empty_and_change_nothing():
    assert SessionSettings(CUDA).words == ""
    assert SessionSettings(CUDA, 3).with_words("") == SessionSettings(CUDA, 3)
    assert SessionSettings(threads=1, spinning=False).words == "threads=1,spinning=off"


@pytest.mark.parametrize(
    "text",
    ["threads=0", "threads=1025", "threads=-1", "threads=²", "threads=", "threads", "spinning=maybe", "provider=x",
     "graph_level=most", "nothing=on", "=", "spinning=True", "threads=1,threads=2", "arena=on, arena=on"],
)  # fmt: skip
def test_nonsense_is_refused_with_what_would_do(text):
    with pytest.raises(UsageError) as caught:
        SessionSettings().with_words(text)
    assert caught.value.code == "BAD_SETTING"
    assert caught.value.hint
