"""Staging of the activations that a convolution's windows cover, borders included."""

from qcompiler.runtime.codegen.deferred import compiled
from qcompiler.runtime.codegen.staging import copy_step, stage_activations, stage_constant
from qcompiler.runtime.kernels.memory import load_s64


@compiled
def stage_padded_rows(  # noqa: PLR0913, PLR0917 - kernels have no structs
    target: int,
    image: int,
    top: int,
    count: int,
    height: int,
    row_items: int,
    pad_left: int,
    pad_right: int,
    zp_in: int,
    flip_in: int,
    item_bytes: int,
) -> None:
    """Stage rows [top, top + count) of an image of `height` rows; all that lies outside of it is `zp_in`.

    `row_items`, `pad_left` and `pad_right` count activations; `image` and `target` are addresses.
    """
    columns = pad_left + row_items + pad_right
    for r in range(count):
        at, y = target + r * columns * item_bytes, top + r
        if y < 0 or y >= height:
            stage_constant(at, zp_in, columns, item_bytes)
        else:
            middle = at + pad_left * item_bytes
            stage_constant(at, zp_in, pad_left, item_bytes)
            stage_activations(middle, image + y * row_items, row_items, flip_in, item_bytes)
            stage_constant(middle + row_items * item_bytes, zp_in, pad_right, item_bytes)


@compiled
def stage_sampled_rows(
    target: int,
    source: int,
    rows: int,
    pixels: int,
    row_bytes: int,
    pixel_bytes: int,
    cin: int,
    flip_in: int,
    item_bytes: int,
) -> None:
    """Stage `pixels` pixels of `cin` activations from each of `rows` rows, at these distances in the source."""
    for r in range(rows):
        for c in range(pixels):
            at = target + (r * pixels + c) * cin * item_bytes
            stage_activations(at, source + r * row_bytes + c * pixel_bytes, cin, flip_in, item_bytes)


@compiled
def collect_steps(
    target: int,
    base: int,
    rows: int,
    pixels: int,
    runs: int,
    run_count: int,
    run_bytes: int,
    step_bytes: int,
    panel_bytes: int,
) -> None:
    """Copy each pixel's runs one after the other, cut into a matrix unit's steps: [step, pixel, step_bytes].

    A step's panel of all pixels takes `panel_bytes`; the last step ends in zeros. `rows` and `runs` are addresses of
    s64, as for `tile.matrix_tiles`.
    """
    for m in range(pixels):
        pixel, at, room = base + load_s64(rows, m), target + m * step_bytes, step_bytes
        for i in range(run_count):
            source, left = pixel + load_s64(runs, i), run_bytes
            while left > 0:
                count = min(left, room)
                copy_step(at, source, count, room)
                source, left = source + count, left - count
                at, room = at + count, room - count
                if room == 0:
                    at, room = at + panel_bytes - step_bytes, step_bytes
