"""What identifies a study, and in words what differs between two."""

from dtda_prob.fingerprints.differences import differences as differences
from dtda_prob.fingerprints.differences import other_versions as other_versions
from dtda_prob.fingerprints.identity import of_program as of_program
from dtda_prob.fingerprints.identity import of_source as of_source
from dtda_prob.fingerprints.identity import versions as versions
