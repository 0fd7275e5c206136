"""How a site measures: it undersamples k-space by a mask, or it measures at a lower resolution."""
