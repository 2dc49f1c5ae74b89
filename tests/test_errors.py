import errno
import itertools

import pytest

from deploykit import errors
from deploykit.errors import DeploykitError, RefusedError, StorageError, UsageError, escape, from_os_error, gravest


def test_every_class_has_its_code_of_the_contract():
    assert {kind.exit_code for kind in errors.KINDS.values()} == {2, 4, 5, 6, 70}
    assert all(errors.KINDS[code].exit_code == code for code in errors.KINDS)


def test_an_error_is_one_line_with_code_subject_message_and_hint():
    error = RefusedError("a.onnx", "is a\ntext file\x1b[31m", "give an ONNX file")
    assert str(error) == r"error[MALFORMED]: a.onnx: is a\ntext file\x1b[31m; hint: give an ONNX file"


@pytest.mark.parametrize("size", [10, 400, 5000])
def test_a_line_stays_within_its_limit_whatever_it_holds(size):
    line = str(UsageError("s" * size, "m\n" * size, "h" * size))
    assert len(line) <= errors.LINE_LIMIT
    assert "\n" not in line
    assert "; hint: h" in line


def test_escape_shortens_in_the_middle():
    assert escape("abcdefghij", 5) == "abc…j"
    assert escape("abc", 5) == "abc"


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, StorageError, "DISK_FULL"),
        (errno.EROFS, StorageError, "READ_ONLY"),
        (errno.EACCES, StorageError, "PERMISSION"),
        (errno.EIO, StorageError, "STORAGE"),
        (errno.ENOENT, UsageError, "NOT_FOUND"),
        (errno.ENOTDIR, UsageError, "NOT_FOUND"),
    ],
)
def test_file_errors_get_their_class_and_code(number, kind, code):
    mapped = from_os_error(OSError(number, "why"), "x")
    assert type(mapped) is kind
    assert mapped.code == code


def test_the_gravest_code_wins_in_the_order_of_the_contract():
    for one, other in itertools.combinations(errors.GRAVITY, 2):
        assert gravest([other, one, other]) == one
    assert gravest([]) == 0
    assert gravest([99]) == 70


def test_the_base_class_is_a_bug():
    assert DeploykitError("a", "b", "c").exit_code == 70
