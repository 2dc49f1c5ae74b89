"""Files by digest: what comes is what was sent, lands below its folder, and replaces a bundle whole."""

from hashlib import sha256

import pytest

from deploykit.errors import UsageError, WorkError
from deploykit.sweep._store import Store, index_of, safe


def digest(data):
    return sha256(data).hexdigest()


def test_other_bytes_than_were_sent_are_refused(tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(WorkError) as caught:
        store.put(digest(b"sent"), b"came")
    assert caught.value.code == "DIGEST_MISMATCH"
    assert store.known() == frozenset()
    store.put(digest(b"sent"), b"sent")
    assert store.known() == {digest(b"sent")}


def test_a_folder_is_laid_out_from_the_store_and_from_what_it_had(tmp_path):
    store, target = Store(tmp_path / "store"), tmp_path / "bundle"
    store.put(digest(b"one"), b"one")
    store.lay_out({"a": digest(b"one"), "below/b": digest(b"one")}, target)
    assert index_of(target) == {"a": digest(b"one"), "below/b": digest(b"one")}
    (tmp_path / "store" / digest(b"one")).unlink()
    store.put(digest(b"two"), b"two")
    store.lay_out({"a": digest(b"two"), "c": digest(b"one")}, target)
    assert {name: (target / name).read_bytes() for name in index_of(target)} == {"a": b"two", "c": b"one"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "store"]


def test_a_missing_digest_leaves_what_was_there(tmp_path):
    store, target = Store(tmp_path / "store"), tmp_path / "bundle"
    target.mkdir()
    (target / "a").write_bytes(b"old")
    with pytest.raises(UsageError) as caught:
        store.lay_out({"a": digest(b"nowhere")}, target)
    assert caught.value.code == "NOT_FOUND"
    assert (target / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_no_path_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(WorkError):
        safe(name)
    store = Store(tmp_path / "store")
    store.put(digest(b"x"), b"x")
    with pytest.raises(WorkError):
        store.lay_out({name: digest(b"x")}, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_links_are_not_followed_out_of_a_bundle(tmp_path):
    (tmp_path / "outside").write_bytes(b"secret")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "link").symlink_to(tmp_path / "outside")
    (bundle / "a").write_bytes(b"a")
    assert index_of(bundle) == {"a": digest(b"a")}
