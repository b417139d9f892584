"""Datasets from what calls return and from what stores hold."""

import xarray as xr


def dataset_of(results: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """Return results as a dataset, whether a call returned them or `load` read them."""
    return results.to_dataset() if isinstance(results, xr.DataTree) else results
