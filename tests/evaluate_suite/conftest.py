"""Data of all tasks, a few rows each, and a model that is small but real."""

import pytest
from tiny_data import write_tiny_data

from pipeline_steps import EMBEDDED_PROXY


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def model():
    """Folder of a T5 with its tokenizer."""
    return EMBEDDED_PROXY
