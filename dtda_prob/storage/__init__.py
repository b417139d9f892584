"""Studies on disk: zarr stores that plain xarray can open, even while they are being written."""

from dtda_prob.storage.complete import repair as repair
from dtda_prob.storage.complete import verify as verify
from dtda_prob.storage.documents import description as description
from dtda_prob.storage.errors import StoreError as StoreError
from dtda_prob.storage.reading import contents as contents
from dtda_prob.storage.reading import load as load
from dtda_prob.storage.reading import readable as readable
from dtda_prob.storage.safe import inspect as inspect
from dtda_prob.storage.saving import save as save
from dtda_prob.storage.store import check_name as check_name
from dtda_prob.storage.store import names_in as names_in
