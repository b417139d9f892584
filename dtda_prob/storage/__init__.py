"""Studies on disk: zarr and xarray, no JAX."""
