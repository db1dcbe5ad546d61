"""The comparison: experiment file, runner, statistics, report."""
