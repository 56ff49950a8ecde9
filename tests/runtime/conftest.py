"""A driver in host memory in place of CUDA's."""

import pytest
from fake_driver import installed


@pytest.fixture
def cuda(monkeypatch):
    with installed(monkeypatch) as fake:
        yield fake
