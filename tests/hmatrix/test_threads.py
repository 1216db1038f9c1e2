"""One BLAS thread, whoever asks."""

from threadpoolctl import threadpool_info

from pipeline.hmatrix.threads import one_blas_thread


def blas_threads():
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


def test_blas_is_given_back_when_the_last_of_several_has_done():
    with one_blas_thread():  # loads what is to be held
        pass
    before = blas_threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    assert blas_threads() == {1}
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before
