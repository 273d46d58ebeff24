"""Staging of the activations that a convolution's windows cover, borders included."""

from qcompiler.runtime.codegen.deferred import compiled
from qcompiler.runtime.codegen.matrix_unit import ROW_BYTES
from qcompiler.runtime.codegen.staging import copy_pixels, copy_row, stage_activations, stage_constant
from qcompiler.runtime.kernels.memory import copy_bytes, fill_bytes, load_s64

_WIDE_PIXEL = 16  # bytes, from which on a copy is inlined


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
    cin: int,
    pixel_bytes: int,
    zp_in: int,
    flip_in: int,
    item_bytes: int,
) -> None:
    """Stage rows [top, top + count) of an image of `height` rows; all that lies outside of it is `zp_in`.

    `row_items`, `pad_left` and `pad_right` count activations; `image` and `target` are addresses. A row's pixels of
    `cin` activations begin `pixel_bytes` apart.
    """
    columns = pad_left + row_items + pad_right
    pixels = row_items // cin
    for r in range(count):
        at, y = target + r * columns * item_bytes, top + r
        if y < 0 or y >= height:
            stage_constant(at, zp_in, columns, item_bytes)
        else:
            middle = at + pad_left * item_bytes
            stage_constant(at, zp_in, pad_left, item_bytes)
            stage_pixels(middle, image + y * pixels * pixel_bytes, pixels, pixel_bytes, cin, flip_in, item_bytes)
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
        at = target + r * pixels * cin * item_bytes
        stage_pixels(at, source + r * row_bytes, pixels, pixel_bytes, cin, flip_in, item_bytes)


@compiled
def stage_pixels(
    target: int, source: int, pixels: int, pixel_bytes: int, cin: int, flip_in: int, item_bytes: int
) -> None:
    """Stage `pixels` pixels of `cin` activations that begin `pixel_bytes` apart."""
    if pixel_bytes == cin:
        stage_activations(target, source, pixels * cin, flip_in, item_bytes)
    elif flip_in | item_bytes == 1 and cin >= _WIDE_PIXEL:
        copy_pixels(target, source, pixels, pixel_bytes, cin)
    else:
        for p in range(pixels):
            at = target + p * cin * item_bytes
            stage_activations(at, source + p * pixel_bytes, cin, flip_in, item_bytes)


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
                if count == ROW_BYTES:
                    copy_row(at, source)
                else:
                    copy_bytes(at, source, count)
                source, left = source + count, left - count
                at, room = at + count, room - count
                if room == 0:
                    at, room = at + panel_bytes - step_bytes, step_bytes
        if room < step_bytes:
            fill_bytes(at, 0, room)
