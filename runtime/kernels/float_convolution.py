"""Float32 convolution and matrix products, for calibration and for operators that stay float.

Activations are NCHW. Each output element is one chain of multiply-adds over K in a fixed order, whatever the batch,
the position in it and the number of shares, so an observed value depends on its sample only.
"""
