"""How far the cells of a fully convolutional network read beyond their windows, along one axis.

With receptive field R, padding P before the image, window W and cells `stride` pixels apart, cell y reads pixels
[y · stride − P, y · stride − P + R) and stands for the window [y · stride, y · stride + W). So the first ⌈P / stride⌉
cells and the last ⌈max(0, R − P − W) / stride⌉ cells of an image read beyond it: its border. All lengths are in pixels.
"""


def reach_after(window: int, receptive_field: int, padding_before: int) -> int:
    """Return the number of pixels after its window that a cell reads."""
    return max(0, receptive_field - padding_before - window)


def border_before(padding_before: int, stride: int) -> int:
    """Return the number of leading cells that read pixels before the image."""
    return -(-padding_before // stride)


def border_after(window: int, receptive_field: int, padding_before: int, stride: int) -> int:
    """Return the number of trailing cells that read pixels after the image."""
    return -(-reach_after(window, receptive_field, padding_before) // stride)
