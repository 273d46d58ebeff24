import pytest

CONV = """
    input %x: u8[N,2,5,5]
    const %w: s8[4,2,3,3] = [{weights}]
    const %b: s32[4] = [1, -2, 3, 400]
    const %m: s32[4] = [1073741824, 1200000000, 1300000000, 2000000000]
    const %s: s32[4] = [34, 35, 36, 37]
    %y = int.conv(%x, %w, %b, %m, %s) {{strides=[2, 1], pads=[1, 0, 1, 2], dilations=[1, 1], group=1, zp_in=7,
        dtype=u8, zp_out=100, hi=255}}
    output y = %y
""".format(weights=", ".join(str((i * 37) % 255 - 127) for i in range(72)))
POOL = "kernel=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]"
OTHERS = {
    "max_pool": f"input %x: u8[N,2,4,6]\n%y = max_pool(%x) {{{POOL}}}\noutput y = %y",
    "int.average_pool": f"""
        input %x: u8[N,2,4,6]
        const %m: s32[5] = [0, 1073741824, 1073741824, 1431655765, 1073741824]
        const %s: s32[5] = [33, 30, 31, 32, 32]
        %y = int.average_pool(%x, %m, %s) {{{POOL}, ceil_mode=false, count_include_pad=false, dtype=u8, zp_in=3,
            zp_out=4, lo=0, hi=255}}
        output y = %y
    """,
    "depth_to_space": 'input %x: u8[N,8,3,3]\n%y = depth_to_space(%x) {blocks=[2, 2], mode="CRD"}\noutput y = %y',
}


@pytest.mark.parametrize("op", ["int.conv", *OTHERS])
def test_the_op_works_on_nhwc_between_two_transposes(apply, op):
    outcome = apply("assign-layout", CONV if op == "int.conv" else OTHERS[op], stage="integer")
    assert outcome.changed
    assert outcome.ops == ["transpose", op, "transpose"]
    node = outcome.graph.node("y")
    assert node.op.layout == "nhwc"
    assert outcome.graph.outputs[0].type.shape[0] == "N"
    assert outcome.graph.outputs[0].type.shape[1] == node.result.type.shape[3]


def test_the_transposes_between_two_layers_cancel(apply):
    body = f"""
        input %x: u8[N,2,8,8]
        %a = max_pool(%x) {{{POOL}}}
        %b = max_pool(%a) {{{POOL}}}
        output y = %b
    """
    outcome = apply("assign-layout", body, stage="integer")
    assert outcome.ops == ["transpose", "max_pool", "transpose", "transpose", "max_pool", "transpose"]


@pytest.mark.parametrize(
    ("body", "stage"),
    [
        ('input %x: u8[N,4]\n%y = reshape(%x) {shape=["N", 2, 2]}\noutput y = %y', "integer"),
        (f'input %x: u8[N,4,6,2]\n%y = max_pool(%x) {{{POOL}, layout="nhwc"}}\noutput y = %y', "integer"),
    ],
)
def test_what_has_no_layout_or_has_it_already_stays(apply, body, stage):
    assert not apply("assign-layout", body, stage=stage).changed
