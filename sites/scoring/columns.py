"""The columns of a table of scores, one row for each slice and stage. Loads no torch."""

SCORES = {
    "site": "string",
    "split": "string",
    "subject": "string",
    "volume": "string",
    "slice": "int64",
    "stage": "string",  # output | data_consistency | zero_filled
    "volume_maximum": "float64",  # of the reference volume: the data range of PSNR and SSIM
    "mask": "string",
    "acceleration": "float64",
    "measured_acceleration": "float64",
    "model": "string",  # whose network: global, a site, or the name of a rule
    "squared_error": "float64",  # sum over the slice's pixels
    "squared_norm": "float64",  # of the reference, over the slice's pixels
    "n_pixels": "int64",
    "ssim": "float64",
}
"""The columns of ``scores.parquet`` and of :class:`fedrecon.sites.wire.Scores`, in order, with their types."""

METRICS = {"psnr": ".2f", "ssim": ".4f", "nmse": ".4f"}
"""The metrics of a volume, each with the format in which a table shows it."""

METRIC_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nmse": "NMSE"}
"""The metrics in words, with their units."""
