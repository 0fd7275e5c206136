"""The columns of a table of scores, which has one row for each slice and stage. Loads no torch."""

SCORES = {
    "site": "string",
    "split": "string",
    "subject": "string",
    "volume": "string",
    "slice": "int64",
    "stage": "string",  # output | data_consistency | zero_filled
    "volume_maximum": "float64",  # maximum of the reference volume: the data range of PSNR and SSIM
    "mask": "string",
    "acceleration": "float64",
    "measured_acceleration": "float64",
    "model": "string",  # name of the network: global, a site, or the label of a rule for unseen sites
    "squared_error": "float64",  # sum over the slice's pixels
    "squared_norm": "float64",  # squares of the reference, summed over the slice's pixels
    "n_pixels": "int64",
    "ssim": "float64",
}
"""The columns of ``scores.parquet`` and of :class:`fedrecon.sites.wire.Scores`, in order, with their types."""

METRICS = {"psnr": ".2f", "ssim": ".4f", "nmse": ".4f"}
"""The metrics of a volume, each with its number format in tables."""

METRIC_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nmse": "NMSE"}
"""The names of the metrics in texts and figures, with their units."""
