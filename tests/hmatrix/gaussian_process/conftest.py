import pytest
from gaussian_values import KERNEL, sample

from pipeline.hmatrix import GaussianProcess


@pytest.fixture(scope="package")
def data():
    return sample(701)


@pytest.fixture(scope="package")
def fitted(data):
    return GaussianProcess(KERNEL).fit(*data)
