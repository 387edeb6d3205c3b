import os

import pytest

from tests.torture.inputs import make_inputs


@pytest.fixture(scope="package")
def home(tmp_path_factory, shards, auxiliary):
    """The working folder, with every kind of file that a command reads."""
    folder, before = tmp_path_factory.mktemp("inputs"), os.getcwd()
    make_inputs(folder, shards, auxiliary)
    yield folder
    os.chdir(before)
