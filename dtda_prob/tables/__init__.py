"""Tables as people save them: what each column holds, and which lines cannot be read."""

from dtda_prob.tables.columns import Column as Column
from dtda_prob.tables.roles import Roles as Roles
from dtda_prob.tables.roles import Task as Task
from dtda_prob.tables.roles import roles as roles
from dtda_prob.tables.table import Table as Table
from dtda_prob.tables.table import read_table as read_table
