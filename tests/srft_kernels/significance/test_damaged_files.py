"""A significance map that is truncated, flipped in a bit, or made to do harm is refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import torch

from srft_kernels import SignificanceMap


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "prior.safetensors"
    SignificanceMap({"weight": torch.arange(24.0).reshape(4, 6), "bias": torch.ones(6)}).save(path)
    return path


def test_every_truncation_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"prior\.safetensors"):
            SignificanceMap.load(saved)


def test_every_flipped_bit_of_the_tensors_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    data = 8 + struct.unpack("<Q", whole[:8])[0]
    assert len(whole) - data == 30 * 4
    for position in range(data, len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            saved.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"prior\.safetensors"):
                SignificanceMap.load(saved)


def test_a_flipped_bit_of_the_header_never_gives_other_tensors(saved: Path) -> None:
    wanted = SignificanceMap.load(saved)
    whole = saved.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for position in range(header):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        saved.write_bytes(damaged)
        try:
            found = SignificanceMap.load(saved)
        except (ValueError, OSError):
            continue
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_header_that_claims_petabytes_is_refused_without_taking_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**50) + b"{}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        SignificanceMap.load(path)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        SignificanceMap.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


class Harm:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_in_the_place_of_a_map_is_not_run(tmp_path: Path) -> None:
    path, folder = tmp_path / "prior.safetensors", tmp_path / "harmed"
    for harmful in (pickle.dumps(Harm(folder)),):
        path.write_bytes(harmful)
        with pytest.raises(ValueError, match="truncated or no safetensors file"):
            SignificanceMap.load(path)
    torch.save({"weight": Harm(folder)}, path)
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        SignificanceMap.load(path)
    assert not folder.exists()


def test_a_map_of_a_version_without_checksums_still_loads(saved: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(saved, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "crc32"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, saved, metadata=metadata)
    assert torch.equal(SignificanceMap.load(saved)["bias"], torch.ones(6))
