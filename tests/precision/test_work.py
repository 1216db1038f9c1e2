"""What a run of a packed layer is counted to do, against counts by hand."""

import itertools
import re
from dataclasses import replace

import pytest

from pipeline.precision.attained import _parameters
from pipeline.precision.references import convolution, of_numbers, pixels_twice, pooling
from pipeline.precision.routines import build, candidates
from pipeline.precision.work import lanes_of, routine_class, work_of


def work(layer, routine, instruction_set, batch=1):
    layer = replace(layer, routine=routine).in_single()
    return work_of(layer, build(layer, _parameters(layer), instruction_set), batch)


def taps_inside(size, kernel, stride):
    """Products of one channel that are not with padding, counted one by one."""
    count = 0
    for row, column in itertools.product(range(0, size, stride), repeat=2):
        for i, j in itertools.product(range(-(kernel // 2), kernel // 2 + 1), repeat=2):
            count += 0 <= row + i < size and 0 <= column + j < size
    return count


@pytest.mark.parametrize(
    ("kernel", "size", "stride"), [(5, 7, 1), (3, 14, 1), (3, 14, 2), (5, 7, 2), (3, 3, 1)]
)
def test_depthwise_products_outside_the_image_are_not_counted(instruction_set, kernel, size, stride):
    """These sizes are whole blocks of columns, or so few columns that they go one by one."""
    lanes = lanes_of(instruction_set)
    found = work(convolution(2 * lanes, size, kernel=kernel, groups=2 * lanes, stride=stride), "depthwise fp32",
                 instruction_set)  # fmt: skip
    assert found.slots == 2 * 2 * lanes * taps_inside(size, kernel, stride)
    assert found.slots < found.flops
    assert found.results == 2 * lanes * (-(-size // stride)) ** 2


def test_the_last_block_of_a_row_computes_some_outputs_again(instruction_set):
    lanes = lanes_of(instruction_set)
    whole, more = (work(convolution(lanes, size, kernel=1, groups=lanes), "depthwise fp32", instruction_set)
                   for size in (14, 15))  # fmt: skip
    assert whole.results == lanes * 14 * 14
    assert more.results == lanes * 15 * 21


def test_outputs_that_fill_no_panel_cost_as_much_as_a_panel(instruction_set):
    layer = convolution(64, 9, 24)
    found = work(layer, "direct fp32", instruction_set)
    packed = replace(layer, routine="direct fp32").in_single()
    routine = build(packed, _parameters(packed), instruction_set).routine(1)
    width = int(re.search(r"(\d+) outputs wide", routine)[1])
    assert found.slots == pytest.approx(found.flops * -(-24 // width) * width / 24)


def test_numbers_are_counted_in_whole_vectors(instruction_set):
    lanes = lanes_of(instruction_set)
    found = work(pooling("max_pool2d", lanes + 1, 4), "windows", instruction_set)
    assert found.numbers == 2 * lanes * 16
    assert found.results == 2 * lanes * 4
    assert work(pixels_twice(4, 3), "copy", instruction_set).results == 4 * 36
    assert work(of_numbers("add", 5, 3), "sum", instruction_set).numbers == 2 * 5 * 9


def test_a_vector_has_as_many_lanes_as_the_instruction_set_says():
    known = {"avx512": 16, "avx2": 8}
    for name in known:
        try:
            assert lanes_of(name) == known[name]
        except ValueError:  # this processor does not have it
            continue


def test_a_copy_that_converts_nothing_uses_no_workspace(instruction_set):
    same = pixels_twice(4, 3)
    assert work(same, "copy", instruction_set).workspace_bytes == 0
    narrow = replace(same.in_single(), output_dtype="float16", routine="copy")
    native = build(narrow, _parameters(narrow), instruction_set)
    assert work_of(narrow, native, 1).workspace_bytes == 4 * 4 * 36


def test_classes_go_from_the_general_to_the_particular():
    layer = replace(convolution(64, 8, 24, kernel=1), routine="direct fp32").in_single()
    assert routine_class(layer, 1, one_vector=True) == "direct fp32, pointwise, one vector"
    halves = replace(layer, input_dtype="float16")
    assert routine_class(halves, 1) == "direct fp32, pointwise, halves"
    assert (
        routine_class(replace(layer, input_shape=(64, 1, 1), output_shape=(24, 1, 1)), 1)
        == "product fp32, vector"
    )
    assert candidates(layer, "portable")[0] == "direct fp32"
