"""The limits that stand beside what settings gain."""

import pytest
from threadpoolctl import threadpool_info

from deploykit.bundle import Bundle


@pytest.fixture
def settings():
    import settings as script

    return script


def test_limits_are_of_a_variants_own_file_on_the_threads_it_was_measured_with(settings, tiny_bundle, monkeypatch):
    seen = []

    def best(call):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        call()
        return 1e-3

    monkeypatch.setattr(settings, "best", best)
    monkeypatch.setattr(settings, "operations_of", lambda bundle, batch: 100 * batch)
    made = Bundle(tiny_bundle)
    names = [record.name for record in made.manifest.variants]
    rows = [{"name": name, "threads": 1} for name in ("eager", "onnx@default", *names, "empty graph")]
    found = settings.limits(tiny_bundle, {"batch": 8, "rows": rows})
    assert set(found) == {"onnx@default", *names}
    assert {name: one["weights_bytes"] for name, one in found.items()} == {
        "onnx@default": made.bytes_of("onnx"), **{name: made.bytes_of(name) for name in names},
    }  # fmt: skip
    assert len({one["weights_bytes"] for one in found.values()}) > 1
    assert {one["operations"] for one in found.values()} == {800}
    assert seen
    assert set().union(*seen) == {1}
