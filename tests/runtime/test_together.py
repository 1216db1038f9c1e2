from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.runtime.communicator import run_in_threads
from pipeline.runtime.together import gather_text, require_alike, together


def test_texts_are_gathered_in_order():
    expected = ["", "é", "éé"]
    assert run_in_threads(3, lambda comm: gather_text(comm, "é" * comm.rank)) == [expected] * 3


def fail_on(rank, comm, failure):
    if comm.rank == rank:
        raise failure


@pytest.mark.parametrize(
    ("raised", "expected"), [(ConfigError, ConfigError), (ValueError, ValueError), (OSError, RuntimeError)]
)
def test_a_failure_on_one_process_is_raised_on_all_and_says_where(raised, expected):
    def work(comm):
        with pytest.raises((expected, raised)) as failure, together(comm):
            fail_on(1, comm, raised("no such thing"))
        comm.barrier()  # none has gone astray
        return type(failure.value), str(failure.value)

    others = (expected, "process 1: " + ("OSError: " if expected is RuntimeError else "") + "no such thing")
    assert run_in_threads(3, work) == [others, (raised, "no such thing"), others]


def test_the_first_of_several_failures_is_everybodys():
    def work(comm):
        with pytest.raises(ValueError, match="no 0") as failure, together(comm):
            raise ValueError(f"no {comm.rank}")
        return str(failure.value)

    assert run_in_threads(2, work) == ["no 0", "process 0: no 0"]


def test_where_nothing_fails_nothing_is_raised():
    def work(comm):
        with together(comm):
            done = comm.rank
        require_alike(comm, {"tolerance": 1e-6})
        return done

    assert run_in_threads(2, work) == [0, 1]


def test_unlike_arguments_are_named_on_all_processes():
    def work(comm):
        with pytest.raises(
            ConfigError, match=r"^tolerance: process 0 passes 0 and process 1 1; pass the same"
        ):
            require_alike(comm, {"kernel": "matern", "tolerance": comm.rank})

    run_in_threads(3, work)


def test_an_error_of_the_system_keeps_its_number_on_all_processes():
    def work(comm):
        with pytest.raises(OSError, match="No space left") as failure, together(comm):
            fail_on(1, comm, OSError(28, "No space left on device"))
        return failure.value.errno, failure.value.strerror

    told = (28, "process 1: No space left on device")
    assert run_in_threads(3, work) == [told, (28, "No space left on device"), told]


def test_numbers_of_numpy_and_what_is_no_number_are_compared_too():
    def agree(comm):
        alike = {"tolerance": np.float32(0.5), "seed": np.int64(3) if comm.rank else 3, "kind": object}
        require_alike(comm, alike)
        return True

    assert run_in_threads(2, agree) == [True, True]


def test_an_error_of_the_system_names_the_file_on_all_processes(tmp_path):
    def work(comm):
        path = tmp_path / "nowhere" if comm.rank == 1 else __file__
        with pytest.raises(FileNotFoundError) as failure, together(comm):
            Path(path).read_bytes()
        return str(failure.value)

    first, _ = run_in_threads(2, work)
    assert first == f"[Errno 2] process 1: No such file or directory: {tmp_path / 'nowhere'}"


def test_an_interrupt_on_one_process_is_its_own_and_ends_the_others():
    def work(comm):
        with pytest.raises((KeyboardInterrupt, RuntimeError, ValueError)) as failure, together(comm):
            fail_on(2, comm, KeyboardInterrupt())
        comm.barrier()
        return type(failure.value), str(failure.value)

    other = RuntimeError, "process 2: KeyboardInterrupt"
    assert run_in_threads(3, work) == [other, other, (KeyboardInterrupt, "")]


def test_processes_that_call_other_methods_are_told():
    def work(comm):
        with pytest.raises(
            ConfigError, match="process 0 passes factor and process 1 passes columns: call the same"
        ):
            require_alike(comm, {"columns" if comm.rank else "factor": 2})

    run_in_threads(2, work)
