"""Measurements of `flowfeat-benchmark`, a file per question."""
