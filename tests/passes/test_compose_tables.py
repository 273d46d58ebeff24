from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

RANDOM = np.random.default_rng(8)
TABLES: dict[str, npt.NDArray[Any]] = {
    "u8": RANDOM.integers(0, 256, 256).astype(np.uint8),
    "s8": RANDOM.integers(-128, 128, 256).astype(np.int8),
    "s16": RANDOM.integers(-(2**15), 2**15, 256).astype(np.int16),
}


def constant(name: str, dtype: str) -> tuple[str, npt.NDArray[Any]]:
    elements = ", ".join(map(str, TABLES[dtype].tolist()))
    return f"const %{name}: {dtype}[256] = [{elements}]", TABLES[dtype]


RESCALE = "{{dtype={dtype}, zp_in=3, multiplier=1300000000, shift=31, zp_out=7, lo={lo}, hi={hi}}}"


@pytest.mark.parametrize(("first", "second"), [("u8", "u8"), ("u8", "s8"), ("s8", "u8"), ("s8", "s16")])
def test_two_tables_become_one(apply, first, second):
    f, f_table = constant("f", first)
    g, g_table = constant("g", second)
    outcome = apply(
        "compose-tables",
        f"""
        input %x: u8[64]
        {f}
        {g}
        %y = int.lut(%x, %f)
        %z = int.lut(%y, %g)
        output z = %z
        """,
        stage="integer",
    )
    assert outcome.ops == ["int.lut"]
    table = outcome.graph.node("z").operands[1].data
    offset = 128 if first == "s8" else 0
    assert table.tolist() == [int(g_table[int(i) + offset]) for i in f_table]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int.rescale(%x) " + RESCALE.format(dtype="u8", lo=0, hi=255), "int.lut(%y, %g)"),
        ("int.lut(%x, %f)", "int.rescale(%y) " + RESCALE.format(dtype="s16", lo=-300, hi=250)),
        (
            "int.rescale(%x) " + RESCALE.format(dtype="s8", lo=-20, hi=100),
            "int.rescale(%y) " + RESCALE.format(dtype="u8", lo=9, hi=200),
        ),
    ],
)
def test_a_rescale_of_an_8_bit_value_is_a_table_too(apply, before, after):
    f, g = constant("f", "u8")[0], constant("g", "u8")[0]
    body = f"input %x: s8[64]\n{f}\n{g}\n%y = {before}\n%z = {after}\noutput z = %z"
    outcome = apply("compose-tables", body, stage="integer")
    assert outcome.changed
    assert outcome.ops == ["int.lut"]


def test_chains_collapse(apply):
    f = constant("f", "u8")[0]
    links = "\n".join(f"%y{i + 1} = int.lut(%y{i}, %f)" for i in range(5))
    body = f"input %y0: u8[64]\n{f}\n{links}\noutput z = %y5"
    assert apply("compose-tables", body, stage="integer").ops == ["int.lut"]


def test_a_table_with_other_users_stays(apply):
    f = constant("f", "u8")[0]
    outcome = apply(
        "compose-tables",
        f"input %x: u8[64]\n{f}\n%y = int.lut(%x, %f)\n%z = int.lut(%y, %f)\noutput y = %y\noutput z = %z",
        stage="integer",
    )
    assert not outcome.changed
    assert outcome.remarks == ["z: the result of 'y' is also used by an output of the graph"]


AFTER_CONV = """
    input %x: u8[1,1,3,3]
    const %w: s8[1,1,1,1] = [1]
    const %b: s32[1] = [0]
    const %m: s32[1] = [1073741824]
    const %s: s32[1] = [30]
    %y = int.conv(%x, %w, %b, %m, %s) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], group=1, zp_in=0, dtype=u8,
        hi=255}
    %z = int.lut(%y, %f)
"""


@pytest.mark.parametrize(
    "body",
    [
        # Of a 16-bit operand the first is no table, and neither is one of accumulators.
        "input %x: s16[9]\n%y = int.rescale(%x) " + RESCALE.format(dtype="u8", lo=0, hi=255) + "\n%z = int.lut(%y, %f)",
        "input %x: s32[9]\n%y = int.rescale(%x) "
        + RESCALE.format(dtype="u8", lo=0, hi=255).replace("zp_in=3", "zp_in=0")
        + "\n%z = int.lut(%y, %f)",
        # After a convolution a table stays: there is nothing to merge it with.
        AFTER_CONV,
    ],
)
def test_near_misses(apply, body):
    outcome = apply("compose-tables", f"{constant('f', 'u8')[0]}\n{body}\noutput z = %z", stage="integer")
    assert not outcome.changed
