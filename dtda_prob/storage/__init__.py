"""Studies on disk: zarr stores that plain xarray opens, at any moment of their making."""

from dtda_prob.storage.checking import repair as repair
from dtda_prob.storage.checking import verify as verify
from dtda_prob.storage.contents import contents as contents
from dtda_prob.storage.errors import StoreError as StoreError
from dtda_prob.storage.growing import Growing as Growing
from dtda_prob.storage.growing import description as description
from dtda_prob.storage.growing import growing as growing
from dtda_prob.storage.inspection import inspect as inspect
from dtda_prob.storage.nodes import ATTRIBUTE as ATTRIBUTE
from dtda_prob.storage.nodes import FORMAT as FORMAT
from dtda_prob.storage.saving import save as save
from dtda_prob.storage.store import add as add
from dtda_prob.storage.store import check_name as check_name
from dtda_prob.storage.store import names_in as names_in
from dtda_prob.storage.store import writing as writing
