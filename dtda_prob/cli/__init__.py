"""The `dtda` command. It parses before it imports anything heavy."""

from dtda_prob.cli.group import main as main
