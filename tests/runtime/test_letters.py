import numpy as np
import pytest
import torch

from pipeline.runtime.letters import pack, unpack

TENSORS = {
    "a number": torch.tensor(2.5),
    "none": torch.zeros(0, 3, dtype=torch.int32),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "conjugated": torch.tensor([1 + 2j, 3j]).conj(),
    "one number of a wide stride": torch.from_numpy(np.broadcast_to(np.int32(7), (1,)).copy()).as_strided(
        (1,), (0,)
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_letter_holds_the_tensor(name):
    found = unpack(pack(TENSORS[name]))
    assert found.dtype == TENSORS[name].dtype
    assert torch.equal(found, TENSORS[name])
