"""The numbers that C++ and Python share are the same numbers."""

from __future__ import annotations

import pytest

from srft_kernels.ops import contract
from srft_kernels.ops.native import library


@pytest.mark.skipif(not library.available, reason=library.reason)
def test_both_sides_of_the_contract_agree() -> None:
    ours: dict[str, int] = {}
    for enumeration in (contract.Setting, contract.Inner, contract.Mode, contract.Damping, contract.Normalize):
        ours |= {member.name: int(member) for member in enumeration}
    for name, value in vars(contract).items():
        if name.isupper() and type(value) is int:
            ours[name] = value
    assert ours == library.build.contract
