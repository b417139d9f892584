"""The `dtda` command. It parses before it imports anything heavy."""

from dtda_prob.cli.main import main as main
