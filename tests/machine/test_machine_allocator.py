"""What torch is told about GPU memory before it is imported."""

import pytest

from simpletune.machine.allocator import map_in_pages


def test_memory_is_mapped_in_pages_on_linux():
    environment: dict[str, str] = {}
    map_in_pages(environment, "linux")
    assert environment == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_set_stands(name):
    environment = {name: "max_split_size_mb:64"}
    map_in_pages(environment, "linux")
    assert environment == {name: "max_split_size_mb:64"}


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_do_not_have_it(platform):
    environment: dict[str, str] = {}
    map_in_pages(environment, platform)
    assert not environment
