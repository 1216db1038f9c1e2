import signal

import pytest

from pipeline.runtime.termination import termination


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_is_noted_and_then_means_again_what_it_did_before(number):
    before = signal.getsignal(number)
    with termination() as came:
        assert not came()
        signal.raise_signal(number)
        assert came()
    assert signal.getsignal(number) is before
