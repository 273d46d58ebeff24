"""Staging of the rows that a convolution's windows cover, borders included."""

from numba import njit

from qcompiler.runtime.codegen.staging import stage_activations, stage_constant


@njit(error_model="numpy", boundscheck=False)
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


@njit(error_model="numpy", boundscheck=False)
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
