"""Late interaction: token vectors are pooled, projected, compared by MaxSim and shown as heatmaps."""
