"""Four public models on TPU slices of 8 to 256 chips: what fits, how fast, at what price."""
