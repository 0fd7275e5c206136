"""The columns of a table of scores, which has one row for each slice and stage. Loads no torch."""

from math import erf, sqrt

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

GLOBAL = "global"
"""Name of the one network of a method that shares all parameters."""

SPREADS = {
    "object_pixels": "int64",  # pixels inside the object, which have an error and a spread; 0 in the other stages
    "within_1": "int64",  # of these, the pixels whose error is at most one spread (the temperature is in the spread)
    "within_2": "int64",  # and at most two
    "object_squared_error": "float64",  # sum over the object's pixels
    "object_squared_spread": "float64",
    "against": "string",  # what the error is of: truth | measured
}
"""Further columns of a table of scores, where the method tells the spread of its error."""

KINDS = {**SCORES, **SPREADS}
"""All columns of scores that may cross a site's wall, with their types."""

NOMINAL = {f"within_{k}": erf(k / sqrt(2)) for k in (1, 2)}
"""The shares of a normal distribution within one and within two standard deviations, by the columns of counts."""

DISTANCES = ("kernel_distance", "kernel_distance_real", "nearest")
"""The distances of a prior's drawn images; see :func:`fedrecon.sites.scoring.prior_distance.compare`."""

METRICS = {"psnr": ".2f", "ssim": ".4f", "nmse": ".4f"}
"""The metrics of a volume, each with its number format in tables."""

METRIC_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nmse": "NMSE"}
"""The names of the metrics in texts and figures, with their units."""
