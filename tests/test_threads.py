"""One thread for a while."""

import pytest
import torch

from deploykit.threads import one_thread


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_one_thread_inside_and_as_many_as_before_afterwards(ending):
    def work():
        with one_thread():
            assert torch.get_num_threads() == 1
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            if ending is not None:
                raise ending

    if ending is None:
        work()
    else:
        with pytest.raises(ending):
            work()
    assert torch.get_num_threads() == 3
