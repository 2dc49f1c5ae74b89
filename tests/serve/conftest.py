"""One real server for the tests of a file, and others for those that need their own."""

from __future__ import annotations

import pytest

from tests.fixtures import served


@pytest.fixture(scope="session")
def served_bundle(tmp_path_factory):
    """Shared: copy it before changing it."""
    return served.bundle(tmp_path_factory.mktemp("served") / "served")


@pytest.fixture(scope="module")
def server(served_bundle):
    running = served.start(served_bundle)
    yield running
    served.end(running)


@pytest.fixture
def starting(served_bundle):
    """`starting(*options)` starts a server of this test's own."""
    made = []

    def start(*options: object, bundle=served_bundle, **environment: str) -> served.Running:
        made.append(served.start(bundle, *options, **environment))
        return made[-1]

    yield start
    for running in made:
        served.end(running)
