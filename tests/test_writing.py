"""Files are written whole or not at all, through links, and into devices and pipes as they are."""

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from deploykit.errors import StorageError, UsageError
from deploykit.writing import check_file, make_folder, write_bytes, write_text

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away and becomes somebody else")


@contextmanager
def nobody():
    """What root may not be told, this user is."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def harmless():
    """In /dev a mistake would replace the machine's own files, were we root there."""
    return nobody() if os.geteuid() == 0 else nullcontext()


@pytest.fixture
def shared():
    """A folder that everybody may enter and write: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    return path


def rest(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_new_file_is_as_the_umask_says_and_nothing_lies_beside_it(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "grüße\n")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"gr\xc3\xbc\xc3\x9fe\n"
    assert oct((tmp_path / "new").stat().st_mode & 0o7777) == "0o640"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["x" * 255, "-", " ", "a\nb"], ids=["long", "dash", "space", "newline"])
def test_every_name_that_a_file_can_have_will_do(tmp_path, name):
    for text in ("once", "twice"):
        check_file(tmp_path / name)
        write_text(tmp_path / name, text)
        assert (tmp_path / name).read_text() == text
    assert rest(tmp_path) == []


def test_a_name_without_a_folder_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_file(Path("new"))
    write_text(Path("new"), "x")
    assert (tmp_path / "new").read_text() == "x"


@pytest.mark.parametrize("mode", [0o604, 0o600, 0o755, 0o666])
def test_a_file_keeps_its_mode(file, mode):
    file.chmod(mode)
    write_text(file, "new")
    assert (file.read_text(), oct(file.stat().st_mode & 0o7777)) == ("new", oct(mode))


@as_root
def test_a_file_keeps_its_owner(shared):
    file = shared / "file"
    file.write_text("old")
    os.chown(file, 1234, 5678)
    file.chmod(0o666)
    write_text(file, "as root")
    assert (file.read_text(), file.stat().st_uid, file.stat().st_gid) == ("as root", 1234, 5678)
    with nobody():  # may write it, and may not give another file to 1234
        check_file(file)
        write_text(file, "as nobody")
    assert (file.read_text(), file.stat().st_uid, file.stat().st_gid) == ("as nobody", 1234, 5678)
    assert rest(shared) == []


def test_whoever_reads_the_old_file_goes_on_reading_it(file):
    with file.open() as reader:
        write_text(file, "new")
        assert (reader.read(), file.read_text()) == ("old", "new")


def test_a_link_is_followed_and_stays(file, tmp_path):
    (tmp_path / "far").mkdir()
    first, second = tmp_path / "far" / "first", tmp_path / "second"
    first.symlink_to("../file")
    second.symlink_to(first)
    check_file(second)
    write_text(second, "new")
    assert file.read_text() == "new"
    assert not file.is_symlink()
    assert (first.readlink(), second.readlink()) == (Path("../file"), first)
    assert rest(tmp_path) == rest(tmp_path / "far") == []


def test_a_link_to_nothing_gets_its_file(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to("far/file")
    check_file(link)
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"


@pytest.mark.parametrize("target", ["circle", "gone/file", "folder", "file/x"])
def test_a_link_that_leads_to_no_place_for_a_file_is_the_users_mistake(file, tmp_path, target):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "circle"
    link.symlink_to(target)
    for attempt in (check_file, lambda path: write_text(path, "x")):
        with pytest.raises(UsageError, match="NOT_FOUND"):
            attempt(link)
    assert (link.is_symlink(), file.read_text(), rest(tmp_path)) == (True, "old", [])


@pytest.mark.parametrize("place", [".", "", "gone/file", "file/x", "y" * 256])
def test_what_can_hold_no_file_is_the_users_mistake(file, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for attempt in (check_file, lambda path: write_text(path, "x")):
        with pytest.raises(UsageError) as caught:
            attempt(Path(place))
        assert (caught.value.code, caught.value.subject) == ("NOT_FOUND", str(Path(place)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["/proc/b", "/sys/b"])
def test_a_place_where_even_root_makes_nothing_is_found_before_the_work(place):
    for attempt in (check_file, lambda path: write_text(path, "x")):
        with pytest.raises((UsageError, StorageError)):
            attempt(Path(place))


def test_asking_changes_nothing(file, tmp_path):
    before = file.stat()
    check_file(file)
    check_file(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    now = file.stat()
    assert (now.st_ino, now.st_mtime_ns, now.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize("ending", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, ending, there):
    path = tmp_path / "file"
    if there:
        path.write_text("old")

    def failing(handle):
        raise ending

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError if isinstance(ending, OSError) else KeyboardInterrupt):
        write_text(path, "new")
    assert path.exists() is there
    assert not there or path.read_text() == "old"
    assert rest(tmp_path) == []


def test_a_write_that_is_cut_off_in_the_middle_leaves_what_was_there(file, tmp_path):
    script = "import pathlib, resource, signal, sys; from deploykit.writing import write_bytes\n"
    script += "from deploykit.errors import StorageError\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
    script += "try: write_bytes(pathlib.Path(sys.argv[1]), bytes(1000))\n"
    script += "except StorageError as error: print(error.code)"
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["DISK_FULL"]
    assert (file.read_text(), rest(tmp_path)) == ("old", [])


KILLED = """
import os, signal, sys
from pathlib import Path
from deploykit.writing import write_text

path, moment, seen = Path(sys.argv[1]), 0, set()
while True:
    moment += 1
    pid = os.fork()
    if pid == 0:
        count = 0
        def hook(event, arguments):
            global count
            if event.split(".")[0] in {"open", "os"}:
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write_text(path, "new" * 100_000)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    seen.add(path.read_text())
    if os.WIFEXITED(status):
        break
print(moment, seen == {"old", "new" * 100_000})
"""


def test_a_kill_at_every_file_operation_leaves_the_old_file_or_the_new_one(file):
    done = subprocess.run([sys.executable, "-c", KILLED, file], capture_output=True, text=True, check=True)
    moments, whole = done.stdout.split()
    assert int(moments) > 4
    assert whole == "True"


@as_root
def test_a_file_that_may_not_be_written_is_not_replaced_either(shared):
    file = shared / "file"
    file.write_text("old")
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0o444)
    with nobody():
        for attempt in (check_file, lambda path: write_text(path, "x")):
            with pytest.raises(StorageError, match="PERMISSION"):
                attempt(file)
    assert (file.read_text(), rest(shared)) == ("old", [])


@as_root
def test_a_file_that_may_be_written_is_although_its_folder_takes_none(shared):
    file = shared / "file"
    file.write_text("something longer than the new one")
    file.chmod(0o666)
    shared.chmod(0o755)
    with nobody():
        check_file(file)
        write_text(file, "new")
        for attempt in (check_file, lambda path: write_text(path, "x")):
            with pytest.raises(StorageError, match="PERMISSION"):
                attempt(shared / "other")
    assert (file.read_text(), rest(shared)) == ("new", [])


def test_a_file_that_is_a_mount_of_its_own_is_written_in_place(file, tmp_path):
    """So a container is given a single file."""
    mounted = tmp_path / "mounted"
    mounted.touch()
    asked = ["mount", "--bind", str(file), str(mounted)]
    if shutil.which("mount") is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a file")
    try:
        check_file(mounted)
        write_text(mounted, "new")
        assert (file.read_text(), mounted.read_text(), rest(tmp_path)) == ("new", "new", [])
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM, errno.EROFS])
def test_a_rename_that_the_system_refuses_is_no_failure_where_the_file_can_be_written(file, monkeypatch, number):
    def refused(self, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", refused)
    write_text(file, "new")
    assert (file.read_text(), rest(file.parent)) == ("new", [])
    with pytest.raises(StorageError):
        write_text(file.parent / "other", "new")
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_device_is_written_and_stays_one():
    with harmless():
        check_file(Path("/dev/null"))
        write_text(Path("/dev/null"), "x")
        with pytest.raises(StorageError, match="DISK_FULL"):
            write_text(Path("/dev/full"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_link_to_a_device_is_as_good(shared):
    link = shared / "link"
    link.symlink_to("/dev/null")
    with harmless():
        check_file(link)
        write_text(link, "x")
    assert link.readlink() == Path("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@as_root
def test_a_device_in_a_folder_that_takes_files_stays_one(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_text("x")
    except PermissionError:
        pytest.skip("this machine does not let us make a device")
    check_file(device)
    write_text(device, "x")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert rest(tmp_path) == []


def test_a_pipe_is_written_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_file(pipe)  # nobody reads yet: this must not wait
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, bytes(200_000))
    reader.join(60)
    assert got == [bytes(200_000)]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert rest(tmp_path) == []


SAID = "from pathlib import Path; import os, sys; from deploykit.writing import check_file, write_text\n"
SAID += f"os.geteuid() or os.seteuid({NOBODY})\n"  # see `harmless`
SAID += "path = Path(sys.argv[1]); check_file(path); write_text(path, 'written\\n'); print('printed')"


def said(path: str, stdout, **options) -> int:
    return subprocess.run([sys.executable, "-c", SAID, path], stdout=stdout, check=True, **options).returncode


NAMES = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"]


@pytest.mark.parametrize("name", NAMES)
def test_stdout_by_its_name_is_a_pipe(name):
    done = subprocess.run([sys.executable, "-c", SAID, name], capture_output=True, text=True, check=True)
    assert done.stdout == "written\nprinted\n"


@pytest.mark.parametrize("name", [*NAMES, "link"])
def test_stdout_by_its_name_is_a_file_that_was_begun(shared, name):
    """As with `>>`: emptied or replaced, what others wrote would be lost."""
    target = shared / "log"
    target.write_text("begun\n")
    (shared / "link").symlink_to("/dev/stdout")
    inode = target.stat().st_ino
    with target.open("a") as log:
        said(name, log, cwd=shared)
    assert target.read_text() == "begun\nwritten\nprinted\n"
    assert (target.stat().st_ino, rest(shared)) == (inode, [])


def test_stdout_by_its_name_is_a_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        said("/dev/stdout", theirs)
        theirs.shutdown(socket.SHUT_WR)
        with ours.makefile() as stream:
            assert stream.read() == "written\nprinted\n"


def test_any_descriptor_that_was_handed_over_can_be_named(tmp_path):
    with (tmp_path / "third").open("w") as third:
        said(f"/dev/fd/{third.fileno()}", subprocess.DEVNULL, pass_fds=[third.fileno()])
    assert (tmp_path / "third").read_text() == "written\n"


def test_a_file_that_this_process_has_open_is_replaced_by_its_own_name(file):
    with file.open() as reader:
        write_text(file, "new")
        assert reader.read() == "old"


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("file", FileExistsError),
        ("file/x", NotADirectoryError),
        ("/proc/b", (FileNotFoundError, PermissionError)),
        ("/proc", (FileNotFoundError, PermissionError)),
    ],
)
def test_a_folder_that_takes_no_files_is_told_as_the_system_tells_it(file, place, kinds):
    with pytest.raises(kinds):
        make_folder(file.parent / place)
    assert file.read_text() == "old"
